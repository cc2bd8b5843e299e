"""Errors as RFC 9457 ``application/problem+json``. Pure: an error in, status, headers and bytes out."""

from __future__ import annotations

from typing import Any, Final

from discovery.api.codec import encode, shown
from discovery.errors import ClientError, RegistryError

CONTENT_TYPE: Final = "application/problem+json"


class BadRequest(ClientError):
    """Bytes that are no HTTP request we accept (RFC 9112)."""

    code, title = "bad_request", "Bad request"


class HeadersTooLarge(ClientError):
    """A request line or header above its limit (RFC 6585 section 5)."""

    code, title, status = "headers_too_large", "Request header fields too large", 431


class RequestTimeout(ClientError):
    """Headers or body did not arrive in time (RFC 9110 section 15.5.9)."""

    code, title, status = "request_timeout", "Request timeout", 408


class ExpectationFailed(ClientError):
    """An ``Expect`` header other than ``100-continue`` (RFC 9110 section 10.1.1)."""

    code, title, status = "expectation_failed", "Expectation failed", 417


def body(error: RegistryError) -> bytes:
    """The problem document: type, title, status, detail, and for bad input the fields at fault."""
    document: dict[str, Any] = {
        "type": error.type,
        "title": error.title,
        "status": error.status,
        "detail": shown_detail(error.detail),
    }
    if error.errors:
        document["errors"] = [
            {"field": fault.field, "rule": fault.rule, "value": shown(fault.value)} for fault in error.errors
        ]
    return encode(document)


def shown_detail(detail: str) -> str:
    """``detail`` as UTF-8 can carry it."""
    return detail.encode("utf-8", "replace").decode()


def headers(error: RegistryError) -> dict[str, str]:
    """What an error adds to the headers: ``Retry-After`` (whole seconds) when a retry makes sense."""
    return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}


def unexpected(error: Exception) -> RegistryError:
    """What a caller may know of a defect; the rest is in the log."""
    return RegistryError(f"the node failed to answer ({type(error).__name__}); its log says more")
