"""The worker's side of the feed: what the registry holds, as the node tells it over a Unix socket.

Lives in the worker's own loop, without a thread: frames are applied in slices of about a millisecond, so that a big
change never keeps questions waiting. When the node process dies the worker goes on answering from what it has,
says that it is stale after ``limits.STALE_AFTER_S``, and connects again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from discovery import feed, limits
from discovery.dns.loop import READ, WRITE, Loop
from discovery.dns.responder import Responder
from discovery.dns.zone import Origin, Zone

log: Final = logging.getLogger(__name__)

SLICE_S: Final = 0.001
RECONNECT_S: Final = 0.05
_READ_BYTES: Final = 64 * 1024  # from 128 KiB on, malloc would map and unmap memory for every frame
_BACKLOG_FRAMES: Final = 64  # beyond, the socket is left to wait
_STEPS_BETWEEN_LOOKS: Final = 8  # changes applied between two looks at the clock
_OUT_BYTES_MAX: Final = 1024 * 1024


class View:
    """Keeps a responder's zone in step with the node.

    Args:
        loop: to be registered with.
        path: of the node's Unix socket.
        index: of this worker.
        origin: of the zone.
        responder: whose catalogue this is.
        clock: monotonic seconds.

    Attributes:
        history, revision: of what is answered now; ``""`` and 0 before the first sync.
        bound: whether the worker is on its port, told to every node.
        counted: whether a node acknowledges no write without this worker: then it may join its port.
        views: how many whole views were taken.
    """

    def __init__(
        self, loop: Loop, path: str, index: int, origin: Origin, responder: Responder, clock: Callable[[], float]
    ) -> None:
        self.history = ""
        self.revision = 0
        self.bound = False
        self.counted = False
        self.views = 0
        self._loop = loop
        self._path = path
        self._index = index
        self._origin = origin
        self._responder = responder
        self._clock = clock
        self._zone: Zone | None = None
        self._sock: socket.socket | None = None
        self._connect_at = clock()
        self._fresh_at = clock()  # when the node last knew a leader, as far as we know
        self._leader = False
        self._reset()

    def _reset(self) -> None:
        """Forget what belongs to one connection."""
        self._splitter = feed.Splitter()
        self._bodies: deque[bytes] = deque()
        self._work: Iterator[None] | None = None
        self._building: tuple[str, int, Zone] | None = None
        self._out = bytearray()
        self._owes_ack = False
        self._events = 0

    @property
    def synced(self) -> bool:
        """Whether a whole view has come: from then on names that are missing do not exist."""
        return self._zone is not None

    @property
    def connected(self) -> bool:
        """Whether the node is there."""
        return self._sock is not None

    @property
    def pending(self) -> bool:
        """Whether frames wait to be applied."""
        return self._work is not None or bool(self._bodies)

    def stale(self) -> bool:
        """Whether the node, if it is there at all, has known no leader for ``STALE_AFTER_S``."""
        return self._clock() - self._fresh_at >= limits.STALE_AFTER_S

    def tick(self) -> float:
        """Do what is due by the clock; seconds until it should be called again."""
        now = self._clock()
        if self._sock is None and now >= self._connect_at:
            self._connect()
        self._responder.stale = self.stale()
        return max(0.0, self._connect_at - now) if self._sock is None else 1.0

    def join(self) -> None:
        """The worker is on its port."""
        self.bound = True
        if self._sock is not None:
            self._tell(feed.Bound())

    def report(self, samples: tuple[feed.Sample, ...]) -> None:
        """Send counters, when there is a node to take them."""
        if self._sock is not None:
            self._tell(feed.Stats(samples))

    def work(self, slice_s: float = SLICE_S) -> None:
        """Apply frames for about ``slice_s`` seconds. Afterwards :attr:`pending` says whether some are left."""
        end = self._clock() + slice_s
        try:
            while self._sock is not None and self.pending:
                if self._work is None:
                    self._work = self._apply(feed.decode_from_node(self._bodies.popleft()))
                if not self._advance(self._work, end):
                    break
                self._work = None
            self._acknowledge()
            self._flow()
        except feed.FeedError as error:
            self._disconnect(str(error))

    def _acknowledge(self) -> None:
        """Say once what all groups of this slice came to: the node waits for revisions, not for messages."""
        if self._owes_ack:
            self._owes_ack = False
            self._tell(feed.Ack(self.revision))

    def _advance(self, work: Iterator[None], end: float) -> bool:
        """Take steps until the work is done (true) or the time is up."""
        while len(list(islice(work, _STEPS_BETWEEN_LOOKS))) == _STEPS_BETWEEN_LOOKS:
            if self._clock() >= end:
                return False
        return True

    # The connection

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self._path)
        except OSError:  # no node yet, or its backlog is full: it is on its way
            sock.close()
            self._connect_at = self._clock() + RECONNECT_S
            return
        self._sock = sock
        self._events = READ
        self._loop.add(sock.fileno(), READ, self._on_event)
        self._tell(feed.Hello(self._index, os.getpid(), self.history, self.revision, self.bound))

    def _disconnect(self, reason: str) -> None:
        if self._sock is None:
            return
        log.info("lost the node; answering on from what is known", extra={"reason": reason, "revision": self.revision})
        self._loop.remove(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._leader = False
        self._connect_at = self._clock() + RECONNECT_S
        self._reset()

    def _on_event(self, events: int) -> None:
        try:
            self._send()
            if events & ~WRITE and len(self._bodies) < _BACKLOG_FRAMES:
                self._receive()
        except (OSError, feed.FeedError) as error:
            self._disconnect(str(error))
            return
        self.work()

    def _receive(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise feed.FeedError("the node closed the connection")
        self._bodies.extend(self._splitter.push(data))

    def _tell(self, frame: feed.FromWorker) -> None:
        self._out += feed.encode(frame)
        try:
            self._send()
            if len(self._out) > _OUT_BYTES_MAX:
                raise feed.FeedError("the node takes nothing from us")
        except (OSError, feed.FeedError) as error:
            self._disconnect(str(error))

    def _send(self) -> None:
        if self._sock is None or not self._out:
            return
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            sent = 0
        del self._out[:sent]
        self._flow()

    def _flow(self) -> None:
        """Wait for what can be used now: room for unsent bytes, frames while not too many are waiting."""
        if self._sock is None:
            return
        reading = len(self._bodies) < _BACKLOG_FRAMES
        events = (READ if reading else 0) | (WRITE if self._out else 0)
        if events != self._events:
            self._events = events
            self._loop.change(self._sock.fileno(), events)

    # Frames; each is a generator that yields after every change, so that it can be applied in slices

    def _apply(self, frame: feed.FromNode) -> Iterator[None]:
        match frame:
            case feed.Changes():
                yield from self._changes(frame)
            case feed.State():
                self._state(frame)
            case feed.Begin():
                self._begin(frame)
            case feed.Items():
                yield from self._items(frame)
            case feed.End():
                self._end(frame)
            case feed.Resume():
                self._resume(frame)

    def _begin(self, frame: feed.Begin) -> None:
        if frame.history == self.history and frame.revision < self.revision:
            raise feed.FeedError(f"revision {frame.revision} is older than ours, {self.revision}")
        zone = Zone(self._origin)
        zone.serial = frame.serial
        self._building = (frame.history, frame.revision, zone)

    def _items(self, frame: feed.Items) -> Iterator[None]:
        if self._building is None:
            raise feed.FeedError("items outside of a view")
        zone = self._building[2]
        for service in frame.services:
            zone.put_service(service.spec)
            yield
        for instance in frame.instances:
            zone.put_instance(instance.spec)
            yield

    def _end(self, frame: feed.End) -> None:
        if self._building is None or self._building[1] != frame.revision:
            raise feed.FeedError("the end of a view that was not begun")
        self.history, self.revision, self._zone = self._building
        self._building = None
        self._responder.install(self._zone)
        self.views += 1
        log.info("synced", extra={"history": self.history, "revision": self.revision})
        self._owes_ack = True

    def _resume(self, frame: feed.Resume) -> None:
        if self._zone is None or (frame.history, frame.revision) != (self.history, self.revision):
            raise feed.FeedError("resumed from another state than ours")
        self._building = None  # a view that was under way is not needed any more
        self._owes_ack = True

    def _changes(self, frame: feed.Changes) -> Iterator[None]:
        zone = self._zone
        if zone is None or self._building is not None:
            raise feed.FeedError("changes before the view that they belong to")
        if frame.revision > self.revision:
            for change in frame.changes:
                _change(zone, change)
                yield
            zone.serial = frame.serial
            self.revision = frame.revision
        if self._leader:
            self._fresh_at = self._clock()
        self._owes_ack = True

    def _state(self, frame: feed.State) -> None:
        self._leader = frame.leader
        self.counted = self.counted or frame.counted
        since = self._clock() - (0 if frame.leader else frame.stale_ms / 1000)
        self._fresh_at = since if frame.leader else min(self._fresh_at, since)
        self.revision = max(self.revision, frame.revision) if self._zone is not None else 0
        self._responder.stale = self.stale()


def _change(zone: Zone, change: feed.ViewChange) -> None:
    match change:
        case feed.PutInstance(record=record):
            zone.put_instance(record.spec)
        case feed.DropInstance():
            zone.drop_instance(change.namespace, change.service, change.id)
        case feed.PutService(record=settings):
            zone.put_service(settings.spec)
        case feed.DropService():
            zone.drop_service(change.namespace, change.service)
