"""Snapshots: a copy that stands still, bytes that come back whole, and nothing half-loaded."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.command import Checkpoint, Delete, Found, Grant, Put, SetService, SetStatus
from discovery.errors import CorruptData
from discovery.model import Port, Service
from discovery.store import Store
from discovery.store.snapshot import LENGTH


def fill(log):
    log(Found("h1"))
    for number in range(20):
        log.register(f"web-{number}", tags=("v2",), meta=(("a", "b"),))
        log(Put(f"k/{number}", b"value", log.store.instance("default", "web", f"web-{number}").lease))
    log.register("gone", service="gone", namespace="gone")
    log(Grant(777, 60_000))
    log(Checkpoint(1, ((777, 1, 30_000),)))
    log.register("joined", join=777)
    log.register("permanent", ttl_ms=None, status="maintenance")
    log(SetService(Service("default", "db", "virtual", ("10.9.9.9",), (Port("db", 5432),))))
    log(SetStatus("default", "web", "web-3", "not_ready"))
    log.deregister("web-4")
    log(Delete("k/5"))
    log(Put("k/5", b"again"), "key-1")
    return log


@pytest.fixture
def filled(log):
    return fill(log)


@pytest.fixture(scope="module")
def saved(new_log):
    """A state that no test changes."""
    return fill(new_log()).store


def contents(store):
    things = [(record.spec.namespace, record.spec.service, record.spec.id) for record in store.all_instances()]
    services = sorted({thing[:2] for thing in things} | {("default", "db"), ("gone", "gone")})
    return {
        "scalars": (store.history, store.revision, store.serial, store.time_ms, store.floor),
        "names": (store.namespaces(), store.services("default"), store.instance_ids("default", "web")),
        "instances": {thing: store.instance(*thing) for thing in things},
        "services": {name: (store.service(*name), store.counts(*name)) for name in services},
        "keys": store.keys(""),
        "leases": {lease.id: store.lease(lease.id) for lease in store.leases()},
        "changes": store.changes_since(store.floor),
        "events": store.events(),
        "indexes": (
            store.index_of_catalog(),
            store.index_of_prefix(""),
            store.index_of_prefix("k/"),
            store.index_of_key("k/5"),
            [store.index_of_service(*name) for name in services],
            [store.index_of_namespace(name) for name in ("default", "gone", "none")],
            [store.index_of_instance("default", "web", f"web-{number}") for number in range(20)],
        ),
    }


def test_what_is_loaded_is_what_was_saved(saved):
    loaded = Store.load(saved.snapshot().chunks())
    assert contents(loaded) == contents(saved)
    assert loaded.digest() == saved.digest()


def test_an_empty_state_survives():
    assert Store.load(Store().snapshot().chunks()).digest() == Store().digest()


@given(st.integers(1, 5_000))
def test_chunks_may_be_cut_anywhere(saved, size):
    whole = b"".join(saved.snapshot().chunks())
    pieces = (whole[start : start + size] for start in range(0, len(whole), size))
    assert Store.load(pieces).digest() == saved.digest()


def test_a_snapshot_stands_still_while_the_state_goes_on(filled):
    log = filled
    before, snapshot = log.store.digest(), log.store.snapshot()
    chunks = snapshot.chunks()
    head = next(chunks)
    for number in range(20):
        log.register(f"web-{number}", weight=7)
        log.deregister(f"web-{number}")
        log(Delete(f"k/{number}"))
    log.register("joined", join=777)
    assert Store.load([head, *chunks]).digest() == before == snapshot.digest()
    assert log.store.digest() != before


def test_chunks_are_bounded(log):
    for number in range(4):
        log(Put(f"k{number}", bytes(limits.VALUE_BYTES_MAX)))
    chunks = list(log.store.snapshot().chunks())
    assert max(map(len, chunks)) <= limits.SNAPSHOT_CHUNK_BYTES
    assert len(chunks) > 4
    assert Store.load(chunks).digest() == log.store.digest()


def test_the_digest_tells_states_apart_and_forgives_the_order_of_arrival(new_log):
    one, other = new_log(), new_log()
    one(Put("a", b""))
    other(Put("b", b""))
    assert one.store.digest() != other.store.digest()
    original, loaded = fill(new_log()), fill(new_log())
    loaded.store = Store.load(loaded.store.snapshot().chunks())
    for log in (original, loaded):
        log.deregister("web-1")
        log.register("web-1", new_lease=9_000)
    assert loaded.store.digest() == original.store.digest()


def frames(store):
    whole = b"".join(store.snapshot().chunks())
    found = []
    while whole:
        size = LENGTH.unpack_from(whole)[0] + LENGTH.size
        found.append(whole[:size])
        whole = whole[size:]
    return found


def test_a_snapshot_without_its_end_is_refused(saved):
    whole = frames(saved)
    for count in range(len(whole)):
        with pytest.raises(CorruptData, match="take the snapshot of another node"):
            Store.load(whole[:count])


@pytest.mark.parametrize(
    "damage",
    [
        lambda frames: [b"".join(frames)[:-1]],
        lambda frames: [*frames, frames[-1]],
        lambda frames: [*frames, b"\0"],
        lambda frames: frames[1:],
        lambda frames: [frames[0], *frames],
        lambda frames: [frames[0], *frames[2:]],
        lambda frames: [frames[0], frames[2], frames[1], *frames[3:]],
        lambda frames: [*frames[:4], frames[4], *frames[4:]],
        lambda frames: [frames[0][:4] + b"x" * len(frames[0][4:]), *frames[1:]],
    ],
)
def test_a_damaged_snapshot_is_refused(saved, damage):
    with pytest.raises(CorruptData):
        Store.load(damage(frames(saved)))


def reframed(rows_by_section):
    bodies = [msgspec.msgpack.encode(item) for item in rows_by_section]
    return [LENGTH.pack(len(body)) + body for body in bodies]


@pytest.mark.parametrize("lost", [slice(0, 1), slice(3, 4), slice(-1, None), slice(0, None)])
def test_a_change_log_with_a_gap_is_refused(saved, lost):
    sections = [msgspec.msgpack.decode(frame[LENGTH.size :]) for frame in frames(saved)]
    changes = next(rows for section, rows in sections if section == "changes")
    del changes[lost]
    with pytest.raises(CorruptData, match="lacks the changes"):
        Store.load(reframed(sections))


def test_an_end_that_counts_otherwise_is_refused(saved):
    sections = [msgspec.msgpack.decode(frame[LENGTH.size :]) for frame in frames(saved)]
    sections[-1][1][0] += 1
    with pytest.raises(CorruptData, match="before its end"):
        Store.load(reframed(sections))


def test_another_format_is_refused_with_the_way_out(saved):
    whole = frames(saved)
    head = bytearray(whole[0])
    position = head.index(b"head") + 4
    assert head[position + 2] == 1, "the format is the head's first field"
    head[position + 2] = 2
    with pytest.raises(CorruptData, match="format 2, this version reads 1"):
        Store.load([bytes(head), *whole[1:]])


@given(st.data())
def test_no_damage_does_worse_than_a_clear_refusal(saved, data):
    whole = bytearray(b"".join(saved.snapshot().chunks()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptData):
        Store.load([bytes(whole)])
