"""What a node could not write for want of room, what that forbids it, and when it tries again. Pure.

Three things need room. Without the *log* the node is mute: it promises nothing any more (no vote, no acknowledgement),
does not lead, and only listens. Without an own *snapshot* or a *received* one the log cannot be cut or cannot be
caught up with: the node goes on voting, but does not lead. In each case it takes no writes from its clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from discovery import limits

RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 1.0
SAVE_RETRY_S_MIN: Final = 1.0
SAVE_RETRY_S_MAX: Final = 16.0
RECEIVE_LOOK_S: Final = 0.2
RECEIVE_RETRY_S_MAX: Final = 4.0
"""A transfer costs the leader too: it is asked for when there seems to be room, and ever less often when it fails."""
RECEIVE_S: Final = 12.0
"""How long a transfer that failed counts: a leader that needs it no more sends nothing."""


class Want:
    """One thing that cannot be written: why (empty: nothing is wrong), and when to try again, ever less often."""

    def __init__(self, first_s: float, last_s: float) -> None:
        self.cause = ""
        self.retry_at = float("-inf")
        self._first_s, self._last_s = first_s, last_s
        self._wait_s = first_s

    def failed(self, cause: str, now: float) -> None:
        """It was tried at ``now``, in vain."""
        self.cause = cause
        self.retry_at = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, self._last_s)

    def later(self, at: float) -> None:
        """Try again at another time than the one planned."""
        self.retry_at = at

    def done(self) -> None:
        """It was written."""
        self.cause, self.retry_at, self._wait_s = "", float("-inf"), self._first_s


class Room:
    """All three. Times are seconds on the engine's clock."""

    def __init__(self) -> None:
        self.log = Want(RETRY_S_MIN, RETRY_S_MAX)
        self.save = Want(SAVE_RETRY_S_MIN, SAVE_RETRY_S_MAX)
        self.receive = Want(RECEIVE_LOOK_S, RECEIVE_RETRY_S_MAX)
        self._receive_until = float("inf")
        self._asked = False
        self._held_bytes = 0

    @property
    def mute(self) -> bool:
        """Whether what is in memory may not be on the disk, so that nothing may be promised."""
        return bool(self.log.cause)

    @property
    def cause(self) -> str:
        """Why this node takes no writes and does not lead; empty: it may."""
        return self.log.cause or self.save.cause or self.receive.cause

    def look(self, now: float) -> None:
        """Time went by: a transfer that was not tried again is no want any more."""
        if self.receive.cause and now >= self._receive_until:
            self.receive.done()

    def receive_failed(self, cause: str, now: float) -> None:
        """There was no room for a snapshot that the leader sent."""
        if self._asked:
            self.receive.failed(cause, now)
        else:  # the leader began by itself
            self.receive.cause = cause
            self.receive.later(now + RECEIVE_LOOK_S)
        self._asked, self._receive_until = False, now + RECEIVE_S

    def receive_again(self, now: float, ask: Callable[[], bool]) -> None:
        """Ask the leader to begin anew, or look a little later whether there is room."""
        if not self.mute and self.receive.cause and now >= self.receive.retry_at:
            self._asked = ask()
            self.receive.later(now + (RECEIVE_RETRY_S_MAX if self._asked else RECEIVE_LOOK_S))

    def next_deadline(self, now: float) -> float:
        """When, after ``now``, something is to be tried or forgotten (``inf``: never)."""
        waiting = [want.retry_at for want in (self.log, self.save, self.receive) if want.retry_at > now]
        return min(waiting, default=float("inf"))

    def hold(self, bytes_more: int) -> bool:
        """Whether a mute node may keep so much more of the log in memory, until it can write it."""
        if self._held_bytes + bytes_more > limits.UNWRITTEN_LOG_BYTES_MAX:
            return False
        self._held_bytes += bytes_more
        return True

    def written(self) -> None:
        """The whole log is on the disk."""
        self.log.done()
        self._held_bytes = 0
