"""What concurrent clients asked and what they were told, with the times of both: the evidence for linearizability.

An operation ends in one of three ways. *ok*: the answer is known. *failed*: it surely did not take place (503, or no
connection was made); it is left out, and if its effect surfaces all the same the checker finds a value that nobody
wrote. *unknown*: it may have taken place at any moment since it was sent, or still may.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from discovery.testing.models import Input, Operation, Output


class History:
    """Records operations as they begin and end; one instance for all clients of a thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._open: dict[int, Operation] = {}
        self._done: list[Operation] = []
        self._number = 0
        self.refused: list[Operation] = []
        self.outcomes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._done)

    def invoke(self, client: int, call: Input) -> int:
        """An operation is about to be sent; the number to end it with."""
        self._number += 1
        self._open[self._number] = Operation(client, call, self._clock())
        return self._number

    def ok(self, number: int, output: Output, note: str = "") -> None:
        """Its answer has arrived; ``note`` says from whom."""
        operation = self._open.pop(number)
        self._done.append(msgspec.structs.replace(operation, returned=self._clock(), output=output, note=note))
        self.outcomes["ok"] += 1

    def failed(self, number: int) -> None:
        """It surely did not take place; kept apart, for whoever doubts that."""
        self.refused.append(msgspec.structs.replace(self._open.pop(number), returned=self._clock()))
        self.outcomes["failed"] += 1

    def unknown(self, number: int) -> None:
        """Nobody knows."""
        self._done.append(self._open.pop(number))
        self.outcomes["unknown"] += 1

    def operations(self) -> list[Operation]:
        """All that may have taken place, by the time of invocation; those still open count as unknown."""
        return sorted([*self._done, *self._open.values()], key=lambda one: one.invoked)


_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Operation]] = msgspec.json.Decoder(Operation)


def save(path: Path, operations: Iterable[Operation]) -> None:
    """Write operations as lines of JSON, to look at or to check again."""
    path.write_bytes(_encoder.encode_lines(list(operations)))


def load(path: Path) -> list[Operation]:
    """Read what :func:`save` wrote. Raises :class:`msgspec.MsgspecError`."""
    return _decoder.decode_lines(path.read_bytes())
