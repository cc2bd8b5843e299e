"""Level 2: the answers that make up nearly all misses, in a few slices of bytes each.

Pure. A question that differs from one seen before only in its name has a *shape* that is known: flags, type, class and
EDNS, all read and judged by :mod:`discovery.dns.wire` the first time. For such a question this module walks the labels
and answers three things: no such name, no such type, A and AAAA of a service. For anything else it says ``None``, and
the general way (:mod:`discovery.dns.answer`, :mod:`discovery.dns.wire`) answers the same, slower.

Where a name ends is guessed by its first zero byte; a label may hold one too. The walk shows: only when the labels end
exactly where the zone's begin is the guess right, and then all that follows is too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from discovery.dns import codes, wire, zone
from discovery.dns.cache import ROTATIONS_MAX, AnswerCache
from discovery.dns.name import LABEL_BYTES_MAX, NAME_BYTES_MAX, NS_LABELS
from discovery.dns.service import ALL_OF_IT, Addresses, Facet, Member, ServiceView, srv
from discovery.dns.settings import Settings
from discovery.dns.wire import Query
from discovery.dns.zone import Catalogue, Origin

SHAPES_MAX: Final = 4096
_UNDERSCORE: Final = ord("_")
_AFTER_ID: Final = struct.Struct("!HHHHH")  # flags and four counts
_FIXED: Final = struct.Struct("!HHI")
_NAME_AT: Final = wire.HEADER_BYTES - 2  # offsets here count from behind the id
_TYPE_BYTES: Final = 4
_QUESTION_POINTER: Final = b"\xc0\x0c"
_RECORD_HEAD_BYTES: Final = 10  # a pointer, type, class, TTL
_TYPE_BY_SIZE: Final = {size: rtype for rtype, size in zone.ADDRESS_SIZES.items()}
_RECORD_BYTES: Final = {codes.A: 12 + 4, codes.AAAA: 12 + 16}
_BELOW_ZONE: Final = frozenset({b"dns-version", b"dns", b"svc"})


class Shape(NamedTuple):
    """All of a question but its name, and what an answer to it has of it."""

    rtype: int
    flags: int
    denied: bytes  # header behind the id of "no such name"
    empty: bytes  # of "no such type"
    opt: bytes
    bytes_max: int  # of a reply without its id


class _Question(NamedTuple):
    """One question on its way through this module."""

    rest: bytes
    end: int
    shape: Shape
    labels: list[bytes]  # below the zone
    view: ServiceView
    settings: Settings


class Quick:
    """Composes what it can, and tells the cache.

    Args:
        cache: takes every answer that belongs to a name that exists.

    Attributes:
        denied: how many answers said "no such name".
        answered: how many said anything else.
    """

    def __init__(self, cache: AnswerCache) -> None:
        self.denied = 0
        self.answered = 0
        self._cache = cache
        self._shapes: dict[bytes, Shape] = {}
        self._origin: Origin | None = None
        self._suffix = b""
        self._soa = b""
        self._serial = -1

    def clear(self) -> None:
        """Forget shapes: what is told in an OPT has changed."""
        self._shapes.clear()

    def begin(self, catalogue: Catalogue) -> None:
        """Answer from ``catalogue`` as it is now. Cheap when nothing has changed."""
        serial = catalogue.serial
        if serial == self._serial and catalogue.origin is self._origin:
            return
        origin = self._origin = catalogue.origin
        self._serial = serial
        self._suffix = origin.wire
        self._soa = _FIXED.pack(codes.SOA, codes.IN, zone.NEGATIVE_TTL_S) + origin.soa(serial)
        self._cache.serial = (serial & 0xFFFFFFFF).to_bytes(4, "big")

    def learn(self, packet: bytes, query: Query, opt: bytes, bytes_max: int) -> None:
        """Remember the shape of a question that was read and is common (:func:`discovery.dns.cache.is_common`).

        Args:
            packet: the question with its id.
            opt: record of ours for such a question, ``b""`` for none.
            bytes_max: largest reply, id included.
        """
        if len(self._shapes) >= SHAPES_MAX:
            self._shapes.clear()
        flags = wire.QR | wire.AA | query.offered | query.flags & (wire.RD | wire.CD)
        additional = 1 if opt else 0
        denied = _AFTER_ID.pack(flags | codes.NXDOMAIN, 1, 0, 1, additional)
        empty = _AFTER_ID.pack(flags, 1, 0, 1, additional)
        behind_name = wire.HEADER_BYTES + len(query.question) - _TYPE_BYTES
        key = packet[2 : wire.HEADER_BYTES] + packet[behind_name:]
        self._shapes[key] = Shape(query.rtype, flags, denied, empty, opt, bytes_max - 2)

    def answer(self, catalogue: Catalogue, rest: bytes, end: int) -> bytes | None:
        """The reply behind its id, or ``None``: ask the general way.

        Args:
            rest: a question behind its id, in lower case.
            end: in ``rest``, behind the first zero byte of the name.
        """
        shape = self._shapes.get(rest[:_NAME_AT] + rest[end:])
        stop = end - len(self._suffix)
        if shape is None or stop < _NAME_AT or rest[stop:end] != self._suffix or end - _NAME_AT > NAME_BYTES_MAX:
            return None
        labels = []
        at = _NAME_AT
        while at < stop:
            size = rest[at]
            past = at + 1 + size
            labels.append(rest[at + 1 : past])
            at = past
            if size > LABEL_BYTES_MAX:
                return None
        if at != stop:
            return None
        if is_absent(catalogue, labels):
            reply = self._negative(shape, shape.denied, rest, end)
            self.denied += reply is not None
            return reply
        compose = _KINDS.get(len(labels))
        view = catalogue.find(labels[-2], labels[-3]) if compose is not None else None
        if compose is None or view is None or view.external() is not None:
            return None
        reply = compose(self, _Question(rest, end, shape, labels, view, catalogue.origin.settings))
        self.answered += reply is not None
        return reply

    def _negative(self, shape: Shape, header: bytes, rest: bytes, end: int) -> bytes | None:
        apex = 0xC000 | end + 2 - len(self._suffix)
        question = rest[_NAME_AT : end + _TYPE_BYTES]
        reply = b"".join((header, question, apex.to_bytes(2, "big"), self._soa, shape.opt))
        return reply if len(reply) <= shape.bytes_max else None

    def _empty(self, asked: _Question, facet: Facet) -> bytes | None:
        """No such type."""
        reply = self._negative(asked.shape, asked.shape.empty, asked.rest, asked.end)
        if reply is not None:
            self._cache.put_negative(asked.rest, asked.view, reply, len(asked.shape.opt), facet)
        return reply

    def _service(self, asked: _Question) -> bytes | None:
        """A and AAAA of a service."""
        if asked.shape.rtype not in _RECORD_BYTES:
            return None
        view = asked.view
        return self._addresses(asked, view.virtual if view.is_virtual() else view.addresses, asked.shape.rtype)

    def _host(self, asked: _Question) -> bytes | None:
        """A and AAAA of one instance, or of those that share its hostname."""
        label = asked.labels[0]
        there = asked.view.hosts.get(label)
        rtype = asked.shape.rtype
        if there is None or rtype not in _RECORD_BYTES:
            return None
        if not isinstance(there, Member):
            return self._addresses(asked, there.addresses, label)
        size = zone.ADDRESS_SIZES[rtype]
        data = [one for one in there.addresses if len(one) == size]
        own = there.spec.dns_ttl
        ttl = asked.view.ttl_cap(asked.settings.ttl)
        if not data:
            return self._empty(asked, label)
        return self._positive(asked, data, ttl if own is None else min(own, ttl), label)

    def _addresses(self, asked: _Question, addresses: Addresses, facet: Facet) -> bytes | None:
        rtype = asked.shape.rtype
        rotor = addresses.of(rtype)
        count = min(len(rotor), asked.settings.max_answers) if rotor is not None else 0
        if rotor is None or not count:
            return self._empty(asked, facet)
        size = asked.end + _TYPE_BYTES + count * _RECORD_BYTES[rtype] + len(asked.shape.opt)
        if size > asked.shape.bytes_max:
            return None  # TC: the general way deals its own
        ttl = rotor.ttls.least(asked.view.ttl_cap(asked.settings.ttl))
        return self._positive(asked, rotor.deal(count), ttl, facet)

    def _positive(
        self, asked: _Question, data: list[bytes], ttl: int, facet: Facet, more: bytes = b"", others: int = 0
    ) -> bytes:
        """``data``: of one set, that of the question; ``more``: ``others`` additional records."""
        rest, end, shape = asked.rest, asked.end, asked.shape
        head = _QUESTION_POINTER + _FIXED.pack(shape.rtype, codes.IN, ttl)
        header = _AFTER_ID.pack(shape.flags, 1, len(data), 0, others + (1 if shape.opt else 0))
        start = header + rest[_NAME_AT : end + _TYPE_BYTES]
        records = head + head.join(data)
        more += shape.opt
        reply = b"".join((start, records, more))
        if len(data) > ROTATIONS_MAX:
            self._cache.put(rest, asked.view, len(data), reply, facet)
        else:  # every order at once, the one that is given now last
            turned = _turned(start, records, more, [len(head) + len(one) for one in data[:-1]])
            self._cache.put_all(rest, asked.view, [*turned, reply], facet)
        return reply

    def _port(self, asked: _Question) -> bytes | None:
        """SRV of a named port of a headless service (section 2.4.2), with the addresses of its targets."""
        view, labels, shape = asked.view, asked.labels, asked.shape
        if view.is_virtual():
            return None
        if shape.rtype in _RECORD_BYTES:
            return self._empty(asked, ALL_OF_IT)
        if shape.rtype != codes.SRV:
            return None
        rotor = view.ports[labels[1][1:]][labels[0][1:]]
        made = self._targets(asked, rotor.deal(asked.settings.max_answers))
        if made is None:  # TC, or an instance with that name twice: the general way deals its own
            rotor.take_back()
            return None
        data, more, others = made
        ttl = rotor.ttls.least(view.ttl_cap(asked.settings.ttl))
        return self._positive(asked, data, ttl, ALL_OF_IT, more, others)

    def _targets(self, asked: _Question, members: list[Member]) -> tuple[list[bytes], bytes, int] | None:
        """Record data, additional records and their number, when all of it fits."""
        view, labels = asked.view, asked.labels
        ttl_cap = view.ttl_cap(asked.settings.ttl)
        protocol, port = labels[1][1:], labels[0][1:]
        service = (_NAME_AT + 2 + len(labels[0]) + len(labels[1]) + 2 | 0xC000).to_bytes(2, "big")
        size = asked.end + _TYPE_BYTES + len(asked.shape.opt)
        data, glue = [], []
        for member in members:
            numbers = list(member.numbers(protocol, port))
            if len(numbers) != 1:
                return None
            target = view.target(member)
            owner = bytes((len(target),)) + target
            spec = member.spec
            data.append(srv(spec.priority, spec.weight, numbers[0], owner + view.wire))
            ttl = ttl_cap if spec.dns_ttl is None else min(spec.dns_ttl, ttl_cap)
            glue.append((owner + service, ttl, member.addresses))
            size += _RECORD_HEAD_BYTES + len(data[-1])
        more = _additional(glue, size - len(asked.shape.opt) + 2)
        size += sum(map(len, more))
        return (data, b"".join(more), len(more)) if size <= asked.shape.bytes_max else None


def _turned(start: bytes, records: bytes, more: bytes, sizes: list[int]) -> list[bytes]:
    """Replies with ``records`` in every other order; ``sizes``: of each record but the last."""
    twice, length = records + records, len(records)
    return [b"".join((start, twice[at : at + length], more)) for at in accumulate(sizes)]


def _additional(glue: list[tuple[bytes, int, tuple[bytes, ...]]], at: int) -> list[bytes]:
    """Address records by owner, TTL and data, A before AAAA; the first is at offset ``at`` of the message.

    An owner's later records point to its first.
    """
    records = []
    for owner, ttl, addresses in glue:
        for one in addresses if len(addresses) == 1 else sorted(addresses, key=len):  # stable: as they were given
            records.append(owner + _FIXED.pack(_TYPE_BY_SIZE[len(one)], codes.IN, ttl) + one)
            if len(owner) > 2:
                owner = (0xC000 | at).to_bytes(2, "big")
            at += len(records[-1])
    return records


_KINDS: Final[dict[int, Callable[[Quick, _Question], bytes | None]]] = {
    3: Quick._service,
    4: Quick._host,
    5: Quick._port,
}


def is_absent(catalogue: Catalogue, labels: Sequence[bytes]) -> bool:
    """Whether a name surely does not exist, by the grammar of :func:`discovery.dns.name.parse`, in O(1).

    Args:
        labels: below the zone, lower case.

    ``False`` is no answer: ask the general way.
    """
    count = len(labels)
    if count < 3 or count > 6:
        return count > 6 or _is_absent_near_apex(catalogue, labels)
    if labels[-1] != b"svc":
        return True
    view = catalogue.find(labels[-2], labels[-3])
    if view is None:
        return labels[-3][0] != _UNDERSCORE  # a name to browse may be there
    if count == 3:
        return False
    first = labels[0]
    if count == 4 and not first.startswith(b"_"):
        return first not in view.hosts
    if count == 6:  # to browse, or nothing
        return not (labels[1].startswith(b"_") and labels[2].startswith(b"_"))
    if view.is_virtual():
        return False
    if count == 4:
        return first[1:] not in view.ports
    protocol = labels[1]
    underscores = first.startswith(b"_") and protocol.startswith(b"_")
    return not underscores or first[1:] not in view.ports.get(protocol[1:], ())


def _is_absent_near_apex(catalogue: Catalogue, labels: Sequence[bytes]) -> bool:
    """The same for at most two labels."""
    if len(labels) < 2:
        return bool(labels) and labels[0] not in _BELOW_ZONE
    if labels[1] != b"svc":
        return tuple(labels) != NS_LABELS
    return not catalogue.has_namespace(labels[0])
