"""Commands of the state machine and what ``apply`` answers: plain msgpack data, versioned.

A command on the wire and in the log is ``msgpack([version, [tag, …fields], idempotency | nil, actor])``. Decoding
checks every type; bytes that do not decode give a :class:`Failure`, never an exception, so that one poisoned
entry cannot stop a cluster. Times and random numbers are *in* the command: ``apply`` has none of its own.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from discovery import levels
from discovery.model import Instance, InstanceRecord, KeyRecord, Lease, Service, ServiceRecord

COMMAND_VERSION: Final = 1


class Register(msgspec.Struct, frozen=True, array_like=True, tag="register"):
    """Put an instance, with its lease, in one step.

    Exactly one of the lease choices holds: ``ttl_ms`` (a lease of its own), ``join`` (an existing lease),
    neither (permanent). ``status_given`` False keeps the status of an instance that is replaced.

    Args:
        holder: the ``?lease=`` of the request, 0 when absent. A different holder replaces the instance and
            gets a new lease.
        new_lease: random 63-bit id for the lease that may have to be granted.
        ttl_given: False when the body named no ``ttl``: the service's ``default_ttl`` or 15 s applies.
    """

    instance: Instance
    status_given: bool
    ttl_ms: int | None
    ttl_given: bool
    join: int
    holder: int
    new_lease: int
    if_revision: int | None = None


class Deregister(msgspec.Struct, frozen=True, array_like=True, tag="deregister"):
    """Remove an instance (and the lease of its own). ``reason`` is an event kind."""

    namespace: str
    service: str
    id: str
    holder: int = 0
    if_revision: int | None = None
    reason: Literal["deregistered", "drained", "container_died", "check_failed"] = "deregistered"
    detail: str = ""


class SetStatus(msgspec.Struct, frozen=True, array_like=True, tag="set_status"):
    """Change only the status of an instance."""

    namespace: str
    service: str
    id: str
    status: Literal["ready", "not_ready", "draining", "maintenance"]
    holder: int = 0


class SetService(msgspec.Struct, frozen=True, array_like=True, tag="set_service"):
    """Put the settings of a service."""

    service: Service
    if_revision: int | None = None


class DeleteService(msgspec.Struct, frozen=True, array_like=True, tag="delete_service"):
    """Remove the settings of a service; refused while instances live."""

    namespace: str
    service: str


class Grant(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """Create a lease."""

    id: int
    ttl_ms: int


class Revoke(msgspec.Struct, frozen=True, array_like=True, tag="revoke"):
    """Remove a lease and all that hangs on it, on request."""

    id: int


class Evict(msgspec.Struct, frozen=True, array_like=True, tag="evict"):
    """The leader's decision that leases have expired.

    Skipped whole when ``term`` is not the entry's term; a pair is skipped when the lease's version moved.

    Args:
        leases: (lease id, lease version, last heartbeat in Unix ms or ``None``).
        overdue: ids among them that the leader saw held back for as long as their service's brake holds.
    """

    term: int
    leases: tuple[tuple[int, int, int | None], ...]
    overdue: tuple[int, ...] = ()


class Unbrake(msgspec.Struct, frozen=True, array_like=True, tag="unbrake"):
    """Leases that were held back have been renewed, so the leader says."""

    term: int
    leases: tuple[int, ...]


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag="checkpoint"):
    """Remaining TTLs of long leases, (id, version, remaining ms), so that elections cannot keep the dead alive."""

    term: int
    leases: tuple[tuple[int, int, int], ...]


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """Write a public key. ``if_revision`` 0: must not exist."""

    key: str
    value: bytes
    lease: int = 0
    if_revision: int | None = None


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete"):
    """Delete a public key, or with ``prefix`` all keys that begin with it.

    Args:
        limit: with ``prefix``: of these keys the first so many, in order; 0: all, or a refusal when they are more than
            ``limits.DELETIONS_PER_COMMAND_MAX``.
    """

    key: str
    prefix: bool = False
    if_revision: int | None = None
    limit: int = 0


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get"):
    """Read inside a transaction."""

    key: str
    prefix: bool = False


class Compare(msgspec.Struct, frozen=True, array_like=True):
    """One condition of a transaction. ``value`` is bytes for target ``value``, a number otherwise.

    An absent key has revision, create_revision, version and lease 0 and compares false on ``value``.
    """

    key: str
    target: Literal["revision", "create_revision", "version", "value", "lease"]
    op: Literal["==", "!=", "<", ">"]
    value: int | bytes


TxnOp = Put | Delete | Get


class Txn(msgspec.Struct, frozen=True, array_like=True, tag="txn"):
    """If all of ``compare`` hold do ``then``, else ``orelse``; one revision."""

    compare: tuple[Compare, ...]
    then: tuple[TxnOp, ...]
    orelse: tuple[TxnOp, ...]


class Found(msgspec.Struct, frozen=True, array_like=True, tag="found"):
    """Begin a history; applied once, by the first leader of a new cluster (later ones change nothing)."""

    history: str


class Stage(msgspec.Struct, frozen=True, array_like=True, tag="stage"):
    """The next part of a backup that is being restored into an empty cluster; nobody sees it before :class:`Switch`.

    Args:
        id: random 63-bit number of the restore. Position 0 begins it and drops what another one left behind.
        position: how many parts came before this one.
        frames: whole frames of a backup (``store/backup.py``).
    """

    id: int
    position: int
    frames: bytes


class Switch(msgspec.Struct, frozen=True, array_like=True, tag="switch"):
    """Let what was staged become the state, in one step, under a new history.

    Args:
        id: of the restore.
        parts: how many were staged.
        history: random id of the new history.
        revision: of the state that the backup holds.
        serial: the same for DNS.
    """

    id: int
    parts: int
    history: str
    revision: int
    serial: int


class Unstage(msgspec.Struct, frozen=True, array_like=True, tag="unstage"):
    """Drop what a restore staged: it was given up."""

    id: int


Command = (
    Register
    | Deregister
    | SetStatus
    | SetService
    | DeleteService
    | Grant
    | Revoke
    | Evict
    | Unbrake
    | Checkpoint
    | Put
    | Delete
    | Txn
    | Found
    | Stage
    | Switch
    | Unstage
)


SINCE: Final[dict[type, int]] = {}
"""The feature level that a kind of command needs, unless it is :data:`discovery.levels.BASE`; none does yet."""

SINCE_FIELD: Final[dict[type, tuple[str, int]]] = {Delete: ("limit", levels.BOUNDED)}
"""A younger field of an old kind, and the level that a command needs in which it is not 0."""


def level_of(command: Command) -> int:
    """The feature level that must be in force before this command may be in the log."""
    kind = type(command)
    if kind in SINCE_FIELD and getattr(command, SINCE_FIELD[kind][0]):
        return SINCE_FIELD[kind][1]
    return SINCE.get(kind, levels.BASE)


class Idempotency(msgspec.Struct, frozen=True, array_like=True):
    """A client's Idempotency-Key and a digest of his request (method, path, query, body)."""

    key: str
    digest: bytes


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A command with who asked for it."""

    version: int
    command: Command
    idempotency: Idempotency | None = None
    actor: str = ""


class Meta(msgspec.Struct, frozen=True):
    """What the log says about the entry a command stands in.

    Args:
        index, term: of the Raft entry.
        time_ms: the log time of the entry, Unix ms, never falling (DESIGN guarantee 7).
        level: the feature level in force at the entry.
    """

    index: int
    term: int
    time_ms: int
    level: int = levels.LEVEL


class Written(msgspec.Struct, frozen=True, array_like=True, tag="written"):
    """A command was applied.

    Args:
        revision: the registry's revision after it (unmoved when nothing changed).
        changed: whether the revision moved.
        created: whether the thing did not exist before.
        dns: the revision that DNS workers must have reached for this write to be visible; 0 = touches no name.
        braked: of an eviction: leases that their service's brake holds back, and for how many ms yet.
    """

    revision: int
    changed: bool
    created: bool = False
    dns: int = 0
    deleted: int = 0
    instance: InstanceRecord | None = None
    lease: Lease | None = None
    service: ServiceRecord | None = None
    braked: tuple[tuple[int, int], ...] = ()


class OpResult(msgspec.Struct, frozen=True, array_like=True):
    """Result of one operation of a transaction: items of a get (sorted by key), number of a delete."""

    kind: Literal["put", "delete", "get"]
    deleted: int = 0
    items: tuple[tuple[str, KeyRecord], ...] = ()


class TxnDone(msgspec.Struct, frozen=True, array_like=True, tag="txn_done"):
    """A transaction was evaluated."""

    revision: int
    changed: bool
    succeeded: bool
    results: tuple[OpResult, ...] = ()


class Failure(msgspec.Struct, frozen=True, array_like=True, tag="failure"):
    """A command was refused and changed nothing. ``code`` is one of :mod:`discovery.errors`."""

    code: str
    detail: str
    field: str = ""
    rule: str = ""


Result = Written | TxnDone | Failure


class LeaseEffect(msgspec.Struct, frozen=True, gc=False):
    """What a command did to a lease, for the leader's clocks.

    ``started``: (re)start the full TTL; ``gone``: forget it; ``kept``: an eviction skipped it.
    """

    kind: Literal["started", "gone", "kept"]
    id: int
    version: int = 0
    ttl_ms: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(command: Command, idempotency: Idempotency | None = None, actor: str = "") -> bytes:
    """The command's bytes for the log."""
    return _encoder.encode(Envelope(COMMAND_VERSION, command, idempotency, actor))


def decode(data: bytes) -> Envelope | Failure:
    """The envelope, or a :class:`Failure` when the bytes are no command of a version we know."""
    try:
        envelope = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        return Failure("invalid_input", f"the log entry holds no command: {error}")
    if envelope.version != COMMAND_VERSION:
        return Failure("invalid_input", f"command version {envelope.version} is not known here")
    return envelope
