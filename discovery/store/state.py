"""The replicated state machine: ``apply`` one command after the other, read in between.

Deterministic and total: the same commands with the same log entries give the same state, results and groups on every
node; whatever the bytes are, ``apply`` answers with a value. It knows no clock and no chance: both are in the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, Final

import msgspec

from discovery import command as commands
from discovery import limits
from discovery.command import Envelope, Failure, Idempotency, LeaseEffect, Meta, Result
from discovery.model import Event, Group, InstanceRecord, KeyRecord, Lease, ServiceRecord
from discovery.store import grants, registrations, restore, staging, transactions
from discovery.store.leases import Held
from discovery.store.snapshot import Snapshot
from discovery.store.tables import Tables
from discovery.store.work import Work

_HANDLERS: Final[dict[type, Callable[[Work, Any], Result]]] = {
    commands.Register: registrations.register,
    commands.Deregister: registrations.deregister,
    commands.SetStatus: registrations.set_status,
    commands.SetService: registrations.set_service,
    commands.DeleteService: registrations.delete_service,
    commands.Grant: grants.grant,
    commands.Revoke: grants.revoke,
    commands.Evict: grants.evict,
    commands.Unbrake: grants.unbrake,
    commands.Checkpoint: grants.checkpoint,
    commands.Found: grants.found,
    commands.Put: transactions.put,
    commands.Delete: transactions.delete,
    commands.Txn: transactions.txn,
    commands.Stage: staging.stage,
    commands.Switch: staging.switch,
    commands.Unstage: staging.unstage,
}
_NOTHING: Final[Mapping[str, InstanceRecord]] = MappingProxyType({})


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What a command came to.

    Args:
        result: for the one who asked. Leases in it come without what hangs on them.
        group: the changes of the new revision, for followers; ``None`` when the revision did not move.
        leases: for the leader's clocks, in order.
    """

    result: Result
    group: Group | None = None
    leases: tuple[LeaseEffect, ...] = ()


class Totals(msgspec.Struct, frozen=True, gc=False):
    """How much a state holds.

    Args:
        services: those that have settings, instances or both.
        key_bytes: of keys (in characters) and values together.
    """

    instances: int
    services: int
    keys: int
    key_bytes: int
    leases: int


