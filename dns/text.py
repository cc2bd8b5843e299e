"""Record data as people write it (RFC 1035 section 5.1), for the HTTP API and tools. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from discovery.dns import codes, name


def _address(data: bytes) -> str:
    return str(ipaddress.ip_address(data))


def _name(data: bytes) -> str:
    return name.to_text(name.from_wire(data))


def _srv(data: bytes) -> str:
    priority, weight, port = struct.unpack_from("!HHH", data)
    return f"{priority} {weight} {port} {_name(data[6:])}"


def _soa(data: bytes) -> str:
    mname, at = name.read(data, 0)
    rname, at = name.read(data, at)
    numbers = " ".join(map(str, struct.unpack_from("!IIIII", data, at)))
    return f"{name.to_text(mname)} {name.to_text(rname)} {numbers}"


def _strings(data: bytes) -> str:
    parts = []
    while data:
        length = data[0]
        parts.append(data[1 : 1 + length].decode("latin-1"))
        data = data[1 + length :]
    return " ".join(f'"{part}"' for part in parts)


def _binding(data: bytes) -> str:
    """SvcParams in the presentation form of RFC 9460 section 2.1 and 7."""
    target, at = name.read(data, 2)
    parts = [str(int.from_bytes(data[:2], "big")), name.to_text(target)]
    while at < len(data):
        key, length = struct.unpack_from("!HH", data, at)
        parts.append(_param(key, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return " ".join(parts)


def _param(key: int, value: bytes) -> str:
    form = _PARAMS.get(key)
    return f"{form[0]}={form[1](value)}" if form is not None else f"key{key}={value.hex()}"


def _hints(value: bytes, size: int) -> str:
    return ",".join(_address(value[at : at + size]) for at in range(0, len(value), size))


def _protocols(value: bytes) -> str:
    found = []
    while value:
        found.append(value[1 : 1 + value[0]].decode("latin-1"))
        value = value[1 + value[0] :]
    return ",".join(found)


_PARAMS: Final[dict[int, tuple[str, Callable[[bytes], str]]]] = {
    1: ("alpn", _protocols),
    3: ("port", lambda value: str(int.from_bytes(value, "big"))),
    4: ("ipv4hint", lambda value: _hints(value, 4)),
    6: ("ipv6hint", lambda value: _hints(value, 16)),
}

_FORMS: Final[dict[int, Callable[[bytes], str]]] = {
    codes.A: _address,
    codes.AAAA: _address,
    codes.CNAME: _name,
    codes.NS: _name,
    codes.PTR: _name,
    codes.SRV: _srv,
    codes.SOA: _soa,
    codes.TXT: _strings,
    codes.HINFO: _strings,
    codes.SVCB: _binding,
    codes.HTTPS: _binding,
}


def rdata(rtype: int, data: bytes) -> str:
    """Record data (without length) in zone-file text; unknown types as RFC 3597 section 5 has it."""
    form = _FORMS.get(rtype)
    return form(data) if form is not None else f"\\# {len(data)} {data.hex()}".rstrip()


def rtype(number: int) -> str:
    """A type's mnemonic, ``TYPE<n>`` when it has none here (RFC 3597 section 5)."""
    return codes.TYPE_TEXT.get(number, f"TYPE{number}")
