"""A kind of command that not every version knows: nothing at all below its level, on every node alike."""

from __future__ import annotations

import msgspec
import pytest

from discovery import command as commands
from discovery.command import Failure, Idempotency, Meta, Put, Written, encode
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
