"""Commands of the catalogue: register, deregister, status, and the settings of a service."""

from __future__ import annotations

import msgspec

from discovery import limits, validate
from discovery.command import DeleteService, Deregister, Failure, Register, Result, SetService, SetStatus
from discovery.errors import FieldError
from discovery.model import Instance, InstanceRecord, ServiceRecord, Status, lease_text
from discovery.store.catalog import ServiceState
from discovery.store.work import Work, full, invalid, moved, unknown_lease


def register(work: Work, command: Register) -> Result:
    """Put an instance and settle its lease (CONTRACT section 2, Instances)."""
    given = command.instance
    state = work.tables.catalog.find(given.namespace, given.service)
    record = None if state is None else state.instances.get(given.id)
    spec, errors = _settled_spec(work, command, state, record)
    if errors:
        return invalid(errors)
    refusal = _refused(work, command, state, record)
    if refusal is not None:
        return refusal
    lease = _settled_lease(work, command, state, record)
    if isinstance(lease, Failure):
        return lease
    if record is not None and _same(work, record, spec, lease):
        return _renew(work, record, lease)
    taken_over = record is not None and record.lease not in (0, command.holder, command.join)
    return _replace(work, record, spec, lease, "replaced by another holder" if taken_over else "")


def _settled_spec(
    work: Work, command: Register, state: ServiceState | None, record: InstanceRecord | None
) -> tuple[Instance, list[FieldError]]:
    """The instance as it would be kept, and the rules it breaks."""
    given = command.instance
    errors = validate.identity(given)
    if command.if_revision is not None:
        errors += validate.revision(command.if_revision)
    if command.ttl_ms is not None:
        errors += validate.ttl(command.ttl_ms)
        if command.join:
            errors.append(FieldError("lease", "must not be given together with ttl"))
    namespace, service = (given.namespace, given.service) if state is None else (state.namespace, state.name)
    spec = work.tables.shared.instance(given, namespace, service, errors)
    if record is not None and not command.status_given and record.spec.status != spec.status:
        spec = _with_status(spec, record.spec.status)
    return spec, errors


def _with_status(spec: Instance, status: Status) -> Instance:
    return msgspec.structs.replace(spec, status=status)


def _refused(
    work: Work, command: Register, state: ServiceState | None, record: InstanceRecord | None
) -> Failure | None:
    if command.if_revision is not None:
        refusal = moved(command.if_revision, record.mod_revision if record else 0)
        if refusal is not None:
            return refusal
    if state is not None and state.record is not None and state.record.spec.type == "external":
        text = f"service {state.name} is external and has no instances: change its type first"
        return Failure("conflict", text, "type", "must not be external")
    catalog = work.tables.catalog
    if record is None and catalog.instances >= limits.INSTANCES_MAX:
        return full("instances", limits.INSTANCES_MAX)
    if state is None and catalog.services >= limits.SERVICES_MAX:
        return full("services", limits.SERVICES_MAX)
    return None


def _settled_lease(
    work: Work, command: Register, state: ServiceState | None, record: InstanceRecord | None
) -> tuple[int, int, bool] | Failure:
    """The lease that the instance will hang on: (id or 0, TTL in ms, own)."""
    if command.join:
        return _joined(work, command)
    ttl_ms = command.ttl_ms
    if not command.ttl_given:
        settings = None if state is None else state.record
        ttl_ms = (settings and settings.spec.default_ttl_ms) or limits.LEASE_TTL_MS_DEFAULT
    if ttl_ms is None:
        return 0, 0, False
    leases = work.tables.leases.held
    if record is not None and record.lease and record.lease == command.holder and leases[record.lease].own:
        return record.lease, ttl_ms, True
    if errors := validate.lease_id(command.new_lease, "new_lease"):
        return invalid(errors)
    if command.new_lease in leases:
        return taken(command.new_lease)
    return full("leases", limits.LEASES_MAX) if len(leases) >= limits.LEASES_MAX else (command.new_lease, ttl_ms, True)


def _joined(work: Work, command: Register) -> tuple[int, int, bool] | Failure:
    held = work.tables.leases.held.get(command.join)
    if held is None:
        return unknown_lease(command.join)
    return crowded(work, command.join, [command.instance]) or (command.join, held.ttl_ms, held.own)


def crowded(work: Work, lease_id: int, things: list[Instance] | list[str]) -> Failure | None:
    """The refusal when a lease cannot carry ``things`` (each named once) beside what hangs on it already."""
    leases = work.tables.leases
    count = leases.count(lease_id)
    most = limits.LEASE_ATTACHMENTS_MAX
    if count + len(things) <= most or count + sum(not leases.carries(lease_id, thing) for thing in things) <= most:
        return None
    text = f"lease {lease_text(lease_id)} would carry more than {most} instances and keys: use another lease"
    return Failure("conflict", text, "lease", f"must carry at most {most} things")


def taken(lease_id: int) -> Failure:
    """The refusal of an id for a new lease that another lease has."""
    text = f"lease {lease_text(lease_id)} exists already: repeat the request with another id"
    return Failure("conflict", text, "lease", "must be new")


