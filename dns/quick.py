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
from collections.abc import Sequence
from typing import Final, NamedTuple

from discovery.dns import codes, wire, zone
from discovery.dns.cache import AnswerCache
from discovery.dns.name import LABEL_BYTES_MAX, NAME_BYTES_MAX, NS_LABELS
from discovery.dns.service import ServiceView
from discovery.dns.wire import Query
from discovery.dns.zone import Catalogue, Origin

SHAPES_MAX: Final = 4096
_AFTER_ID: Final = struct.Struct("!HHHHH")  # flags and four counts
_FIXED: Final = struct.Struct("!HHI")
_NAME_AT: Final = wire.HEADER_BYTES - 2  # offsets here count from behind the id
_TYPE_BYTES: Final = 4
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
        flags = wire.QR | wire.AA | query.flags & (wire.RD | wire.CD)
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
        if len(labels) == 3 and labels[2] == b"svc":
            view = catalogue.find(labels[1], labels[0])
            if view is not None:
                return self._service(catalogue.origin, view, shape, rest, end)
        elif not is_absent(catalogue, labels):
            return None
        reply = self._negative(shape, shape.denied, rest, end)
        if reply is not None:
            self.denied += 1
        return reply

    def _negative(self, shape: Shape, header: bytes, rest: bytes, end: int) -> bytes | None:
        apex = 0xC000 | end + 2 - len(self._suffix)
        question = rest[_NAME_AT : end + _TYPE_BYTES]
        reply = b"%b%b%b%b%b" % (header, question, apex.to_bytes(2, "big"), self._soa, shape.opt)
        return reply if len(reply) <= shape.bytes_max else None

    def _service(self, origin: Origin, view: ServiceView, shape: Shape, rest: bytes, end: int) -> bytes | None:
        rtype = shape.rtype
        record_bytes = _RECORD_BYTES.get(rtype)
        if record_bytes is None or view.external() is not None:
            return None
        rotor = (view.virtual if view.is_virtual() else view.addresses).of(rtype)
        count = min(len(rotor), origin.settings.max_answers) if rotor is not None else 0
        if rotor is None or not count:
            reply = self._negative(shape, shape.empty, rest, end)
            if reply is not None:
                self.answered += 1
                self._cache.put_negative(rest, view, reply, len(shape.opt))
            return reply
        if end + _TYPE_BYTES + count * record_bytes + len(shape.opt) > shape.bytes_max:
            return None  # TC: the general way deals its own
        ttl = rotor.ttls.least(view.ttl_cap(origin.settings.ttl))
        head = b"\xc0\x0c" + _FIXED.pack(rtype, codes.IN, ttl)
        records = head + head.join(rotor.deal(count))
        header = _AFTER_ID.pack(shape.flags, 1, count, 0, 1 if shape.opt else 0)
        reply = b"%b%b%b%b" % (header, rest[_NAME_AT : end + _TYPE_BYTES], records, shape.opt)
        self.answered += 1
        self._cache.put(rest, view, count, reply)
        return reply


def is_absent(catalogue: Catalogue, labels: Sequence[bytes]) -> bool:
    """Whether a name surely does not exist, by the grammar of :func:`discovery.dns.name.parse`, in O(1).

    Args:
        labels: below the zone, lower case; not those of a service.

    ``False`` is no answer: ask the general way.
    """
    count = len(labels)
    if count == 0 or count > 5:
        return count > 5
    if count == 1:
        return labels[0] not in _BELOW_ZONE
    if labels[-1] != b"svc":
        return tuple(labels) != NS_LABELS
    if count == 2:
        return not catalogue.has_namespace(labels[0])
    view = catalogue.find(labels[-2], labels[-3])
    if view is None:
        return True
    first = labels[0]
    if count == 4 and not first.startswith(b"_"):
        return first not in view.hosts
    if view.is_virtual():
        return False
    if count == 4:
        return first[1:] not in view.ports
    protocol = labels[1]
    underscores = first.startswith(b"_") and protocol.startswith(b"_")
    return not underscores or first[1:] not in view.ports.get(protocol[1:], ())
