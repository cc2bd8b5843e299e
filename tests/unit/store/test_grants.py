"""Leases in the log: grant, revoke, the leader's evictions and checkpoints, and the founding of a history."""

from __future__ import annotations

import pytest

from discovery import limits
from discovery.command import Checkpoint, Evict, Found, Grant, Put, Revoke


def effects(outcome):
    return [(effect.kind, effect.id) for effect in outcome.leases]


def test_a_grant_starts_a_lease_and_moves_no_revision(log, refused):
    outcome = log.outcome(Grant(5, 10_000))
    assert (outcome.result.created, outcome.result.changed, outcome.result.lease.id) == (True, False, 5)
    assert effects(outcome) == [("started", 5)]
    refused(Grant(5, 10_000), "conflict", "exists already")
    assert refused(Grant(6, 0), "invalid_input").field == "ttl"
    assert refused(Grant(-6, 10_000), "invalid_input").field == "id"


def test_grants_are_bounded(log, refused, monkeypatch):
    monkeypatch.setattr(limits, "LEASES_MAX", 1)
    log(Grant(5, 10_000))
    refused(Grant(6, 10_000), "overloaded")


def test_revoking_removes_all_that_hangs_on_the_lease_in_order(log):
    log(Grant(5, 10_000))
    log(Put("b", b"", 5))
    log.register("web-1", join=5)
    log(Put("a", b"", 5))
    log.register("web-0", join=5)
    outcome = log.outcome(Revoke(5))
    assert [(change.name, change.reason) for change in outcome.group.changes] == [
        ("web-0", "revoked"),
        ("web-1", "revoked"),
        ("a", "revoked"),
        ("b", "revoked"),
    ]
    assert (outcome.result.deleted, effects(outcome)) == (1, [("gone", 5)])
    assert [event.kind for event in log.store.events()][-2:] == ["revoked", "revoked"]
    assert (log.store.lease(5), log.store.keys(""), log.store.namespaces()) == (None, [], [])
    assert log(Revoke(5)).deleted == 0


def test_a_granted_lease_stays_when_nothing_hangs_on_it(log):
    log(Grant(5, 10_000))
    log.register("web-0", join=5)
    log.deregister("web-0")
    assert log.store.lease(5).instances == ()


def test_thousands_expire_in_one_revision(log):
    leases = [log.register(f"web-{number:04}").lease for number in range(1000)]
    outcome = log.outcome(Evict(1, tuple((lease.id, lease.version, 123) for lease in leases)))
    assert (outcome.result.deleted, outcome.result.revision, len(outcome.group.changes)) == (1000, 1001, 1000)
    assert {change.reason for change in outcome.group.changes} == {"expired"}
    event = log.store.events()[-1]
    assert (event.kind, event.last_heartbeat_ms, event.revision) == ("expired", 123, 1001)
    assert log.store.counts("default", "web") == (0, 0)


def test_an_eviction_of_another_term_is_skipped_whole(log):
    lease = log.register("web-0").lease
    outcome = log.outcome(Evict(2, ((lease.id, lease.version, None),)))
    assert (outcome.result.changed, effects(outcome)) == (False, [("kept", lease.id)])
    assert log.store.instance("default", "web", "web-0") is not None


def test_a_lease_that_moved_is_kept_and_the_others_go(log):
    moved, other = log.register("a").lease, log.register("b").lease
    log.register("a", holder=moved.id)
    outcome = log.outcome(Evict(1, ((moved.id, moved.version, None), (other.id, other.version, None), (999, 1, None))))
    assert effects(outcome) == [("kept", moved.id), ("gone", other.id)]
    assert outcome.leases[0].version == moved.version + 1
    assert log.store.instance_ids("default", "web") == ["a"]


def test_a_lease_named_twice_expires_once(log):
    lease = log.register("a").lease
    outcome = log.outcome(Evict(1, ((lease.id, 1, None), (lease.id, 1, None))))
    assert (outcome.result.deleted, effects(outcome)) == (1, [("gone", lease.id)])


def test_an_eviction_takes_a_limited_number(log, refused, monkeypatch):
    monkeypatch.setattr(limits, "EVICTIONS_PER_COMMAND_MAX", 1)
    refused(Evict(1, ((1, 1, None), (2, 1, None))), "invalid_input", "several commands")
    refused(Checkpoint(1, ((1, 1, 1), (2, 1, 1))), "invalid_input", "several commands")


@pytest.mark.parametrize(
    ("term", "version", "remaining_ms", "noted"),
    [(1, 1, 30_000, 30_000), (2, 1, 30_000, None), (1, 2, 30_000, None), (1, 1, -1, None), (1, 1, 60_001, None)],
)
def test_a_checkpoint_notes_what_fits_and_moves_nothing_else(log, term, version, remaining_ms, noted):
    log(Grant(5, 60_000))
    written = log(Checkpoint(term, ((5, version, remaining_ms), (6, 1, 1))))
    assert written.changed is False
    assert (log.store.lease(5).remaining_ms, log.store.lease(5).version) == (noted, 1)


def test_short_leases_have_no_checkpoint_and_a_registration_forgets_one(log):
    log(Grant(5, 59_999))
    log(Checkpoint(1, ((5, 1, 100),)))
    assert log.store.lease(5).remaining_ms is None
    lease = log.register("web-0", ttl_ms=60_000).lease
    log(Checkpoint(1, ((lease.id, 1, 100),)))
    assert log.store.lease(lease.id).remaining_ms == 100
    log.register("web-0", ttl_ms=60_000, holder=lease.id)
    assert log.store.lease(lease.id).remaining_ms is None


def test_a_history_is_founded_once(log, refused):
    assert refused(Found(""), "invalid_input").field == "history"
    assert log(Found("h1")).created is True
    assert log(Found("h2")).created is False
    assert (log.store.history, log.store.revision) == ("h1", 0)
