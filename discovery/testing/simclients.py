"""Clients of a simulated cluster: writers, readers, and holders of leases that register, beat and fall silent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from discovery.command import Put, Register, Written, encode
from discovery.model import Instance
from discovery.testing.simwatch import Violation

if TYPE_CHECKING:
    from discovery.store import Store
    from discovery.testing.simnet import World
    from discovery.testing.simnode import SimNode
    from discovery.testing.simwatch import Watch

_HOLDERS = 6
_FAILURES_MAX = 4


class Holder:
    """One instance's process: registers, beats every quarter of its TTL, dies at some time."""

    def __init__(self, number: int, clients: Clients) -> None:
        self._clients = clients
        self._world, self._watch = clients.world, clients.watch
        self.name = f"i{number}"
        self._ttl_s = self._world.random.choice((1.0, 1.5, 2.5))
        self._lease: int | None = None
        self._failures = 0
        self.dead = False

    def die(self) -> None:
        """Beat no more."""
        self.dead = True

    def begin(self) -> None:
        """Start, some time soon."""
        self._world.after(self._world.between(0.5, 2.0), self._turn)

    def _turn(self) -> None:
        if self.dead:
            return
        self._world.after(self._ttl_s / 4, self._turn)
        node = self._clients.pick()
        if node is None:
            return
        if self._lease is None:
            self._put(node, 0)
        elif not self._clients.quiet and self._world.chance(0.1):
            self._put(node, self._lease)
        else:
            self._beat(node, self._lease)

    def _put(self, node: SimNode, holder: int) -> None:
        """Register; with ``holder`` the lease is kept and started afresh."""
        sent = self._world.now
        lease = self._clients.new_lease(self._ttl_s)
        spec = Instance("default", "web", self.name, ("10.0.0.1",))
        command = Register(spec, False, int(self._ttl_s * 1000), True, 0, holder, lease)

        def answered(result: Any) -> None:
            if isinstance(result, Written) and result.lease is not None:
                self._lease = result.lease.id
                self._watch.heartbeat_acknowledged(self._lease, sent)
            elif not isinstance(result, Exception):
                self._lease = None

        node.registry.propose(encode(command), answered)

    def _beat(self, node: SimNode, lease: int) -> None:
        sent = self._world.now

        def answered(renewed: bool) -> None:
            if renewed:
                self._failures = 0
                self._watch.heartbeat_acknowledged(lease, sent)
                return
            # A real one can tell apart 404 from 503; here it registers anew after some failures.
            self._failures += 1
            if self._failures > _FAILURES_MAX and self._lease == lease:
                self._lease, self._failures = None, 0

        node.registry.heartbeat(lease, answered)


class Clients:
    """Everybody outside."""

    def __init__(self, world: World, nodes: list[SimNode], watch: Watch) -> None:
        self.world, self.nodes, self.watch = world, nodes, watch
        self.holders = [Holder(number, self) for number in range(_HOLDERS)]
        self._writes = 0
        self._leases = 0
        self._until = 0.0
        self.quiet = False
        """Nobody writes any more who has what he wants."""

    def begin(self, until: float) -> None:
        """Go on until then; half of the holders die on the way."""
        self._until = until
        self.world.after(0.1, self._write)
        self.world.after(0.2, self._read)
        for number, holder in enumerate(self.holders):
            holder.begin()
            if number % 2:
                self.world.at(self.world.between(self.world.now + 2, until), holder.die)

    def pick(self) -> SimNode | None:
        """A node that takes requests (a paused one does: it answers later)."""
        alive = [node for node in self.nodes if node.running]
        return self.world.random.choice(alive) if alive else None

    def new_lease(self, ttl_s: float) -> int:
        """An id for a lease that may have to be granted."""
        self._leases += 1
        self.watch.ttl_s[self._leases] = ttl_s
        return self._leases

    def _write(self) -> None:
        if self.world.now > self._until:
            return
        self.world.after(self.world.between(0.002, 0.06), self._write)
        node = self.pick()
        if node is None:
            return
        for _ in range(self.world.random.choice((1, 1, 1, 4))):
            self._writes += 1
            name = f"w{self._writes}"
            size = self.world.random.choice((10, 10, 10, 600))
            command = encode(Put(name, bytes(size)))
            node.registry.propose(command, partial(self.watch.answered, name))

    def _read(self) -> None:
        if self.world.now > self._until:
            return
        self.world.after(self.world.between(0.05, 0.3), self._read)
        node = self.pick()
        if node is not None:
            begun = self.world.now
            node.registry.read(lambda result: None if isinstance(result, Exception) else self.watch.read(node, begun))

    def check_end(self, store: Store) -> None:
        """Dead means gone, living means there (after a quiet time)."""
        present = store.instances("default", "web")
        for holder in self.holders:
            if holder.dead == (holder.name in present):
                raise Violation(f"{holder.name} is {'dead but there' if holder.dead else 'alive but gone'}")
