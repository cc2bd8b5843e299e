"""The certificate in use: read at the start, on SIGHUP and when its files change; kept when the new ones do not fit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from discovery.credentials import Credentials, Files, Unfit, load, moment

_log: Final = logging.getLogger(__name__)
LOOK_EVERY_S: Final = 2.0
REMIND_EVERY_S: Final = 24 * 3600.0


class Keeper:
    """The credentials in use. Follows the files; keeps the old ones when the new ones do not fit, and says so.

    Args:
        files: where they are.
        node: own id.
        wall: seconds since 1970.
    """

    def __init__(self, files: Files, node: str, *, wall: Callable[[], float] = time.time) -> None:
        self._files, self._node, self._wall = files, node, wall
        self.current: Credentials | None = None
        """``None``: the files did not fit yet, and no peer can be spoken to."""
        self.unfit = ""
        """Why the files as they are now do not fit, or an empty text."""
        self._read = self._seen = self._signature()
        self._reminded_at = 0.0
        self._asked: asyncio.Event | None = None
        self.reload()

    def reload(self) -> None:
        """Read the files, blocking. Connections that stand go on as they are."""
        self._read = self._signature()
        try:
            new = load(self._files, self._node)
        except Unfit as error:
            self.unfit = str(error)
            kept = "the one before stays in use" if self.current else "no peer can be spoken to until it is mended"
            _log.error("certificate: %s; %s", error, kept)
            return
        first, self.current, self.unfit = self.current is None, new, ""
        _log.info(
            "certificate: %s is in use%s, valid until %s",
            self._files.cert,
            "" if first else " for new connections",
            moment(new.expires),
        )
        self._remind()

    def look(self) -> None:
        """Read the files again if they are others and have stayed the same since the last look; remind of the end."""
        seen, self._seen = self._seen, self._signature()
        if self._seen != self._read and self._seen == seen:
            self.reload()
        elif self._wall() - self._reminded_at >= REMIND_EVERY_S:
            self._remind()

    async def run(self) -> None:
        """Look for ever, in a thread: the disk may stand still, the loop must not."""
        self._asked = asyncio.Event()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            await asyncio.to_thread(self.reload if asked else self.look)

    def ask(self) -> None:
        """Have :meth:`run` read the files now (SIGHUP)."""
        if self._asked is not None:
            self._asked.set()

    def _remind(self) -> None:
        now = self._wall()
        self._reminded_at = now
        trouble = self.current.trouble(now) if self.current is not None else ""
        if self.current is not None and trouble:
            level = logging.WARNING if self.current.begins <= now < self.current.expires else logging.ERROR
            _log.log(level, "certificate: %s %s", self._files.cert, trouble)

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_stamp(path) for path in (self._files.cert, self._files.key, self._files.ca))


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
