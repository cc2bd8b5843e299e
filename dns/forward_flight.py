"""One question on its way to other servers: who waits for it, whom it was sent to, and when to look at it again.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from discovery import limits
from discovery.dns.forward_cache import Key
from discovery.dns.forward_health import Upstream
from discovery.dns.forward_message import Reply, Sent
from discovery.dns.sections import Answer

STALE_S: Final = 1.8  # RFC 8767 section 5: after this an answer that held once is better than none

Done = Callable[[Answer], None]
Course = tuple[Key, tuple[bytes, ...]]  # what is asked, and the ids that it came through


class Attempt:
    """One message to one server. ``handle`` is the shell's. ``flight`` ``None``: looks after a server that was down."""

    __slots__ = ("flight", "forgeries", "handle", "sent", "sent_at", "stream", "upstream")

    def __init__(self, flight: Flight | None, upstream: Upstream, sent: Sent, now: float, *, stream: bool) -> None:
        self.flight = flight
        self.upstream = upstream
        self.sent = sent
        self.sent_at = now
        self.stream = stream
        self.forgeries = 0
        self.handle: Any = None


class Network(Protocol):
    """Who sends: the shell."""

    def start(self, attempt: Attempt) -> bool:
        """Send the attempt's message by UDP, or TCP when it is a stream; false when that cannot be done now."""

    def stop(self, attempt: Attempt) -> None:
        """Listen for its answer no more."""


class Flight:
    """One question on its way, for everybody who waits for it and came the same way.

    Args:
        course: what is asked, and ids of our servers that it came through.
        own_id: of this one.
    """

    __slots__ = (
        "attempts", "course", "deadline", "fallback", "given_up", "key", "next_at", "order", "path", "started_at",
        "timer", "told_stale", "tries", "waiters",
    )  # fmt: skip

    def __init__(self, course: Course, order: list[Upstream], own_id: bytes, now: float) -> None:
        self.course = course
        self.key = course[0]
        self.order = order
        self.path = [*course[1], own_id]
        self.started_at = now
        self.deadline = now + limits.DNS_FORWARD_S_MAX
        self.next_at = now
        self.tries = 0
        self.timer = 0  # number of the timer that counts
        self.attempts: list[Attempt] = []
        self.waiters: list[tuple[str, Done]] = []
        self.given_up: set[Upstream] = set()  # have answered that they cannot, or cannot be reached
        self.fallback: Reply | None = None
        self.told_stale = False

    def wakes_at(self) -> float:
        """When it should be looked at again."""
        wake = min(self.deadline, self.next_at)
        return wake if self.told_stale else min(wake, self.started_at + STALE_S)
