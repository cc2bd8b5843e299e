"""Slow, greedy and garbled clients: bounded in time, number and memory; the good ones are served beside them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from discovery import limits
from discovery.api import server as server_module

Dial = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
PROBLEM = b"Content-Type: application/problem+json"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_HEADER_S_MAX", 0.15)
    monkeypatch.setattr(limits, "HTTP_BODY_S_MAX", 0.15)
    monkeypatch.setattr(limits, "HTTP_LINGER_S_MAX", 0.15)
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)


@pytest.fixture
async def dial(client: Any) -> AsyncIterator[Dial]:
    """Opens connections and sends bytes on them; they are closed in the end."""
    writers = []

    async def opened(data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writers.append(writer)
        writer.write(data)
        return reader, writer

    yield opened
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Everything that comes until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"BREW /coffee HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", 400),
        (b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (
            b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            400,
        ),
        (b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100 + b"\r\n", 431),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 403),
        (b"GET http://[::1/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz#x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nContent-Length: 5\r\n\r\n", 417),
    ],
)
async def test_what_is_no_good_request_gets_a_problem_and_the_connection_ends(
    client: Any, sent: bytes, status: int
) -> None:
    answer = await client.raw(sent)
    assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), answer
    if status != 200:
        assert PROBLEM in answer
        assert b"X-Registry-Node: n1" in answer
        assert b"nosniff" in answer
    assert answer.count(b"HTTP/1.") == 1
    assert (await client.ask("GET", "/healthz")).revision == 0


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET /healthz HTTP/0.9", b"PUT /api/v1/kv/a HTTP/2.0"])
async def test_versions_of_http_that_the_parser_lets_pass_are_refused(client: Any, line: bytes) -> None:
    answer = await client.raw(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b" 400 Bad Request" in answer.partition(b"\r\n")[0]
    assert PROBLEM in answer
    assert (await client.ask("GET", "/healthz")).revision == 0


async def test_a_head_that_does_not_end_is_408(client: Any, dial: Dial) -> None:
    for sent in (b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        reader, writer = await dial(sent)
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert PROBLEM in answer
        writer.close()


async def test_trickling_does_not_extend_the_deadline(client: Any, dial: Dial) -> None:
    reader, writer = await dial(b"GET /healthz HTTP/1.1\r\n")

    async def trickle() -> None:
        while not reader.at_eof():
            writer.write(b"X: a\r\n")
            await asyncio.sleep(0.02)

    begun = time.monotonic()
    trickling = asyncio.create_task(trickle())
    assert (await ended(reader)).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun < 2
    trickling.cancel()


async def test_the_deadline_is_for_heads_only_not_for_idle_connections(client: Any, dial: Dial) -> None:
    reader, writer = await dial(GET.replace(b"Connection: close\r\n", b""))
    assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200 ")
    await asyncio.sleep(0.25)
    writer.write(GET)
    assert (await ended(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_second_head_on_a_kept_connection_has_a_deadline_too(client: Any, dial: Dial) -> None:
    reader, writer = await dial(GET.replace(b"Connection: close\r\n", b""))
    await reader.readuntil(b'{"status":"ok"}')
    writer.write(b"GET /hea")
    assert (await ended(reader)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_grows_without_end_is_431(client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_HEADER_S_MAX", 60.0)
    reader, writer = await dial(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
    for number in range(17):
        writer.write(b"X-%d: %s\r\n" % (number, b"a" * 1000))
    assert (await ended(reader)).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_does_not_end_is_408(client: Any, dial: Dial) -> None:
    reader, _ = await dial(b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert PROBLEM in answer
    await until(lambda: client.server.pages.bodies_bytes == 0)


async def test_a_large_body_is_asked_for_when_the_client_waits_to_be_asked(client: Any, dial: Dial) -> None:
    head = b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await dial(head % 3)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
    reader, writer = await dial(head % 104_857_600)
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 413 ")


async def test_unfinished_bodies_share_one_budget(client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_BODIES_BYTES_MAX", 150_000)
    monkeypatch.setattr(limits, "HTTP_BODY_S_MAX", 60.0)
    head = b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"
    _, first = await dial(head + b"x" * 100_000)
    await until(lambda: client.server.pages.bodies_bytes == 100_000)
    reader, second = await dial(head + b"x" * 100_000)
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer
    first.close()
    second.close()
    await until(lambda: client.server.pages.bodies_bytes == 0)


@pytest.mark.parametrize(
    "unfinished",
    [b"", b"GET /healthz HT", b"PUT /api/v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\nabc"],
)
async def test_unfinished_requests_at_the_limit_make_room_for_a_good_one(
    client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch, caplog: Any, unfinished: bytes
) -> None:
    monkeypatch.setattr(limits, "HTTP_HEADER_S_MAX", 60.0)
    monkeypatch.setattr(limits, "HTTP_BODY_S_MAX", 60.0)
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_PER_CLIENT_MAX", 20)
    slow = [await dial(unfinished) for _ in range(60)]
    begun = time.monotonic()
    for _ in range(5):
        assert (await client.raw(GET)).startswith(b"HTTP/1.1 200 ")
    assert time.monotonic() - begun < 1
    assert client.server.connection_count <= 20
    for _, writer in slow:
        writer.close()
    await until(lambda: client.server.connection_count == 0)
    assert not client.server.peers
    assert not client.server.opening
    await until(lambda: not client.server.receiving and client.server.pages.bodies_bytes == 0)
    assert not caplog.records


async def test_idle_connections_make_room_when_all_are_taken(
    client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 3)
    kept = []
    for _ in range(3):
        kept.append(await dial(GET.replace(b"Connection: close\r\n", b"")))
        await kept[-1][0].readuntil(b'{"status":"ok"}')
    assert (await client.raw(GET)).startswith(b"HTTP/1.1 200 ")
    assert await ended(kept[0][0]) == b""


async def test_busy_connections_at_the_limit_refuse_a_new_one(
    client: Any, dial: Dial, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_PER_CLIENT_MAX", 2)
    release = asyncio.Event()
    registry.barrier = release.wait
    strong = b"GET /api/v1/namespaces?consistency=strong HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    busy = [await dial(strong) for _ in range(2)]
    await until(lambda: not client.server.opening)
    refused = await client.raw(b"")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert PROBLEM in refused
    release.set()
    for reader, _ in busy:
        assert (await ended(reader)).startswith(b"HTTP/1.1 200 ")


async def fill(client: Any) -> None:
    for number in range(8):
        await client.ask("PUT", f"/api/v1/kv/{number}", b"x" * limits.VALUE_BYTES_MAX)


LIST = b"GET /api/v1/kv/?prefix=true HTTP/1.1\r\nHost: localhost\r\n\r\n"  # 5.6 MB


async def test_who_does_not_read_gets_no_further_answers(client: Any, dial: Dial, caplog: Any) -> None:
    await fill(client)
    reader, writer = await dial(LIST * 20)
    await until(lambda: client.server.sending)
    assert client.server.sending_bytes < 6_000_000
    assert client.server.requests_count <= 8 + 3
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    await until(lambda: client.server.sending_bytes == 0)
    assert not caplog.records


async def test_answers_that_nobody_takes_are_dropped_in_time(
    client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client)
    await dial(LIST)
    await until(lambda: client.server.sending)
    monkeypatch.setattr(limits, "HTTP_SEND_S_MAX", 0.05)
    await until(lambda: not client.server.sending)
    assert client.server.sending_bytes == 0


async def test_answers_that_nobody_takes_are_bounded_together(
    client: Any, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_SENDING_BYTES_MAX", 8_000_000)
    await fill(client)
    for _ in range(6):
        await dial(LIST)
    await until(lambda: client.server.requests_count == 14)
    assert client.server.sending_bytes <= 8_000_000
    assert len(client.server.sending) < 6
    assert (await client.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    ("address", "client_name"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_client_is_an_address_or_the_64_bits_before_it(address: str, client_name: str) -> None:
    assert server_module.client_of(address) == client_name


async def test_pipelined_requests_are_answered_in_order(client: Any) -> None:
    kept = GET.replace(b"Connection: close\r\n", b"")
    answer = await client.raw(kept * 3 + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
    found = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert found == [b"200", b"200", b"200", b"404", b"200"]
