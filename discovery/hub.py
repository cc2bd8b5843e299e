"""The node's side of the feed: a Unix socket that DNS workers connect to, and who of them serves which revision.

Guarantee 3 (registered means resolvable) is kept here: :meth:`Hub.visible` waits until every worker on the port serves
a revision. A worker counts from the moment it may be on the port: when the supervisor lists it at the node's start,
when it says so in its Hello, or with its first acknowledgement. One that counts and does not follow is killed; the
supervisor puts another in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from discovery import feed, limits
from discovery.link import Link, kernel_pid
from discovery.model import Group
from discovery.store import Store

logger: Final = logging.getLogger(__name__)

SECOND_LOOK_S: Final = 0.02
STALL_S: Final = 0.2


def kill_worker(pid: int) -> None:
    """End a worker process at once; one that is gone already is fine."""
    if pid > 1 and pid != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Hub:
    """All links to DNS workers.

    Args:
        kill: ends a worker that does not follow, by its process id (SIGKILL).
        clock: monotonic seconds.
        peer_pid: who is at the other end of a connection.
    """

    def __init__(
        self,
        kill: Callable[[int], None] = kill_worker,
        clock: Callable[[], float] = time.monotonic,
        peer_pid: Callable[[socket.socket], int] = kernel_pid,
    ) -> None:
        self._kill = kill
        self._clock = clock
        self._peer_pid = peer_pid
        self._store: Store | None = None
        self._links: dict[Link, None] = {}
        self._on_port: dict[int, float] = {}
        self._listed: dict[int, int] | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._fed = 0
        self._reached = ("", 0)
        self._state = (False, 0)
        self._server: asyncio.Server | None = None
        self._path = ""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._suspects: set[int] = set()
        self._on_serving: Callable[[list[int]], None] = lambda pids: None
        self._serving: list[int] = []
        self.killed = 0
        self.children: Sequence[tuple[str, int, float]] = ()

    # Life

    async def start(self, path: str) -> None:
        """Listen on the Unix socket ``path``; what an earlier process left there is removed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Link(self), path)
        os.chmod(path, 0o600)
        self._path = path

    async def stop(self) -> None:
        """Close the socket and all links; workers go on answering from what they have."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for link in list(self._links):
            link.abort()
        for _, _, waiter in self._waiters:
            waiter.cancel()
        self._waiters.clear()
        await asyncio.sleep(0)
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    # From the node

    def use(self, store: Store) -> None:
        """Follow this store from now on: at the start, once the cluster is founded, after a snapshot was installed."""
        self._store = store
        self._fed = _last_fed(store)
        for link in self._links:
            self._begin(link)
        self._settle()

    def publish(self, group: Group) -> None:
        """A revision was applied: send its changes to all workers. Costs nothing without workers."""
        store = self._store
        if store is None:
            return
        try:
            frame = feed.changes_frame(group)
        except feed.FeedError:
            self.use(store)  # too much for one frame: everybody reads the whole anew
            return
        if frame is None:
            return
        self._fed = group.revision
        for link in self._links:
            if link.phase == "waiting":
                self._begin(link)
            else:
                link.publish(group.revision, frame)
        self._watch()

    def tell(self, leader: bool, stale_ms: int) -> None:
        """Tell the workers how fresh the node is: on every change, and once a second."""
        self._state = (leader, stale_ms)
        for link in self._links:
            if link.phase == "waiting":
                self._begin(link)
            self._tell(link)
        self._watch()

    def on_serving(self, callback: Callable[[list[int]], None]) -> None:
        """Call with the process ids of the workers that have joined their port, whenever these change."""
        self._on_serving = callback

    def set_workers(self, workers: Iterable[tuple[int, int]]) -> None:
        """The supervisor's list of (index, pid). The first one may name workers that are on the port already.

        Later ones name replacements, which join the port only once they are in step: those count when they say so.
        """
        listed = {pid: index for index, pid in workers}
        if self._listed is None:
            for pid in listed:
                self._on_port.setdefault(pid, self._clock())
        self._listed = listed
        for pid in [pid for pid in self._on_port if pid not in listed]:
            self._off_port(pid)
        self._watch()
        self._settle()

    # Visibility

    async def visible(self, revision: int, timeout_s: float = limits.VISIBLE_TIMEOUT_S) -> bool:
        """Wait until every worker on the port serves ``revision``; False when one did not within ``timeout_s``.

        A revision of which nothing was sent (it touched only keys) is as visible as the last before it that was.
        """
        target = revision if self._store is None else min(revision, self._fed)
        if self._reached_by_all() >= target:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (target, next(self._numbers), waiter))
        self._watch()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        return True

    def behind(self) -> list[str]:
        """Which workers on the port do not serve the newest revision, for people. Empty: all are in step."""
        named = self._listed or {}
        links = self._by_pid()
        found = []
        for pid in self._on_port:
            link = links.get(pid)
            index = named.get(pid, -1) if link is None else link.worker
            if link is None:
                found.append(f"DNS worker {index} (pid {pid}) is not connected")
            elif link.acked < 0:
                found.append(f"DNS worker {index} (pid {pid}) has no view yet")
            elif link.acked < self._fed:
                found.append(f"DNS worker {index} (pid {pid}) serves revision {link.acked} of {self._fed}")
        missing = len(named) - len(self._on_port)
        if missing > 0:
            found.append(f"{missing} DNS worker(s) are starting")
        return found

    def stats(self) -> dict[int, tuple[feed.Sample, ...]]:
        """What each worker said last about itself, by worker index."""
        return {link.worker: link.samples for link in self._links if link.worker >= 0}

    # From links

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def peer_pid(self, sock: socket.socket) -> int:
        """Process id at the other end of a connection."""
        return self._peer_pid(sock)

    def opened(self, link: Link) -> None:
        """A connection came; it has to say Hello in time."""
        if len(self._links) >= limits.FEED_CONNECTIONS_MAX:
            logger.warning("feed: more than %d connections, the newest is refused", limits.FEED_CONNECTIONS_MAX)
            link.abort()
            return
        self._links[link] = None
        self._watch()

    def greeted(self, link: Link) -> None:
        """A worker said Hello: bring it in step."""
        for other in [one for one in self._links if one is not link and one.pid == link.pid and one.phase != "new"]:
            other.abort()
        history, reached = self._reached
        if link.history:
            self._reached = (link.history, max(link.revision, reached if link.history == history else 0))
        if link.bound:
            self._on_port.setdefault(link.pid, self._clock())
            self.joined()
        if self._store is not None:
            self._begin(link)
        self._tell(link)
        self._watch()

    def acknowledged(self, link: Link, first: bool) -> None:
        """A worker serves more than before. From its first word on it counts."""
        if first:
            self._on_port.setdefault(link.pid, self._clock())
            for waiting in [one for one in self._links if one is link or not one.bound]:
                self._tell(waiting)
        if self._waiters:
            self._settle()

    def joined(self) -> None:
        """A worker said that it is on its port, or one that was has gone."""
        serving = sorted(link.pid for link in self._links if link.bound and link.phase != "new")
        if serving != self._serving:
            self._serving = serving
            self._on_serving(serving)

    def closed(self, link: Link) -> None:
        """A connection ended. A worker that the supervisor lists is still on the port."""
        self._links.pop(link, None)
        self.joined()
        if self._listed is None or link.pid not in self._listed:
            self._off_port(link.pid)
        elif link.pid in self._on_port:
            self._on_port[link.pid] = self._clock()
            self._watch()
        self._settle()

    def _begin(self, link: Link) -> None:
        store = self._store
        if store is None or link.phase == "new":
            return
        history, reached = self._reached
        link.begin(store, reached if history == store.history else 0)

    def _tell(self, link: Link) -> None:
        revision = self._store.revision if self._store is not None else 0
        counted = link.pid in self._on_port and (link.bound or self._all_in_step())
        link.tell(*self._state, revision, counted)

    def _all_in_step(self) -> bool:
        """Whether everybody on the port has a view: who joins makes nobody's questions go to one without."""
        links = self._by_pid()
        return all(pid in links and links[pid].acked >= 0 for pid in self._on_port)

    # Who counts

    def _by_pid(self) -> dict[int, Link]:
        return {link.pid: link for link in self._links if link.phase != "new"}

    def _reached_by_all(self) -> int:
        """The lowest revision that a worker on the port serves; with none on the port there is nobody to wait for."""
        if not self._on_port:
            return sys.maxsize
        links = self._by_pid()
        return min(links[pid].acked if pid in links else -1 for pid in self._on_port)

    def _settle(self) -> None:
        reached = self._reached_by_all()
        while self._waiters and (self._waiters[0][0] <= reached or self._waiters[0][2].done()):
            _, _, waiter = heapq.heappop(self._waiters)
            if not waiter.done():
                waiter.set_result(None)

    def _off_port(self, pid: int) -> None:
        if not any(link.pid == pid and link.acked >= 0 for link in self._links):
            self._on_port.pop(pid, None)
            self._suspects.discard(pid)

    # Who does not follow

    def _watch(self) -> None:
        """Have somebody look when the first deadline comes."""
        first = self._first_deadline()
        if first is None or (self._timer is not None and self._timer_at <= first):
            return
        self._look_at(first)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        delay = max(0.0, when - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _first_deadline(self) -> float | None:
        deadlines = [deadline for link in self._links if (deadline := link.next_deadline()) is not None]
        deadlines += [link.since + limits.FEED_HELLO_S_MAX for link in self._links if link.phase == "new"]
        links = self._by_pid()
        deadlines += [since + limits.WORKER_CONNECT_S_MAX for pid, since in self._on_port.items() if pid not in links]
        return min(deadlines, default=None)

    def _look(self) -> None:
        """A deadline came. Nobody is judged by one look: after our own stall his answer may lie unread."""
        self._timer = None
        now = self._clock()
        if now - self._timer_at > STALL_S:
            for link in self._links:
                link.excuse()
        overdue = self._overdue(now)
        for pid in overdue & self._suspects:
            self._end(pid)
        self._suspects = overdue - self._suspects
        if self._suspects:
            self._look_at(now + SECOND_LOOK_S)
        else:
            self._watch()

    def _overdue(self, now: float) -> set[int]:
        for link in [one for one in self._links if one.phase == "new" and one.since + limits.FEED_HELLO_S_MAX <= now]:
            logger.warning("feed: process %d connected and said nothing, it is cut off", link.pid)
            link.abort()
            self._links.pop(link, None)
        links = self._by_pid()
        found = {pid for pid, link in links.items() if link.overdue(now)}
        for pid, since in self._on_port.items():
            if pid not in links and since + limits.WORKER_CONNECT_S_MAX <= now:
                found.add(pid)
        return found

    def _end(self, pid: int) -> None:
        link = self._by_pid().get(pid)
        logger.error(
            "DNS worker %d (pid %d) does not follow (it serves revision %s of %d): it is killed and will be replaced",
            (self._listed or {}).get(pid, -1) if link is None else link.worker,
            pid,
            "unknown" if link is None else link.acked,
            self._fed,
        )
        self.killed += 1
        self._on_port.pop(pid, None)
        if link is not None:
            link.abort()
            self._links.pop(link, None)
        self._kill(pid)
        self._settle()


def _last_fed(store: Store) -> int:
    """The last revision of which workers were, or would have been, sent something."""
    for group in reversed(store.changes_since(store.floor)):
        if feed.view_changes(group.changes):
            return group.revision
    return store.floor
