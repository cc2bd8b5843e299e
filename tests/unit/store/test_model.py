"""Properties over whole logs: against a naive model, replay, snapshot and replay, hostile bytes.

Logs are drawn by hypothesis: short, and shrunk to the shortest that fails. ``test_walks.py`` has the long ones.
"""

from __future__ import annotations

from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discovery import command as c
from discovery import limits
from discovery.model import Instance, Port, Service
from discovery.store import Store


def mostly(common, rare):
    """A strategy for the common case, one in eight for the rare one."""
    return st.integers(0, 7).flatmap(lambda dice: rare if dice == 7 else common)


NAMESPACES = st.sampled_from(["default", "default", "default", "prod"])
SERVICES = st.sampled_from(["web", "web", "web", "db"])
IDS = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from(["k", "k/1", "k/2", "l"])
PREFIXES = st.sampled_from(["", "k", "k/"])
LEASES = st.integers(1, 6)
MAYBE_LEASE = st.integers(0, 6)
CONDITION = mostly(st.none(), st.integers(0, 12))
TTLS = st.sampled_from([1_000, 60_000])
STATUSES = st.sampled_from(["ready", "not_ready", "draining"])
TERMS = st.sampled_from([1, 1, 1, 2])

INSTANCES = st.builds(
    Instance,
    NAMESPACES,
    SERVICES,
    IDS,
    mostly(st.just(("10.0.0.1",)), st.sampled_from([("10.0.0.2", "fd00::1"), ("bad",)])),
    st.sampled_from([(), (Port("http", 80),)]),
    weight=st.integers(0, 1),
    status=STATUSES,
)
REGISTRATIONS = st.builds(
    c.Register,
    INSTANCES,
    st.booleans(),
    mostly(TTLS, st.none()),
    mostly(st.just(True), st.just(False)),
    st.just(0),
    MAYBE_LEASE,
    st.integers(1, 12),
    CONDITION,
)
JOINS = st.builds(
    c.Register, INSTANCES, st.booleans(), mostly(st.none(), TTLS), st.just(True), LEASES, MAYBE_LEASE, LEASES, CONDITION
)
SETTINGS = st.builds(Service, NAMESPACES, SERVICES, default_ttl_ms=st.sampled_from([None, 5_000]))
EXTERNAL = st.builds(Service, NAMESPACES, SERVICES, st.just("external"), external_name=st.just("example.org"))
PUTS = st.builds(c.Put, KEYS, st.sampled_from([b"", b"1"]), MAYBE_LEASE, CONDITION)
PLAIN_PUTS = st.builds(c.Put, KEYS, st.sampled_from([b"", b"1"]), MAYBE_LEASE)
DELETES = st.one_of(
    st.builds(c.Delete, KEYS, st.just(False), CONDITION), st.builds(c.Delete, PREFIXES, st.just(True), st.none())
)
PLAIN_DELETES = st.one_of(st.builds(c.Delete, KEYS), st.builds(c.Delete, PREFIXES, st.just(True)))
GETS = st.one_of(st.builds(c.Get, KEYS), st.builds(c.Get, PREFIXES, st.just(True)))
OPS = st.lists(st.one_of(PLAIN_PUTS, PLAIN_DELETES, GETS), max_size=3).map(tuple)
NUMBERS = st.builds(
    c.Compare,
    KEYS,
    st.sampled_from(["revision", "create_revision", "version", "lease"]),
    st.sampled_from(["==", "!=", "<", ">"]),
    st.integers(0, 5),
)
VALUES = st.builds(c.Compare, KEYS, st.just("value"), st.sampled_from(["==", "!=", "<", ">"]), st.just(b"1"))
COMPARES = st.lists(st.one_of(NUMBERS, VALUES), max_size=2).map(tuple)
VERSIONS = st.integers(1, 2)
EVICTIONS = st.lists(st.tuples(LEASES, VERSIONS, st.none()), max_size=4).map(tuple)
CHECKPOINTS = st.lists(st.tuples(LEASES, VERSIONS, st.sampled_from([-1, 500, 60_000])), max_size=3).map(tuple)
COMMANDS = st.one_of(
    REGISTRATIONS,
    REGISTRATIONS,
    REGISTRATIONS,
    REGISTRATIONS,
    JOINS,
    JOINS,
    st.builds(c.Deregister, NAMESPACES, SERVICES, IDS, mostly(st.just(0), LEASES), CONDITION),
    st.builds(c.SetStatus, NAMESPACES, SERVICES, IDS, STATUSES, mostly(st.just(0), LEASES)),
    st.builds(c.SetService, mostly(SETTINGS, EXTERNAL), CONDITION),
    st.builds(c.DeleteService, NAMESPACES, SERVICES),
    st.builds(c.Grant, LEASES, TTLS),
    st.builds(c.Revoke, LEASES),
    st.builds(c.Evict, TERMS, EVICTIONS),
    st.builds(c.Checkpoint, TERMS, CHECKPOINTS),
    PUTS,
    PUTS,
    DELETES,
    st.builds(c.Txn, COMPARES, OPS, OPS),
)
LOGS = st.lists(COMMANDS, min_size=8, max_size=60)
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@MANY
@given(LOGS)
def test_the_store_does_what_the_naive_model_does(new_log, naive, commands):
    log, model = new_log(), naive.Naive()
    for command in commands:
        before = log.store.digest()
        outcome = log.outcome(command)
        assert naive.summary(outcome.result) == model.apply(command), (command, outcome.result)
        if isinstance(outcome.result, c.Failure):
            assert (log.store.digest(), outcome.group, outcome.leases) == (before, None, ())
        naive.assert_equal_state(log.store, model)
    assert [group.revision for group in log.groups] == list(range(1, log.store.revision + 1))
    assert naive.replayed(log.groups) == naive.held(log.store)


