"""Endless change does not fill the disk: the log is cut behind snapshots, and old snapshots go."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery import limits
from discovery.command import Deregister, Found, Meta, Register, encode
from discovery.model import Instance
from discovery.raft.disk import RealDisk
from discovery.raft.engine import Engine
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.types import Job, Settings, run_job
from discovery.raft.wal import Wal
from discovery.store import Store

PER_PASS = 2_000
SMALL = Settings(snapshot_bytes=256 * 1024, window_bytes=256 * 1024, entry_bytes=128 * 1024)


class Machine:
    """The state machine, with nobody to tell of its changes."""

    def __init__(self) -> None:
        self.store = Store()

    @property
    def time_ms(self) -> int:
        return self.store.time_ms

    def apply(self, command: bytes, meta: Meta) -> object:
        return self.store.apply(command, meta).result

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        return self.store.snapshot().chunks

    def load(self, chunks: Iterator[bytes]) -> Any:
        return Store.load(chunks)

    def install(self, state: Any) -> None:
        self.store = state

    def role(self, *what: object) -> None:
        pass


class Alone:
    """A cluster of one without sockets; after each pass the directory is measured."""

    def __init__(self, folder: Path, settings: Settings, **sizes: int) -> None:
        self.folder = folder
        self.disk = RealDisk(folder)
        self.wal = Wal.open(self.disk, b"salt", **sizes)
        self.snapshots = SnapshotStore(self.disk)
        self.machine = Machine()
        self.greatest = self.snapshot_greatest = self.answered = 0
        self.engine = Engine(
            node_id="a",
            peers=(),
            wal=self.wal,
            snapshots=self.snapshots,
            machine=self.machine,
            clock=time.monotonic,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            random=random.Random(1),
            settings=settings,
        )

    def step(self) -> None:
        output = self.engine.step()
        if output.batch is not None:
            self.wal.write(output.batch)
        self.engine.synced()
        for job in output.jobs:
            self._run(job)
        self.answered += len(output.resolved)
        self._measure()

    def _run(self, job: Job) -> None:
        before = self.snapshots.latest()
        self.engine.job_done(job, run_job(job, self.snapshots, self.machine))
        latest = self.snapshots.latest()
        both = latest.size + (0 if before is None else before.size)  # just before the older one was removed
        self.snapshot_greatest = max(self.snapshot_greatest, latest.size)
        self.greatest = max(self.greatest, self.size() + both - latest.size)

    def _measure(self) -> None:
        self.greatest = max(self.greatest, self.size())

    def size(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self.folder))

    def change(self, commands: list[bytes]) -> None:
        """Propose, and go on until all are answered."""
        wanted = self.answered + len(commands)
        for command in commands:
            self.engine.propose(object(), command, time.monotonic() + 60)
        while self.answered < wanted:
            self.step()


def churn(count: int, instances: int) -> Iterator[list[bytes]]:
    """Registrations that differ each time, and every tenth time a removal."""
    source = random.Random(7)
    for begin in range(0, count, PER_PASS):
        commands = []
        for number in range(begin, min(count, begin + PER_PASS)):
            which = source.randrange(instances)
            service, id = f"svc{which % 500}", f"i{which}"
            if number % 10 == 9:
                commands.append(encode(Deregister("default", service, id, 0)))
            else:
                instance = Instance("default", service, id, ("10.0.0.1",), meta=(("build", str(number)),))
                commands.append(
                    encode(
                        Register(
                            instance,
                            status_given=False,
                            ttl_ms=15_000,
                            ttl_given=True,
                            join=0,
                            holder=0,
                            new_lease=number + 1,
                        )
                    )
                )
        yield commands


def bound(settings: Settings, retained_bytes: int, segment_bytes: int, snapshot_bytes: int) -> int:
    """The page's sum (docs/storage.md): what is kept, what gathers until the next snapshot, two snapshots."""
    gathered = max(settings.snapshot_bytes, snapshot_bytes)
    batch = settings.window_bytes + settings.entry_bytes
    return retained_bytes + gathered + 2 * (segment_bytes + batch) + 2 * snapshot_bytes


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("changes", "instances", "settings", "retained_bytes", "segment_bytes"),
    [
        (40_000, 1_000, SMALL, 512 * 1024, 128 * 1024),
        pytest.param(
            1_000_000, 20_000, Settings(), limits.LOG_RETAINED_BYTES, limits.WAL_SEGMENT_BYTES, marks=pytest.mark.long
        ),
    ],
    ids=["small sizes", "a million changes"],
)
def test_the_data_directory_stays_within_its_bound(
    tmp_path, changes, instances, settings, retained_bytes, segment_bytes, capsys, monkeypatch
):
    if settings is SMALL:  # otherwise the change log would be most of a snapshot
        monkeypatch.setattr(limits, "CHANGE_LOG_CHANGES_MAX", 200)
        monkeypatch.setattr(limits, "EVENTS_MAX", 100)
    sizes = {"segment_bytes": segment_bytes, "retained_bytes": retained_bytes}
    node = Alone(tmp_path / "raft", settings, **sizes)
    while not node.engine.status().ready:
        node.step()
    node.change([encode(Found("0123456789abcdef"))])
    began = time.monotonic()
    for commands in churn(changes, instances):
        node.change(commands)
    most = bound(settings, retained_bytes, segment_bytes, node.snapshot_greatest)
    sizes_mib = [size / 2**20 for size in (node.wal.bytes_written, node.greatest, most, node.snapshot_greatest)]
    with capsys.disabled():
        print(
            f"\n    {changes:,} changes of {instances:,} instances in {time.monotonic() - began:.0f} s: "
            "{:.1f} MiB of log written; the directory had at most {:.1f} (bound {:.1f}), a snapshot {:.1f}".format(
                *sizes_mib
            )
        )
    assert node.wal.bytes_written > 1.2 * most, "too little was written to show anything"
    assert node.greatest <= most
    again = Store.load(node.snapshots.latest().chunks())
    assert again.revision > 0
    before = node.machine.store.digest()
    node.disk.close()
    restarted = Alone(tmp_path / "raft", settings, **sizes)
    while not restarted.engine.status().ready:
        restarted.step()
    assert restarted.machine.store.digest() == before
    restarted.disk.close()