def _same(work: Work, record: InstanceRecord, spec: Instance, lease: tuple[int, int, bool]) -> bool:
    lease_id, ttl_ms, _ = lease
    if record.lease != lease_id or record.spec != spec:
        return False
    return not lease_id or work.tables.leases.held[lease_id].ttl_ms == ttl_ms


def _renew(work: Work, record: InstanceRecord, lease: tuple[int, int, bool]) -> Result:
    """The same body from the same holder: the lease starts anew, nothing else moves."""
    lease_id, ttl_ms, own = lease
    if lease_id:
        work.start_lease(lease_id, ttl_ms, own=own)
    return work.written(dns=record.mod_revision, instance=record, lease=work.brief(lease_id))


def _replace(
    work: Work, old: InstanceRecord | None, spec: Instance, lease: tuple[int, int, bool], detail: str
) -> Result:
    lease_id, ttl_ms, own = lease
    revision = work.revision
    if old is None:
        record = InstanceRecord(spec, lease_id, revision, revision, 1)
        work.put_instance(record, "registered")
    else:
        record = InstanceRecord(spec, lease_id, old.create_revision, revision, old.version + 1)
        work.put_instance(record, "updated", detail)
        if old.lease and old.lease != lease_id:
            work.detach(old.lease, spec)
    if lease_id:
        work.start_lease(lease_id, ttl_ms, own=own)
        work.attach(lease_id, spec)
    return work.written(created=old is None, instance=record, lease=work.brief(lease_id))


def held_by_other(record: InstanceRecord, holder: int) -> Failure | None:
    """The refusal when a caller names a holder that is not (or no longer) the instance's."""
    if not holder or record.lease == holder:
        return None
    text = (
        f"instance {record.spec.id} is held by another lease than {lease_text(holder)}: "
        "register it again to take it over"
    )
    return Failure("holder_conflict", text, "lease", "must be the lease that holds the instance")


def deregister(work: Work, command: Deregister) -> Result:
    """Remove an instance; gone already is no error."""
    names = (command.namespace, command.service, command.id)
    if errors := validate.names(*names) + validate.revision(command.if_revision):
        return invalid(errors)
    record = work.tables.catalog.instance(*names)
    refusal = moved(command.if_revision, record.mod_revision if record else 0)
    if refusal is None and record is not None:
        refusal = held_by_other(record, command.holder)
    if refusal is not None:
        return refusal
    if record is None:
        return work.written(dns=work.tables.catalog.index(work.tables.log.floor, *names))
    work.remove_instance(record, command.reason, None, command.detail)
    if record.lease:
        work.detach(record.lease, record.spec)
    return work.written(deleted=1)


def set_status(work: Work, command: SetStatus) -> Result:
    """Change the status of an instance; its lease stays as it is."""
    names = (command.namespace, command.service, command.id)
    if errors := validate.names(*names):
        return invalid(errors)
    record = work.tables.catalog.instance(*names)
    if record is None:
        text = f"no instance {command.id} of {command.service}: register it first"
        return Failure("not_found", text, "id", "must exist")
    refusal = held_by_other(record, command.holder)
    if refusal is not None:
        return refusal
    before = record.spec.status
    if before != command.status:
        spec = _with_status(record.spec, command.status)
        record = InstanceRecord(spec, record.lease, record.create_revision, work.revision, record.version + 1)
        work.put_instance(record, "updated", f"status {before} -> {command.status}")
        if record.lease:
            work.attach(record.lease, spec)  # a lease names its instance by the specification: let the old one go
    return work.written(dns=record.mod_revision, instance=record, lease=work.brief(record.lease))


def set_service(work: Work, command: SetService) -> Result:
    """Put the settings of a service."""
    spec = command.service
    if errors := validate.service(spec) + validate.revision(command.if_revision):
        return invalid(errors)
    catalog = work.tables.catalog
    state = catalog.find(spec.namespace, spec.name)
    old = None if state is None else state.record
    refusal = moved(command.if_revision, old.mod_revision if old else 0)
    if refusal is not None:
        return refusal
    if state is not None and state.instances and spec.type == "external":
        text = f"service {spec.name} has {len(state.instances)} instances: deregister them before it becomes external"
        return Failure("conflict", text, "type", "must not be external while instances live")
    if state is None and catalog.services >= limits.SERVICES_MAX:
        return full("services", limits.SERVICES_MAX)
    if old is not None and old.spec == spec:
        return work.written(dns=old.mod_revision, service=old)
    created, version = (work.revision, 1) if old is None else (old.create_revision, old.version + 1)
    record = ServiceRecord(spec, created, work.revision, version)
    work.put_service(record)
    return work.written(created=old is None, service=record)


def delete_service(work: Work, command: DeleteService) -> Result:
    """Remove the settings of a service; refused while instances live, no error when there is nothing."""
    if errors := validate.names(command.namespace, command.service):
        return invalid(errors)
    catalog = work.tables.catalog
    state = catalog.find(command.namespace, command.service)
    if state is None:
        return work.written(dns=catalog.index(work.tables.log.floor, command.namespace, command.service))
    if state.instances:
        text = f"service {command.service} has {len(state.instances)} instances: deregister them first"
        return Failure("conflict", text, "service", "must have no instances")
    work.remove_service(command.namespace, command.service)
    return work.written(deleted=1)
