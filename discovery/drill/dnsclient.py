"""A small asyncio DNS client over UDP: one socket, many questions, exact times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dnslib

from discovery.drill.record import FORMERR, NO_ANSWER, Reply


class DnsClient(asyncio.DatagramProtocol):
    """A UDP client that asks one server; each question has its own id and future."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self._transport: asyncio.DatagramTransport | None = None
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket (asyncio calls this)."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Hand an answer to whoever asked (asyncio calls this)."""
        waiting = self._waiting.pop(int.from_bytes(data[:2], "big"), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """A closed port: the question runs into its timeout, as for any client."""

    def close(self) -> None:
        """Close the socket; open questions run into their timeout."""
        if self._transport is not None:
            self._transport.close()

    async def ask(self, name: str, qtype: str = "A", timeout_s: float = 1.0) -> Reply:
        """Ask once; a lost answer is a :class:`Reply` with rcode -1, one that cannot be read FORMERR."""
        question = dnslib.DNSRecord.question(name, qtype)
        self._next = question.header.id = (self._next + 1) % 65536
        asked = time.monotonic()
        future = self._waiting[question.header.id] = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.sendto(question.pack())
        try:
            data = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            self._waiting.pop(question.header.id, None)
            return Reply(asked, time.monotonic(), NO_ANSWER, frozenset(), self.port)
        answered = time.monotonic()
        try:
            record = dnslib.DNSRecord.parse(data)
        except dnslib.DNSError:
            return Reply(asked, answered, FORMERR, frozenset(), self.port)
        addresses = frozenset(str(rr.rdata) for rr in record.rr if rr.rtype in (dnslib.QTYPE.A, dnslib.QTYPE.AAAA))
        return Reply(asked, answered, record.header.rcode, addresses, self.port)


@asynccontextmanager
async def dns_client(host: str, port: int) -> AsyncIterator[DnsClient]:
    """A connected :class:`DnsClient`."""
    _, client = await asyncio.get_running_loop().create_datagram_endpoint(DnsClient, remote_addr=(host, port))
    client.port = port
    try:
        yield client
    finally:
        client.close()
