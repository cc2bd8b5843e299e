"""A disk in memory that a crash treats as badly as a real one may (CONTAINERS section 8, hazard 23).

What was not synced is lost or kept block by block, in any combination; names that were not synced by their directory
are lost from some point on. Calls take effect for the running process at once; what they mean for the medium is
queued until :meth:`SimDisk.settle`, so that a crash in the middle of a longer write can stop at any of its steps.

It can be full (an append then writes a part and fails), and a sync can fail as on Linux: some blocks reached the
medium, and the kernel calls all of them clean, so that the next sync of the file succeeds without writing them.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Final

from discovery.errors import DiskFull

BLOCK_BYTES: Final = 512


class _File:
    """``seen``: what the process reads; ``cache``: what the kernel has; ``medium``: what survives for sure.

    Up to ``same`` bytes cache and medium are equal.
    """

    __slots__ = ("cache", "medium", "same", "seen")

    def __init__(self) -> None:
        self.seen = bytearray()
        self.cache = bytearray()
        self.medium = bytearray()
        self.same = 0

    def truncate(self, size: int) -> None:
        """Cut the cache."""
        del self.cache[size:]
        self.same = min(self.same, size)

    def settle(self) -> None:
        """What is dirty in the cache goes to the medium."""
        self.medium.extend(bytes(max(0, self.same - len(self.medium))))
        self.medium[self.same :] = self.cache[self.same :]
        self.same = len(self.cache)

    def overwrite(self, offset: int, data: bytes) -> None:
        """Write in place; it is dirty from there on."""
        self.cache[offset : offset + len(data)] = data
        self.same = min(self.same, offset)

    def fail(self, source: random.Random) -> None:
        """A sync that fails: any subset of the blocks reaches the medium, and all of them count as clean."""
        self.medium = self._partly(source)
        self.same = len(self.cache)

    def lose(self, source: random.Random) -> None:
        """Keep any subset of the blocks that are dirty."""
        kept = self._partly(source)
        self.medium, self.cache, self.seen = kept, bytearray(kept), bytearray(kept)
        self.same = len(kept)

    def _partly(self, source: random.Random) -> bytearray:
        kept = bytearray(self.medium)
        if len(self.cache) < len(kept) and source.random() < 0.5:
            del kept[len(self.cache) :]
        for begin in range(self.same - self.same % BLOCK_BYTES, len(self.cache), BLOCK_BYTES):
            block = self.cache[begin : begin + BLOCK_BYTES]
            if source.random() < 0.5:
                kept.extend(bytes(max(0, begin + len(block) - len(kept))))
                kept[begin : begin + len(block)] = block
        return kept


class SimDisk:
    """One node's directory (fulfils ``discovery.raft.disk.Disk``)."""

    def __init__(self, source: random.Random, *, lying: bool = False) -> None:
        """``lying``: syncs of files do nothing, as for a program that forgot them."""
        self._random = source
        self._lying = lying
        self._seen: dict[str, _File] = {}
        self._names: dict[str, _File] = {}
        self._pending_names: list[Callable[[dict[str, _File]], None]] = []
        self._durable_names: dict[str, _File] = {}
        self._queue: list[Callable[[], None]] = []
        self.full = False
        """Whether there is no room for anything new."""
        self.failing = False
        """Whether the next sync of a file fails."""

    # -- Disk -----------------------------------------------------------------------------------------------------

    def list(self) -> list[str]:
        """Names of the files."""
        return list(self._seen)

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file; FileNotFoundError when there is none."""
        data = self._file(name).seen
        return bytes(data[offset:] if size < 0 else data[offset : offset + size])

    def size(self, name: str) -> int:
        """Bytes in the file."""
        return len(self._file(name).seen)

    def create(self, name: str) -> None:
        """An empty file; DiskFull."""
        self._need_room(name)
        file = self._seen[name] = _File()
        self._rename_later(lambda names: names.__setitem__(name, file))

    def append(self, name: str, data: bytes) -> None:
        """Add bytes; on a full disk a part of them, and DiskFull."""
        file = self._file(name)
        part = data[: self._random.randint(0, len(data) - 1)] if self.full and data else data
        file.seen += part
        self._queue.append(lambda: file.cache.extend(part))
        self._need_room(name)

    def sync(self, name: str) -> None:
        """The file's bytes are on the medium once this is settled; OSError when it was made to fail, once."""
        file = self._file(name)
        if self.failing:
            self.failing = False
            self.settle()
            file.fail(self._random)
            raise OSError(errno.EIO, "fsync failed", name)
        if not self._lying:
            self._queue.append(file.settle)

    def rewrite(self, name: str, offset: int, data: bytes) -> None:
        """Write in place what is there."""
        file = self._file(name)
        file.seen[offset : offset + len(data)] = data
        self._queue.append(lambda: file.overwrite(offset, data))

    def truncate(self, name: str, size: int) -> None:
        """Cut the file."""
        file = self._file(name)
        del file.seen[size:]
        self._queue.append(lambda: file.truncate(size))

    def rename(self, old: str, new: str) -> None:
        """Give the file another name; DiskFull."""
        self._need_room(new)
        self._seen[new] = self._file(old)
        del self._seen[old]

        def move(names: dict[str, _File]) -> None:
            if old in names:
                names[new] = names.pop(old)

        self._rename_later(move)

    def remove(self, name: str) -> None:
        """Remove the file."""
        self._file(name)
        del self._seen[name]
        self._rename_later(lambda names: _forget(names, name))

    def room_bytes(self) -> int:
        """None, or plenty."""
        return 0 if self.full else 1 << 40

    def sync_dir(self) -> None:
        """Names are on the medium once this is settled."""
        self._queue.append(self._settle_names)

    # -- what the simulator does --------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The calls so far have ended, as far as they wait for the medium."""
        for action in self._queue:
            action()
        self._queue.clear()

    def crash(self) -> None:
        """Power fails now, in the middle of whatever was not settled."""
        for action in self._queue[: self._random.randint(0, len(self._queue))]:
            action()
        self._queue.clear()
        for rename in self._pending_names[: self._random.randint(0, len(self._pending_names))]:
            rename(self._durable_names)
        self._pending_names.clear()
        for file in self._durable_names.values():
            file.lose(self._random)
        self._seen = dict(self._durable_names)

    def stop(self) -> None:
        """Only the process dies: the kernel keeps what it was given, up to some point of the call it was in."""
        for action in self._queue[: self._random.randint(0, len(self._queue))]:
            action()
        self._queue.clear()
        for rename in self._pending_names:
            rename(self._durable_names)
        self._pending_names.clear()
        for file in self._durable_names.values():
            file.seen = bytearray(file.cache)
        self._seen = dict(self._durable_names)

    def wipe(self) -> None:
        """Somebody emptied the directory."""
        self.__init__(self._random, lying=self._lying)  # type: ignore[misc]

    def _need_room(self, name: str) -> None:
        if self.full:
            raise DiskFull(f"the disk is full: {name}")

    def _file(self, name: str) -> _File:
        try:
            return self._seen[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def _rename_later(self, change: Callable[[dict[str, _File]], None]) -> None:
        self._queue.append(lambda: self._pending_names.append(change))

    def _settle_names(self) -> None:
        for change in self._pending_names:
            change(self._durable_names)
        self._pending_names.clear()


def _forget(names: dict[str, _File], name: str) -> None:
    names.pop(name, None)
