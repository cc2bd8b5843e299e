"""Stands in for the node process: says on the control channel what MODE wants, and notes what happens to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

mode, notes = os.environ["MODE"], Path(os.environ["NOTES"])
channel = socket.socket(fileno=int(sys.argv[1]))


def note(*words: object) -> None:
    with notes.open("a") as file:
        print("node", *words, file=file)


def say(message: object) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def drain(*_: object) -> None:
    note("drains")
    while mode == "slow drain" and not notes.with_name("go").exists():
        time.sleep(0.01)
    note("drained")
    sys.exit(0)


signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else drain)
note("starts", os.getpid())
if mode == "refused":
    say({"fatal": {"exit": 2, "text": "--id n1: the data directory belongs to n2"}})
    sys.exit(2)
if mode == "corrupt":
    say({"fatal": {"exit": 1, "text": "the log is damaged"}})
    sys.exit(1)
if mode == "usage":
    sys.exit(2)
if mode == "crashes":
    sys.exit(1)
if mode == "orphans":
    shell = subprocess.Popen(["sh", "-c", "sleep 0.2 & echo $!"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    note("orphan", int(shell.stdout.readline()))
    shell.wait()
if mode == "babbles":
    channel.sendall(b'not json\n{"fatal": 3}\n[]\n{"ready": false}\n')
if mode == "waits":
    say({"waiting": "a leader"})
else:
    say({"ready": True})
while data := channel.recv(4096):
    for line in data.splitlines():
        note("workers", *(index for index, _ in json.loads(line)["workers"]))
