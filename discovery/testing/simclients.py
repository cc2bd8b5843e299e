"""Clients of a simulated cluster: writers, readers, and holders of leases that register, beat and fall silent.

Some writers repeat with an Idempotency-Key until they know, and some of them once more long after they do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from discovery.command import Idempotency, Put, Register, Written, encode
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

        node.request(lambda: node.registry.propose(encode(command), answered))

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

        node.request(lambda: node.registry.heartbeat(lease, answered))


class Persistent:
    """One write that must happen, once: repeated under its key, at any node, until it is acknowledged, and later."""

    def __init__(self, name: str, clients: Clients) -> None:
        self.name = name
        self._clients, self._world, self._watch = clients, clients.world, clients.watch
        self._command = encode(Put(name, name.encode(), if_revision=0), Idempotency(name, name.encode()))
        self._again = self._world.chance(0.3)
        self._tries = 0

    def send(self) -> None:
        """To some node; who answers nothing in time is not waited for."""
        node = self._clients.pick()
        self._tries += 1
        if self._tries > 1:
            self._watch.once.repeats += 1
        try_number = self._tries
        if node is not None:
            node.request(lambda: node.registry.propose(self._command, self._answered, within=1.0))
        self._world.after(1.5, lambda: self.send() if self._tries == try_number and not self._known else None)

    @property
    def _known(self) -> bool:
        return self.name in self._watch.acknowledged

    def _answered(self, result: Any) -> None:
        if isinstance(result, Exception):
            try_number = self._tries
            wait = self._world.between(0.01, 0.5)
            self._world.after(wait, lambda: self.send() if self._tries == try_number and not self._known else None)
            return
        self._watch.once.answered(self.name, result)
        self._watch.acknowledge(self.name, result)
        if self._again:
            self._again = False
            self._world.after(self._world.between(0.1, 6.0), lambda: None if self._clients.quiet else self.send())


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
        self.world.after(0.15, self._write_once)
        self.world.after(0.2, self._read)
        for number, holder in enumerate(self.holders):
            holder.begin()
            if number % 2:
                self.world.at(self.world.between(self.world.now + 2, until), holder.die)

    def pick(self) -> SimNode | None:
        """A node that takes requests (a paused one does: it answers later, if it lives)."""
        alive = [node for node in self.nodes if node.running or (node.alive and self.world.chance(0.2))]
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
            node.request(partial(node.registry.propose, command, partial(self.watch.answered, name)))

    def _write_once(self) -> None:
        if self.world.now > self._until:
            return
        self.world.after(self.world.between(0.05, 0.3), self._write_once)
        self._writes += 1
        Persistent(f"k{self._writes}", self).send()

    def _read(self) -> None:
        if self.world.now > self._until:
            return
        self.world.after(self.world.between(0.05, 0.3), self._read)
        node = self.pick()
        if node is not None:
            begun = self.world.now

            def answered(result: Any) -> None:
                if not isinstance(result, Exception):
                    self.watch.read(node, begun)

            node.request(lambda: node.registry.read(answered))

    def check_end(self, store: Store) -> None:
        """Dead means gone, living means there (after a quiet time); who repeats until he knows knows."""
        unknown = [name for name in self.watch.once.effects if name[0] == "k" and name not in self.watch.acknowledged]
        if unknown:
            raise Violation(f"{unknown} took effect, and nobody was told in all the quiet time")
        present = store.instances("default", "web")
        for holder in self.holders:
            if holder.dead == (holder.name in present):
                raise Violation(f"{holder.name} is {'dead but there' if holder.dead else 'alive but gone'}")
