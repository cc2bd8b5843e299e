"""What a supervisor is doing, in a file for ``discovery upgrade``; and how that command finds supervisor and file.

The file lies in the supervisor's private directory (never in the data directory: a disk that hangs must not stop the
supervisor), is replaced whole and only when something changed. The way there: the lock of the data directory names the
node process, whose parent is the supervisor and whose command line names the private directory.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from discovery.child import Child
from discovery.errors import NotFound, RegistryError, Unavailable

logger: Final = logging.getLogger("discovery.supervisor")

FILE: Final = "progress.json"


class Progress(msgspec.Struct, frozen=True):
    """What a supervisor tells.

    Args:
        version: of the supervisor's code.
        step: ``steady``, ``trying`` (the installed version tries itself) or ``replacing``.
        asked: how often it was asked for an upgrade and began one.
        refused: how often it was asked and could not begin.
        failed: how many of those begun came to nothing.
        said: why the last that was refused or failed was.
        node: process id of the node process, 0 while there is none.
        workers: likewise, by index.
    """

    version: str
    step: str = "steady"
    asked: int = 0
    refused: int = 0
    failed: int = 0
    said: str = ""
    node: int = 0
    workers: tuple[int, ...] = ()


class Teller:
    """The supervisor's end: writes what changed, and never fails for it."""

    def __init__(self, directory: Path, version: str, counts: tuple[int, int, int]) -> None:
        self._path = directory / FILE
        self._version = version
        self._told: Progress | None = None
        self._said = ""
        self._asked, self._refused, self._failed = counts

    @property
    def counts(self) -> tuple[int, int, int]:
        """Upgrades begun, refused, failed."""
        return self._asked, self._refused, self._failed

    def begin(self, text: str) -> None:
        """An upgrade begins."""
        self._asked += 1
        logger.info("%s", text)

    def refuse(self, text: str) -> None:
        """It was asked for at a time when it cannot be done."""
        self._refused, self._said = self._refused + 1, text
        logger.warning("%s", text)

    def fail(self, text: str) -> None:
        """What was begun came to nothing; everything goes on as it was."""
        self._failed, self._said = self._failed + 1, text
        logger.error("%s", text)

    def tell(self, trial: Child | None, roll: object, node: Child, workers: Sequence[Child]) -> None:
        """Say what is so now. ``trial``, ``roll``: what is under way of an upgrade."""
        step = "trying" if trial is not None and trial.popen else "steady" if roll is None else "replacing"
        pids = tuple(worker.pid or 0 for worker in workers)
        progress = Progress(self._version, step, *self.counts, self._said, node=node.pid or 0, workers=pids)
        if progress == self._told:
            return
        self._told = progress
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(msgspec.json.encode(progress))
            new.replace(self._path)


class Found(msgspec.Struct, frozen=True):
    """A running supervisor, its private directory, and the node process that led to it."""

    supervisor: int
    directory: Path
    node: int


def find(data_dir: Path) -> Found:
    """The supervisor whose node process works on ``data_dir``.

    Raises:
        NotFound: there is none (or it is just starting its node process).
        RegistryError: this user may not look.
    """
    try:
        words = (data_dir / "lock").read_text("ascii").split()
        node = int(words[1])
        command = (Path("/proc") / str(node) / "cmdline").read_bytes().split(b"\0")
        settings = json.loads(command[command.index(b"--settings") + 1])
        if not (data_dir / "lock").samefile(Path(settings["config"]["data_dir"]) / "lock"):
            raise ValueError(settings)
        return Found(_parent(node), Path(settings["feed"]).parent, node)
    except PermissionError as error:
        raise RegistryError(f"{error.filename}: not readable by this user; run it as the user of the daemon") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise NotFound(f"no node runs on the data directory {data_dir.absolute()}") from error


def _parent(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def read(found: Found) -> Progress:
    """What the supervisor tells now.

    Raises:
        Unavailable: it tells nothing; it has ended, or is of a version that does not.
    """
    try:
        return msgspec.json.decode((found.directory / FILE).read_bytes(), type=Progress)
    except PermissionError as error:
        raise RegistryError(f"{error.filename}: not readable by this user; run it as the user of the daemon") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise Unavailable(f"the supervisor (process {found.supervisor}) does not say what it does: {error}") from error
