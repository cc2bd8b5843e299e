"""A small asyncio DNS client over UDP: one socket, many questions, exact times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import dnslib

from discovery.drill.record import FORMERR, NO_ANSWER, Reply

HEADER_BYTES: Final = 12  # RFC 1035 section 4.1.1


@dataclass(frozen=True, slots=True)
class Count:
    """The header of an answer: when it came, its rcode (-1: none in time), and how many records it holds."""

    answered: float
    rcode: int
    records: int


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
        asked, data = await self._exchange(name, qtype, timeout_s)
        answered = time.monotonic()
        if data is None:
            return Reply(asked, answered, NO_ANSWER, frozenset(), self.port)
        try:
            record = dnslib.DNSRecord.parse(data)
        except dnslib.DNSError:
            return Reply(asked, answered, FORMERR, frozenset(), self.port)
        addresses = frozenset(str(rr.rdata) for rr in record.rr if rr.rtype in (dnslib.QTYPE.A, dnslib.QTYPE.AAAA))
        return Reply(asked, answered, record.header.rcode, addresses, self.port)

    async def count(self, name: str, timeout_s: float = 1.0) -> Count:
        """Ask for addresses and read the header only: cheap enough for thousands of names in a moment."""
        _, data = await self._exchange(name, "A", timeout_s)
        answered = time.monotonic()
        if data is None or len(data) < HEADER_BYTES:
            return Count(answered, NO_ANSWER, 0)
        return Count(answered, data[3] & 15, int.from_bytes(data[6:8], "big"))

    async def _exchange(self, name: str, qtype: str, timeout_s: float) -> tuple[float, bytes | None]:
        """When it was asked, and the answer, if one came."""
        number = self._next = (self._next + 1) % 65536
        asked = time.monotonic()
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.sendto(number.to_bytes(2, "big") + _question(name, qtype))
        try:
            return asked, await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            self._waiting.pop(number, None)
            return asked, None


@lru_cache(10_000)
def _question(name: str, qtype: str) -> bytes:
    """A question without its id."""
    return bytes(dnslib.DNSRecord.question(name, qtype).pack()[2:])


@asynccontextmanager
async def dns_client(host: str, port: int) -> AsyncIterator[DnsClient]:
    """A connected :class:`DnsClient`."""
    _, client = await asyncio.get_running_loop().create_datagram_endpoint(DnsClient, remote_addr=(host, port))
    client.port = port
    try:
        yield client
    finally:
        client.close()
