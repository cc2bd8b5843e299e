"""Commands of leases: grant, revoke, and the leader's own: evict and checkpoint. Also the founding of a history."""

from __future__ import annotations

import re
from typing import Final

from discovery import limits, validate
from discovery.command import Checkpoint, Evict, Failure, Found, Grant, LeaseEffect, Result, Revoke, Unbrake
from discovery.store.brakes import braked_services, timeout_ms
from discovery.store.leases import Held
from discovery.store.registrations import taken
from discovery.store.work import Work, full, invalid

_HISTORY: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.HISTORY_CHARS_MAX}}}")


def grant(work: Work, command: Grant) -> Result:
    """Create a lease; no revision moves, as nothing that is followed changes (as in etcd)."""
    if errors := validate.lease_id(command.id, "id") + validate.ttl(command.ttl_ms):
        return invalid(errors)
    held = work.tables.leases.held
    if command.id in held:
        return taken(command.id)
    if len(held) >= limits.LEASES_MAX:
        return full("leases", limits.LEASES_MAX)
    work.start_lease(command.id, command.ttl_ms, own=False)
    return work.written(created=True, lease=work.brief(command.id))


def revoke(work: Work, command: Revoke) -> Result:
    """Remove a lease and all that hangs on it; gone already is no error (``deleted`` is 0 then, else 1)."""
    if command.id not in work.tables.leases.held:
        return work.written()
    work.drop_lease(command.id, "revoked")
    return work.written(deleted=1)


def _too_many(count: int) -> Failure | None:
    most = limits.EVICTIONS_PER_COMMAND_MAX
    if count <= most:
        return None
    rule = f"must be at most {most} entries"
    return Failure("invalid_input", f"leases {rule}: send several commands", "leases", rule)


def evict(work: Work, command: Evict) -> Result:
    """Remove leases that have expired, unless the leader's term or a lease's version has moved meanwhile.

    ``deleted`` counts leases. A lease that is skipped is told as ``kept``, so that waiting heartbeats go on.
    """
    if refusal := _too_many(len(command.leases)):
        return refusal
    held = work.tables.leases.held
    current = command.term == work.term
    overdue = frozenset(command.overdue)
    braked: list[tuple[int, int]] = []
    expired = 0
    for lease_id, version, heard_ms in command.leases:
        lease = held.get(lease_id)
        if lease is None:
            continue
        if not current or lease.version != version:
            work.effects.append(LeaseEffect("kept", lease_id, lease.version, lease.ttl_ms))
        elif (left_ms := _braked(work, lease_id, lease, heard_ms, lease_id in overdue)) is not None:
            braked.append((lease_id, left_ms))
        else:
            work.drop_lease(lease_id, "expired", heard_ms)
            expired += 1
    return work.written(deleted=expired, braked=tuple(braked))


def _braked(work: Work, lease_id: int, lease: Held, heard_ms: int | None, overdue: bool) -> int | None:
    """Milliseconds for which a lease that has expired is held back; ``None``: it goes, and what it leaves is noted."""
    tables, brakes = work.tables, work.tables.brakes
    services = braked_services(lease, tables.catalog)
    if not services:
        return None
    states = {key: tables.catalog.namespaces[key[0]].services[key[1]] for key in services}
    short = next((key for key, count in services.items() if brakes.room(states[key], work.time_ms) < count), None)
    if short is not None and not overdue:
        spec = states[short].record.spec  # type: ignore[union-attr]
        if lease_id not in brakes.leases:
            stay, ready = brakes.floor(states[short], spec, work.time_ms), states[short].ready
            work.brake(lease_id, short, heard_ms, f"held back: {ready} are ready, {stay} must stay")
        left_ms = brakes.since_ms(lease_id) + timeout_ms(spec) - work.time_ms
        if left_ms > 0:
            return left_ms
    for key, count in services.items():
        brakes.lost(key, count, work.time_ms, timeout_ms(states[key].record.spec))  # type: ignore[union-attr]
        if short is not None:
            brakes.of(key).losses.clear()
    return None


def unbrake(work: Work, command: Unbrake) -> Result:
    """Leases that were held back live again; as in :func:`evict`, only in the term it was decided in."""
    if refusal := _too_many(len(command.leases)):
        return refusal
    if command.term == work.term:
        for lease_id in command.leases:
            work.unbrake(lease_id)
    return work.written()


def checkpoint(work: Work, command: Checkpoint) -> Result:
    """Note the remaining TTL of long leases; pairs that do not fit any more are skipped, as in :func:`evict`."""
    if refusal := _too_many(len(command.leases)):
        return refusal
    leases = work.tables.leases
    if command.term == work.term:
        for lease_id, version, remaining_ms in command.leases:
            lease = leases.held.get(lease_id)
            if lease is None or lease.version != version or lease.ttl_ms < limits.LEASE_CHECKPOINT_TTL_MS_MIN:
                continue
            if 0 <= remaining_ms <= lease.ttl_ms:
                leases.checkpoint(lease_id, remaining_ms)
    return work.written()


def history_rule(history: str) -> Failure | None:
    """The refusal of what is no id of a history."""
    if _HISTORY.fullmatch(history):
        return None
    rule = f"must be 1..{limits.HISTORY_CHARS_MAX} characters of A-Z a-z 0-9 . _ -"
    return Failure("invalid_input", f"history {rule}", "history", rule)


def found(work: Work, command: Found) -> Result:
    """Begin the history of a new cluster; a second founding changes nothing."""
    if refusal := history_rule(command.history):
        return refusal
    if work.tables.history:
        return work.written()
    work.tables.history = command.history
    return work.written(created=True)
