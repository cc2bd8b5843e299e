"""Backups over HTTP: a stream out, a stream into an empty cluster, and nothing half-way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from discovery import errors, limits
from discovery.command import Stage, Switch, Unstage
from discovery.store import backup
from discovery.store.staging import STEP

PATH = "/api/v1/snapshot"
WEB = "/api/v1/namespaces/default/services/web"


async def fill(client: Any, count: int = 30, size: int = 20_000) -> None:
    await client.ask("PUT", f"{WEB}/instances/0", {"address": "10.0.0.1"})
    for number in range(count):
        await client.ask("PUT", f"/api/v1/kv/k{number}", bytes([number]) * size)


@pytest.fixture
def proposed(registry: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands of a restore that reach the registry."""
    seen: list[Any] = []
    write = registry.write

    async def watched(command: Any, **more: Any) -> Any:
        if isinstance(command, Stage | Switch | Unstage):
            seen.append(command)
        return await write(command, **more)

    monkeypatch.setattr(registry, "write", watched)
    return seen


@pytest.fixture
async def saved(client: Any, registry: Any) -> bytes:
    """A backup of about 600 kB, after which the registry is a new, empty cluster."""
    await fill(client)
    data: bytes = (await client.ask("GET", PATH)).body
    registry.__init__()
    return data


async def test_a_backup_is_a_whole_file_of_the_state_as_it_was(client: Any, registry: Any) -> None:
    await fill(client)
    answer = await client.ask("GET", f"{PATH}?consistency=strong")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="discovery-31.snapshot"'
    assert (answer.revision, answer.headers["X-Registry-Index"]) == (31, "31")
    reader = backup.Reader()
    reader.push(answer.body)
    head = reader.finish()
    assert (head.node, head.zone, head.history, head.revision) == ("n1", "cluster.local", "h1", 31)
    assert head.counts["keys"] == 30
    assert registry.barriers == 1


async def test_head_says_what_get_would_without_a_copy(client: Any) -> None:
    await fill(client, 1)
    answer = await client.ask("HEAD", PATH)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"", "application/octet-stream")


