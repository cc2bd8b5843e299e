"""EDNS: the OPT record of a question and of its answer (RFC 6891), extended errors (RFC 8914).

Pure. Options that we do not know are ignored (RFC 6891 section 6.1.2), but must be well-formed.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from discovery.dns import codes

SIZE_MIN: Final = 512  # RFC 6891 section 6.2.3: smaller values mean this
COMMON_SIZES: Final = frozenset({512, 1220, 1232, 1280, 1400, 1410, 1432, 1452, 1472, 4096, 8192})
_TTL_DO: Final = 0x8000
_EDE: Final = 15  # option code
_OPTION: Final = struct.Struct("!HH")
_OPT: Final = struct.Struct("!BHHIH")  # root name, type, class = size, TTL = flags, RDLENGTH
_EDE_OPTION: Final = struct.Struct("!HHH")


class Edns(msgspec.Struct, frozen=True, gc=False):
    """The OPT record of a question: UDP payload size, version, DNSSEC OK, and whether it held options.

    ``odd``: whether bits were set that a question has no use for (RFC 6891 section 6.1.3: to be ignored).
    """

    size: int
    version: int
    dnssec_ok: bool
    has_options: bool
    odd: bool = False


class BadOptions(ValueError):
    """The options of an OPT record run past its end."""


def read(rclass: int, ttl: int, options: bytes) -> Edns:
    """The OPT record with these fields. Raises :class:`BadOptions`."""
    at = 0
    while at < len(options):
        if at + _OPTION.size > len(options):
            raise BadOptions("an option is cut off")
        _, length = _OPTION.unpack_from(options, at)
        at += _OPTION.size + length
    if at != len(options):
        raise BadOptions("an option is longer than its record")
    return Edns(rclass, ttl >> 16 & 0xFF, bool(ttl & _TTL_DO), bool(options), bool(ttl & ~_TTL_DO))


def write(size: int, rcode: int, dnssec_ok: bool, ede: int | None) -> bytes:
    """Our OPT record: the size that we take, the upper bits of the response code, DO as asked, an extended error."""
    option = _EDE_OPTION.pack(_EDE, 2, ede) if ede is not None else b""
    ttl = rcode >> 4 << 24 | (_TTL_DO if dnssec_ok else 0)
    return _OPT.pack(0, codes.OPT, size, ttl, len(option)) + option
