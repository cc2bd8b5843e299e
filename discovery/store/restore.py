"""Reading a snapshot back into tables: whole and consistent, or :class:`discovery.errors.CorruptData`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, Final

import msgspec

from discovery.errors import CorruptData
from discovery.model import Change, Event, Group, InstanceRecord
from discovery.store.catalog import NamespaceState, ServiceState
from discovery.store.history import ChangeLog
from discovery.store.leases import Held
from discovery.store.snapshot import (
    FORMAT,
    LENGTH,
    SECTIONS,
    BrakeRow,
    ChangeRow,
    DedupRow,
    Head,
    KeyRow,
    LeaseRow,
    NamespaceRow,
    ServiceRow,
    StagedRow,
)
from discovery.store.tables import Staged, Tables

_WAY_OUT = "take the snapshot of another node"
frame_decoder: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_decoders: Final = {
    section: msgspec.msgpack.Decoder(list[row])  # type: ignore[valid-type]
    for section, row in {"head": Head, **SECTIONS, "end": int}.items()
}
_ORDER: Final = {section: position for position, section in enumerate(_decoders)}


def load(chunks: Iterable[bytes]) -> Tables:
    """The state of a snapshot.

    Raises:
        CorruptData: another format, an incomplete stream, bytes that do not decode, content that contradicts itself.
    """
    try:
        return Loader().load(chunks)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise CorruptData(f"the snapshot does not decode: {error}; {_WAY_OUT}") from error
    except KeyError as error:
        raise CorruptData(f"the snapshot names what it does not hold: {error}; {_WAY_OUT}") from error


def frames(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bodies of the frames that the chunks hold.

    Raises:
        CorruptData: the last frame is not whole.
    """
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        start = 0
        while len(pending) - start >= LENGTH.size:
            end = start + LENGTH.size + LENGTH.unpack_from(pending, start)[0]
            if end > len(pending):
                break
            yield bytes(pending[start + LENGTH.size : end])
            start = end
        del pending[:start]
    if pending:
        raise CorruptData(f"the snapshot stops in the middle of a frame; {_WAY_OUT}")