async def test_chunks_are_made_in_a_thread_and_only_as_fast_as_the_client_takes_them(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    write = backup.write

    def watched(*arguments: Any) -> Any:
        for chunk in write(*arguments):
            made.append(threading.current_thread().name)
            yield chunk

    monkeypatch.setattr(backup, "write", watched)
    await fill(client, 200, 200_000)
    async with client.session.get(f"http://127.0.0.1:{client.port}{PATH}") as answer:
        await asyncio.sleep(0.2)
        assert 0 < len(made) < 100
        assert threading.main_thread().name not in made
        assert len(await answer.read()) > 40_000_000


async def test_a_client_that_leaves_frees_its_place(client: Any) -> None:
    await fill(client, 200, 200_000)
    for _ in range(limits.HTTP_BACKUPS_MAX + 1):
        async with client.session.get(f"http://127.0.0.1:{client.port}{PATH}") as answer:
            assert answer.status == 200
            answer.close()
        async with asyncio.timeout(5):
            while client.server.busy():
                await asyncio.sleep(0.01)


async def test_a_node_writes_few_backups_at_once(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_BACKUPS_MAX", 0)
    answer = await client.ask("GET", PATH)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_a_defect_half_way_cuts_the_connection_instead_of_looking_whole(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def broken(*_: Any) -> Any:
        yield b"discovery-snapshot 1\n"
        raise RuntimeError("a defect")

    monkeypatch.setattr(backup, "write", broken)
    with pytest.raises(Exception, match=r"payload|closed|[Dd]isconnected"):
        await client.ask("GET", PATH)
    assert "defect in a handler" in caplog.text


async def test_a_restore_brings_everything_back_under_a_new_history(
    client: Any, registry: Any, saved: bytes, proposed: list[Any]
) -> None:
    answer = await client.ask("PUT", PATH, saved)
    assert answer.status == 200
    body = answer.json
    assert (body["revision"], body["from"]["revision"], body["from"]["history"]) == (31 + STEP, 31, "h1")
    assert body["history"] == registry.store.history != "h1"
    assert answer.headers["X-Registry-Visible"] == "true"
    assert (await client.ask("GET", f"{WEB}/instances/0")).json["addresses"] == ["10.0.0.1"]
    assert (await client.ask("GET", "/api/v1/kv/k7")).body == bytes([7]) * 20_000
    stages = [command for command in proposed if isinstance(command, Stage)]
    assert len(stages) > 2
    assert max(len(stage.frames) for stage in stages) < limits.COMMAND_BYTES_MAX - 1000
    assert [type(command) for command in proposed[len(stages) :]] == [Switch]


async def test_a_cluster_that_holds_something_refuses_with_409_before_the_body(client: Any, saved: bytes) -> None:
    await client.ask("PUT", "/api/v1/kv/mine", b"1")
    answer = await client.raw(
        f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(saved)}\r\n\r\n".encode() + saved[:1000]
    )
    assert answer.startswith(b"HTTP/1.1 409 ")
    assert b"not empty, it holds 1 key(s)" in answer
    assert (await client.ask("GET", "/api/v1/kv/mine")).body == b"1"


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: data[:-1], "ends after"),
        (lambda data: data[: len(data) // 2], "ends after"),
        (lambda data: data[:-40] + b"x" + data[-39:], "checksum"),
        (lambda data: data + b"x", "after its end"),
        (lambda data: b"PK" + data, "no snapshot of discovery"),
        (lambda data: b"", "ends after 0 bytes"),
    ],
)
async def test_a_damaged_truncated_or_foreign_file_is_400_and_leaves_the_cluster_empty(
    client: Any, registry: Any, saved: bytes, damage: Any, text: str
) -> None:
    before = registry.store.digest()
    answer = await client.ask("PUT", PATH, damage(saved))
    assert (answer.status, answer.json["type"]) == (400, "/problems/invalid-input")
    assert text in answer.json["detail"]
    assert registry.store.digest() == before
    assert (await client.ask("PUT", PATH, saved)).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(errors.NotApplied("no leader"), 503), (errors.OutcomeUnknown("lost"), 503), (errors.Overloaded("full"), 503)],
)
async def test_a_failure_half_way_is_surely_not_applied_and_leaves_the_cluster_empty(
    client: Any, registry: Any, saved: bytes, proposed: list[Any], error: Exception, status: int
) -> None:
    before = registry.store.digest()

    async def fail_late(command: Any, **more: Any) -> Any:
        if isinstance(command, Stage) and command.position == 1:
            raise error
        return await write(command, **more)

    write, registry.write = registry.write, fail_late
    answer = await client.ask("PUT", PATH, saved)
    assert answer.status == status
    assert isinstance(proposed[-1], Unstage)
    assert registry.store.digest() == before
    registry.write = write
    assert (await client.ask("PUT", PATH, saved)).status == 200


async def test_a_switch_whose_outcome_is_unknown_is_504_and_its_key_finds_out(
    client: Any, registry: Any, saved: bytes
) -> None:
    write = registry.write

    async def lost(command: Any, **more: Any) -> Any:
        result = await write(command, **more)
        if isinstance(command, Switch):
            raise errors.OutcomeUnknown("lost")
        return result

    registry.write = lost
    key = {"Idempotency-Key": "once"}
    assert (await client.ask("PUT", PATH, saved, key)).status == 504
    registry.write = write
    again = await client.ask("PUT", PATH, saved, key)
    assert (again.status, again.json["revision"]) == (200, 31 + STEP)
    assert registry.store.revision == 31 + STEP
    other_key = await client.ask("PUT", PATH, saved, {"Idempotency-Key": "another"})
    assert other_key.status == 409


async def test_a_client_that_leaves_half_way_leaves_the_cluster_empty(
    client: Any, registry: Any, saved: bytes, proposed: list[Any]
) -> None:
    before = registry.store.digest()
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(saved)}\r\n\r\n"
    writer.write(head.encode() + saved[:-100])
    async with asyncio.timeout(5):
        while not proposed:
            await asyncio.sleep(0.01)
        writer.close()
        while not any(isinstance(command, Unstage) for command in proposed):
            await asyncio.sleep(0.01)
    assert registry.store.digest() == before


async def test_one_restore_at_a_time(client: Any, saved: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(saved)}\r\nExpect: 100-continue\r\n\r\n"
    writer.write(head.encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert (await client.ask("PUT", PATH, saved)).status == 503
    writer.close()


async def test_a_body_that_does_not_come_is_408(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_BODY_S_MAX", 0.1)
    head = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".encode()
    assert (await client.raw_until_answer(head)).startswith(b"HTTP/1.1 408 ")


async def test_a_restore_that_takes_for_ever_is_ended(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_RESTORE_S_MAX", 0.1)
    head = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".encode()
    assert (await client.raw_until_answer(head)).startswith(b"HTTP/1.1 408 ")
