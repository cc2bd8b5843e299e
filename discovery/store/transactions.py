"""Commands of the public keys: put, delete, and transactions of both (etcd's model)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, islice
from operator import eq, gt, lt, ne
from typing import Any, Final

from discovery import levels, limits, validate
from discovery.command import Compare, Delete, Failure, Get, OpResult, Put, Result, Txn, TxnDone, TxnOp
from discovery.errors import FieldError
from discovery.model import KeyRecord
from discovery.store.registrations import crowded
from discovery.store.work import Work, full, invalid, moved, unknown_lease

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {"==": eq, "!=": ne, "<": lt, ">": gt}
_ABSENT: Final = KeyRecord(b"", 0, 0, 0, 0)
_TARGETS: Final[dict[str, Callable[[KeyRecord], int | bytes]]] = {
    "revision": lambda record: record.mod_revision,
    "create_revision": lambda record: record.create_revision,
    "version": lambda record: record.version,
    "value": lambda record: record.value,
    "lease": lambda record: record.lease,
}


def put(work: Work, command: Put) -> Result:
    """Write a key."""
    if errors := _put_errors(command) + validate.revision(command.if_revision):
        return invalid(errors)
    old = work.tables.keys.records.get(command.key)
    refusal = moved(command.if_revision, old.mod_revision if old else 0) or _no_room(work, [command])
    if refusal is not None:
        return refusal
    work.put_key(command.key, command.value, command.lease)
    return work.written(created=old is None)


def delete(work: Work, command: Delete) -> Result:
    """Delete a key or all keys with a prefix; what is absent is no error."""
    errors = validate.key(command.key, prefix=command.prefix) + validate.revision(command.if_revision)
    if command.prefix and command.if_revision is not None:
        errors.append(FieldError("if_revision", "must not be given together with prefix"))
    if errors := errors + _limit_errors(command):
        return invalid(errors)
    old = work.tables.keys.records.get(command.key)
    refusal = moved(command.if_revision, old.mod_revision if old else 0) or _too_many(work, [command])
    return work.written(deleted=_delete(work, command)) if refusal is None else refusal


def _limit_errors(op: Delete) -> list[FieldError]:
    most = limits.DELETIONS_PER_COMMAND_MAX if op.prefix else 0
    return [] if 0 <= op.limit <= most else [FieldError("limit", f"must be 0..{most}", op.limit)]


def _too_many(work: Work, ops: Iterable[TxnOp]) -> Failure | None:
    """The refusal when deletes would remove more than a command may: it would hold up every node.

    It stops to count at the limit. A key that two of them name is counted twice. Older versions have no such rule, and
    all must judge alike.
    """
    if work.level < levels.BOUNDED:
        return None
    most = limits.DELETIONS_PER_COMMAND_MAX
    matching = chain.from_iterable(_matching(work, op) for op in ops if isinstance(op, Delete))
    if next(islice(matching, most, None), None) is None:
        return None
    way_out = f"repeat DELETE with ?prefix=true&limit={most}, or use longer prefixes"
    text = f"more than {most} keys would go at once: {way_out}"
    return Failure("too_large", text, "prefix", f"must be of at most {most} keys")


def _matching(work: Work, op: Delete | Get) -> Iterable[str]:
    if op.prefix:
        most = op.limit or None if isinstance(op, Delete) else None
        return islice(work.tables.keys.with_prefix(op.key), most)
    return [op.key] if op.key in work.tables.keys.records else []


def _delete(work: Work, op: Delete) -> int:
    keys = list(_matching(work, op))
    for key in keys:
        work.remove_key(key, "deleted")
    return len(keys)


def _put_errors(op: Put) -> list[FieldError]:
    errors = validate.key(op.key) + validate.value(op.value)
    return errors + validate.lease_id(op.lease) if op.lease else errors


def _no_room(work: Work, puts: list[Put]) -> Failure | None:
    """The refusal when leases are unknown or crowded, or the keys would pass a limit of the state."""
    keys = work.tables.keys
    new = [op for op in puts if op.key not in keys.records]
    if new and len(keys.records) + len(new) > limits.KEYS_MAX:
        return full("keys", limits.KEYS_MAX)
    if keys.bytes + sum(len(op.key) + len(op.value) for op in puts) > limits.KEYS_BYTES_MAX:
        return full("bytes of keys and values", limits.KEYS_BYTES_MAX)
    by_lease: dict[int, list[str]] = {}
    for op in puts:
        if op.lease:
            by_lease.setdefault(op.lease, []).append(op.key)
    for lease_id, attached in by_lease.items():
        if lease_id not in work.tables.leases.held:
            return unknown_lease(lease_id)
        if refusal := crowded(work, lease_id, attached):
            return refusal
    return None


def txn(work: Work, command: Txn) -> Result:
    """Evaluate the conditions and do one of the two branches, all of it in one revision or none."""
    if errors := _txn_errors(command):
        return invalid(errors)
    succeeded = all(_holds(work, compare) for compare in command.compare)
    ops = command.then if succeeded else command.orelse
    puts = [op for op in ops if isinstance(op, Put)]
    refusal = _no_room(work, puts) or _too_many(work, ops) or _answer_too_large(work, ops)
    if refusal is not None:
        return refusal
    results = tuple(_do(work, op) for op in ops)
    written = work.written()
    return TxnDone(written.revision, written.changed, succeeded, results)


def _txn_errors(command: Txn) -> list[FieldError]:
    errors: list[FieldError] = []
    for field, items in (("compare", command.compare), ("then", command.then), ("else", command.orelse)):
        if len(items) > limits.TXN_OPS_MAX:
            errors.append(FieldError(field, f"must be at most {limits.TXN_OPS_MAX} entries", len(items)))
    if errors:
        return errors
    for position, compare in enumerate(command.compare):
        errors += _within(f"compare[{position}]", _compare_errors(compare))
    return errors + _branch_errors("then", command.then) + _branch_errors("else", command.orelse)


def _within(path: str, errors: Iterable[FieldError]) -> list[FieldError]:
    return [FieldError(f"{path}.{error.field}", error.rule, error.value) for error in errors]


def _compare_errors(compare: Compare) -> list[FieldError]:
    errors = validate.key(compare.key)
    if isinstance(compare.value, bytes) != (compare.target == "value"):
        errors.append(FieldError("value", "must be bytes for target value, a number for any other target"))
    return errors


def _branch_errors(branch: str, ops: tuple[TxnOp, ...]) -> list[FieldError]:
    errors: list[FieldError] = []
    for position, op in enumerate(ops):
        errors += _within(f"{branch}[{position}]", _op_errors(op))
    return errors or _overlaps(branch, ops)


def _op_errors(op: TxnOp) -> list[FieldError]:
    errors = _put_errors(op) if isinstance(op, Put) else validate.key(op.key, prefix=op.prefix)
    if not isinstance(op, Get) and op.if_revision is not None:
        errors.append(FieldError("if_revision", "must be a compare of the transaction"))
    if isinstance(op, Delete) and op.limit:
        errors.append(FieldError("limit", "must not be given in a transaction"))
    return errors


def _overlaps(branch: str, ops: tuple[TxnOp, ...]) -> list[FieldError]:
    """A key may be changed once in a branch (as in etcd), or one revision would hold two states of it."""
    puts = [op.key for op in ops if isinstance(op, Put)]
    if len(set(puts)) < len(puts):
        return [FieldError(branch, "must not put a key twice")]
    for op in ops:
        if isinstance(op, Delete):
            hit = next((key for key in puts if key == op.key or (op.prefix and key.startswith(op.key))), None)
            if hit is not None:
                return [FieldError(branch, "must not put and delete the same key", hit)]
    return []


def _holds(work: Work, compare: Compare) -> bool:
    record = work.tables.keys.records.get(compare.key, _ABSENT)
    if record is _ABSENT and compare.target == "value":
        return False
    return _OPERATORS[compare.op](_TARGETS[compare.target](record), compare.value)


def _answer_too_large(work: Work, ops: tuple[TxnOp, ...]) -> Failure | None:
    """Refuses reads of a transaction that could answer more than the limit, counting what it puts itself as read.

    It stops to count at the limit: a hundred reads of a million keys must not hold up every node.
    """
    records = work.tables.keys.records
    gets = [op for op in ops if isinstance(op, Get)]
    size = len(gets) * sum(len(op.value) + len(op.key) for op in ops if isinstance(op, Put))
    for key in chain.from_iterable(_matching(work, op) for op in gets):
        if size > limits.TXN_RESULT_BYTES_MAX:
            break
        size += len(key) + len(records[key].value)
    if size <= limits.TXN_RESULT_BYTES_MAX:
        return None
    rule = f"must answer at most {limits.TXN_RESULT_BYTES_MAX} bytes"
    return Failure("too_large", f"the gets of a transaction {rule}: read fewer keys, or outside of it", "get", rule)


def _do(work: Work, op: TxnOp) -> OpResult:
    if isinstance(op, Put):
        work.put_key(op.key, op.value, op.lease)
        return OpResult("put")
    if isinstance(op, Delete):
        return OpResult("delete", _delete(work, op))
    records = work.tables.keys.records
    return OpResult("get", 0, tuple((key, records[key]) for key in _matching(work, op)))
