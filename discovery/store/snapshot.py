"""A state as bytes: copied in an instant, written out in a thread, read back whole or not at all.

Format 1 is a stream of frames, each a 4-byte big-endian length and a msgpack array ``[section, rows]``. First comes
``head``, then the sections of ``SECTIONS`` in that order, last ``end`` with the number of frames before it. The stream
may be cut into chunks anywhere. Checksums are the concern of the file and of the transfer; here a stream without its
end, with bytes after it or with content that contradicts itself is refused (:mod:`discovery.store.restore`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from discovery import limits
from discovery.model import Event, Group, InstanceRecord, KeyRecord, ServiceRecord
from discovery.store.dedup import Kept
from discovery.store.leases import Held
from discovery.store.tables import Staged, Tables

FORMAT: Final = 1
LENGTH: Final = struct.Struct(">I")
_ROWS: Final = struct.Struct(">BI")  # msgpack array 32: a marker and a 32-bit count
_FRAME_BYTES = 64 * 1024


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The scalars of a state."""

    format: int
    history: str
    revision: int
    serial: int
    time_ms: int
    floor: int
    events_floor: int
    catalog_changed: int
    keys_changed: int
    base: int = 0  # revision at which a backup was restored: no index is below it


NamespaceRow = tuple[str, int]  # name, last change
ServiceRow = tuple[str, str, int, ServiceRecord | None]  # namespace, name, last change, settings
LeaseRow = tuple[int, int, int, int | None, bool]  # id, ttl_ms, version, remaining_ms, own
KeyRow = tuple[str, KeyRecord]
ChangeRow = tuple[
    int,  # revision, serial, time_ms: of the group
    int,
    int,
    Literal["put", "delete"],  # kind
    Literal["instance", "service", "key"],  # resource
    str,  # namespace, service, name
    str,
    str,
    InstanceRecord | None,  # the record, in the column of its type
    ServiceRecord | None,
    KeyRecord | None,
    str,  # reason
]
DedupRow = tuple[str, Kept]
BrakeRow = tuple[str, str, list[tuple[int, int]], list[tuple[int, int]]]  # service, losses, (lease held, since ms)
StagedRow = tuple[int, int, bytes]  # id of the restore, log time in ms, a part of a backup

SECTIONS: Final[dict[str, Any]] = {
    "namespaces": NamespaceRow,
    "services": ServiceRow,
    "leases": LeaseRow,
    "instances": InstanceRecord,
    "keys": KeyRow,
    "changes": ChangeRow,
    "events": Event,
    "dedup": DedupRow,
    "staged": StagedRow,
    "brakes": BrakeRow,
}
CONTENT: Final = ("namespaces", "services", "leases", "instances", "keys")
"""The sections that a backup holds: what is, without what happened."""


