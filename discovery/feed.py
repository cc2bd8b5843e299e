"""The feed's frames: how a node tells its DNS workers what the registry holds, over a Unix socket.

A frame is a length (unsigned 32 bit, big-endian, without itself) and a msgpack array ``[tag, …fields]``. Pure: bytes
in, frames out; the node's side of the socket is :mod:`discovery.hub`, the worker's ``dns/view.py``.

The conversation::

    worker                                   node
    Hello(worker, pid, history, revision)  →
                                           ←  Begin, Items…, End     the whole view; the worker swaps it at End
                                              or Resume              same history: the changes after `revision` follow
                                           ←  Changes                one a revision, in order, each as it is applied
    Ack(revision)                          →                         after End, after Resume and after every Changes
                                           ←  State                  on every change of it, and once a second
    Bound()                                →                         once, when the worker has joined its port
    Stats(samples)                         →                         once a second

Rules. A worker never takes a revision below its own within one history: a node that is behind a worker (it was
restarted and still replays its log) sends only ``State`` until it has caught up. Revisions that touch no instance and
no service are not sent; ``State.revision`` says how far the registry has come with all that matters already sent, so
that a worker's own revision follows (it need not acknowledge that). Another ``Begin`` may come at any time, for
instance after the node installed a snapshot: until its ``End`` the worker goes on answering from what it has.

Joining the port: from a worker's first ``Ack`` on no write is acknowledged without it, and the node answers that Ack
with a ``State`` that says so (``counted``), once everybody on the port has a view. A worker that joins its port only
once it is in step waits for that frame: everything that the node acknowledged without waiting for it stands before it
in the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import msgspec

from discovery import limits
from discovery.model import Change, Group, InstanceRecord, ServiceRecord

PROTOCOL: Final = 1
ITEMS_PER_FRAME: Final = 256
_LENGTH: Final = struct.Struct("!I")
_Record = TypeVar("_Record", InstanceRecord, ServiceRecord)


class FeedError(Exception):
    """The other side broke the protocol: a frame too long, or bytes that are no frame. The connection must end."""


# Worker to node


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """Who connects and what he has.

    Args:
        worker: index of the worker, from 0.
        pid: process id; the node trusts the kernel's word (SO_PEERCRED) where both have one.
        history: of the view that the worker serves, ``""`` before its first sync.
        revision: of that view.
        bound: whether the worker is on its port (it then counts for ``X-Registry-Visible``).
    """

    worker: int
    pid: int
    history: str = ""
    revision: int = 0
    bound: bool = False
    protocol: int = PROTOCOL


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """Every answer from now on includes ``revision``."""

    revision: int


class Bound(msgspec.Struct, frozen=True, array_like=True, tag="bound"):
    """The worker has joined its port."""


class Sample(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One number of one worker since its start: metric name without prefix, labels as sorted pairs, value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Stats(msgspec.Struct, frozen=True, array_like=True, tag="stats"):
    """The worker's counters and gauges, absolute values; the node shows them under ``/metrics``."""

    samples: tuple[Sample, ...]


FromWorker = Hello | Ack | Bound | Stats


# Node to worker


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """A whole view follows; it takes the place of the present one at :class:`End`."""

    history: str
    revision: int
    serial: int


