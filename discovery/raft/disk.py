"""The real files behind the log and the snapshots: one directory, few names, every sync explicit."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from discovery.errors import DiskFull

_NO_ROOM: Final = {
    errno.ENOSPC: "make room in its file system (df -h and df -i show it)",
    errno.EDQUOT: "raise the quota of the user that the daemon runs as, or make room within it",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f, LimitFSIZE=)",
}
"""Errors that say "not now": nothing is broken, and the way out is somebody else's."""


class Disk(Protocol):
    """A flat directory of files. What is not synced may be lost in a crash, block by block, in any order.

    :meth:`create`, :meth:`append` and :meth:`rename` raise :class:`DiskFull` when there is no room; an append may have
    written a part by then. Everything else that fails, and every failed sync whatever its reason, raises
    :class:`OSError`.
    """

    def list(self) -> list[str]:
        """Names of the files, unordered."""

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """``size`` bytes from ``offset`` on (-1: to the end); fewer at the end of the file."""

    def size(self, name: str) -> int:
        """Bytes in the file."""

    def create(self, name: str) -> None:
        """An empty file; one of that name is replaced."""

    def append(self, name: str, data: bytes) -> None:
        """Add bytes at the end of an existing file."""

    def sync(self, name: str) -> None:
        """Wait until the bytes of the file (and its size) are on the medium."""

    def rewrite(self, name: str, offset: int, data: bytes) -> None:
        """Write bytes that the file has already once more, so that the next :meth:`sync` cannot take them for clean."""

    def truncate(self, name: str, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def rename(self, old: str, new: str) -> None:
        """Give ``old`` the name ``new`` in one step, replacing what had it."""

    def remove(self, name: str) -> None:
        """Remove the file."""

    def sync_dir(self) -> None:
        """Wait until creations, renames and removals are on the medium."""

    def room_bytes(self) -> int:
        """About how many bytes more there is room for, as far as the file system says (quotas are not asked)."""


class RealDisk:
    """A flat directory of files (fulfils :class:`Disk`).

    Files that are appended to stay open until :meth:`close`, :meth:`remove` or :meth:`rename`. Nothing is durable
    before :meth:`sync` (a file's bytes) and :meth:`sync_dir` (names). All methods block and raise :class:`OSError`, or
    :class:`DiskFull` where :class:`Disk` says so.
    """

    def __init__(self, path: Path) -> None:
        """Use the directory ``path``, created if absent (durably, with mode 0700)."""
        self.path = path
        missing = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in missing:
            _sync_path(place.parent)
        self._open: dict[str, int] = {}

    def list(self) -> list[str]:
        """Names of the files, unordered."""
        return [entry.name for entry in os.scandir(self.path) if entry.is_file(follow_symlinks=False)]

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """``size`` bytes from ``offset`` on (-1: to the end); fewer at the end of the file."""
        with (self.path / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def size(self, name: str) -> int:
        """Bytes in the file."""
        return (self.path / name).stat().st_size

    def create(self, name: str) -> None:
        """An empty file; one of that name is replaced."""
        self._forget(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        with self._room(name):
            self._open[name] = os.open(self.path / name, flags, 0o600)

    def append(self, name: str, data: bytes) -> None:
        """Add bytes at the end of an existing file."""
        descriptor = self._descriptor(name)
        with self._room(name):
            written = os.write(descriptor, data)
            while written < len(data):  # a signal or a full disk cut the write short; the next one says which
                written += os.write(descriptor, memoryview(data)[written:])

    def sync(self, name: str) -> None:
        """Wait until the bytes of the file (and its size) are on the medium."""
        descriptor = self._descriptor(name)
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise OSError(error.errno, f"fsync failed: {error.strerror}", str(self.path / name)) from error

    def rewrite(self, name: str, offset: int, data: bytes) -> None:
        """Write bytes that the file has already once more, so that the next :meth:`sync` cannot take them for clean."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)  # O_APPEND would override the offset
        try:
            with self._room(name):
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    offset, data = offset + written, data[written:]
        finally:
            os.close(descriptor)

    def truncate(self, name: str, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(self._descriptor(name), size)

    def rename(self, old: str, new: str) -> None:
        """Give ``old`` the name ``new`` in one step, replacing what had it."""
        self._forget(old)
        self._forget(new)
        with self._room(new):
            (self.path / old).rename(self.path / new)

    def remove(self, name: str) -> None:
        """Remove the file."""
        self._forget(name)
        (self.path / name).unlink()

    def sync_dir(self) -> None:
        """Wait until creations, renames and removals are on the medium."""
        _sync_path(self.path)

    def room_bytes(self) -> int:
        """Free bytes of the file system that this user may fill."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize if found.f_favail or not found.f_files else 0

    def close(self) -> None:
        """Close all files; the disk may be used again."""
        for name in tuple(self._open):
            self._forget(name)

    @contextlib.contextmanager
    def _room(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise DiskFull(
                f"the disk is full: {self.path / name}: {error.strerror}. Way out: {_NO_ROOM[error.errno]}; this node "
                f"goes on by itself as soon as there is room, the other nodes go on meanwhile"
            ) from error

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return self._open[name]

    def _forget(self, name: str) -> None:
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
