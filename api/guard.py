"""Who may ask, judged by headers alone: the browser's word on where a request comes from, and its encoding.

A page of a foreign site can make a browser send requests to a daemon on loopback, and by DNS rebinding even read the
answers. So: a foreign ``Origin``, ``Sec-Fetch-Site: cross-site``, or a ``Host`` that is no IP address, not
``localhost`` and no advertised name are refused (CONTRACT section 2).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy, istr

from discovery.errors import Forbidden, UnsupportedMedia

Headers = CIMultiDict[str] | CIMultiDictProxy[str]

SEC_FETCH_SITE: Final = istr("Sec-Fetch-Site")
HOSTS_REMEMBERED_MAX: Final = 256

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


def host_of(authority: str) -> str | None:
    """The host of ``host[:port]`` in lower case, brackets off, or ``None`` when it is none (RFC 3986 section 3.2)."""
    match = _AUTHORITY.fullmatch(authority)
    return (match[1] or match[2]).lower() if match else None


def is_address(host: str) -> bool:
    """Whether ``host`` is an IPv4 or IPv6 literal."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses what a browser should not have sent here.

    Args:
        names: advertised host names, lower case.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names: Final = names | {"localhost"}
        self._good: set[str] = set()

    def check(self, headers: Headers) -> None:
        """Pass, or raise. Of a header that stands more than once every value is judged.

        Raises:
            Forbidden: foreign origin or host.
            UnsupportedMedia: ``Content-Encoding``, multipart, or a transfer coding other than chunked.
        """
        host = headers.get(hdrs.HOST)
        if host is not None and host not in self._good:
            self._check_host(host)
        for origin in headers.getall(hdrs.ORIGIN, ()):
            self._check_origin(origin, host)
        if "cross-site" in headers.getall(SEC_FETCH_SITE, ()):
            raise Forbidden("a request from another site (Sec-Fetch-Site: cross-site) is refused")
        for coding in headers.getall(hdrs.CONTENT_ENCODING, ()):
            if coding.lower() != "identity":
                raise UnsupportedMedia("Content-Encoding is not accepted: send the body as it is")
        for coding in headers.getall(hdrs.TRANSFER_ENCODING, ()):
            if coding.lower() != "chunked":
                raise UnsupportedMedia("no Transfer-Encoding but chunked is accepted: send the body as it is")
        kind = headers.get(hdrs.CONTENT_TYPE)
        if kind is not None and kind[:10].lower() == "multipart/":
            raise UnsupportedMedia("a multipart body is not accepted: send the value or the JSON itself")

    def _check_host(self, authority: str) -> None:
        """Remember a good ``Host``; the memory is bounded because a client chooses its port."""
        if not self.accepts(authority):
            raise Forbidden("the Host header must name an IP address, localhost or an advertised name of this node")
        if len(self._good) >= HOSTS_REMEMBERED_MAX:
            self._good.clear()
        self._good.add(authority)

    def accepts(self, authority: str) -> bool:
        """Whether a ``Host`` may be asked for here."""
        host = host_of(authority)
        return host is not None and (host in self._names or is_address(host))

    def _check_origin(self, origin: str, host: str | None) -> None:
        """An origin is ours when it is the host asked, or an advertised name (a proxy in front of us)."""
        scheme, separator, authority = origin.partition("://")
        ours = separator and scheme in ("http", "https")
        if ours and (authority.lower() == (host or "").lower() or host_of(authority) in self._names - {"localhost"}):
            return
        raise Forbidden("a request from a foreign Origin is refused")
