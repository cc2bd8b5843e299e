"""One epoll loop for everything a worker does: UDP, TCP, feed, timers. No threads, no asyncio."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
EXCLUSIVE: Final = select.EPOLLEXCLUSIVE  # of the processes that wait for one listener, wake one

Handler = Callable[[int], None]


class Loop:
    """File descriptors and who is called when they are ready (level-triggered)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler(events)`` whenever one of ``events``, an error or a hang-up is there."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a descriptor that was added."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a descriptor, before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def poll(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` seconds, then call every handler that is due once."""
        for fd, events in self._epoll.poll(max(0.0, timeout_s)):
            handler = self._handlers.get(fd)  # an earlier handler of this round may have removed it
            if handler is not None:
                handler(events)
