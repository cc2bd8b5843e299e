"""Commands of a restore: a backup comes in parts, out of sight, and becomes the state in one step.

Each part is decoded and judged as it comes, on every node, into a state of its own; so the last step costs next to
nothing, and whatever fails on the way leaves the cluster as it was. Only an empty cluster takes a backup: one that
holds nothing but its own nodes' places in the catalogue, which it keeps.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from discovery import limits, validate
from discovery.command import Failure, Result, Stage, Switch, Unstage, Written
from discovery.errors import CorruptData, FieldError, InvalidInput
from discovery.model import OWN_SERVICE, Instance, InstanceRecord
from discovery.store.catalog import ServiceState
from discovery.store.grants import history_rule
from discovery.store.history import ChangeLog
from discovery.store.restore import Loader, frame_decoder, frames
from discovery.store.snapshot import CONTENT, KeyRow, LeaseRow, NamespaceRow, ServiceRow
from discovery.store.tables import Staged, Tables
from discovery.store.work import Work, invalid

STEP: Final = 2**30
"""A restore raises revision and serial by this: above all that anybody saw, whatever happened after the backup."""
REVISION_MAX: Final = 2**62
_DAMAGE: Final = (CorruptData, InvalidInput, KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_AT_ODDS: Final = "the restore was given up, or another one has begun: begin anew"


class Checked(Loader):
    """The state that the parts of a backup make; a file may come from anywhere, so every value is judged.

    Raises (from :meth:`add`):
        InvalidInput: a value breaks its rule.
        CorruptData, KeyError, MsgspecError, UnicodeDecodeError, RecursionError: what came is no part of a backup.
    """

    def __init__(self) -> None:
        super().__init__()
        self.newest = 0
        self._section = 0
        self._bare: dict[tuple[str, ...], None] = {}

    def add(self, part: bytes) -> None:
        """Take whole frames."""
        for frame in frames([part]):
            section, raw = frame_decoder.decode(frame)
            if section not in CONTENT[self._section :]:
                raise CorruptData(f"the backup has a section {section!r} out of place")
            self._section = CONTENT.index(section)
            self.rows(section, raw)

    def complete(self) -> bool:
        """Whether every namespace has services, and every service settings or instances."""
        return not self._bare

    def _namespaces(self, rows: list[NamespaceRow]) -> None:
        known = self.tables.catalog.namespaces
        count = len(known) + len(rows)
        for name, _ in rows:
            _keep(validate.label(name, "namespace"))
            self._bare[name,] = None
        super()._namespaces(rows)
        _once("namespace", len(known), count)

    def _services(self, rows: list[ServiceRow]) -> None:
        catalog = self.tables.catalog
        for namespace, name, _, record in rows:
            _keep(validate.names(namespace, name))
            self._bare.pop((namespace,), None)
            if record is None:
                self._bare[namespace, name] = None
                continue
            _keep(validate.service(record.spec))
            if (record.spec.namespace, record.spec.name) != (namespace, name):
                raise CorruptData(f"the settings of service {name} are another's")
            self._saw(record.mod_revision)
        super()._services(rows)
        _once("service", sum(len(parent.services) for parent in catalog.namespaces.values()), catalog.services)
        _bounded("services", catalog.services, limits.SERVICES_MAX)

    def _leases(self, rows: list[LeaseRow]) -> None:
        held = self.tables.leases.held
        count = len(held) + len(rows)
        for number, ttl_ms, *_ in rows:
            _keep(validate.lease_id(number, "id") + validate.ttl(ttl_ms))
        super()._leases([(number, ttl_ms, version, None, own) for number, ttl_ms, version, _, own in rows])
        _once("lease", len(held), count)
        _bounded("leases", len(held), limits.LEASES_MAX)

    def _instances(self, rows: list[InstanceRecord]) -> None:
        for record in rows:
            spec = record.spec
            self._bare.pop((spec.namespace, spec.service), None)
            self._saw(record.mod_revision)
            _keep(validate.identity(spec))
        super()._instances(rows)
        for record in rows:
            self._attached(record.lease)
        _bounded("instances", self.tables.catalog.instances, limits.INSTANCES_MAX)

    def _shared(self, row: InstanceRecord, state: ServiceState) -> InstanceRecord:
        errors: list[FieldError] = []
        self.tables.shared.instance(row.spec, state.namespace, state.name, errors)
        _keep(errors)
        if state.record is not None and state.record.spec.type == "external":
            raise CorruptData(f"service {state.name} is external and has instances")
        return super()._shared(row, state)

    def _keys(self, rows: list[KeyRow]) -> None:
        keys = self.tables.keys
        count = len(keys.records) + len(rows)
        for key, record in rows:
            _keep(validate.key(key) + validate.value(record.value))
            self._saw(record.mod_revision)
        super()._keys(rows)
        for _, record in rows:
            self._attached(record.lease)
        _once("key", len(keys.records), count)
        _bounded("keys", len(keys.records), limits.KEYS_MAX)
        _bounded("bytes of keys", keys.bytes, limits.KEYS_BYTES_MAX)

    def _saw(self, revision: int) -> None:
        self.newest = max(self.newest, revision)

    def _attached(self, lease: int) -> None:
        if lease:
            _bounded("things on one lease", self.tables.leases.count(lease), limits.LEASE_ATTACHMENTS_MAX)


def _keep(errors: list[FieldError]) -> None:
    if errors:
        raise InvalidInput(validate.summary(errors), tuple(errors))


def _once(what: str, found: int, rows: int) -> None:
    if found != rows:
        raise CorruptData(f"the backup holds a {what} twice")


def _bounded(what: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidInput(f"the backup holds more than {most} {what}, the limit of a registry")


def stage(work: Work, command: Stage) -> Result:
    """Take the next part of a backup."""
    tables = work.tables
    if refusal := occupied(tables):
        return refusal
    if errors := validate.lease_id(command.id, "id"):
        return invalid(errors)
    staged = tables.staged if command.position else Staged(command.id, work.time_ms)
    if staged is None or (staged.id, len(staged.parts)) != (command.id, command.position):
        return Failure("conflict", _AT_ODDS)
    if staged.size + len(command.frames) > limits.RESTORE_BYTES_MAX:
        return Failure("too_large", f"a backup to restore must be at most {limits.RESTORE_BYTES_MAX} bytes")
    loaded = _loaded(staged)
    if isinstance(loaded, Failure):
        return loaded
    if (damage := _add(loaded, command.frames)) is not None:
        staged.loaded = None  # it holds half a part
        return damage
    staged.add(command.frames, work.time_ms)
    staged.loaded = loaded
    tables.staged = staged
    return work.written()


def _loaded(staged: Staged) -> Checked | Failure:
    """The state that the parts so far make; after a snapshot or a bad part it is made again from them."""
    if staged.loaded is not None:
        return staged.loaded
    loaded = Checked()
    for part in staged.parts:
        if (damage := _add(loaded, part)) is not None:
            return damage
    return loaded


def _add(loaded: Checked, part: bytes) -> Failure | None:
    try:
        loaded.add(part)
    except _DAMAGE as error:
        detail = f"it names what it does not hold: {error}" if isinstance(error, KeyError) else str(error)
        return Failure("invalid_input", f"the backup cannot be restored: {detail}")
    return None


def switch(work: Work, command: Switch) -> Result:
    """Let what was staged become the state: a new history, above every revision that was, all before it compacted.

    Leases begin with their full TTL: whoever applies this starts its clocks anew. Events and remembered results of
    requests belong to the history before and are not restored.
    """
    tables, staged = work.tables, work.tables.staged
    refusal = occupied(tables) or _unfit_switch(tables, command)
    if refusal is not None:
        return refusal
    if staged is None or (staged.id, len(staged.parts)) != (command.id, command.parts):
        return Failure("conflict", _AT_ODDS)
    loaded = _loaded(staged)
    if isinstance(loaded, Failure):
        return loaded
    if not loaded.complete() or loaded.newest > command.revision:
        return Failure("invalid_input", "the backup contradicts itself: it holds less, or newer things, than it says")
    fresh = _settle(loaded.tables, tables, command)
    _keep_own(tables, fresh)
    work.tables = fresh
    return Written(fresh.revision, True, True, fresh.revision)


def _unfit_switch(tables: Tables, command: Switch) -> Failure | None:
    if refusal := history_rule(command.history):
        return refusal
    if command.history == tables.history:
        return Failure("invalid_input", "a restore begins a new history: give it an id of its own", "history")
    if not 0 <= command.revision <= REVISION_MAX or not 0 <= command.serial <= REVISION_MAX:
        return Failure("invalid_input", f"revision and serial must be 0..{REVISION_MAX}", "revision")
    return None


def _settle(fresh: Tables, old: Tables, command: Switch) -> Tables:
    revision = max(old.revision, command.revision) + STEP
    fresh.history, fresh.revision, fresh.base = command.history, revision, revision
    fresh.serial = max(old.serial, command.serial) + STEP
    fresh.log = ChangeLog(revision)
    fresh.events.floor = revision
    fresh.catalog.changed = fresh.keys.changed = revision
    fresh.keys.arrange()
    return fresh


def _keep_own(old: Tables, fresh: Tables) -> None:
    """Keep the places of the nodes that run: they replace those that the backup has of the same id."""
    for record in _own(old):
        spec = record.spec
        if (former := fresh.catalog.instance(spec.namespace, spec.service, spec.id)) is not None:
            _drop(fresh, former)
        if record.lease in fresh.leases.held:
            continue  # it registers again
        if record.lease:
            fresh.leases.held[record.lease] = old.leases.held[record.lease]
        fresh.catalog.put_instance(InstanceRecord(spec, record.lease, fresh.revision, fresh.revision, 1))
    fresh.catalog.gone.clear()


def _drop(tables: Tables, record: InstanceRecord) -> None:
    tables.catalog.remove_instance(record, tables.revision)
    if record.lease:
        tables.leases.detach(record.lease, record.spec)
        held = tables.leases.held[record.lease]
        if held.own and held.attached is None:
            del tables.leases.held[record.lease]


def _own(tables: Tables) -> list[InstanceRecord]:
    state = tables.catalog.find(*OWN_SERVICE)
    return [] if state is None else list(state.instances.values())


def occupied(tables: Tables) -> Failure | None:
    """The refusal when the cluster holds anything but its own nodes' places."""
    state = tables.catalog.find(*OWN_SERVICE)
    others = tables.catalog.services - (state is not None and state.record is None)
    leases = len(tables.leases.held) - sum(map(bool, map(_lease, _own(tables))))
    found: dict[str, Any] = {"service(s)": others, "key(s)": len(tables.keys.records), "lease(s)": leases}
    held = ", ".join(f"{count} {what}" for what, count in found.items() if count)
    if not held and all(_alone(tables, record) for record in _own(tables)):
        return None
    text = f"the cluster is not empty, it holds {held or 'shared leases'}: a backup is restored into a new cluster only"
    return Failure("conflict", text)


def _lease(record: InstanceRecord) -> int:
    return record.lease


def _alone(tables: Tables, record: InstanceRecord) -> bool:
    """Whether nothing else hangs on the instance's lease."""
    return not record.lease or isinstance(tables.leases.held[record.lease].attached, Instance)


def unstage(work: Work, command: Unstage) -> Result:
    """Drop what a restore staged; gone already is no error."""
    staged = work.tables.staged
    if staged is None or staged.id != command.id:
        return work.written()
    work.tables.staged = None
    return work.written(deleted=1)


def drop_old(tables: Tables) -> None:
    """Forget a restore that has made no progress for ``limits.RESTORE_AGE_MS`` of log time."""
    staged = tables.staged
    if staged is not None and tables.time_ms - staged.time_ms > limits.RESTORE_AGE_MS:
        tables.staged = None
