"""One tree of errors: each knows its problem type, HTTP status and a hint for DNS (RFC 9457, RFC 1035 4.1.1).

Shells raise these; the state machine's ``apply`` never raises, it returns :class:`discovery.command.Failure`
whose ``code`` names one of these classes (:func:`from_code`). Two guilts are kept apart: below
:class:`ClientError` the caller must change something, below :class:`ServerError` he may simply try again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One broken rule of one field: ``{"field": "ports[0].port", "rule": "must be 1..65535", "value": 70000}``."""

    field: str
    rule: str
    value: Any = None


class RegistryError(Exception):
    """Root of the tree.

    Args:
        detail: a sentence for the person who reads it: what was wrong and the way out.
        errors: the fields at fault, for bad input.
        retry_after_s: seconds after which a retry makes sense (503 only).
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[int] = 500
    rcode: ClassVar[int] = 2  # SERVFAIL

    def __init__(self, detail: str, errors: tuple[FieldError, ...] = (), retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """The RFC 9457 problem type, a relative URI reference."""
        return f"/problems/{self.code.replace('_', '-')}"


class ClientError(RegistryError):
    """The request must change."""

    status = 400


class InvalidInput(ClientError):
    """A field breaks a rule."""

    code, title = "invalid_input", "Invalid input"


class Forbidden(ClientError):
    """A foreign origin or host."""

    code, title, status = "forbidden", "Forbidden", 403
    rcode = 5


class NotFound(ClientError):
    """No such thing."""

    code, title, status = "not_found", "Not found", 404
    rcode = 3


class MethodNotAllowed(ClientError):
    """The path exists, the method does not."""

    code, title, status = "method_not_allowed", "Method not allowed", 405


class Conflict(ClientError):
    """The present state forbids it (an instance into an external service, a service with living instances)."""

    code, title, status = "conflict", "Conflict", 409


class HolderConflict(ClientError):
    """Another holder has the id now."""

    code, title, status = "holder_conflict", "Held by another lease", 409


class Compacted(ClientError):
    """The revision asked for was compacted, or belongs to another history."""

    code, title, status = "compacted", "Revision compacted", 410


class PreconditionFailed(ClientError):
    """``if_revision`` does not match."""

    code, title, status = "precondition_failed", "Precondition failed", 412


class TooLarge(ClientError):
    """A body, command or transaction above its limit."""

    code, title, status = "too_large", "Too large", 413


class UnsupportedMedia(ClientError):
    """Content-Encoding or multipart."""

    code, title, status = "unsupported_media", "Unsupported media type", 415


class IdempotencyMismatch(ClientError):
    """The same Idempotency-Key with another request."""

    code, title, status = "idempotency_mismatch", "Idempotency key reused", 422


class ServerError(RegistryError):
    """The server could not; the request may be repeated."""

    status = 503


class NotApplied(ServerError):
    """Surely not applied: no leader, or leadership changed before the command could enter the log."""

    code, title = "not_applied", "Not applied"

    def __init__(self, detail: str, errors: tuple[FieldError, ...] = (), retry_after_s: int | None = 1) -> None:
        super().__init__(detail, errors, retry_after_s)


class Overloaded(NotApplied):
    """Surely not applied: a queue or table is full."""

    code, title = "overloaded", "Overloaded"


class DiskFull(NotApplied):
    """Surely not applied: this node's disk has no room for it (full, over quota, or above the limit of a file)."""

    code, title = "disk_full", "Disk full"


class Unavailable(NotApplied):
    """A read could not be served as asked: no leader for a strong read, a revision this node has not reached."""

    code, title = "unavailable", "Unavailable"


class OutcomeUnknown(ServerError):
    """The write may or may not have been applied; repeat it with the same Idempotency-Key."""

    code, title, status = "outcome_unknown", "Outcome unknown", 504


class CorruptData(RegistryError):
    """A file of the data directory is damaged before its tail: the node stops (names file, offset, way out)."""

    code, title = "corrupt_data", "Corrupt data"


class ConfigError(RegistryError):
    """A configuration error: exit code 2; the text names file or option, key and rule."""

    code, title = "config_error", "Configuration error"


def _tree(root: type[RegistryError]) -> dict[str, type[RegistryError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_CODE = _tree(RegistryError)


def from_code(code: str, detail: str, errors: tuple[FieldError, ...] = ()) -> RegistryError:
    """The exception for a failure code of the state machine (an unknown code is an :class:`InvalidInput`)."""
    return BY_CODE.get(code, InvalidInput)(detail, errors)
