"""``make run``: the Procfile in the foreground, and two lines to try once its sample service resolves everywhere.

The nodes and the sample are read from the Procfile itself, so that what is printed fits what runs.
"""

from __future__ import annotations

import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import dnslib

from discovery.testing import procfile

ASK_S_MAX: Final = 1.0
POLL_S: Final = 0.1


def option(command: Sequence[str], flag: str) -> str | None:
    """The value of ``flag`` in a command line, or ``None``."""
    return command[command.index(flag) + 1] if flag in command[:-1] else None


def servers(commands: Mapping[str, Sequence[str]], flag: str) -> list[str]:
    """The ``HOST:PORT`` that every ``discovery serve`` of the Procfile has for ``--dns`` or ``--http``."""
    return [found for command in commands.values() if "serve" in command and (found := option(command, flag))]


def sample(commands: Mapping[str, Sequence[str]]) -> str | None:
    """The DNS name of the first service that the Procfile runs by ``discovery run``."""
    for command in commands.values():
        if "run" in command[:-1]:
            return f"{command[command.index('run') + 1]}.default.svc.cluster.local"
    return None


def resolves(server: str, name: str) -> bool:
    """Whether the DNS server at ``HOST:PORT`` has an address for ``name``."""
    host, _, port = server.rpartition(":")
    question = dnslib.DNSRecord.question(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(ASK_S_MAX)
        try:
            sock.connect((host, int(port)))
            sock.send(question.pack())
            return bool(dnslib.DNSRecord.parse(sock.recv(4096)).rr)
        except (OSError, dnslib.DNSError):
            return False


def greeting(commands: Mapping[str, Sequence[str]], name: str) -> str:
    """What to try, as lines that can be copied into another terminal."""
    host, _, port = servers(commands, "--dns")[0].rpartition(":")
    program = Path(sys.executable).with_name("discovery")
    try:
        shown = str(program.relative_to(Path.cwd()))
    except ValueError:
        shown = str(program)
    lines = [
        f"{len(servers(commands, '--dns'))} nodes run, and {name} resolves at each of them. In another terminal:",
        f"  dig @{host} -p {port} {name} +short",
        f"  {shlex.quote(shown)} resolve {name} --server http://{servers(commands, '--http')[0]}",
        "Ctrl-C ends them; their data stays in .run/ until `make clean`.",
    ]
    return "\n".join(lines)


def greet(runner: procfile.Runner, commands: Mapping[str, Sequence[str]]) -> None:
    """Wait until every node resolves the sample service, then say what to try."""
    name, nodes = sample(commands), servers(commands, "--dns")
    if name is None or not nodes:
        return
    while not all(resolves(server, name) for server in nodes):
        if not runner.running():
            return
        time.sleep(POLL_S)
    for line in greeting(commands, name).splitlines():
        runner.say("", line)


def main(arguments: list[str]) -> int:
    """The program. Returns its exit code: 2 for a Procfile that is none."""
    path = Path(arguments[0] if arguments else "Procfile")
    try:
        commands = procfile.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        print(f"{path}: {problem}", file=sys.stderr)
        return 2
    return procfile.run(commands, sys.stdout, lambda runner: greet(runner, commands))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
