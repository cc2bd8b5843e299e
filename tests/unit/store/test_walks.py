"""Long random walks: seeded, and aware of the state, so that most commands hit something that is there.

What hypothesis finds in short logs (``test_model.py``), these find in long ones. A failure names its seed.
"""

from __future__ import annotations

import random
from unittest import mock

import pytest

from discovery import command as c
from discovery import limits
from discovery.model import Instance, Port, Service
from discovery.store import Store

NAMES = [
    (namespace, service, name) for namespace in ("default", "prod") for service in ("web", "db") for name in "abcd"
]
KEYS = [f"{left}{right}" for left in ("k", "k/", "l/") for right in "123"]


class Walker:
    """Draws the next command from what a store holds."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.choices = [
            (self.register, 8),
            (self.join, 3),
            (self.deregister, 2),
            (self.set_status, 2),
            (self.set_service, 1),
            (self.delete_service, 1),
            (self.grant, 1),
            (self.revoke, 1),
            (self.evict, 2),
            (self.checkpoint, 1),
            (self.put, 4),
            (self.delete, 1),
            (self.txn, 2),
        ]

    def command(self, store):
        kinds, weights = zip(*self.choices, strict=True)
        return self.random.choices(kinds, weights)[0](store)

    def some(self, things, otherwise=0):
        things = sorted(things)
        return self.random.choice(things) if things and self.random.random() < 0.9 else otherwise

    def lease(self, store):
        return self.some([lease.id for lease in store.leases()], 999)

    def spec(self):
        draw = self.random.choice
        names = draw(NAMES)
        return Instance(
            *names,
            (draw(["10.0.0.1", "fd00::1"]),),
            draw([(), (Port("http", 80),)]),
            status=draw(["ready", "not_ready"]),
        )

    def register(self, store, join=0):
        spec = self.spec()
        record = store.instance(spec.namespace, spec.service, spec.id)
        if record and self.random.random() < 0.3:
            spec = record.spec
        holder = record.lease if record and self.random.random() < 0.7 else 0
        condition = None
        if self.random.random() < 0.1:
            condition = record.mod_revision if record else 0
        ttl_ms = None if join or self.random.random() < 0.1 else self.random.choice([10_000, 60_000])
        given = self.random.random() < 0.9
        fresh = self.random.getrandbits(62) + 1
        return c.Register(spec, self.random.random() < 0.5, ttl_ms, given, join, holder, fresh, condition)

    def join(self, store):
        return self.register(store, self.lease(store))

    def deregister(self, store):
        names = self.random.choice(NAMES)
        record = store.instance(*names)
        return c.Deregister(*names, record.lease if record and self.random.random() < 0.5 else 0)

    def set_status(self, store):
        return c.SetStatus(*self.random.choice(NAMES), self.random.choice(["ready", "draining"]))

    def set_service(self, store):
        namespace, service, _ = self.random.choice(NAMES)
        if self.random.random() < 0.2:
            return c.SetService(Service(namespace, service, "external", external_name="example.org"))
        return c.SetService(Service(namespace, service, default_ttl_ms=self.random.choice([None, 5_000])))

    def delete_service(self, store):
        return c.DeleteService(*self.random.choice(NAMES)[:2])

    def grant(self, store):
        return c.Grant(self.random.getrandbits(62) + 1, self.random.choice([10_000, 60_000]))

    def revoke(self, store):
        return c.Revoke(self.lease(store))

    def pairs(self, store, last):
        leases = [lease for lease in store.leases() if self.random.random() < 0.3]
        leases.sort(key=lambda lease: lease.id)
        return tuple((lease.id, lease.version + (self.random.random() < 0.2), last) for lease in leases)

    def evict(self, store):
        return c.Evict(1 if self.random.random() < 0.8 else 2, self.pairs(store, None))

    def checkpoint(self, store):
        return c.Checkpoint(1, self.pairs(store, self.random.randrange(60_000)))

    def put(self, store):
        lease = self.lease(store) if self.random.random() < 0.5 else 0
        return c.Put(self.random.choice(KEYS), self.random.randbytes(2), lease)

    def delete(self, store):
        prefix = self.random.random() < 0.3
        return c.Delete(self.random.choice(["k", "k/", "l/", ""]) if prefix else self.random.choice(KEYS), prefix)

    def txn(self, store):
        key = self.random.choice(KEYS)
        record = store.key(key)
        compare = c.Compare(key, "revision", self.random.choice(["==", "<"]), record.mod_revision if record else 0)
        puts = [c.Put(name, b"t", self.lease(store)) for name in self.random.sample(KEYS, 2)]
        other = [c.Delete(self.random.choice(KEYS)), c.Get("k", prefix=True)]
        self.random.shuffle(other)
        return c.Txn((compare,), tuple(puts[:1] + other), tuple(other + puts))


def followed(state, outcome):
    for change in outcome.group.changes if outcome.group else ():
        thing = (change.resource, change.namespace, change.service, change.name)
        state.pop(thing, None)
        if change.kind == "put":
            state[thing] = change.record


@pytest.mark.parametrize("seed", range(25))
def test_a_long_walk_of_two_nodes(new_log, naive, seed):
    """One node replays all, the other is reloaded from snapshots now and then: equal, and equal to the model."""
    walker, one, other, model, follower = Walker(seed), new_log(), new_log(), naive.Naive(), {}
    for _ in range(120):
        command = walker.command(one.store)
        if walker.random.random() < 0.1:
            other.store = Store.load(other.store.snapshot().chunks())
        outcome = one.outcome(command)
        assert outcome == other.outcome(command), (seed, command)
        assert naive.summary(outcome.result) == model.apply(command), (seed, command, outcome.result)
        naive.assert_equal_state(one.store, model)
        followed(follower, outcome)
    assert one.store.digest() == other.store.digest()
    assert follower == naive.held(one.store)


@pytest.mark.parametrize("seed", range(25))
def test_a_long_walk_with_a_short_memory(new_log, naive, seed):
    """Log and events overflow all the time: indexes never fall, and a reloaded node knows the same ones."""
    walker, one, other = Walker(seed), new_log(), new_log()
    with mock.patch.multiple(limits, CHANGE_LOG_CHANGES_MAX=16, EVENTS_MAX=5):
        last = naive.indexes(one.store)
        for _ in range(200):
            command = walker.command(one.store)
            if walker.random.random() < 0.1:
                other.store = Store.load(other.store.snapshot().chunks())
            assert one.outcome(command) == other.outcome(command)
            now = naive.indexes(one.store)
            assert now == naive.indexes(other.store), (seed, command)
            assert all(now[thing] >= last[thing] for thing in now), (seed, command)
            last = now
        assert one.store.changes_since(one.store.floor) == one.groups[one.store.floor :]
        assert one.store.digest() == other.store.digest()
