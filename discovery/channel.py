"""The supervisor's end of the channel to the node process (the node's end: :mod:`discovery.control`).

One JSON object a line, over a socket pair made anew for each node process:

* to the node: ``{"workers": [[index, pid], …]}`` whenever that list changes, with ``"reload": true`` on SIGHUP, and
  with ``"children": [[name, starts, seconds held back], …]``;
* from the node: ``{"ready": true}`` once; until then ``{"waiting": "…"}``; ``{"serving": [pid, …]}``, the workers that
  have joined their port; ``{"fatal": {"exit": 1 | 2, "text": "…"}}`` before it ends for a reason that a restart cannot
  mend.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from discovery.child import Child

logger: Final = logging.getLogger("discovery.supervisor")

LINE_BYTES_MAX: Final = 64 * 1024


class Channel:
    """A connected channel. ``sock`` is owned from here on; ``take`` is called with each message."""

    def __init__(self, sock: socket.socket, take: Callable[[dict[str, Any]], None], received: bytes = b"") -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = received
        self.open = True
        self._take = take

    def tell_workers(
        self, workers: Sequence[tuple[int, int]], children: Sequence[Child] = (), *, reload: bool = False
    ) -> None:
        """Send the list of (index, pid), how ``children`` are started again, and whether to read the certificate again.

        A node that is dying does not read it; its death is handled on its own.
        """
        with contextlib.suppress(OSError):
            now = time.monotonic()
            told = {"workers": workers, "reload": reload, "children": [child.told(now) for child in children]}
            self.sock.sendall(json.dumps(told).encode() + b"\n")

    def read(self) -> None:
        """Take what the node says. A closed channel is not its death: that comes as SIGCHLD."""
        while self.open:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            *lines, self.received = (self.received + data).split(b"\n")
            for line in lines:
                self._on_line(line)
            if not data or len(self.received) > LINE_BYTES_MAX:
                self.open = False

    def _on_line(self, line: bytes) -> None:
        """A line that is no message must not stop the supervisor."""
        try:
            self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.exception("the node process said something unintelligible")
