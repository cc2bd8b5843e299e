"""Servers that questions are sent on to: which is asked first, which is left alone for a while.

Pure. A server that does not answer three times in a row is *down*: it is asked last, and a question of our own looks
after it at growing intervals until it answers. When all are down all are asked: being wrong here must not cost more
than what it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

FAILURES_MAX: Final = 3
BACKOFF_S_MIN: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
PLAIN_S: Final = 900.0  # how long a server that refused EDNS is asked without
_WEIGHT: Final = 0.25  # of a new round trip in the mean
_EXPLORE: Final = 16  # of so many questions one goes to another server first, to keep the means true

Random = Callable[[int], int]  # getrandbits


class Upstream:
    """One server and what is known of it.

    Attributes:
        failures: questions without an answer, in a row.
        edns: whether it speaks EDNS; ``None``: not known yet.
        asked, answered, failed, mismatched: counted since the start.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.failures = 0
        self.edns: bool | None = None
        self.asked = 0
        self.answered = 0
        self.failed = 0
        self.mismatched = 0
        self.mean_s = 0.0
        self.probing = False
        self._backoff_s = BACKOFF_S_MIN
        self._probe_at = 0.0
        self._plain_until = 0.0

    @property
    def text(self) -> str:
        """``HOST:PORT``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_down(self) -> bool:
        """Whether it has not answered of late."""
        return self.failures >= FAILURES_MAX

    def answers(self, took_s: float) -> None:
        """It answered, whatever: it lives."""
        self.answered += 1
        self.failures = 0
        self._backoff_s = BACKOFF_S_MIN
        self.mean_s = took_s if not self.mean_s else self.mean_s + _WEIGHT * (took_s - self.mean_s)

    def fails(self, now: float, bits: int) -> None:
        """It did not answer in time, or cannot be reached. ``bits``: 8 random ones, so that probes do not meet."""
        self.failed += 1
        self.failures += 1
        if self.is_down:
            self._probe_at = now + self._backoff_s * (1 + (bits & 0xFF) / 1024)
            self._backoff_s = min(BACKOFF_S_MAX, self._backoff_s * 2)

    def wants_probe(self, now: float) -> bool:
        """Whether it is time to ask how it is."""
        return self.is_down and not self.probing and now >= self._probe_at

    def refuse_edns(self, now: float) -> None:
        """It does not understand EDNS (RFC 6891 section 7)."""
        self.edns = False
        self._plain_until = now + PLAIN_S

    def takes_edns(self, now: float) -> bool:
        """Whether to ask with EDNS."""
        return self.edns is not False or now >= self._plain_until


class Pool:
    """The servers of one zone, in the order they were given."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = list(upstreams)

    @property
    def is_down(self) -> bool:
        """Whether none of them has answered of late."""
        return all(upstream.is_down for upstream in self.upstreams)

    def order(self, random: Random) -> list[Upstream]:
        """All of them, the one to be asked first first: who is up, then who is quick; the unknown before the known."""
        ranked = sorted(self.upstreams, key=lambda upstream: (upstream.is_down, upstream.mean_s))
        if len(ranked) > 1 and random(32) % _EXPLORE == 0:
            up = sum(not upstream.is_down for upstream in ranked)
            ranked.insert(0, ranked.pop(random(32) % max(up, 1)))
        return ranked
