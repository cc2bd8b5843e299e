"""Numbers of the protocol, by the names that RFCs and zone files use."""

from __future__ import annotations

from typing import Final

# Types (RFC 1035 section 3.2.2, 3596, 2782, 6891, 8945, 9460)
A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
SVCB: Final = 64
HTTPS: Final = 65
TSIG: Final = 250
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

TYPES: Final[dict[str, int]] = {
    "A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "HINFO": HINFO, "MX": 15, "TXT": TXT, "AAAA": AAAA,
    "SRV": SRV, "NAPTR": 35, "DS": 43, "DNSKEY": 48, "SVCB": SVCB, "HTTPS": HTTPS, "ANY": ANY, "CAA": 257,
}  # fmt: skip
TYPE_TEXT: Final[dict[int, str]] = {number: text for text, number in TYPES.items()}

# Classes
IN: Final = 1
CH: Final = 3

# Response codes (RFC 1035 section 4.1.1, 6895 section 2.3; extended: BADVERS, BADCOOKIE)
NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
NOTAUTH: Final = 9
BADVERS: Final = 16
BADCOOKIE: Final = 23

RCODE_TEXT: Final[dict[int, str]] = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", NOTAUTH: "NOTAUTH", BADVERS: "BADVERS",
    BADCOOKIE: "BADCOOKIE",
}  # fmt: skip

# Extended DNS errors (RFC 8914 section 4)
EDE_STALE: Final = 3
EDE_NOT_READY: Final = 14
EDE_NOT_AUTHORITATIVE: Final = 20
EDE_OTHER: Final = 0
EDE_PROHIBITED: Final = 18
EDE_STALE_NXDOMAIN: Final = 19
EDE_NOBODY_REACHED: Final = 22