class Loader:
    """Fills ``tables`` section by section."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.lease_ids: dict[int, int] = {}
        self._rows: list[ChangeRow] = []
        self._readers: Final[dict[str, Callable[[list[Any]], None]]] = {
            "namespaces": self._namespaces,
            "services": self._services,
            "leases": self._leases,
            "instances": self._instances,
            "keys": self._keys,
            "changes": self._changes,
            "events": self._events,
            "dedup": self._dedup,
            "staged": self._staged,
            "brakes": self._brakes,
        }

    def rows(self, section: str, raw: msgspec.Raw) -> None:
        """Take rows of a section that has no special place."""
        self._readers[section](_decoders[section].decode(raw))

    def load(self, chunks: Iterable[bytes]) -> Tables:
        """The state of a whole snapshot; see :func:`load`."""
        head: Head | None = None
        section, count = "", 0
        for count, frame in enumerate(frames(chunks)):
            last = section
            section, raw = frame_decoder.decode(frame)
            if (
                section not in _ORDER
                or last == "end"
                or (_ORDER[section] < _ORDER[last] if last else section != "head")
            ):
                raise CorruptData(f"the snapshot has a section {section!r} out of place; {_WAY_OUT}")
            if section == "head":
                head = self._head(head, _decoders[section].decode(raw))
            elif section == "end":
                self._end(_decoders[section].decode(raw), count)
            else:
                self.rows(section, raw)
        if head is None or section != "end":
            raise CorruptData(f"the snapshot is incomplete: it ends after {count} frames without its end; {_WAY_OUT}")
        self._settle(head)
        return self.tables

    def _head(self, seen: Head | None, rows: list[Head]) -> Head:
        if seen is not None or len(rows) != 1:
            raise CorruptData(f"the snapshot has more than one head; {_WAY_OUT}")
        head = rows[0]
        if head.format != FORMAT:
            text = f"the snapshot has format {head.format}, this version reads {FORMAT}: run the version that wrote it"
            raise CorruptData(text)
        return head

    def _end(self, rows: list[int], count: int) -> None:
        if rows != [count]:
            raise CorruptData(f"the snapshot has {count} frames before its end, which counted {rows}; {_WAY_OUT}")

    def _namespaces(self, rows: list[NamespaceRow]) -> None:
        for name, changed in rows:
            self.tables.catalog.namespaces[name] = NamespaceState(name, {}, changed)

    def _services(self, rows: list[ServiceRow]) -> None:
        catalog = self.tables.catalog
        for namespace, name, changed, record in rows:
            parent = catalog.namespaces[namespace]
            parent.services[name] = ServiceState(parent.name, name, record, {}, 0, changed)
            catalog.services += 1

    def _leases(self, rows: list[LeaseRow]) -> None:
        ttls = self.tables.shared.ttls
        for number, ttl_ms, version, remaining_ms, own in rows:
            self.lease_ids[number] = number
            self.tables.leases.held[number] = Held(ttls.admit(ttl_ms, []), version, remaining_ms, own)

    def _instances(self, rows: list[InstanceRecord]) -> None:
        catalog, leases = self.tables.catalog, self.tables.leases
        for row in rows:
            state = catalog.namespaces[row.spec.namespace].services[row.spec.service]
            record = self._shared(row, state)
            spec = record.spec
            if spec.id in state.instances:
                raise CorruptData(f"the snapshot holds instance {spec.id} of {state.name} twice; {_WAY_OUT}")
            state.instances[spec.id] = record
            state.ready += spec.status == "ready"
            catalog.instances += 1
            if record.lease:
                leases.attach(record.lease, spec)

    def _shared(self, row: InstanceRecord, state: ServiceState) -> InstanceRecord:
        """The record made of shared parts: decoding gives each its own copy of everything."""
        spec = self.tables.shared.instance(row.spec, state.namespace, state.name, [])
        lease = self.lease_ids[row.lease] if row.lease else 0
        changed = row.mod_revision
        created = changed if row.create_revision == changed else row.create_revision
        return InstanceRecord(spec, lease, created, changed, row.version)

    def _keys(self, rows: list[KeyRow]) -> None:
        for key, record in rows:
            self.tables.keys.load(key, record)
            if record.lease:
                self.tables.leases.attach(self.lease_ids[record.lease], key)

    def _changes(self, rows: list[ChangeRow]) -> None:
        self._rows += rows

    def _events(self, rows: list[Event]) -> None:
        self.tables.events.events.extend(rows)

    def _dedup(self, rows: list[DedupRow]) -> None:
        self.tables.dedup.load(rows)

    def _staged(self, rows: list[StagedRow]) -> None:
        for id, time_ms, part in rows:
            if self.tables.staged is None:
                self.tables.staged = Staged(id, time_ms)
            self.tables.staged.add(part, time_ms)

    def _brakes(self, rows: list[BrakeRow]) -> None:
        brakes = self.tables.brakes
        for namespace, service, losses, held in rows:
            brakes.of((namespace, service)).losses = losses
            for lease, since_ms in held:
                brakes.hold(self.lease_ids[lease], (namespace, service), since_ms)

    def _settle(self, head: Head) -> None:
        tables = self.tables
        tables.history, tables.revision, tables.serial = head.history, head.revision, head.serial
        tables.time_ms = head.time_ms
        tables.events.floor = head.events_floor
        tables.catalog.changed, tables.keys.changed = head.catalog_changed, head.keys_changed
        tables.base = head.base
        self._settle_log(head)

    def _settle_log(self, head: Head) -> None:
        tables = self.tables
        tables.log = ChangeLog(head.floor)
        for (revision, serial, time_ms), rows in groupby(self._rows, key=lambda row: row[:3]):
            changes = tuple(self._change(row) for row in rows)
            if revision != head.floor + len(tables.log.groups) + 1:
                raise CorruptData(f"the snapshot lacks the changes before revision {revision}; {_WAY_OUT}")
            tables.log.restore(Group(revision, serial, time_ms, changes))
            tables.catalog.remember(changes, revision)
            tables.keys.remember(changes, revision)
        tables.keys.arrange()
        if head.floor + len(tables.log.groups) != head.revision:
            raise CorruptData(f"the snapshot lacks the changes before revision {head.revision}; {_WAY_OUT}")

    def _change(self, row: ChangeRow) -> Change:
        """A change of the log, sharing its record with the state where the thing has not changed since."""
        _, _, _, kind, resource, namespace, service, name, instance, settings, key, reason = row
        record: Any = instance or settings or key
        if instance is not None:
            now: Any = self.tables.catalog.instance(namespace, service, name)
        else:
            now = self.tables.keys.records.get(name) if key is not None else None
        if now is not None and now == record:
            record = now
        return Change(kind, resource, namespace, service, name, record, reason)