class Items(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    """Part of a whole view: instances of every status, and service settings, in no particular order."""

    instances: tuple[InstanceRecord, ...] = ()
    services: tuple[ServiceRecord, ...] = ()


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The view begun last is complete: swap, then acknowledge its revision."""

    revision: int


class Resume(msgspec.Struct, frozen=True, array_like=True, tag="resume"):
    """The worker's view is good as it is; the changes after it follow."""

    history: str
    revision: int


class PutInstance(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="pi"):
    """An instance was registered or changed."""

    record: InstanceRecord


class DropInstance(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="di"):
    """An instance went."""

    namespace: str
    service: str
    id: str


class PutService(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="ps"):
    """A service's settings were put."""

    record: ServiceRecord


class DropService(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="ds"):
    """A service's settings went (its instances may remain)."""

    namespace: str
    service: str


ViewChange = PutInstance | DropInstance | PutService | DropService


class Changes(msgspec.Struct, frozen=True, array_like=True, tag="changes"):
    """All changes of one revision, to be applied together and then acknowledged.

    Args:
        serial: the zone's SOA serial after them (a replicated counter, DESIGN section 7).
    """

    revision: int
    serial: int
    changes: tuple[ViewChange, ...]


class State(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """What the node knows about itself.

    Args:
        leader: whether a leader is known.
        stale_ms: milliseconds without a leader, 0 while one is known. Between two frames, and after the
            connection ended, the worker goes on counting by its own clock.
        revision: the registry's; everything up to it that matters to DNS was sent before. 0 while the node is behind
            the worker: the worker keeps its own.
        counted: no write is acknowledged without this worker any more, and all that was before has been sent.
    """

    leader: bool
    stale_ms: int
    revision: int = 0
    counted: bool = False


FromNode = Begin | Items | End | Resume | Changes | State

_encoder = msgspec.msgpack.Encoder()
_from_worker: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)
_from_node: Final[msgspec.msgpack.Decoder[FromNode]] = msgspec.msgpack.Decoder(FromNode)


def encode(frame: FromWorker | FromNode) -> bytes:
    """The frame with its length in front. Raises :class:`FeedError` above ``limits.FEED_FRAME_BYTES_MAX``."""
    body = _encoder.encode(frame)
    if len(body) > limits.FEED_FRAME_BYTES_MAX:
        raise FeedError(f"a frame of {len(body)} bytes is above the limit of {limits.FEED_FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


def decode_from_worker(body: bytes) -> FromWorker:
    """The frame that a worker sent. Raises :class:`FeedError`."""
    try:
        return _from_worker.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise FeedError(f"not a frame of a worker: {error}") from error


def decode_from_node(body: bytes) -> FromNode:
    """The frame that the node sent. Raises :class:`FeedError`."""
    try:
        return _from_node.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise FeedError(f"not a frame of a node: {error}") from error


class Splitter:
    """Cuts a byte stream into frame bodies, holding at most one incomplete frame.

    Args:
        frame_bytes_max: longest body accepted; a node takes only small frames from its workers.
    """

    __slots__ = ("_buffer", "_frame_bytes_max")

    def __init__(self, frame_bytes_max: int = limits.FEED_FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def push(self, data: bytes) -> list[bytes]:
        """Take bytes, return the bodies that are complete now. Raises :class:`FeedError` (length above the limit)."""
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._frame_bytes_max:
                raise FeedError(f"a frame of {length} bytes is above the limit of {self._frame_bytes_max}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return bodies


def view_changes(changes: Iterable[Change]) -> tuple[ViewChange, ...]:
    """The part of a group that a DNS view holds; keys have no name."""
    return tuple(view for view in map(_view_change, changes) if view is not None)


def _view_change(change: Change) -> ViewChange | None:
    if isinstance(change.record, InstanceRecord):
        return PutInstance(change.record)
    if isinstance(change.record, ServiceRecord):
        return PutService(change.record)
    if change.resource == "instance":
        return DropInstance(change.namespace, change.service, change.name)
    if change.resource == "service":
        return DropService(change.namespace, change.service)
    return None


def changes_frame(group: Group) -> bytes | None:
    """The encoded :class:`Changes` of a group, ``None`` when it touches neither instance nor service."""
    changes = view_changes(group.changes)
    return encode(Changes(group.revision, group.serial, changes)) if changes else None


def whole_view(begin: Begin, instances: Sequence[InstanceRecord], services: Sequence[ServiceRecord]) -> Iterator[bytes]:
    """Begin, Items…, End as encoded frames, made one by one so that the caller can pause between them."""
    yield encode(begin)
    for part in _batches(services):
        yield encode(Items(services=part))
    for batch in _batches(instances):
        yield from _items(batch)
    yield encode(End(begin.revision))


def _items(batch: tuple[InstanceRecord, ...]) -> Iterator[bytes]:
    """Usually one frame; several when instances with all the meta data that is allowed come together."""
    try:
        yield encode(Items(instances=batch))
    except FeedError:
        if len(batch) == 1:
            raise
        middle = len(batch) // 2
        yield from _items(batch[:middle])
        yield from _items(batch[middle:])


def _batches(records: Sequence[_Record]) -> Iterator[tuple[_Record, ...]]:
    rest = iter(records)
    while batch := tuple(islice(rest, ITEMS_PER_FRAME)):
        yield batch
