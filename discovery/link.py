"""One DNS worker's connection to the node: what it was sent, what it has acknowledged. Owned by :mod:`discovery.hub`.

A link is *waiting* (the node holds less than the worker, or nothing yet), *copying* (a whole view is under way, changes
queue behind it) or *following* (every group goes out as it is applied).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, Protocol, cast

from discovery import feed, limits
from discovery.errors import Compacted, Unavailable
from discovery.model import InstanceRecord, ServiceRecord
from discovery.store import Store

logger: Final = logging.getLogger(__name__)

Phase = Literal["new", "waiting", "copying", "following"]
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def kernel_pid(sock: socket.socket) -> int:
    """Process id at the other end of a Unix socket, as the kernel knows it (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(raw)[0]
    return pid


class Owner(Protocol):
    """What a link tells the hub."""

    def opened(self, link: Link) -> None:
        """A connection came; the hub may abort it."""

    def greeted(self, link: Link) -> None:
        """The worker said who it is."""

    def joined(self) -> None:
        """A worker said that it is on its port."""

    def acknowledged(self, link: Link, first: bool) -> None:
        """The worker serves ``link.acked``; ``first``: its first acknowledgement on this connection."""

    def closed(self, link: Link) -> None:
        """The connection ended."""

    def now(self) -> float:
        """Monotonic seconds."""

    def peer_pid(self, sock: socket.socket) -> int:
        """Process id at the other end, 0 when nobody knows."""


class Link(asyncio.Protocol):
    """A worker's connection.

    Attributes:
        worker, pid: who it is; -1 and 0 before its Hello.
        revision: the last revision sent to it, or that it came with.
        acked: the last revision that it serves, -1 while unknown.
        samples: the numbers it sent last.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._splitter = feed.Splitter(limits.FEED_WORKER_FRAME_BYTES_MAX)
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._copy: asyncio.Task[None] | None = None
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._backlog_bytes = 0
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._unacked: deque[tuple[int, float]] = deque()
        self._came_on_at = owner.now()
        self.phase: Phase = "new"
        self.worker = -1
        self.pid = 0
        self.history = ""
        self.revision = 0
        self.acked = -1
        self.bound = False
        self.samples: tuple[feed.Sample, ...] = ()
        self.since = owner.now()

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn from the kernel who connected."""
        stream = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._transport = stream
        stream.set_write_buffer_limits(high=1024 * 1024)
        self.pid = self._owner.peer_pid(stream.get_extra_info("socket"))
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take frames of the worker; whatever is no frame ends the connection."""
        try:
            for body in self._splitter.push(data):
                self._take(feed.decode_from_worker(body))
        except feed.FeedError as error:
            logger.warning("feed: worker %d (pid %d) is cut off: %s", self.worker, self.pid, error)
            self.abort()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker closed, died or was cut off."""
        self._stop_copy()
        self._transport = None
        self._owner.closed(self)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    # From the worker

    def _take(self, frame: feed.FromWorker) -> None:
        if isinstance(frame, feed.Hello):
            self._greet(frame)
        elif self.phase == "new":
            raise feed.FeedError(f"{type(frame).__name__} before Hello")
        elif isinstance(frame, feed.Ack):
            self._acknowledge(frame.revision)
        elif isinstance(frame, feed.Stats):
            self.samples = frame.samples
        else:
            self.bound = True
            self._owner.joined()

    def _greet(self, hello: feed.Hello) -> None:
        if self.phase != "new":
            raise feed.FeedError("a second Hello")
        if hello.protocol != feed.PROTOCOL:
            raise feed.FeedError(f"it speaks version {hello.protocol} of the feed, this node {feed.PROTOCOL}")
        self.phase = "waiting"
        self.worker, self.pid = hello.worker, self.pid or hello.pid
        self.history, self.revision, self.bound = hello.history, hello.revision, hello.bound
        self._owner.greeted(self)

    def _acknowledge(self, revision: int) -> None:
        if revision > self.revision:
            raise feed.FeedError(f"revision {revision} is acknowledged, only {self.revision} was sent")
        first = self.acked < 0
        if revision > self.acked:
            self.acked, self._came_on_at = revision, self._owner.now()
        while self._unacked and self._unacked[0][0] <= revision:
            self._unacked.popleft()
        self._owner.acknowledged(self, first)

    # To the worker

    def begin(self, store: Store, reached: int) -> None:
        """Bring the worker in step with ``store``, by a resume when it can be.

        Args:
            store: the state that the worker is to follow.
            reached: the highest revision of this history that any worker is known to have had: clients must
                not see a worker that serves less.
        """
        self._stop_copy()
        same = self.history == store.history
        if not store.history or store.revision < max(reached, self.revision if same else 0):
            self.phase = "waiting"
            return
        if not (same and self._resume(store)):
            self._copy_whole(store)

    def publish(self, revision: int, frame: bytes) -> None:
        """Send the changes of a revision, or queue them behind the view that is under way."""
        if self.phase == "copying":
            self._backlog.append((revision, frame))
            self._backlog_bytes += len(frame)
        elif self.phase == "following":
            self._send(frame)
            self._expect(revision, limits.VISIBLE_TIMEOUT_S)
        if self._queued() > limits.FEED_BACKLOG_BYTES_MAX:
            logger.warning("feed: worker %d (pid %d) does not read, it is cut off", self.worker, self.pid)
            self.abort()

    def tell(self, leader: bool, stale_ms: int, revision: int, counted: bool) -> None:
        """Send the node's state; the revision, and that it counts, only when everything up to it was sent."""
        if self.phase == "new" or not self._writable.is_set():
            return
        following = self.phase == "following"
        if following:
            self.revision = max(self.revision, revision)
        self._send(feed.encode(feed.State(leader, stale_ms, revision if following else 0, counted and following)))

    def overdue(self, now: float) -> bool:
        """Whether an acknowledgement has not come in its time, nor any other for a while."""
        deadline = self.next_deadline()
        return deadline is not None and deadline <= now

    def next_deadline(self) -> float | None:
        """When the oldest acknowledgement that is due will be overdue; who is behind but comes on has more time."""
        return max(self._unacked[0][1], self._came_on_at + limits.VISIBLE_TIMEOUT_S) if self._unacked else None

    def excuse(self) -> None:
        """The node itself stood still, and maybe the whole host: acknowledgements get their full time from now on."""
        anew = self._owner.now() + limits.VISIBLE_TIMEOUT_S
        self._unacked = deque((revision, max(deadline, anew)) for revision, deadline in self._unacked)

    def _resume(self, store: Store) -> bool:
        try:
            groups = store.changes_since(self.revision)
            frames = [(group.revision, feed.changes_frame(group)) for group in groups]
        except (Compacted, Unavailable, feed.FeedError):  # the last: more in one revision than a frame holds
            return False
        self._send(feed.encode(feed.Resume(store.history, self.revision)))
        self._expect(self.revision, limits.FEED_SYNC_S_MAX)
        for revision, frame in frames:
            if frame is not None:
                self._send(frame)
                self._expect(revision, limits.VISIBLE_TIMEOUT_S)
        self.phase = "following"
        return True

    def _copy_whole(self, store: Store) -> None:
        begin = feed.Begin(store.history, store.revision, store.serial)
        instances, services = list(store.all_instances()), list(store.all_services())
        if self.history != store.history:
            self.acked = -1
        self.phase, self.history, self.revision = "copying", store.history, store.revision
        self._unacked.clear()
        self._expect(store.revision, limits.FEED_SYNC_S_MAX)
        self._copy = asyncio.get_running_loop().create_task(self._run_copy(begin, instances, services))
        self._copy.add_done_callback(self._copied)

    async def _run_copy(
        self, begin: feed.Begin, instances: Sequence[InstanceRecord], services: Sequence[ServiceRecord]
    ) -> None:
        for frame in feed.whole_view(begin, instances, services):
            self._send(frame)
            await self._writable.wait()
            await asyncio.sleep(0)  # a large view is encoded between other work, frame by frame
        for revision, frame in self._backlog:
            self._send(frame)
            self._expect(revision, limits.VISIBLE_TIMEOUT_S)
        self._clear_backlog()
        self.phase = "following"

    def _copied(self, copy: asyncio.Task[None]) -> None:
        if not copy.cancelled() and (error := copy.exception()) is not None:
            logger.error("feed: the view for worker %d could not be sent", self.worker, exc_info=error)
            self.abort()

    def _stop_copy(self) -> None:
        if self._copy is not None:
            self._copy.cancel()
            self._copy = None
        self._clear_backlog()

    def _clear_backlog(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0

    def _expect(self, revision: int, seconds: float) -> None:
        """An acknowledgement of ``revision`` is due. Deadlines never fall: who is at a long task has time for it."""
        self.revision = max(self.revision, revision)
        deadline = self._owner.now() + seconds
        if self._unacked:
            deadline = max(deadline, self._unacked[-1][1])
        self._unacked.append((revision, deadline))

    def _send(self, frame: bytes) -> None:
        """Send at the end of this turn of the loop, with all else that comes in it.

        A pass of Raft applies what many clients asked for: a system call each, and a worker that wakes up for each,
        would cost more than the changes themselves.
        """
        if self._transport is None or self._transport.is_closing():
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame)
        self._unsent_bytes += len(frame)

    def _flush(self) -> None:
        frames, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(frames)

    def _queued(self) -> int:
        buffered = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return buffered + self._unsent_bytes + self._backlog_bytes
