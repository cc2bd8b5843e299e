"""An HTTP request that is sent once, by a client that knows how far it came.

Client libraries repeat by themselves what broke (aiohttp does for PUT and DELETE, on new connections too): a write
that was applied before its server died then ends in "connection refused", and looks as if it had never been sent.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import Mapping
from dataclasses import dataclass

from discovery.testing.cluster import Answer


class NotSent(OSError):
    """No connection was made: nothing can have happened."""


class CutShort(OSError):
    """The connection ended before the answer was whole."""


@dataclass(frozen=True)
class Once:
    """Where to send, and how long to wait, seconds; each :meth:`send` is one connection and one request."""

    url: str
    connect_s: float = 0.5

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout_s: float = 5
    ) -> Answer:
        """The answer, its header names in lower case.

        Raises:
            NotSent: surely nothing happened.
            OSError, TimeoutError: anything may have happened.
        """
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        try:
            async with asyncio.timeout(min(self.connect_s, timeout_s)):
                reader, writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError) as error:
            raise NotSent(f"{self.url}: {error!r}") from error
        lines = {"Host": f"{host}:{port}", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items())])
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(f"{head}\r\n".encode() + body)
                return answer(await reader.read())
        finally:
            writer.close()


def answer(received: bytes) -> Answer:
    """The one answer of a connection that has ended. Raises :class:`CutShort`."""
    head, end, body = received.partition(b"\r\n\r\n")
    status, _, lines = head.partition(b"\r\n")
    if not end:
        raise CutShort(f"{len(received)} bytes of an answer")
    headers = {name.lower(): value for name, value in http.client.parse_headers(io.BytesIO(lines + end)).items()}
    if len(body) != int(headers.get("content-length", 0)):
        raise CutShort(f"{len(body)} bytes of a body of {headers.get('content-length')}")
    return Answer(int(status.split()[1]), headers, body)
