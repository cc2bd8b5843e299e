"""Disks that are full for a while, and syncs that fail, in a simulated run: beside all other faults.

A full disk must cost nothing but this node's part; a failed sync ends the process at once, and the next one must not
believe what the kernel shows it (:mod:`.simdisk`).
"""

from __future__ import annotations

import random
from typing import Any

from discovery.errors import DiskFull
from discovery.raft.types import Job, Output
from discovery.testing.simnode import SimNode
from discovery.testing.simulation import Plan, Simulation


class BadDiskNode(SimNode):
    """A node that does what the driver does when the log cannot be written."""

    _last: Output
    fulls = 0
    failures = 0

    def start(self) -> None:
        """Start the process, and keep what each pass gave."""
        try:
            super().start()
        except OSError:
            self.exit()
            return
        step = self.engine.step

        def remember() -> Output:
            self._last = step()
            return self._last

        self.engine.step = remember  # type: ignore[method-assign]

    def _pass(self) -> None:
        try:
            super()._pass()
        except DiskFull as error:
            self.fulls += 1
            self._no_room(error)
        except OSError:
            self.exit()

    def _no_room(self, error: DiskFull) -> None:
        self._syncing = False
        self.disk.settle()
        self.engine.unsynced(error.detail)
        for token, result in [*self._last.resolved, *self._last.confirmed, *self._last.readable]:
            self._answer(token, result)
        self._wake(max(self.world.now, self.engine.next_deadline()))

    def _ended(self, job: Job, result: Any) -> None:
        if isinstance(result, OSError):
            self.exit()
        else:
            super()._ended(job, result)

    def exit(self) -> None:
        """A sync failed: the process ends by itself, and is started again some time later."""
        self.failures += 1
        self.kill(power=False)
        self.world.after(self.world.between(0.02, 2.0), lambda: None if self.alive else self.start())

    def fill(self, seconds: float) -> None:
        """No room for so long. Nobody expects this node to be of use meanwhile."""
        self.disk.full = self.slow_disk = True
        self.world.after(seconds, self.empty)

    def empty(self) -> None:
        """Room again."""
        self.disk.full = self.slow_disk = False

    def fail_next_sync(self) -> None:
        """Whenever that is."""
        self.disk.failing = self.alive


class BadDisks(Simulation):
    """A run with such disks; they are the only ones that are slow."""

    node_class: type[SimNode] = BadDiskNode

    def __init__(self, seed: int, plan: Plan) -> None:
        super().__init__(seed, plan)
        source = random.Random(f"disks {seed}")  # noqa: S311 - a simulation must be repeatable
        at = source.uniform(0.5, 1.5)
        while at < plan.chaos_s - 3.0:
            self.world.after(at, lambda: self._worsen(source))
            at += source.uniform(0.3, 1.5)

    def _worsen(self, source: random.Random) -> None:
        nodes = self.nodes if source.random() < 0.15 else [source.choice(self.nodes)]
        full = source.random() < 0.6
        for node in nodes:
            assert isinstance(node, BadDiskNode)
            if full:
                node.fill(source.uniform(0.1, 3.0))
            else:
                node.fail_next_sync()


def plan(nodes: int = 3, chaos_s: float = 10.0) -> Plan:
    """All usual faults but slow disks, which would end a full one; then peace for longer than a transfer may wait."""
    weights = tuple((name, weight) for name, weight in Plan().weights if name != "slow_disk")
    return Plan(nodes=nodes, chaos_s=chaos_s, weights=weights, quiet_s=16.0)
