"""One command at work: what it changes, what followers and clocks must hear of it, and the refusals.

A handler first judges and refuses, then changes; after its first change it can no longer refuse. That is what keeps
``apply`` all or nothing without any rollback.
"""

from __future__ import annotations

from typing import Final

from discovery import limits
from discovery.command import Failure, LeaseEffect, Written
from discovery.errors import FieldError
from discovery.model import (
    Change,
    Event,
    EventKind,
    Group,
    Instance,
    InstanceRecord,
    KeyRecord,
    Lease,
    ServiceRecord,
    lease_text,
)
from discovery.store.leases import sorted_things
from discovery.store.tables import Tables
from discovery.validate import summary


class Work:
    """The changes of one command, made through these methods only.

    Args:
        term, level: of the log entry, and the feature level in force there.
        time_ms: the log time of the command, Unix ms.

    ``revision`` is the one that the changes get, ``effects`` what happened to leases, for the leader's clocks.
    """

    __slots__ = (
        "_actor",
        "_catalog",
        "_changes",
        "_events",
        "_leases",
        "_loose",
        "_shown",
        "_touches_dns",
        "effects",
        "level",
        "revision",
        "tables",
        "term",
        "time_ms",
    )

    def __init__(self, tables: Tables, term: int, time_ms: int, actor: str, level: int) -> None:
        self.tables = tables
        self.revision: Final = tables.revision + 1
        self.term: Final = term
        self.level: Final = level
        self.time_ms: Final = time_ms
        self.effects: list[LeaseEffect] = []
        self._actor = actor[: limits.ACTOR_CHARS_MAX]
        self._catalog = tables.catalog
        self._leases = tables.leases
        self._changes: list[Change] = []
        self._events: list[Event] = []
        self._loose: dict[int, None] = {}
        self._shown: set[tuple[str, str]] = set()
        self._touches_dns = False

    # Instances and services

    def put_instance(self, record: InstanceRecord, kind: EventKind, detail: str = "") -> None:
        """Add or replace an instance, with the event that says so."""
        spec = record.spec
        self._catalog.put_instance(record)
        self._changes.append(Change("put", "instance", spec.namespace, spec.service, spec.id, record))
        self._tell(kind, spec, None, detail)
        self._touches_dns = True

    def remove_instance(
        self, record: InstanceRecord, kind: EventKind, heard_ms: int | None = None, detail: str = ""
    ) -> None:
        """Remove an instance; its lease, if any, must be detached or dropped by the caller."""
        spec = record.spec
        self._catalog.remove_instance(record, self.revision)
        self._changes.append(Change("delete", "instance", spec.namespace, spec.service, spec.id, None, kind))
        self._tell(kind, spec, heard_ms, detail)
        self._touches_dns = True

    def _tell(self, kind: EventKind, spec: Instance, heard_ms: int | None, detail: str) -> None:
        self._events.append(
            Event(
                kind,
                spec.namespace,
                spec.service,
                spec.id,
                self.revision,
                self.time_ms,
                self._actor,
                heard_ms,
                detail[: limits.EVENT_DETAIL_CHARS_MAX],
            )
        )

    def put_service(self, record: ServiceRecord) -> None:
        """Add or replace the settings of a service."""
        spec = record.spec
        self._catalog.put_service(record)
        self._changes.append(Change("put", "service", spec.namespace, spec.name, "", record))
        self._touches_dns = True

    def remove_service(self, namespace: str, service: str) -> None:
        """Remove the settings of a service."""
        self._catalog.remove_service(namespace, service, self.revision)
        self.tables.brakes.forget((namespace, service))
        self._changes.append(Change("delete", "service", namespace, service, "", None, "deleted"))
        self._touches_dns = True

    # Keys

    def put_key(self, key: str, value: bytes, lease: int) -> None:
        """Write a key and hang it on the lease, if any."""
        old = self.tables.keys.records.get(key)
        if old is not None and old.lease and old.lease != lease:
            self.detach(old.lease, key)
        created, version = (self.revision, 1) if old is None else (old.create_revision, old.version + 1)
        record = KeyRecord(value, lease, created, self.revision, version)
        self.tables.keys.put(key, record)
        if lease:
            self._leases.attach(lease, key)
        self._changes.append(Change("put", "key", "", "", key, record))

    def remove_key(self, key: str, reason: str) -> None:
        """Remove a key that is there."""
        lease = self.tables.keys.records[key].lease
        if lease:
            self.detach(lease, key)
        self._drop_key(key, reason)

    def _drop_key(self, key: str, reason: str) -> None:
        self.tables.keys.remove(key, self.revision)
        self._changes.append(Change("delete", "key", "", "", key, None, reason))

    # Leases

    def start_lease(self, lease_id: int, ttl_ms: int, *, own: bool) -> None:
        """Grant a lease, or begin its TTL anew under a new version."""
        ttl_ms = self.tables.shared.ttls.admit(ttl_ms, [])
        held = self._leases.replace(lease_id, ttl_ms, own=own)
        self.unbrake(lease_id)
        self.effects.append(LeaseEffect("started", lease_id, held.version, ttl_ms))

    def attach(self, lease_id: int, spec: Instance) -> None:
        """Hang an instance on a lease."""
        self._leases.attach(lease_id, spec)

    def detach(self, lease_id: int, what: Instance | str) -> None:
        """Take an instance or a key off its lease; a lease of its own goes at the end when nothing came instead."""
        self._leases.detach(lease_id, what)
        self._loose[lease_id] = None

    def drop_lease(self, lease_id: int, kind: EventKind, heard_ms: int | None = None, detail: str = "") -> None:
        """Remove a lease and all that hangs on it."""
        held = self._leases.held.pop(lease_id)
        self.tables.brakes.release(lease_id)
        self.effects.append(LeaseEffect("gone", lease_id))
        if isinstance(held.attached, Instance):
            spec = held.attached
            state = self._catalog.namespaces[spec.namespace].services[spec.service]
            self.remove_instance(state.instances[spec.id], kind, heard_ms, detail)
            return
        instances, keys = sorted_things(held)
        for namespace, service, instance_id in instances:
            record = self._catalog.namespaces[namespace].services[service].instances[instance_id]
            self.remove_instance(record, kind, heard_ms, detail)
        for key in keys:
            self._drop_key(key, kind)

    def brake(self, lease_id: int, key: tuple[str, str], heard_ms: int | None, detail: str) -> None:
        """Hold a lease back that has expired; its instances of that service stay, with an event that says so."""
        self.tables.brakes.hold(lease_id, key, self.time_ms)
        self._show_brake(key)
        for namespace, service, instance_id in sorted_things(self._leases.held[lease_id])[0]:
            if (namespace, service) == key:
                spec = self._catalog.namespaces[namespace].services[service].instances[instance_id].spec
                self._tell("braked", spec, heard_ms, detail)

    def unbrake(self, lease_id: int) -> None:
        """Hold a lease back no longer: it was renewed."""
        key = self.tables.brakes.release(lease_id)
        if key is not None:
            self._show_brake(key)

    def _show_brake(self, key: tuple[str, str]) -> None:
        """A brake is part of how a service is shown: who follows the service hears of it, DNS answers stay."""
        if key in self._shown:
            return
        self._shown.add(key)
        record = self._catalog.note_change(*key, self.revision)
        if record is not None:
            self._changes.append(Change("put", "service", *key, "", record))

    def _drop_loose(self) -> None:
        for lease_id in self._loose:
            held = self._leases.held.get(lease_id)
            if held is not None and held.own and held.attached is None:
                del self._leases.held[lease_id]
                self.tables.brakes.release(lease_id)
                self.effects.append(LeaseEffect("gone", lease_id))

    # The end

    def written(self, created: bool = False, dns: int = 0, deleted: int = 0, **things: object) -> Written:
        """The result so far; ``things`` are further fields of :class:`Written`.

        ``dns`` is for a command that changed nothing: the revision that DNS must have reached all the same.
        """
        revision, changed = self.tables.revision, bool(self._changes)
        if changed:
            revision = self.revision
            dns = revision if self._touches_dns else 0
        return Written(revision, changed, created, dns, deleted, **things)  # type: ignore[arg-type]

    def finish(self) -> Group | None:
        """Move the revision if anything changed, and note it for followers and readers of events."""
        if self._loose:
            self._drop_loose()
        if not self._changes:
            return None
        tables = self.tables
        tables.revision = self.revision
        tables.serial += self._touches_dns
        group = Group(self.revision, tables.serial, self.time_ms, tuple(self._changes))
        tables.events.extend(self._events)
        for old in tables.log.append(group):
            tables.catalog.forget(old.changes, tables.log.floor)
            tables.keys.forget(old.changes, tables.log.floor)
        return group

    def brief(self, lease_id: int) -> Lease | None:
        """The lease for a result (without what hangs on it), ``None`` for 0."""
        return self._leases.brief(lease_id) if lease_id else None


def invalid(errors: list[FieldError]) -> Failure:
    """The refusal of bad input; field and rule are those of the first error, the text names all."""
    return Failure("invalid_input", summary(errors), errors[0].field, errors[0].rule)


def moved(expected: int | None, actual: int) -> Failure | None:
    """The refusal when a thing no longer stands at the revision expected (0: must not exist)."""
    if expected is None or expected == actual:
        return None
    state = f"it stands at {actual}" if actual else "it does not exist"
    text = f"if_revision is {expected}, but {state}: read it again and decide anew"
    return Failure("precondition_failed", text, "if_revision", f"must be {actual}")


def unknown_lease(lease_id: int) -> Failure:
    """The refusal of a lease that does not exist."""
    text = f"lease {lease_text(lease_id)} does not exist (any more): grant a new one"
    return Failure("not_found", text, "lease", "must exist")


def full(what: str, most: int) -> Failure:
    """The refusal when a limit of the whole state is reached."""
    return Failure("overloaded", f"the registry holds {most} {what}, its limit: remove some first", what)
