"""A request is sent once, whatever becomes of it; and what became of it is told apart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from discovery.testing.once import CutShort, NotSent, Once, answer


@contextlib.asynccontextmanager
async def server(reply: bytes | None) -> AsyncIterator[tuple[Once, list[bytes]]]:
    """A server that answers each connection with ``reply`` and ends it; ``None``: it is silent."""
    heard: list[bytes] = []
    served: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        if reply is None:
            await reader.read()
        else:
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield Once(f"http://127.0.0.1:{port}"), heard
        await asyncio.gather(*filter(None, served))


async def test_an_answer_is_status_headers_and_body() -> None:
    async with server(b"HTTP/1.1 201 Created\r\nX-Registry-Revision: 7\r\nContent-Length: 2\r\n\r\nok") as (
        once,
        heard,
    ):
        told = await once.send("PUT", "/api/v1/kv/a", b"body", {"Idempotency-Key": "k"})
    assert (told.status, told.headers["x-registry-revision"], told.body) == (201, "7", b"ok")
    assert heard[0].startswith(b"PUT /api/v1/kv/a HTTP/1.1\r\n")
    assert b"Content-Length: 4\r\n" in heard[0]
    assert b"Idempotency-Key: k\r\n" in heard[0]


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"]
)
async def test_a_write_whose_server_dies_is_sent_once_and_is_not_called_unsent(reply: bytes) -> None:
    async with server(reply) as (once, heard):
        with pytest.raises(CutShort):
            await once.send("PUT", "/", b"")
    assert len(heard) == 1


async def test_a_silent_server_ends_in_a_timeout_and_was_asked_once() -> None:
    async with server(None) as (once, heard):
        with pytest.raises(TimeoutError):
            await once.send("DELETE", "/", timeout_s=0.1)
    assert len(heard) == 1


async def test_where_nobody_listens_nothing_was_sent() -> None:
    async with server(b"") as (once, _):
        pass
    with pytest.raises(NotSent):
        await once.send("PUT", "/")


def test_an_answer_without_a_body_is_whole() -> None:
    assert answer(b"HTTP/1.1 204 No Content\r\n\r\n").status == 204
