"""Strict JSON, durations, numbers and percent-encoding: outside text to values, or a refusal that names the field.

Pure. Every function raises :class:`discovery.errors.InvalidInput` whose ``errors`` name field, rule and value;
nothing here is lenient, because what is ignored today cannot be given a meaning tomorrow.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, NoReturn

import msgspec

from discovery import limits
from discovery.errors import FieldError, InvalidInput

SHOWN_CHARS_MAX: Final = 100
INTEGER_MAX: Final = 2**63 - 1

_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_UNIT_MS: Final[Mapping[str, int]] = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_LEASE: Final = re.compile(r"[0-9a-fA-F]{1,16}")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_DECIMAL: Final = re.compile(r"[0-9]{1,19}")

_encoder: Final = msgspec.json.Encoder()
encode: Final[Callable[[Any], bytes]] = _encoder.encode


def shown(value: object) -> object:
    """``value`` as a problem may repeat it: bounded, encodable, containers by their kind only."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -INTEGER_MAX <= value <= INTEGER_MAX else "(a number beyond 64 bits)"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"
    return "(an object)" if isinstance(value, dict) else "(an array)"


def fault(field: str, rule: str, value: object = None) -> FieldError:
    """A :class:`FieldError` whose value is safe to repeat."""
    return FieldError(field, rule, shown(value))


def refuse(field: str, rule: str, value: object = None) -> NoReturn:
    """Raise :class:`InvalidInput` for one field."""
    raise InvalidInput(f"{field} {rule}", (fault(field, rule, value),))


def refuse_all(faults: Iterable[FieldError]) -> None:
    """Raise :class:`InvalidInput` when there is any fault; its detail is the first one, and not too many are told."""
    found = tuple(islice(faults, limits.PROBLEM_ERRORS_MAX))
    if found:
        raise InvalidInput(f"{found[0].field} {found[0].rule}", found)


# JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                refuse(str(shown(name)), "stands twice in one object")
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    refuse("body", f"must be JSON: {name} is no JSON number (RFC 8259 section 6)", name)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def decode_json(body: bytes) -> Any:
    """The one JSON value in ``body`` (UTF-8, RFC 8259): no duplicate name, no NaN, no lone surrogate.

    Raises:
        InvalidInput: anything else, and nesting deeper than ``limits.JSON_DEPTH_MAX``.
    """
    containers = body.count(b"[") + body.count(b"{")
    if containers > limits.JSON_CONTAINERS_MAX:
        refuse("body", f"must hold at most {limits.JSON_CONTAINERS_MAX} arrays and objects", containers)
    try:
        value = _decoder.decode(body.decode())
    except UnicodeDecodeError as error:
        refuse("body", f"must be UTF-8: byte {error.start} is not")
    except json.JSONDecodeError as error:
        refuse("body", f"must be JSON: {error.msg} at line {error.lineno} column {error.colno}")
    except RecursionError:
        refuse("body", f"must not nest deeper than {limits.JSON_DEPTH_MAX}")
    except ValueError:  # Python refuses to convert thousands of digits
        refuse("body", "must hold no number beyond 64 bits")
    if b"\\u" in body or containers > limits.JSON_DEPTH_MAX:
        _inspect(value, 0)
    return value


def _inspect(value: object, depth: int) -> None:
    """Refuse what the decoder lets pass: deep nesting, and text that no UTF-8 can carry."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            refuse("body", "must hold no lone surrogate (RFC 8259 section 8.2)", value)
        return
    if not isinstance(value, (dict, list)):
        return
    if depth >= limits.JSON_DEPTH_MAX:
        refuse("body", f"must not nest deeper than {limits.JSON_DEPTH_MAX}")
    for item in value if isinstance(value, list) else (*value.keys(), *value.values()):
        if isinstance(item, (str, list, dict)):
            _inspect(item, depth + 1)


def decode_object(body: bytes, known: frozenset[str], later: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object in ``body``, whose names are all in ``known``.

    Args:
        body: the request's body.
        known: the names that it may hold.
        later: names that are reserved, with the text that says so.
    """
    return check_object(decode_json(body), "", known, later)


