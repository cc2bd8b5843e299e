"""EDNS: the OPT record of a question and of its answer (RFC 6891), and the options that mean something here.

Pure. NSID (RFC 5001), cookies (RFC 7873), the time that a TCP connection may be idle (RFC 7828), extended errors
(RFC 8914). Other options are ignored (RFC 6891 section 6.1.2), but must be well-formed.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from discovery.dns import codes, cookies

SIZE_MIN: Final = 512  # RFC 6891 section 6.2.3: smaller values mean this
COMMON_SIZES: Final = frozenset({512, 1220, 1232, 1280, 1400, 1410, 1432, 1452, 1472, 4096, 8192})
NSID: Final = 3  # option codes
COOKIE: Final = 10
KEEPALIVE: Final = 11
EDE: Final = 15
_TTL_DO: Final = 0x8000
_OPTION: Final = struct.Struct("!HH")
_OPT: Final = struct.Struct("!BHHIH")  # root name, type, class = size, TTL = flags, RDLENGTH
_EDE_OPTION: Final = struct.Struct("!HHH")


class Edns(msgspec.Struct, frozen=True, gc=False):
    """The OPT record of a question: UDP payload size, version, DNSSEC OK, and whether it held options.

    Args:
        odd: whether bits were set that a question has no use for (RFC 6891 section 6.1.3: to be ignored).
        nsid: whether our name is asked for.
        cookie: the client's, with the server's part when it has one; ``None``: no cookie.
        keepalive: whether a TCP client wants to know how long it may be idle.
    """

    size: int
    version: int
    dnssec_ok: bool
    has_options: bool
    odd: bool = False
    nsid: bool = False
    cookie: bytes | None = None
    keepalive: bool = False


class BadOptions(ValueError):
    """The options of an OPT record run past its end, or one has a length that it cannot have."""


def read(rclass: int, ttl: int, options: bytes) -> Edns:
    """The OPT record with these fields. Raises :class:`BadOptions`."""
    version, dnssec_ok, odd = ttl >> 16 & 0xFF, bool(ttl & _TTL_DO), bool(ttl & ~_TTL_DO)
    if not options:
        return Edns(rclass, version, dnssec_ok, has_options=False, odd=odd)
    found = _read_options(options)
    cookie = found.get(COOKIE)
    if cookie is not None and len(cookie) not in cookies.LENGTHS:
        raise BadOptions("a cookie of a length that none has (RFC 7873 section 5.2.2)")
    return Edns(rclass, version, dnssec_ok, True, odd, NSID in found, cookie, KEEPALIVE in found)


def _read_options(options: bytes) -> dict[int, bytes]:
    """Options by code; of several with one code the first (RFC 7873 section 5.2)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(options):
        if at + _OPTION.size > len(options):
            raise BadOptions("an option is cut off")
        code, length = _OPTION.unpack_from(options, at)
        at += _OPTION.size + length
        found.setdefault(code, options[at - length : at])
    if at != len(options):
        raise BadOptions("an option is longer than its record")
    return found


def option(code: int, data: bytes) -> bytes:
    """One option of ours."""
    return _OPTION.pack(code, len(data)) + data


def write(size: int, rcode: int, dnssec_ok: bool, ede: int | None, options: bytes = b"") -> bytes:
    """Our OPT record: the size that we take, the upper bits of the response code, DO as asked, an extended error.

    Args:
        options: more of them, see :func:`option`.
    """
    if ede is not None:
        options += _EDE_OPTION.pack(EDE, 2, ede)
    ttl = rcode >> 4 << 24 | (_TTL_DO if dnssec_ok else 0)
    return _OPT.pack(0, codes.OPT, size, ttl, len(options)) + options