class Snapshot:
    """An immutable copy of a state. Made in the loop in a few ms; everything else may run in another thread."""

    __slots__ = (
        "_brakes",
        "_dedup",
        "_events",
        "_groups",
        "_keys",
        "_leases",
        "_namespaces",
        "_services",
        "_staged",
        "head",
    )

    def __init__(self, tables: Tables) -> None:
        catalog = tables.catalog
        self.head: Final = Head(
            FORMAT,
            tables.history,
            tables.revision,
            tables.serial,
            tables.time_ms,
            tables.log.floor,
            tables.events.floor,
            catalog.changed,
            tables.keys.changed,
            tables.base,
        )
        self._namespaces: list[NamespaceRow] = [(state.name, state.changed) for state in catalog.namespaces.values()]
        self._services = [
            (state.namespace, state.name, state.changed, state.record, state.instances.copy())
            for state in catalog.all_services()
        ]
        self._leases: dict[int, Held] = tables.leases.held.copy()
        self._keys: dict[str, KeyRecord] = tables.keys.records.copy()
        self._groups: list[Group] = tables.log.groups.copy()
        self._events = tables.events.events.copy()
        self._dedup: dict[str, Kept] = tables.dedup.kept.copy()
        self._staged: list[StagedRow] = _staged_rows(tables.staged)
        self._brakes: list[BrakeRow] = [
            (*key, brake.losses.copy(), sorted(brake.held.items()))
            for key, brake in sorted(tables.brakes.services.items(), key=_first)
        ]

    def chunks(self) -> Iterator[bytes]:
        """The snapshot in chunks of at most ``limits.SNAPSHOT_CHUNK_BYTES``. May be called again, in any thread."""
        pending = bytearray()
        for frame in self._frames(ordered=False):
            pending += frame
            while len(pending) >= limits.SNAPSHOT_CHUNK_BYTES:
                yield bytes(pending[: limits.SNAPSHOT_CHUNK_BYTES])
                del pending[: limits.SNAPSHOT_CHUNK_BYTES]
        if pending:
            yield bytes(pending)

    def digest(self) -> str:
        """SHA-256 of the content in canonical order: equal states have equal digests, whatever way they came about."""
        whole = hashlib.sha256()
        for frame in self._frames(ordered=True):
            whole.update(frame)
        return whole.hexdigest()

    def _frames(self, *, ordered: bool) -> Iterator[bytes]:
        encode = msgspec.msgpack.Encoder().encode
        count = 1
        yield _framed(encode(("head", [self.head])))
        for frame in _framed_sections(self._sections(ordered)):
            yield frame
            count += 1
        yield _framed(encode(("end", [count])))

    def content(self) -> Iterator[bytes]:
        """Frames of about 64 KiB with what the state holds (``CONTENT``), for a backup; in any thread."""
        sections = self._sections(ordered=False)
        return _framed_sections({section: sections[section] for section in CONTENT})

    def counts(self) -> dict[str, int]:
        """How many rows each section of :meth:`content` has."""
        instances = sum(len(service[4]) for service in self._services)
        counts = (len(self._namespaces), len(self._services), len(self._leases), instances, len(self._keys))
        return dict(zip(CONTENT, counts, strict=True))

    def _sections(self, ordered: bool) -> dict[str, Iterable[Any]]:
        namespaces, services = self._namespaces, self._services
        leases: Iterable[tuple[int, Held]] = self._leases.items()
        keys: Iterable[KeyRow] = self._keys.items()
        if ordered:
            namespaces = sorted(namespaces)
            services = sorted(services, key=lambda service: service[:2])
            leases, keys = sorted(leases, key=_first), sorted(keys, key=_first)
        return {
            "namespaces": namespaces,
            "services": (service[:4] for service in services),
            "leases": ((number, held.ttl_ms, held.version, held.remaining_ms, held.own) for number, held in leases),
            "instances": _instances(services, ordered),
            "keys": keys,
            "changes": _changes(self._groups),
            "events": self._events,
            "dedup": self._dedup.items(),
            "staged": self._staged,
            "brakes": self._brakes,
        }


def _staged_rows(staged: Staged | None) -> list[StagedRow]:
    return [] if staged is None else [(staged.id, staged.time_ms, part) for part in staged.parts]


def _first(row: tuple[Any, ...]) -> Any:
    return row[0]


def _instances(services: Iterable[tuple[Any, ...]], ordered: bool) -> Iterator[InstanceRecord]:
    for *_, instances in services:
        if ordered:
            yield from (instances[instance_id] for instance_id in sorted(instances))
        else:
            yield from instances.values()


def _changes(groups: Iterable[Group]) -> Iterator[ChangeRow]:
    columns = {"instance": 0, "service": 1, "key": 2}
    for group in groups:
        for change in group.changes:
            records: list[Any] = [None, None, None]
            records[columns[change.resource]] = change.record
            yield (
                group.revision,
                group.serial,
                group.time_ms,
                change.kind,
                change.resource,
                change.namespace,
                change.service,
                change.name,
                *records,
                change.reason,
            )


def _framed_sections(sections: dict[str, Iterable[Any]]) -> Iterator[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    for section, rows in sections.items():
        for body in _bodies(encode(section), rows, encode):
            yield _framed(body)


def _framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def _bodies(section: bytes, rows: Iterable[Any], encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    """Rows of one section in frames of about 64 KiB. Each row is encoded by itself, so that other threads can run."""
    parts: list[bytes] = []
    size = 0
    for row in rows:
        part = encode(row)
        parts.append(part)
        size += len(part)
        if size >= _FRAME_BYTES:
            yield _body(section, parts)
            parts, size = [], 0
    if parts:
        yield _body(section, parts)


def _body(section: bytes, parts: list[bytes]) -> bytes:
    return b"\x92" + section + _ROWS.pack(0xDD, len(parts)) + b"".join(parts)
