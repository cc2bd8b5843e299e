"""What is told in an OPT record only to who asks for it: our name, a cookie, how long TCP may idle."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from discovery.dns import edns
from discovery.dns.cookies import Cookies
from discovery.dns.edns import Edns
from discovery.dns.wire import Query


class Options:
    """Makes the options of our OPT records.

    Args:
        node: our name.
        cookies: whose cookies clients get (RFC 7873); ``None``: none.
        wall_clock: Unix seconds.
    """

    def __init__(self, node: str, cookies: Cookies | None, wall_clock: Callable[[], float]) -> None:
        self.cookies = cookies
        self._node = node.encode()
        self._wall_clock = wall_clock

    def believes(self, asked: Edns, client: bytes) -> bool:
        """Whether the client has shown, by a cookie of ours, that the address is his."""
        if asked.cookie is None or self.cookies is None:
            return False
        return self.cookies.is_valid(asked.cookie, client, int(self._wall_clock()))

    def of(self, query: Query, asked: Edns) -> bytes:
        """Options in reply to those of a question."""
        options = b""
        if asked.nsid and self._node:
            options += edns.option(edns.NSID, self._node)
        if asked.cookie is not None and self.cookies is not None and query.client:
            whole = self.cookies.answer(asked.cookie, query.client, int(self._wall_clock()))
            options += edns.option(edns.COOKIE, whole)
        if asked.keepalive and query.idle_s is not None:  # over UDP it means nothing (RFC 7828 section 3.2.1)
            options += edns.option(edns.KEEPALIVE, int(query.idle_s * 10).to_bytes(2, "big"))
        return options


def client_of(address: Any) -> bytes:
    """The address in what sockets of Python call one: 4 or 16 bytes; ``b""`` for none.

    Args:
        address: ``(host, port, …)``, or that behind a control message.
    """
    host = address[0] if isinstance(address[0], str) else address[1][0]
    if not host:
        return b""
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0])
