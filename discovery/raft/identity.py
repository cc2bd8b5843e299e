"""Who this node is, for ever: the data directory's lock, format version and identity (DESIGN guarantee 11).

``identity.json`` holds node id, zone, a random *incarnation* made when the directory was new, and, once the
cluster was founded, its id and members. A directory that was emptied gets another incarnation, and a member of
that id but another incarnation neither votes nor counts: it has forgotten what it promised.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from discovery import levels
from discovery.errors import ConfigError, CorruptData
from discovery.raft.configuration import Former, Member
from discovery.raft.disk import RealDisk

__all__ = ["DataDirectory", "Former", "Identity", "InUse", "Member"]

FORMAT: Final = 2
_FORMAT_BEFORE_LEVELS: Final = 1  # which versions without levels can read, as long as they may
_FILE: Final = "identity.json"
_LOCK: Final = "lock"
_OTHERS: Final = ("raft",)
_WAY_OUT: Final = (
    "Way out: put the file back from a copy, or empty the directory, remove this node from the cluster "
    "and add it again."
)


class InUse(ConfigError):
    """Another process has the directory; one that was killed a moment ago may still be at its last fsync."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of ``identity.json``. ``cluster`` is empty and ``members`` too until the cluster is founded.

    Args:
        members, former: as this node applied them last; what snapshot and log say goes before them.
        index: of the log entry that says so, 0 for the founding.
        told: index of the entry by which, as others told, this node is no member any more; 0: never.
        level: the feature level in force, as this node applied it last.
    """

    format: int
    node: str
    zone: str
    incarnation: str
    cluster: str = ""
    members: dict[str, Member] = {}
    former: tuple[Former, ...] = ()
    index: int = 0
    told: int = 0
    level: int = levels.BASE

    @property
    def founded(self) -> bool:
        """Whether the directory belongs to a cluster."""
        return bool(self.cluster)


class DataDirectory:
    """A node's directory, locked for this process until :meth:`close`.

    Layout: ``identity.json``, ``lock``, ``raft/`` (log and snapshots).
    """

    def __init__(self, path: Path) -> None:
        """Lock ``path``, created if absent.

        Raises:
            InUse: another process has it.
            ConfigError: it cannot be created or written.
        """
        self.path = path
        try:
            self._disk = RealDisk(path)
            self._lock = _locked(path / _LOCK)
        except OSError as error:
            raise ConfigError(f"data_dir {path}: {error.strerror}; --data-dir names another directory") from error

    def raft(self) -> RealDisk:
        """The files of log and snapshots."""
        return RealDisk(self.path / _OTHERS[0])

    def identity(self, node: str, zone: str) -> Identity:
        """The identity in the directory, or a new one, stored, when the directory is new.

        Raises:
            ConfigError: the directory is another node's or zone's, or of a later format.
            CorruptData: the file is damaged, or missing where a log exists.
        """
        if _FILE not in self._disk.list():
            return self._begin(node, zone)
        identity = self._read()
        for option, given, found in (("--id", node, identity.node), ("--zone", zone, identity.zone)):
            if given != found:
                raise ConfigError(
                    f"{option} {given}: the data directory {self.path} belongs to {option} {found}; "
                    f"give that, or another --data-dir"
                )
        return identity

    def store(self, identity: Identity) -> None:
        """Replace the identity, durably and in one step (blocking)."""
        temporary = f"{_FILE}.new"
        content = msgspec.to_builtins(identity)  # without what nothing changed yet; earlier versions read it so
        content = {**content, "cluster": identity.cluster, "members": content.get("members", {})}
        content["format"] = FORMAT if identity.level > levels.BASE else _FORMAT_BEFORE_LEVELS
        self._disk.create(temporary)
        self._disk.append(temporary, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        self._disk.sync(temporary)
        self._disk.rename(temporary, _FILE)
        self._disk.sync_dir()

    def close(self) -> None:
        """Give the directory free."""
        self._disk.close()
        os.close(self._lock)

    def _begin(self, node: str, zone: str) -> Identity:
        used = [name for name in _OTHERS if (self.path / name).is_dir() and any((self.path / name).iterdir())]
        if used:
            raise CorruptData(f"{self.path / _FILE}: missing, though {self.path / used[0]} is not empty. {_WAY_OUT}")
        identity = Identity(FORMAT, node, zone, os.urandom(16).hex())
        self.store(identity)
        return identity

    def _read(self) -> Identity:
        place = self.path / _FILE
        try:
            content = msgspec.json.decode(self._disk.read(_FILE))
            found = content.get("format") if isinstance(content, dict) else None
            if isinstance(found, int) and found > FORMAT:
                raise ConfigError(
                    f"data_dir {self.path}: format {found} is of a later version, this one knows {FORMAT}; "
                    f"start the version that wrote it"
                )
            return msgspec.structs.replace(msgspec.convert(content, Identity), format=FORMAT)
        except msgspec.MsgspecError as error:
            raise CorruptData(f"{place}: damaged at offset 0: {error}. {_WAY_OUT}") from error


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise InUse(
            f"data_dir {path.parent}: in use by another process ({holder or 'unknown'}); "
            f"stop it, or give another --data-dir"
        ) from None
    with contextlib.suppress(OSError):  # the number is for people; a full disk has room for the lock, which needs none
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
    return descriptor
