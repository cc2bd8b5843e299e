"""The lazily sorted list of keys against a plain dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery.model import Change, KeyRecord
from discovery.store.keyspace import Keyspace

KEYS = st.sampled_from([left + right for left in ("", "a", "b", "a/") for right in ("", "1", "2", "/")][1:])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "remove", "read", "forget"]), KEYS), max_size=60)


@given(STEPS)
def test_prefix_reads_are_those_of_a_dictionary(steps):
    keys, plain, deleted = Keyspace(), {}, []
    for revision, (step, key) in enumerate(steps, 1):
        if step == "put":
            keys.put(key, KeyRecord(b"x", 0, revision, revision, 1))
            plain[key] = revision
        elif step == "remove" and key in plain:
            keys.remove(key, revision)
            deleted.append((Change("delete", "key", "", "", key, None), revision))
            del plain[key]
        elif step == "forget":
            keys.forget([change for change, _ in deleted], revision)
            deleted.clear()
        else:
            assert keys.with_prefix(key) == sorted(name for name in plain if name.startswith(key))
    assert keys.with_prefix("") == sorted(plain)
    assert keys.bytes == sum(len(key) + 1 for key in plain)
    assert set(keys.gone) == {change.name for change, _ in deleted} - set(plain)


def test_many_keys_come_and_go_without_leaving_anything_behind():
    keys = Keyspace()
    for round_ in range(3):
        names = [f"{round_}/{number:05}" for number in range(3000)]
        for name in names:
            keys.put(name, KeyRecord(b"", 0, 1, 1, 1))
        assert keys.with_prefix(f"{round_}/") == names
        for name in names:
            keys.remove(name, 2)
        keys.forget([Change("delete", "key", "", "", name, None) for name in names], 2)
        assert keys.with_prefix("") == []
    assert (keys.bytes, keys.gone, len(keys._order) <= 3000) == (0, {}, True)
