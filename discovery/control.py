"""The node's end of the channel to its supervisor: which workers there are, and what the supervisor should say.

One JSON object a line, see :mod:`discovery.channel`. Writing blocks, for a moment at most: messages are small and
few, and the last one, the reason of a fatal end, must be out before the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Final

import msgspec

logger: Final = logging.getLogger(__name__)

SEND_S_MAX: Final = 1.0

WorkerList = list[tuple[int, int]]
ChildList = list[tuple[str, int, float]]


class FromSupervisor(msgspec.Struct, frozen=True):
    """``workers``: (index, pid) of every DNS worker that runs. ``reload``: read the files of the certificate again.

    ``children``: name, starts, and seconds for which the next start is held back, of each process of this node.
    """

    workers: WorkerList
    reload: bool = False
    children: ChildList = []


class Control:
    """The channel. ``sock`` is connected; it is owned from here on."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self._said = ""
        self._on_workers: Callable[[WorkerList], None] = lambda workers: None
        self._on_reload: Callable[[], None] | None = None
        self.children: ChildList = []
        sock.settimeout(SEND_S_MAX)

    def listen(self, on_workers: Callable[[WorkerList], None], on_reload: Callable[[], None] | None = None) -> None:
        """Call ``on_workers`` in the running loop with each list of workers that arrives from now on.

        ``on_reload`` is called when the files of the certificate should be read again.
        """
        self._on_workers, self._on_reload = on_workers, on_reload
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._read)

    def close(self) -> None:
        """Stop listening; only within the loop."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def ready(self) -> None:
        """The node serves."""
        self._send({"ready": True})

    def waiting(self, what: str) -> None:
        """What the node waits for before it is ready; said once while it stays the same."""
        if what != self._said:
            self._said = what
            self._send({"waiting": what})

    def serving(self, workers: list[int]) -> None:
        """Which workers have joined their port, by process id."""
        self._send({"serving": workers})

    def fatal(self, code: int, text: str) -> None:
        """Why the node ends, with the exit code of the whole daemon: a restart would not help."""
        self._send({"fatal": {"exit": code, "text": text}})

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # a supervisor that has gone takes this process with it
            self._sock.sendall(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            told = msgspec.json.decode(line, type=FromSupervisor)
            self.children = told.children
            self._on_workers(told.workers)
            if told.reload and self._on_reload is not None:
                self._on_reload()
