"""Following: the change log with its floor, events, and the index of every thing."""

from __future__ import annotations

import pytest

from discovery import limits
from discovery.command import Delete, DeleteService, Put, SetService, SetStatus
from discovery.errors import Compacted, Unavailable
from discovery.model import Service


def test_a_follower_resumes_from_any_revision_in_the_log(log):
    log.register("web-0")
    log(Put("a", b""))
    log(Delete("a"))
    assert log.store.changes_since(0) == log.groups
    assert log.store.changes_since(1) == log.groups[1:]
    assert log.store.changes_since(3) == []
    with pytest.raises(Unavailable, match="ahead of this node, which stands at 3"):
        log.store.changes_since(4)


def test_the_log_is_bounded_and_its_floor_moves_in_steps(log, monkeypatch):
    monkeypatch.setattr(limits, "CHANGE_LOG_CHANGES_MAX", 80)
    floors = set()
    for number in range(200):
        log(Put(f"k{number}", b""))
        floors.add(log.store.floor)
        assert log.store.changes_since(log.store.floor) == log.groups[log.store.floor :]
        assert log.store.revision - log.store.floor <= 80
    assert len(floors) < 20
    with pytest.raises(Compacted, match="read the state anew"):
        log.store.changes_since(log.store.floor - 1)


def test_the_log_is_bounded_in_bytes(log, monkeypatch):
    monkeypatch.setattr(limits, "CHANGE_LOG_BYTES_MAX", 100_000)
    for number in range(100):
        log(Put(f"k{number}", bytes(10_000)))
        log.register("web-0", meta=tuple((f"{pair:02}", "x" * 1000) for pair in range(20)), weight=number)
    kept = log.store.changes_since(log.store.floor)
    assert 4 <= len(kept) <= 10


def test_a_group_larger_than_the_log_is_kept_alone(log, monkeypatch):
    monkeypatch.setattr(limits, "CHANGE_LOG_CHANGES_MAX", 10)
    for number in range(20):
        log(Put(f"k{number}", b""))
    log(Delete("", prefix=True))
    assert [len(group.changes) for group in log.store.changes_since(20)] == [20]
    assert log.store.floor == 20


def test_events_tell_what_happened_to_instances(log):
    log.register("web-0")
    log.register("web-0", weight=5)
    log(SetStatus("default", "web", "web-0", "maintenance"))
    log.register("db-0", service="db")
    log(Put("a", b""))
    log.deregister("web-0")
    kinds = ["registered", "updated", "updated", "registered", "deregistered"]
    assert [event.kind for event in log.store.events()] == kinds
    assert [event.revision for event in log.store.events(since=2)] == [3, 4, 6]
    assert [event.id for event in log.store.events(service="db")] == ["db-0"]
    assert log.store.events(namespace="other") == []
    assert {event.time_ms for event in log.store.events()} == {log.time_ms}


def test_events_are_bounded(log, monkeypatch):
    monkeypatch.setattr(limits, "EVENTS_MAX", 3)
    for number in range(5):
        log.register(f"web-{number}")
    assert [event.revision for event in log.store.events()] == [3, 4, 5]
    assert [event.revision for event in log.store.events(since=2)] == [3, 4, 5]
    with pytest.raises(Compacted, match="from 2 on"):
        log.store.events(since=1)


def test_actor_and_detail_are_cut(log):
    log.register("web-0")
    log.deregister("web-0", detail="x" * 5000)
    assert len(log.store.events()[-1].detail) == limits.EVENT_DETAIL_CHARS_MAX


def indexes(store):
    return {
        "catalog": store.index_of_catalog(),
        "namespace": store.index_of_namespace("default"),
        "service": store.index_of_service("default", "web"),
        "instance": store.index_of_instance("default", "web", "web-0"),
        "key": store.index_of_key("a/b"),
        "prefix": store.index_of_prefix("a/"),
        "all keys": store.index_of_prefix(""),
    }


CATALOG = {"catalog", "namespace", "service"}
KEYS = {"key", "prefix", "all keys"}


@pytest.mark.parametrize(
    ("command", "moved"),
    [
        (lambda log: log.registration("web-0", weight=2), CATALOG | {"instance"}),
        (lambda log: log.registration("web-1"), CATALOG),
        (lambda log: log.registration("db-0", service="db"), {"catalog", "namespace"}),
        (lambda log: log.registration("x", namespace="other"), {"catalog"}),
        (lambda log: SetService(Service("default", "web")), CATALOG),
        (lambda log: Put("a/b", b""), KEYS),
        (lambda log: Put("a/c", b""), {"prefix", "all keys"}),
        (lambda log: Put("b", b""), {"all keys"}),
        (lambda log: Delete("a/b"), KEYS),
    ],
)
def test_a_change_moves_the_index_of_what_it_touches_only(log, command, moved):
    log.register("web-0")
    log(Put("a/b", b""))
    before = indexes(log.store)
    log(command(log))
    after = indexes(log.store)
    assert {name for name in after if after[name] != before[name]} == moved
    assert {after[name] for name in moved} == {3}


def test_deletions_count_for_the_index_of_what_is_gone(log):
    log.register("web-0")
    log(Put("a/b", b""))
    log.deregister("web-0")
    log(Delete("a/b"))
    catalog = dict.fromkeys(CATALOG | {"instance"}, 3)
    assert indexes(log.store) == {**catalog, **dict.fromkeys(KEYS, 4)}


def test_removing_settings_counts_for_the_service(log):
    log(SetService(Service("default", "web")))
    log(DeleteService("default", "web"))
    assert log.store.index_of_service("default", "web") == 2


def test_an_index_never_falls_when_the_log_forgets(log, monkeypatch):
    monkeypatch.setattr(limits, "CHANGE_LOG_CHANGES_MAX", 16)
    log.register("web-0")
    log(Put("a/b", b""))
    log(Put("a/c", b""))
    log.deregister("web-0")
    log(Delete("a/b"))
    last = indexes(log.store)
    for number in range(60):
        log(Put(f"z{number}", b""))
        now = indexes(log.store)
        assert all(now[name] >= last[name] for name in now)
        last = now
    assert last["instance"] == last["key"] == log.store.floor, "what is gone and forgotten stands at the floor"
    assert last["catalog"] == 4
    log.register("web-0")
    assert log.store.index_of_instance("default", "web", "web-0") == log.store.revision


def test_what_lives_keeps_its_index_below_the_floor(log, monkeypatch):
    monkeypatch.setattr(limits, "CHANGE_LOG_CHANGES_MAX", 16)
    log.register("web-0")
    for number in range(60):
        log(Put(f"z{number}", b""))
    assert log.store.floor > 1
    assert log.store.index_of_service("default", "web") == log.store.index_of_instance("default", "web", "web-0") == 1
