"""Results of requests that carried an Idempotency-Key, so that a repeated one is answered and not applied again.

The table is replicated and ages by log time, so that every node forgets at the same entry of the log. Log time runs at
most a quarter too fast: a result is kept for a quarter more than the ten minutes that are promised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from discovery import levels, limits
from discovery.command import Failure, Idempotency, Result

_FORMER_AGE_MS: Final = 600_000


class Kept(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A decided request: the digest of its body, log time in Unix ms, encoded result."""

    digest: bytes
    time_ms: int
    result: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)


class Dedup:
    """Results by Idempotency-Key, oldest first."""

    __slots__ = ("bytes", "kept", "order")

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.order: deque[str] = deque()
        self.bytes = 0

    def find(self, request: Idempotency, now_ms: int, level: int = levels.LEVEL) -> Result | None:
        """The answer to a request seen before, a refusal, or ``None``: apply it, then :meth:`keep` the result.

        Args:
            level: the feature level in force: an older version forgets sooner, and all must forget alike.
        """
        self._expire(now_ms - (limits.IDEMPOTENCY_AGE_MS if level >= levels.BOUNDED else _FORMER_AGE_MS))
        kept = self.kept.get(request.key)
        if kept is None:
            return self._refuse(request)
        if kept.digest == request.digest:
            return _decoder.decode(kept.result)
        text = "this Idempotency-Key was used for another request: take a new key for each new request"
        return Failure("idempotency_mismatch", text, "Idempotency-Key", "must be new for another request")

    def _refuse(self, request: Idempotency) -> Failure | None:
        most = limits.IDEMPOTENCY_KEY_CHARS_MAX
        if not 1 <= len(request.key) <= most:
            rule = f"must be 1..{most} characters"
            return Failure("invalid_input", f"Idempotency-Key {rule}", "Idempotency-Key", rule)
        if len(request.digest) > limits.IDEMPOTENCY_DIGEST_BYTES_MAX:
            rule = f"must be at most {limits.IDEMPOTENCY_DIGEST_BYTES_MAX} bytes"
            return Failure("invalid_input", f"the digest of the request {rule}", "digest", rule)
        if len(self.kept) >= limits.IDEMPOTENCY_KEYS_MAX or self.bytes >= limits.IDEMPOTENCY_BYTES_MAX:
            return Failure("overloaded", "too many Idempotency-Keys within ten minutes: repeat later")
        return None

    def keep(self, request: Idempotency, now_ms: int, result: Result) -> None:
        """Remember the result of a request for ``limits.IDEMPOTENCY_AGE_MS``."""
        self.add(request.key, Kept(request.digest, now_ms, _encoder.encode(result)))

    def add(self, key: str, kept: Kept) -> None:
        """Add the newest entry."""
        self.kept[key] = kept
        self.order.append(key)
        self.bytes += len(kept.result)

    def load(self, entries: Iterable[tuple[str, Kept]]) -> None:
        """Add the entries of a snapshot, oldest first."""
        for key, kept in entries:
            self.add(key, kept)

    def _expire(self, oldest: int) -> None:
        while self.order and self.kept[self.order[0]].time_ms <= oldest:
            self.bytes -= len(self.kept.pop(self.order.popleft()).result)
