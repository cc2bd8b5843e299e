"""The sorted keys against a plain dictionary, in blocks so small that they split and vanish."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.model import Change, KeyRecord
from discovery.store import order
from discovery.store.keyspace import Keyspace

KEYS = st.sampled_from([left + right for left in ("", "a", "b", "a/") for right in ("", "1", "2", "/")][1:])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "remove", "read", "forget", "arrange"]), KEYS), max_size=60)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK_MAX", 4)
        yield


def gone(key):
    return Change("delete", "key", "", "", key, None)


@given(STEPS, KEYS)
def test_reads_are_those_of_a_dictionary(steps, after):
    keys, plain, last, floor = Keyspace(), set(), {}, 0
    for revision, (step, key) in enumerate(steps, 1):
        if step == "put":
            keys.put(key, KeyRecord(b"x", 0, revision, revision, 1))
            plain.add(key)
            last[key] = revision
        elif step == "remove" and key in plain:
            keys.remove(key, revision)
            plain.remove(key)
            last[key] = revision
        elif step == "forget":
            floor = revision
            keys.forget([gone(name) for name in last if name not in plain], floor)
            last = {name: changed for name, changed in last.items() if name in plain}
        elif step == "arrange":
            keys.arrange()
        found = sorted(name for name in plain if name.startswith(key))
        assert list(keys.with_prefix(key)) == found
        assert list(keys.with_prefix(key, after)) == [name for name in found if name > after]
        newest = max((changed for name, changed in last.items() if name.startswith(key)), default=0)
        assert keys.prefix_index(key, floor) == max(newest, floor)
    assert list(keys.with_prefix("")) == sorted(plain)
    assert keys.bytes == sum(len(key) + 1 for key in plain)
    assert set(keys.gone) == set(last) - plain


def test_many_keys_come_and_go_without_leaving_anything_behind():
    keys = Keyspace()
    for round_ in range(3):
        names = [f"{round_}/{number:05}" for number in range(3000)]
        for name in names:
            keys.put(name, KeyRecord(b"", 0, 1, 1, 1))
        assert list(keys.with_prefix(f"{round_}/")) == names
        for name in names:
            keys.remove(name, 2)
        keys.forget([gone(name) for name in names], 2)
        assert list(keys.with_prefix("")) == []
    assert (keys.bytes, keys.gone, len(keys._order)) == (0, {}, 0)


@pytest.mark.parametrize("names", [(), ("b",), tuple("abcdefghij")])
def test_what_was_loaded_is_in_order_once_arranged(names):
    keys = Keyspace()
    for revision, name in enumerate(reversed(names), 1):
        keys.load(name, KeyRecord(b"", 0, revision, revision, 1))
    keys.remember([gone("bb")], 99)
    keys.arrange()
    assert list(keys.with_prefix("")) == list(names)
    assert (keys.prefix_index("b", 0), keys.prefix_index("x", 7)) == (99, 7)
