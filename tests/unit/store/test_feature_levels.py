"""A kind of command that not every version knows: nothing at all below its level, on every node alike."""

from __future__ import annotations

import msgspec
import pytest

from discovery import command as commands
from discovery import levels, limits
from discovery.command import Delete, Failure, Idempotency, Meta, Put, Written, encode
from discovery.store import Store

NEW = 3
PUT = encode(Put("k", b"v"), Idempotency("once", b"d"))


@pytest.fixture
def _put_is_new(monkeypatch):
    monkeypatch.setitem(commands.SINCE, Put, NEW)


@pytest.mark.usefixtures("_put_is_new")
def test_below_its_level_a_new_kind_changes_nothing_as_with_a_version_that_does_not_know_it():
    knows, does_not = Store(), Store()
    unknown = msgspec.msgpack.encode([commands.COMMAND_VERSION, ["from the future", "k"], ["once", b"d"], ""])
    assert isinstance(knows.apply(PUT, Meta(2, 1, 5_000, NEW - 1)).result, Failure)
    assert isinstance(does_not.apply(unknown, Meta(2, 1, 5_000, NEW - 1)).result, Failure)
    assert knows.digest() == does_not.digest() == Store().digest()


@pytest.mark.usefixtures("_put_is_new")
def test_a_refusal_for_the_level_is_not_kept_for_the_idempotency_key():
    store = Store()
    store.apply(PUT, Meta(2, 1, 5_000, NEW - 1))
    assert isinstance(store.apply(PUT, Meta(3, 1, 5_000, NEW)).result, Written)


def test_every_kind_has_a_level_that_this_version_knows():
    assert all(level <= commands.levels.LEVEL for level in commands.SINCE.values())


def apply_at(store, command, index, level, *, time_ms=5_000, key=None):
    request = None if key is None else Idempotency(key, b"d")
    return store.apply(encode(command, request), Meta(index, 1, time_ms, level)).result


def test_below_its_level_a_delete_has_no_bound_as_older_versions_have_none(monkeypatch):
    monkeypatch.setattr(limits, "DELETIONS_PER_COMMAND_MAX", 1)
    store = Store()
    for index, key in enumerate(("p/1", "p/2"), 2):
        apply_at(store, Put(key, b""), index, levels.BOUNDED)
    assert apply_at(store, Delete("p/", prefix=True), 4, levels.BOUNDED).code == "too_large"
    assert apply_at(store, Delete("p/", prefix=True), 5, levels.BASE).deleted == 2


def test_a_delete_in_steps_waits_for_the_level():
    assert isinstance(apply_at(Store(), Delete("p/", prefix=True, limit=1), 2, levels.BASE), Failure)
    assert commands.level_of(Delete("p/", prefix=True, limit=1)) == levels.BOUNDED
    assert commands.level_of(Delete("p/", prefix=True)) == levels.BASE


@pytest.mark.parametrize(("level", "kept_ms"), [(levels.BASE, 600_000), (levels.BOUNDED, limits.IDEMPOTENCY_AGE_MS)])
def test_all_versions_forget_an_idempotency_key_at_the_same_entry(level, kept_ms):
    store = Store()
    first = apply_at(store, Put("k", b"1"), 2, level, key="once")
    again = apply_at(store, Put("k", b"1"), 3, level, key="once", time_ms=5_000 + kept_ms - 1)
    assert again.revision == first.revision
    late = apply_at(store, Put("k", b"1"), 4, level, key="once", time_ms=5_000 + kept_ms)
    assert late.revision == first.revision + 1
