"""A node in virtual time: the real engine, log, snapshots and registry rules on a simulated disk and network."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any, Final

from discovery.errors import DiskFull
from discovery.leases import STALL_S
from discovery.raft.codec import AppRequest, AppResponse, Message
from discovery.raft.configuration import Configuration
from discovery.raft.core import Core
from discovery.raft.engine import Engine
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.types import Job, Output, Settings, run_job
from discovery.raft.wal import Wal
from discovery.testing.simdisk import SimDisk
from discovery.testing.simnet import Host, Network, World
from discovery.testing.simpromises import Follower
from discovery.testing.simregistry import SimRegistry
from discovery.testing.simwatch import Watch

SETTINGS = Settings(snapshot_bytes=24 * 1024, window_bytes=16 * 1024, batch_bytes=4 * 1024, chunk_bytes=2 * 1024)
"""Small sizes, so that compaction, transfers and full windows happen in every run."""


_RESTART_S: Final = (0.05, 0.5)


class SimNode:
    """One host: what survives a crash (disk, identity) and what does not (the process)."""

    core_class: type[Core] = Core
    engine_class: type[Engine] = Engine
    registry_class: type[SimRegistry] = SimRegistry

    def __init__(
        self, name: str, peers: list[str], world: World, network: Network, watch: Watch, *, lying_disk: bool = False
    ) -> None:
        self.name = name
        self.peers = peers
        self.world, self.network, self.watch = world, network, watch
        self.disk = SimDisk(random.Random(world.random.random()), lying=lying_disk)  # noqa: S311
        self.incarnation = f"{name}-1"
        self.members: dict[str, str] = {}
        self.seed: Configuration | None = None
        """The members by this node's identity file; ``None``: in this run they never change."""
        self.alive = False
        self.paused = False
        self.slow_disk = False
        self.busy_s = self.usual_s = world.random.choice((0.0, 0.0005, 0.003, 0.01))
        """How long the process takes at most until it looks at what arrived, or at the clock; and usually."""
        self._stood_s = self._paused_at = 0.0
        self.well_since = float("inf")
        """Since when the process runs without anything being wrong with its machine; ``inf``: it does not."""
        self.skew_ms = world.random.randint(-3000, 3000)
        self.follower = Follower(name)
        self._parcel: list[Callable[[], None]] = []
        self._process = 0
        self._syncing = False
        self._epochs: dict[str, int] = {}
        self._wake_at = float("inf")
        self.fulls = self.failures = 0
        network.add(self)

    @property
    def process(self) -> int:
        """Which of its processes runs."""
        return self._process

    # -- the process ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process on what the disk holds."""
        self._process += 1
        self.alive, self.paused, self._syncing, self._parcel = True, False, False, []
        self._wake_at = float("inf")
        self.note_health()
        try:
            self._build()
        except (OSError, DiskFull):
            self.fail()
            return
        self.disk.settle()
        self.wake()

    def _build(self) -> None:
        """The process on what the disk holds."""
        self.wal = Wal.open(self.disk, self.incarnation.encode(), segment_bytes=8 * 1024, retained_bytes=8 * 1024)
        self.snapshots = SnapshotStore(self.disk)
        self.registry = self.registry_class(self)
        self.follower.restarted(self.registry.store.revision)
        self.engine = self.engine_class(
            node_id=self.name,
            peers=self.peers,
            wal=self.wal,
            snapshots=self.snapshots,
            machine=self.registry,
            clock=lambda: self.world.now,
            wall_ms=self._wall_to_stamp,
            random=random.Random(self.world.random.random()),  # noqa: S311
            settings=SETTINGS,
            core_class=self.core_class,
            incarnation=self.incarnation if self.seed is not None else "",
            members=self.seed,
        )
        self.engine.before_round = self.registry.flush_heartbeats

    def fail(self) -> None:
        """The disk failed: the process ends at once, and its supervisor starts another."""
        self.failures += 1
        self.kill(power=False)
        process = self._process
        wait = self.world.between(*_RESTART_S)
        self.world.after(wait, lambda: self.start() if self._process == process else None)

    def kill(self, *, power: bool) -> None:
        """Kill the process; with ``power`` what the disk was not told to sync is lost in part."""
        if not self.alive:
            return
        self.alive = False
        self.well_since = float("inf")
        self._process += 1
        self.network.closed_by(self.name)
        if power:
            self.disk.crash()
        else:
            self.disk.stop()

    def pause(self) -> None:
        """SIGSTOP: the kernel goes on receiving."""
        self.paused, self._paused_at = True, self.world.now
        self.note_health()

    def resume(self) -> None:
        """SIGCONT."""
        if self.alive and self.paused:
            self.paused = False
            stood_s = self.world.now - self._paused_at
            self._stood_s += stood_s if stood_s > 2 * STALL_S else 0.0
            parcel, self._parcel = self._parcel, []
            for event in parcel:
                event()
            self.note_health()
            self.wake()

    def awake_s(self) -> float:
        """A clock that does not count long pauses; within one process differences have a meaning."""
        return self.world.now - self._stood_s

    def note_health(self) -> None:
        """Something about the process or its machine changed."""
        well = self.running and not self.slow_disk and not self.disk.full and self.busy_s <= self.usual_s
        self.well_since = self.world.now if well else float("inf")

    def wall_ms(self) -> int:
        """A wall clock that is a little wrong, and after a jump very much so."""
        return int(self.world.now * 1000) + 1_700_000_000_000 + self.skew_ms

    def _wall_to_stamp(self) -> int:
        core = self.engine._core
        self.watch.log_time.stamping(core.term, core.last_index + 1, self.world.now)
        return self.wall_ms()

    # -- Host -----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether handshakes are answered."""
        return self.alive and not self.paused

    def knows(self, other: Host) -> bool:
        """Membership by (id, incarnation): a known id with an emptied disk is nobody (hazard 20)."""
        return not self.members or self.members.get(other.name) == getattr(other, "incarnation", None)

    def on_connected(self, peer: str) -> None:
        """A stream begins."""
        self._event(lambda: self._met(peer))

    def on_disconnected(self, peer: str, hint: bool) -> None:
        """A stream ended."""
        self._event(lambda: self._lost(peer, hint))

    def _met(self, peer: str) -> None:
        self._epochs[peer] = self._epochs.get(peer, 0) + 1
        self.engine.connected(peer)

    def _lost(self, peer: str, hint: bool) -> None:
        self._epochs[peer] = self._epochs.get(peer, 0) + 1
        self.registry.lost(peer)
        self.engine.disconnected(peer, hint)

    def on_message(self, peer: str, message: Message) -> None:
        """A message arrived."""
        if isinstance(message, AppRequest):
            self._event(lambda: self.registry.on_request(peer, message))
        elif isinstance(message, AppResponse):
            self._event(lambda: self.registry.on_response(peer, message))
        else:
            self._event(lambda: self.engine.receive(peer, message))

    def _event(self, event: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._parcel.append(event)
        else:
            event()
            self.wake()

    def request(self, request: Callable[[], None]) -> None:
        """A client's request arrives; a paused process finds it when it goes on."""
        self._event(request)

    def timer(self, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` in this process, if it lives then."""
        process = self._process
        self.world.after(delay, lambda: self._event(action) if self._process == process else None)

    # -- the driver -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Run a pass at this instant, or when the process gets around to it."""
        self._wake(self.world.now)

    def _wake(self, when: float) -> None:
        when += self.world.between(0, self.busy_s) if self.busy_s else 0.0
        if when < self._wake_at:
            self._wake_at = when
            process = self._process
            self.world.at(when, lambda: self._woken(when) if self._process == process else None)

    def _woken(self, when: float) -> None:
        if when != self._wake_at:
            return
        self._wake_at = float("inf")
        if self._syncing:
            return
        if self.paused:
            self._parcel.append(lambda: None)
            return
        self._pass()

    def _pass(self) -> None:
        epochs = dict(self._epochs)
        output = self.engine.step()
        self.watch.stepped(self)
        self.network.send_all(self.name, output.early)
        for job in output.jobs:
            self._begin(job)
        if output.batch is None:
            self._synced(output, epochs)
            return
        full = ""
        try:
            self.wal.write(output.batch)
        except DiskFull as error:
            full = error.detail
        except OSError:
            self.fail()
            return
        self._syncing = True
        process = self._process
        delay = self.world.between(0.0001, 0.006) if not self.slow_disk else self.world.between(0.05, 0.5)
        self.world.after(delay, lambda: self._sync_ended(process, output, epochs, full))

    def _sync_ended(self, process: int, output: Output, epochs: dict[str, int], full: str) -> None:
        if self._process != process:
            return
        if self.paused:
            self._parcel.append(lambda: self._sync_ended(process, output, epochs, full))
            return
        self._syncing = False
        self.disk.settle()
        self._synced(output, epochs, full)

    def _synced(self, output: Output, epochs: dict[str, int], full: str = "") -> None:
        if full:
            self.fulls += 1
            self.engine.unsynced(full)
        else:
            self.engine.synced()
            # What was meant for a stream that ended since the pass began is dropped with it, as the driver does.
            late = [item for item in output.late if self._epochs.get(item[0]) == epochs.get(item[0])]
            self.network.send_all(self.name, late)
        for token, result in [*output.resolved, *output.confirmed, *output.readable]:
            self._answer(token, result)
        self._wake(max(self.world.now, self.engine.next_deadline()))

    def _answer(self, token: Hashable, result: Any) -> None:
        assert callable(token)
        token(result)

    def _begin(self, job: Job) -> None:
        """A thread's work: it ends some time later, or the process dies before."""
        result: Any = None
        try:
            result = run_job(job, self.snapshots, self.registry)
        except OSError:
            self.fail()
            return
        except Exception as error:
            result = error
        self.timer(self.world.between(0.001, 0.2), lambda: self._ended(job, result))

    def _ended(self, job: Job, result: Any) -> None:
        self.disk.settle()
        self.engine.job_done(job, result)