class Store:
    """The registry's state. Not thread-safe; only what :meth:`snapshot` returns may go to another thread.

    Records, groups and events are immutable; mappings are live views, valid until the next ``apply``.
    """

    __slots__ = ("_tables",)

    def __init__(self, tables: Tables | None = None) -> None:
        self._tables = Tables() if tables is None else tables

    @property
    def history(self) -> str:
        """Id of the history that the revisions belong to; empty until the cluster is founded."""
        return self._tables.history

    @property
    def revision(self) -> int:
        """Number of commands that changed something followers see."""
        return self._tables.revision

    @property
    def serial(self) -> int:
        """Number of commands that changed what DNS may answer (the SOA serial, modulo 2**32)."""
        return self._tables.serial

    @property
    def time_ms(self) -> int:
        """Log time: Unix ms, never falling."""
        return self._tables.time_ms

    @property
    def floor(self) -> int:
        """The compaction floor: changes after this revision are in the log."""
        return self._tables.log.floor

    def apply(self, command: bytes, meta: Meta) -> Outcome:
        """Apply one command of the log. Never raises; a :class:`Failure` as result has changed nothing.

        (A refusal given to a request with an Idempotency-Key is remembered under that key, as any answer is.)
        """
        if len(command) > limits.COMMAND_BYTES_MAX:
            rule = f"must be at most {limits.COMMAND_BYTES_MAX} bytes"
            return Outcome(Failure("too_large", f"the command {rule}: split it", "command", rule))
        envelope = commands.decode(command)
        if isinstance(envelope, Failure):
            return Outcome(envelope)
        if (needed := commands.level_of(envelope.command)) > meta.level:
            # As a version without this kind would: nothing at all, not even the log time moves.
            return Outcome(Failure("invalid_input", f"needs feature level {needed}, the cluster is at {meta.level}"))
        now_ms = max(self._tables.time_ms, meta.time_ms)
        if envelope.idempotency is None:
            return self._execute(envelope, meta, now_ms)
        return self._execute_once(envelope, envelope.idempotency, meta, now_ms)

    def _execute(self, envelope: Envelope, meta: Meta, now_ms: int) -> Outcome:
        work = Work(self._tables, meta.term, now_ms, envelope.actor, meta.level)
        result = _HANDLERS[type(envelope.command)](work, envelope.command)
        if isinstance(result, Failure):
            return Outcome(result)
        self._tables = work.tables
        self._tables.time_ms = now_ms
        staging.drop_old(self._tables)
        return Outcome(result, work.finish(), tuple(work.effects))

    def _execute_once(self, envelope: Envelope, request: Idempotency, meta: Meta, now_ms: int) -> Outcome:
        dedup = self._tables.dedup
        self._tables.time_ms = now_ms
        known = dedup.find(request, now_ms, meta.level)
        if known is not None:
            return Outcome(known)
        outcome = self._execute(envelope, meta, now_ms)
        if not (isinstance(outcome.result, Failure) and outcome.result.code == "overloaded"):
            self._tables.dedup.keep(request, now_ms, outcome.result)
        return outcome

    # Reads of the catalogue

    def instance(self, namespace: str, service: str, instance_id: str) -> InstanceRecord | None:
        """The instance, or ``None``."""
        return self._tables.catalog.instance(namespace, service, instance_id)

    def instances(self, namespace: str, service: str) -> Mapping[str, InstanceRecord]:
        """The service's instances by id, in no particular order; a live view."""
        state = self._tables.catalog.find(namespace, service)
        return _NOTHING if state is None else MappingProxyType(state.instances)

    def instance_ids(self, namespace: str, service: str) -> list[str]:
        """Ids of the service's instances, sorted. The list is shared: read it only."""
        return self._tables.catalog.instance_ids(namespace, service)

    def service(self, namespace: str, service: str) -> ServiceRecord | None:
        """The service's settings, or ``None``."""
        state = self._tables.catalog.find(namespace, service)
        return None if state is None else state.record

    def services(self, namespace: str) -> list[str]:
        """Names of the namespace's services with settings or instances, sorted. The list is shared: read it only."""
        return self._tables.catalog.service_names(namespace)

    def namespaces(self) -> list[str]:
        """Names of the namespaces that have services, sorted."""
        return sorted(self._tables.catalog.namespaces)

    def counts(self, namespace: str, service: str) -> tuple[int, int]:
        """How many instances the service has, and how many of them are ready."""
        state = self._tables.catalog.find(namespace, service)
        return (0, 0) if state is None else (len(state.instances), state.ready)

    def all_instances(self) -> Iterator[InstanceRecord]:
        """Every instance, in no particular order; a list of 100,000 takes a few ms."""
        return chain.from_iterable(state.instances.values() for state in self._tables.catalog.all_services())

    def all_services(self) -> Iterator[ServiceRecord]:
        """The settings of every service that has some, in no particular order."""
        return (state.record for state in self._tables.catalog.all_services() if state.record is not None)

    # Reads of keys and leases

    def key(self, key: str) -> KeyRecord | None:
        """The key's record, or ``None``."""
        return self._tables.keys.records.get(key)

    def keys(self, prefix: str, after: str | None = None, limit: int | None = None) -> list[tuple[str, KeyRecord]]:
        """Keys that begin with ``prefix``, sorted, with their records: the first ``limit`` greater than ``after``.

        It costs what it returns, however many keys there are.
        """
        records = self._tables.keys.records
        return [(key, records[key]) for key in islice(self._tables.keys.with_prefix(prefix, after), limit)]

    def lease(self, lease_id: int) -> Lease | None:
        """The lease with all that hangs on it, sorted; or ``None``."""
        return self._tables.leases.full(lease_id) if lease_id in self._tables.leases.held else None

    def brief_lease(self, lease_id: int) -> Lease | None:
        """The lease without what hangs on it, in O(1); or ``None``."""
        return self._tables.leases.brief(lease_id) if lease_id in self._tables.leases.held else None

    def lease_weight(self, lease_id: int) -> int:
        """How many instances and keys hang on the lease, in O(1); 0 when there is none."""
        return self._tables.leases.count(lease_id) if lease_id in self._tables.leases.held else 0

    def leases(self) -> Iterable[Lease]:
        """Every lease, without what hangs on it."""
        return self._tables.leases.all()

    def lease_terms(self) -> Mapping[int, Held]:
        """TTL, version and checkpoint of every lease by its id; a live view."""
        return MappingProxyType(self._tables.leases.held)

    def braked(self, namespace: str, service: str) -> int:
        """How many leases of the service have expired and are held back by its brake."""
        brake = self._tables.brakes.services.get((namespace, service))
        return 0 if brake is None else len(brake.held)

    def braked_leases(self) -> Collection[int]:
        """All leases that are held back; a live view."""
        return self._tables.brakes.leases.keys()

    def unbraked_leases(self) -> list[int]:
        """Leases that are held back though their service could do without them by now."""
        return list(self._tables.brakes.may_go(self._tables.catalog, self.time_ms))

    # Following

    def changes_since(self, revision: int) -> list[Group]:
        """The groups of all revisions after ``revision``, oldest first.

        Raises:
            Compacted: they are no longer all in the log.
            Unavailable: this node has not reached ``revision``.
        """
        return self._tables.log.since(revision)

    def events(self, since: int | None = None, namespace: str | None = None, service: str | None = None) -> list[Event]:
        """The last events, oldest first: after revision ``since``, of a namespace, of a service (``None``: of all).

        Raises:
            Compacted: events after ``since`` have been dropped.
        """
        return self._tables.events.find(since, namespace, service)

    def index_of_instance(self, namespace: str, service: str, instance_id: str) -> int:
        """Revision of the instance's last change, deletion included, or the floor."""
        return self._index(namespace, service, instance_id)

    def index_of_service(self, namespace: str, service: str) -> int:
        """Revision of the last change of the service's settings or instances, or the floor."""
        return self._index(namespace, service)

    def index_of_namespace(self, namespace: str) -> int:
        """Revision of the last change of any service of the namespace, or the floor."""
        return self._index(namespace)

    def _index(self, *thing: str) -> int:
        return max(self._tables.catalog.index(self.floor, *thing), self._tables.base)

    def index_of_catalog(self) -> int:
        """Revision of the last change of any service."""
        return self._tables.catalog.changed

    def index_of_key(self, key: str) -> int:
        """Revision of the key's last change, deletion included, or the floor."""
        return max(self._tables.keys.index(key, self.floor), self._tables.base)

    def index_of_prefix(self, prefix: str) -> int:
        """Revision of the last change of any key with the prefix, or the floor when that is later."""
        return self._tables.keys.prefix_index(prefix, self.floor)

    # The whole

    def totals(self) -> Totals:
        """How much there is of everything, in O(1)."""
        tables = self._tables
        catalog, keys = tables.catalog, tables.keys
        return Totals(catalog.instances, catalog.services, len(keys.records), keys.bytes, len(tables.leases.held))

    def occupied(self) -> Failure | None:
        """Why no backup can be restored into this state, or ``None``: it is empty."""
        return staging.occupied(self._tables)

    def snapshot(self) -> Snapshot:
        """An immutable copy, made in a few ms for 100,000 instances; its chunks may be produced in another thread."""
        return Snapshot(self._tables)

    @classmethod
    def load(cls, chunks: Iterable[bytes]) -> Store:
        """The state of a snapshot.

        Raises:
            CorruptData: the snapshot is of another format, incomplete or contradicts itself.
        """
        return cls(restore.load(chunks))

    def digest(self) -> str:
        """Equal for equal states only (SHA-256, hexadecimal). Slow: for tests and drills."""
        return self.snapshot().digest()