@MANY
@given(LOGS)
def test_clocks_that_follow_the_effects_know_every_lease(new_log, commands):
    log, known = new_log(), {}
    for command in commands:
        for effect in log.outcome(command).leases:
            if effect.kind == "gone":
                del known[effect.id]
            else:
                assert effect.kind == "started" or known[effect.id] == (effect.version, effect.ttl_ms)
                known[effect.id] = (effect.version, effect.ttl_ms)
        assert known == {lease.id: (lease.version, lease.ttl_ms) for lease in log.store.leases()}


@MANY
@given(st.lists(st.tuples(COMMANDS, st.sampled_from(["", "", "1", "2"]), st.booleans()), min_size=8, max_size=50))
def test_replay_and_snapshot_and_replay_agree(new_log, naive, steps):
    """With small bounds, so that log, events and idempotency keys overflow; indexes never fall."""
    small = {"CHANGE_LOG_CHANGES_MAX": 8, "EVENTS_MAX": 5, "IDEMPOTENCY_KEYS_MAX": 1, "IDEMPOTENCY_AGE_MS": 3}
    with mock.patch.multiple(limits, **small):
        one, other = new_log(), new_log()
        last = naive.indexes(one.store)
        for command, key, reload in steps:
            one.time_ms = other.time_ms = one.time_ms + 1
            if reload:
                other.store = Store.load(other.store.snapshot().chunks())
            assert one.outcome(command, key or None) == other.outcome(command, key or None)
            assert one.store.digest() == other.store.digest()
            now = naive.indexes(one.store)
            assert now == naive.indexes(other.store)
            assert all(now[thing] >= last[thing] for thing in now)
            last = now
        assert one.store.changes_since(one.store.floor) == one.groups[one.store.floor :]


@MANY
@given(LOGS, st.binary(max_size=200))
def test_any_bytes_are_a_refusal_and_change_nothing(new_log, commands, data):
    log = new_log()
    for command in commands[:5]:
        log(command)
    before = log.store.digest()
    result = log(data)
    assert (result.code, log.store.digest()) == ("invalid_input", before)


@MANY
@given(LOGS, st.data())
def test_damaged_commands_are_applied_whole_or_not_at_all(new_log, commands, data):
    log = new_log()
    for command in commands:
        damaged = bytearray(c.encode(command, None, "tester"))
        for _ in range(data.draw(st.integers(0, 2))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        before = log.store.digest()
        outcome = log.outcome(bytes(damaged))
        if isinstance(outcome.result, c.Failure):
            assert log.store.digest() == before
        assert Store.load(log.store.snapshot().chunks()).digest() == log.store.digest()
