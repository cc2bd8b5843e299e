"""A bare Raft member for tests: a machine that keeps a list, in this process or in one of its own.

As a program (``python -m discovery.testing.raft_member JSON``) it speaks lines of JSON: on stdin what to do, on stdout
what happened. The tests kill it without warning and start it again on the same directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from discovery import limits
from discovery.command import Meta
from discovery.errors import CorruptData, RegistryError
from discovery.raft import Raft, RaftConfig
from discovery.raft.disk import RealDisk
from discovery.raft.types import Role, Settings

_LINE_BYTES_MAX: Final = 1 << 24


class Items:
    """The simplest state machine: a list of the commands applied; ``apply`` answers the new length."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.time_ms = 0
        self.roles: list[tuple[Role, int, str | None, bool]] = []

    def apply(self, command: bytes, meta: Meta) -> int:
        """Append."""
        self.time_ms = max(self.time_ms, meta.time_ms)
        self.items.append(command)
        return len(self.items)

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A copy of the list."""
        items, time_ms = self.items.copy(), self.time_ms

        def chunks() -> Iterator[bytes]:
            yield msgspec.msgpack.encode(time_ms)
            chunk: list[bytes] = []
            size = 0
            for item in items:
                if size + len(item) > limits.SNAPSHOT_CHUNK_BYTES // 2:
                    yield msgspec.msgpack.encode(chunk)
                    chunk, size = [], 0
                chunk.append(item)
                size += len(item) + 5
            yield msgspec.msgpack.encode(chunk)

        return chunks

    def load(self, chunks: Iterator[bytes]) -> Items:
        """The copy again."""
        loaded = Items()
        try:
            loaded.time_ms = msgspec.msgpack.decode(next(chunks), type=int)
            for chunk in chunks:
                loaded.items += msgspec.msgpack.decode(chunk, type=list[bytes])
        except (msgspec.MsgspecError, StopIteration) as error:
            raise CorruptData(f"no list: {error}") from error
        return loaded

    def install(self, state: Items) -> None:
        """Take its place."""
        self.items, self.time_ms = state.items, state.time_ms

    def role(self, role: Role, term: int, leader: str | None, ready: bool) -> None:
        """Remember."""
        self.roles.append((role, term, leader, ready))


class _Program:
    """Does what the lines on stdin say."""

    def __init__(self, raft: Raft, machine: Items) -> None:
        self._raft, self._machine = raft, machine
        self._tasks: set[asyncio.Task[None]] = set()
        self._does: Final = {
            "status": self._status,
            "propose": self._propose,
            "load": self._load,
            "items": self._items,
            "barrier": self._barrier,
            "bench": self._bench,
        }

    async def run(self) -> None:
        """Until stdin ends."""
        reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            task = loop.create_task(self._answer(json.loads(line)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._raft.stop()

    async def _answer(self, wish: dict[str, Any]) -> None:
        try:
            answer = await self._does[wish["do"]](wish)
        except RegistryError as error:
            answer = {"error": error.code, "detail": error.detail}
        _say({"id": wish["id"], **answer})

    async def _status(self, wish: dict[str, Any]) -> dict[str, Any]:
        return {"status": msgspec.to_builtins(self._raft.status()), "waiting": self._raft.waiting()}

    async def _propose(self, wish: dict[str, Any]) -> dict[str, Any]:
        length = await self._raft.propose(wish["item"].encode(), wish.get("timeout", 5.0))
        return {"length": length}

    async def _barrier(self, wish: dict[str, Any]) -> dict[str, Any]:
        await self._raft.read_barrier(wish.get("timeout", 5.0))
        return {"length": len(self._machine.items)}

    async def _items(self, wish: dict[str, Any]) -> dict[str, Any]:
        return {"items": [item.decode()[:64] for item in self._machine.items]}

    async def _load(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Propose without end; each acknowledgement is a line at once, so that a kill cannot take it back."""
        padding = "." * wish.get("size", 0)

        async def caller(number: int) -> None:
            count = 0
            while True:
                item = f"{wish['prefix']}-{number}-{count}"
                count += 1
                with contextlib.suppress(RegistryError):
                    await self._raft.propose(f"{item} {padding}".encode(), 2.0)
                    _say({"ack": item})
                    continue
                await asyncio.sleep(0.01)

        await asyncio.gather(*(caller(number) for number in range(wish["callers"])))
        return {}

    async def _bench(self, wish: dict[str, Any]) -> dict[str, Any]:
        callers, total = wish["callers"], wish["total"]
        command = b"x" * wish.get("size", 20)
        times: list[float] = []
        stalls = asyncio.create_task(_stalls())

        async def caller() -> None:
            for _ in range(total // callers):
                begin = time.perf_counter()
                await self._raft.propose(command, 10.0)
                times.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        took = time.perf_counter() - begin
        times.sort()
        stalls.cancel()
        return {
            "stall_ms": await stalls,
            "per_s": len(times) / took,
            "p50_ms": times[len(times) // 2] * 1e3,
            "p99_ms": times[len(times) * 99 // 100] * 1e3,
            "max_ms": times[-1] * 1e3,
        }


async def _stalls() -> float:
    """The longest time, in ms, that the loop was late, until cancelled."""
    worst = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - begin - 0.001)
    return worst * 1e3


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def _main(options: dict[str, Any]) -> None:
    machine = Items()
    config = RaftConfig(
        node=options["node"],
        zone="cluster.local",
        directory=Path(options["directory"]),
        peers=options["peers"],
        raft=options["peers"][options["node"]],
        settings=msgspec.convert(options.get("settings", {}), Settings),
        **options.get("log", {}),
    )
    if options.get("lying_disk"):  # a disk whose sync does nothing: a test must notice
        RealDisk.sync = RealDisk.sync_dir = lambda *_: None  # type: ignore[assignment, method-assign]
    raft = Raft(config, machine)
    await raft.start([socket.socket(fileno=options["fd"])])
    _say({"started": options["node"]})
    await _Program(raft, machine).run()


if __name__ == "__main__":
    uvloop.run(_main(json.loads(sys.argv[1])))
