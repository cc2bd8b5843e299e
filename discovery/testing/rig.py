"""Engines on a table: messages lie in a queue until a test delivers or drops them. Time moves only by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from discovery import levels
from discovery.command import Meta
from discovery.errors import DiskFull
from discovery.raft import codec
from discovery.raft.configuration import Change, Configuration, Member, founding
from discovery.raft.core import Core
from discovery.raft.engine import Engine
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.types import EngineStatus, Job, Output, Role, Settings, run_job
from discovery.raft.wal import Wal
from discovery.testing.simdisk import SimDisk

SMALL = Settings(snapshot_bytes=1 << 40, batch_bytes=2048, window_bytes=8192, chunk_bytes=256)


class ListMachine:
    """A state machine that remembers what it was given; a command ``boom`` raises."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []
        self.metas: list[Meta] = []
        self.roles: list[tuple[Role, int, str | None, bool]] = []
        self.time_ms = 0

    def apply(self, command: bytes, meta: Meta) -> object:
        """Remember; the result is the number of commands so far."""
        if command == b"boom":
            raise ValueError(command)
        self.applied.append(command)
        self.metas.append(meta)
        self.time_ms = meta.time_ms
        return len(self.applied)

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A copy."""
        data = msgspec.msgpack.encode((self.time_ms, self.applied))
        return lambda: iter([data[at : at + 256] for at in range(0, len(data), 256)])

    def load(self, chunks: Iterator[bytes]) -> Any:
        """From chunks."""
        return msgspec.msgpack.decode(b"".join(chunks), type=tuple[int, list[bytes]])

    def install(self, state: Any) -> None:
        """Swap."""
        self.time_ms, self.applied = state

    def role(self, role: Role, term: int, leader: str | None, ready: bool) -> None:
        """Remember."""
        self.roles.append((role, term, leader, ready))


class RigNode:
    """One engine with its disk and what it answered."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name
        self.disk = SimDisk(random.Random(name))  # noqa: S311
        self.answers: dict[Any, Any] = {}
        self.jobs: list[Job] = []
        self.output: Output | None = None
        self.settings = rig.settings
        self.start()

    def start(self) -> None:
        """Start a process on what the disk holds."""
        rig = self.rig
        self.wal = Wal.open(self.disk, segment_bytes=1024, retained_bytes=rig.retained_bytes)
        self.snapshots = SnapshotStore(self.disk)
        self.machine = ListMachine()
        self.engine = Engine(
            node_id=self.name,
            peers=[other for other in rig.names if other != self.name],
            wal=self.wal,
            snapshots=self.snapshots,
            machine=self.machine,
            clock=lambda: rig.now,
            wall_ms=lambda: int(rig.now * 1000),
            random=random.Random(f"{self.name}{rig.now}"),  # noqa: S311
            settings=self.settings,
            core_class=rig.core_class,
            incarnation=rig.incarnation(self.name),
            members=rig.members,
            level=rig.level_of(self.name),
        )
        self.core = self.engine._core

    @property
    def status(self) -> EngineStatus:
        """The engine's."""
        return self.engine.status()

    @property
    def log(self) -> list[tuple[int, int]]:
        """(index, term) of each entry."""
        return [(index, term) for _, index, term in self.wal[:]]

    def step(self) -> Output:
        """One pass with its sync; what it sends goes into the rig's queue."""
        output = self.begin()
        self.finish(output)
        return output

    def begin(self) -> Output:
        """The first half of a pass: before the sync."""
        output = self.engine.step()
        self.rig.post(self.name, output.early)
        self.jobs += output.jobs
        return output

    def finish(self, output: Output) -> None:
        """The second half: the sync and what follows it; without room nothing follows it."""
        try:
            if output.batch is not None:
                self.wal.write(output.batch)
        except DiskFull as error:
            self.engine.unsynced(error.detail)
        else:
            self.engine.synced()
            self.rig.post(self.name, output.late)
        self.disk.settle()
        for token, result in [*output.resolved, *output.confirmed, *output.readable]:
            self.answers[token] = result

    def run_jobs(self) -> None:
        """Do what waits for a thread."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            result: Any = None
            try:
                result = run_job(job, self.snapshots, self.machine)
            except DiskFull as error:
                result = error
            self.disk.settle()
            self.engine.job_done(job, result)

    def wipe(self) -> None:
        """Lose the data directory, and start on an empty one."""
        self.rig.isolate(self.name)
        self.rig.queue = [item for item in self.rig.queue if item[0] != self.name]
        self.rig.wiped[self.name] = self.rig.wiped.get(self.name, 0) + 1
        self.disk = SimDisk(random.Random(self.name))  # noqa: S311
        self.start()

    def restart(self, *, power: bool = False) -> None:
        """Kill -9 (or loss of power) and start."""
        self.rig.isolate(self.name)
        self.rig.queue = [item for item in self.rig.queue if item[0] != self.name]
        if power:
            self.disk.crash()
        else:
            self.disk.stop()
        self.start()


class Rig:
    """Some engines and the table between them."""

    def __init__(
        self,
        count: int = 3,
        *,
        core_class: type[Core] = Core,
        settings: Settings = SMALL,
        retained_bytes: int = 1 << 30,
        voters: int | None = None,
        known: dict[str, int] | None = None,
        level: int = levels.LEVEL,
    ) -> None:
        """``voters``: only the first so many are members, the others may be added; ``None``: all are.

        ``known``: the feature levels that nodes know, the latest unless named; ``level``: that of the cluster.
        """
        self.known = known or {}
        self.now = 1000.0
        self.names = ["a", "b", "c", "d", "e"][:count]
        self.wiped: dict[str, int] = {}
        self.members: Configuration | None = None
        if voters is not None:
            self.members = founding({name: Member("", f"{name}-0") for name in self.names[:voters]}, level)
        self.core_class, self.settings, self.retained_bytes = core_class, settings, retained_bytes
        self.queue: list[tuple[str, str, codec.RaftMessage]] = []
        self.links: set[tuple[str, str]] = set()
        self.stopped: set[str] = set()
        self.hold_jobs = False
        self.nodes = {name: RigNode(self, name) for name in self.names}
        for name in self.names:
            self.join(name)

    def __getitem__(self, name: str) -> RigNode:
        return self.nodes[name]

    def incarnation(self, name: str) -> str:
        """Of the data directory that a node has now."""
        return f"{name}-{self.wiped.get(name, 0)}" if self.members is not None else ""

    def level_of(self, name: str) -> int:
        """The highest feature level that the version of a node knows."""
        return self.known.get(name, levels.LEVEL)

    def post(self, source: str, messages: Sequence[tuple[str, codec.RaftMessage]]) -> None:
        """Lay messages on the table, if there is a stream."""
        self.queue += [(source, target, message) for target, message in messages if (source, target) in self.links]

    def inject(self, source: str, target: str, message: codec.RaftMessage) -> None:
        """Deliver a message that nobody sent; a pass follows."""
        self.nodes[target].engine.receive(source, message)
        self.nodes[target].step()

    def join(self, name: str, *others: str) -> None:
        """Connect a node with the others (all)."""
        for other in others or self.names:
            if other != name and (name, other) not in self.links:
                self.links |= {(name, other), (other, name)}
                for here, there in ((name, other), (other, name)):
                    self.nodes[here].engine.knows(there, self.level_of(there))
                    self.nodes[here].engine.connected(there, self.incarnation(there))

    def isolate(self, name: str, *others: str, hint: bool = False) -> None:
        """End a node's streams to the others (all); what is on the table between them is lost."""
        for other in others or self.names:
            if (name, other) in self.links:
                self.links -= {(name, other), (other, name)}
                self.queue = [item for item in self.queue if {item[0], item[1]} != {name, other}]
                self.nodes[name].engine.disconnected(other, hint)
                self.nodes[other].engine.disconnected(name, hint)

    def deliver(self) -> None:
        """Hand over everything that lies on the table now."""
        queue, self.queue = self.queue, []
        for source, target, message in queue:
            if target in self.stopped:
                self.queue.append((source, target, message))
            else:
                self.nodes[target].engine.receive(source, codec.decode(codec.encode(message)))  # type: ignore[arg-type]

    def settle(self, passes: int = 200) -> None:
        """Pass and deliver until nothing moves at this instant."""
        for _ in range(passes):
            self.deliver()
            busy = [node for node in self.nodes.values() if node.name not in self.stopped and self._due(node)]
            for node in busy:
                node.step()
                if not self.hold_jobs:
                    node.run_jobs()
            if not busy:
                return

    def _due(self, node: RigNode) -> bool:
        return node.engine.next_deadline() <= self.now

    def run(self, seconds: float) -> None:
        """Let time go by, instant after instant."""
        end = self.now + seconds
        self.settle()
        while self.now < end:
            running = [node for node in self.nodes.values() if node.name not in self.stopped]
            upcoming = min((node.engine.next_deadline() for node in running), default=end)
            self.now = min(end, max(upcoming, self.now + 1e-6))
            self.settle()

    def elect(self, name: str) -> None:
        """Make a node campaign now; it wins if its peers let it."""
        self.nodes[name].engine._prevoting.campaign()
        self.nodes[name].step()
        self.settle()

    def propose(self, name: str, command: bytes, *, within: float = 5.0, term: int | None = None) -> None:
        """Propose at a node; the token is the command."""
        self.nodes[name].engine.propose(command, command, self.now + within, term)

    def change(self, name: str, change: Change) -> Any:
        """Ask a node for a change of members; what it answered, ``None`` if nothing yet."""
        node = self.nodes[name]
        node.answers.pop(change, None)
        node.engine.change(change, change)
        self.settle()
        return node.answers.get(change)

    def leaders(self) -> list[str]:
        """Names of those that lead and are ready."""
        return [node.name for node in self.nodes.values() if node.name not in self.stopped and node.status.ready]
