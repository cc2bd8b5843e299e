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
}


def rdata(rtype: int, data: bytes) -> str:
    """Record data (without length) in zone-file text; unknown types as RFC 3597 section 5 has it."""
    form = _FORMS.get(rtype)
    return form(data) if form is not None else f"\\# {len(data)} {data.hex()}".rstrip()


def rtype(number: int) -> str:
    """A type's mnemonic, ``TYPE<n>`` when it has none here (RFC 3597 section 5)."""
    return codes.TYPE_TEXT.get(number, f"TYPE{number}")
