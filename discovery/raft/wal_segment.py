"""What stands in a batch of the log, and the files (segments) that batches stand in. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from discovery.errors import CorruptData

Entry = tuple[bytes, int, int]
"""(command, index, term), in PySyncObj's order."""

PREFIX: Final = "wal-"
SUFFIX: Final = ".log"


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Payload of a frame. Each part replaces the log from ``start`` on (0: all of it) by its entries."""

    term: int
    vote: str | None
    commit: int
    parts: list[tuple[int, list[Entry]]]


class Segment:
    """One file: its first sequence number, bytes, greatest index ever in it, least index still in force."""

    __slots__ = ("first", "greatest", "name", "sequence", "size")

    def __init__(self, sequence: int) -> None:
        self.name = f"{PREFIX}{sequence:016x}{SUFFIX}"
        self.sequence = sequence
        self.size = 0
        self.greatest = 0
        self.first: int | None = None

    @classmethod
    def of(cls, name: str) -> Segment:
        """The segment with that file name; raises CorruptData when it is no such name."""
        try:
            return cls(int(name[len(PREFIX) : -len(SUFFIX)], 16))
        except ValueError:
            raise corrupt(name, 0, "its name is none of this program's") from None


def ours(name: str) -> bool:
    """Whether a file is (or claims to be) a segment."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def corrupt(name: str, offset: int, why: str) -> CorruptData:
    """The error that stops a node: what is damaged, where, and the way out."""
    return CorruptData(
        f"{name}: damaged at offset {offset}: {why}. No crash explains this; acknowledged writes may be missing here. "
        f"Way out: keep a copy of the data directory, empty it, remove this node from the cluster and add it again "
        f"(the other nodes send it everything), or put back a copy of the directory taken while the node was stopped."
    )