def check_object(
    value: object, field: str, known: frozenset[str], later: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """``value`` as an object whose names are all in ``known``; ``field`` is its place, empty for the body."""
    if not isinstance(value, dict):
        refuse(field or "body", "must be a JSON object", value)
    if not value.keys() <= known:
        prefix = f"{field}." if field else ""
        unknown = [name for name in value if name not in known]
        refuse_all(fault(prefix + str(shown(name)), _unknown_rule(name, known, later), value[name]) for name in unknown)
    return value


def _unknown_rule(name: str, known: frozenset[str], later: Mapping[str, str] | None) -> str:
    if later and name in later:
        return later[name]
    return f"is not known here; known are {', '.join(sorted(known))}"


# Scalars


def duration_ms(field: str, value: object) -> int:
    """Milliseconds of a duration: seconds as a number, or text as ``"10s"``, ``"1500ms"``, ``"2m"``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 1000
    if isinstance(value, float) and math.isfinite(value * 1000):
        return round(value * 1000)
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match:
            return round(float(match[1]) * _UNIT_MS[match[2]])
        if _DECIMAL.fullmatch(value):
            return int(value) * 1000
    refuse(field, 'must be a duration: seconds, or text as "10s", "1500ms", "2m"', value)


def lease_ttl_ms(field: str, value: object) -> int:
    """Milliseconds of a lease's TTL, 1 s to 24 h."""
    ttl_ms = duration_ms(field, value)
    if not limits.LEASE_TTL_MS_MIN <= ttl_ms <= limits.LEASE_TTL_MS_MAX:
        refuse(field, "must be 1s..24h", value)
    return ttl_ms


def seconds(milliseconds: int | None) -> float | int | None:
    """Milliseconds as the API shows durations: seconds, whole when they are."""
    if milliseconds is None:
        return None
    whole, rest = divmod(milliseconds, 1000)
    return milliseconds / 1000 if rest else whole


def integer(field: str, value: object, least: int, most: int) -> int:
    """A whole JSON number in ``least..most`` (``65534.0`` is one for JSON Schema, so for us)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        refuse(field, f"must be a whole number {least}..{most}", value)
    if not least <= value <= most:
        refuse(field, f"must be {least}..{most}", value)
    return value


def text(field: str, value: object) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        refuse(field, "must be a string", value)
    return value


def lowered(name: str) -> str:
    """``name`` in lower case as DNS compares names: ASCII letters alone (RFC 4343 section 3).

    Python would make an ASCII letter of the Kelvin sign too, and a label of what is none.
    """
    return name.lower() if name.isascii() else name


def flag(field: str, value: object) -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        refuse(field, "must be true or false", value)
    return value


def array(field: str, value: object, most: int) -> list[Any]:
    """A JSON array of at most ``most`` items."""
    if not isinstance(value, list):
        refuse(field, "must be an array", value)
    if len(value) > most:
        refuse(field, f"must hold at most {most} items", len(value))
    return value


def lease_id(field: str, value: object) -> int:
    """A lease id: 1 to 16 hexadecimal digits, not zero, 63 bits."""
    if isinstance(value, str) and _LEASE.fullmatch(value):
        number = int(value, 16)
        if 0 < number <= INTEGER_MAX:
            return number
    refuse(field, "must be a lease id, 16 hexadecimal digits", value)


def decode_base64(field: str, value: object) -> bytes:
    """The bytes of a standard base64 text (RFC 4648 section 4, padded)."""
    try:
        return base64.b64decode(text(field, value), validate=True)
    except (binascii.Error, ValueError):
        refuse(field, "must be base64 (RFC 4648 section 4)", value)


def encode_base64(value: bytes) -> str:
    """Standard base64 text of ``value``."""
    return base64.b64encode(value).decode("ascii")


# URL


def percent_decode(field: str, raw: str) -> str:
    """``raw`` percent-decoded once as UTF-8 (RFC 3986 section 2.1); ``+`` is a literal plus."""
    if "%" not in raw and raw.isascii():
        return raw
    data = raw.encode("utf-8", "surrogateescape")
    if _BAD_ESCAPE.search(data):
        refuse(field, "must be percent-encoded: % stands before two hexadecimal digits", raw)
    try:
        return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), data).decode()
    except UnicodeDecodeError:
        refuse(field, "must be UTF-8", raw)


def parse_query(raw: str, known: frozenset[str], later: Mapping[str, str]) -> dict[str, str | list[str]]:
    """The query's parameters; all known, none twice (but ``tag``, which gives a list).

    Args:
        raw: the query as it came, without the question mark; ``+`` is a space (HTML forms, curl ``-G``).
        known: names this endpoint takes.
        later: names that other endpoints or versions take, with the text that says so.
    """
    found: dict[str, str | list[str]] = {}
    parts = raw.split("&", limits.QUERY_PARAMETERS_MAX + 1)
    if len(parts) > limits.QUERY_PARAMETERS_MAX:
        refuse("query", f"must hold at most {limits.QUERY_PARAMETERS_MAX} parameters", len(parts))
    for part in parts:
        if part:
            name, _, value = part.replace("+", " ").partition("=")
            _add(found, percent_decode("query", name), value, known, later)
    return found


def _add(
    found: dict[str, str | list[str]], name: str, raw: str, known: frozenset[str], later: Mapping[str, str]
) -> None:
    if name not in known:
        refuse(str(shown(name)), _unknown_rule(name, known, later) if known or later else "is not known here", raw)
    value = percent_decode(name, raw)
    if name == "tag":
        tags = found.setdefault(name, [])
        assert isinstance(tags, list)
        tags.append(value)
        return
    if name in found:
        refuse(name, "stands twice in the query", value)
    found[name] = value


def decimal(field: str, value: str, least: int = 0, most: int = INTEGER_MAX) -> int:
    """A decimal number of the query in ``least..most``."""
    if not _DECIMAL.fullmatch(value) or not least <= int(value) <= most:
        refuse(field, f"must be a whole number {least}..{most}", value)
    return int(value)


def switch(field: str, value: str) -> bool:
    """``true`` or ``false`` of the query."""
    if value not in ("true", "false"):
        refuse(field, "must be true or false", value)
    return value == "true"
