"""A backup is restored in parts that nobody sees, becomes the state in one step, or leaves the cluster as it was."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.command import Evict, Failure, Found, Grant, Put, Register, SetService, Stage, Switch, Unstage, Written
from discovery.errors import Compacted, CorruptData
from discovery.model import Instance, Port, Service
from discovery.store import Store, backup
from discovery.store.snapshot import LENGTH
from discovery.store.staging import STEP

ID = 5


def own(node="n1", lease=901, address="127.0.0.1"):
    """A node's place in the catalogue."""
    spec = Instance("system", "discovery", node, (address,), hostname=node)
    return Register(spec, True, 15_000, True, 0, 0, lease)


def fill(log):
    log(Found("h1"))
    log(own("n1", 700, "10.0.0.1"))
    log(own("n9", 701, "10.0.0.9"))
    for number in range(1_500):
        log.register(f"web-{number}", tags=("v2",), meta=(("a", "b" * 700),), new_lease=1_000 + number)
        log(Put(f"k/{number % 50}", b"value", 1_000 + number))
    log(Grant(777, 60_000))
    log.register("joined", join=777)
    log.register("permanent", ttl_ms=None, status="maintenance")
    log(SetService(Service("default", "db", "virtual", ("10.9.9.9",), (Port("db", 5432),))))
    log.deregister("web-4")
    return log


@pytest.fixture(scope="module")
def saved(new_log):
    return fill(new_log()).store


@pytest.fixture
def empty(new_log):
    """A new cluster with nothing but its own nodes' places."""
    log = new_log()
    log(Found("h2"))
    log(own("n1", 901))
    log(own("n2", 902))
    return log


def file_of(store, **fields):
    snapshot = store.snapshot()
    head = backup.header(snapshot, version="1.0", node="n1", zone="cluster.local", time_ms=1_700_000_000_000)
    return b"".join(backup.write(snapshot, msgspec.structs.replace(head, **fields)))


def parts_of(store):
    """As a node cuts them."""
    reader, parts, pending = backup.Reader(), [], b""
    whole = file_of(store)
    for start in range(0, len(whole), 65_536):
        for frame in reader.push(whole[start : start + 65_536]):
            if len(pending) + len(frame) > limits.RESTORE_PART_BYTES:
                parts, pending = [*parts, pending], b""
            pending += frame
    reader.finish()
    return [*parts, pending] if pending else parts


def staged(log, parts, id=ID):
    for position, part in enumerate(parts):
        result = log(Stage(id, position, part))
        assert isinstance(result, Written), result
    return log


def switch_of(store, parts, **fields):
    return Switch(**{"id": ID, "parts": len(parts), "history": "h3", "revision": store.revision,
                     "serial": store.serial, **fields})  # fmt: skip


def restored(log, store):
    parts = parts_of(store)
    result = staged(log, parts)(switch_of(store, parts))
    assert isinstance(result, Written), result
    return result


def instances(store):
    return {(r.spec.namespace, r.spec.service, r.spec.id): r.spec for r in store.all_instances()}


def test_what_was_saved_is_there_after_the_switch_and_not_before(saved, empty):
    parts = parts_of(saved)
    assert len(parts) > 2
    before = (empty.store.revision, instances(empty.store), empty.store.keys(""))
    staged(empty, parts)
    assert (empty.store.revision, instances(empty.store), empty.store.keys("")) == before
    empty(switch_of(saved, parts))
    now = empty.store
    expected = instances(saved)
    expected["system", "discovery", "n1"] = own("n1").instance
    expected["system", "discovery", "n2"] = own("n2").instance
    assert instances(now) == expected
    assert now.keys("") == saved.keys("")
    assert now.service("default", "db") == saved.service("default", "db")
    assert now.lease(777).instances == saved.lease(777).instances
    assert now.namespaces() == saved.namespaces()


def test_it_is_a_new_history_far_above_the_old_with_all_before_compacted(saved, empty):
    result = restored(empty, saved)
    now = empty.store
    assert (result.revision, result.dns, result.changed) == (now.revision, now.revision, True)
    assert (now.history, now.revision, now.floor) == ("h3", saved.revision + STEP, saved.revision + STEP)
    assert now.serial == saved.serial + STEP
    assert now.events() == []
    assert now.changes_since(now.revision) == []
    for revision in (0, saved.revision, now.revision - 1):
        with pytest.raises(Compacted):
            now.changes_since(revision)
    indexes = [now.index_of_catalog(), now.index_of_prefix(""), now.index_of_prefix("k/"), now.index_of_key("k/1"),
               now.index_of_namespace("default"), now.index_of_service("default", "web"),
               now.index_of_instance("default", "web", "web-1")]  # fmt: skip
    assert indexes == [now.revision] * len(indexes)


def test_life_goes_on_after_it(saved, empty):
    restored(empty, saved)
    revision = empty.store.revision
    assert empty.register("new").revision == revision + 1
    assert empty(Put("k/1", b"2")).revision == revision + 2
    assert [group.revision for group in empty.store.changes_since(revision)] == [revision + 1, revision + 2]


def test_leases_come_back_with_their_full_ttl_and_carry_what_they_carried(saved, empty):
    restored(empty, saved)
    assert {lease.id: lease.remaining_ms for lease in empty.store.leases()}[777] is None
    empty(Evict(1, ((777, saved.lease(777).version, None), (1_007, 1, None))))
    assert empty.store.instance("default", "web", "joined") is None
    assert empty.store.instance("default", "web", "web-7") is None


def test_the_running_nodes_keep_their_places_and_the_dead_ones_run_out(saved, empty):
    restored(empty, saved)
    leases = {i: empty.store.instance("system", "discovery", i).lease for i in ("n1", "n2", "n9")}
    assert leases == {"n1": 901, "n2": 902, "n9": 701}
    assert empty.store.lease(700) is None
    assert empty.store.lease(901).instances == (("system", "discovery", "n1"),)


def test_a_snapshot_of_a_restored_state_is_that_state(saved, empty):
    restored(empty, saved)
    loaded = Store.load(empty.store.snapshot().chunks())
    assert loaded.digest() == empty.store.digest()
    assert loaded.index_of_key("k/1") == empty.store.index_of_key("k/1")


def test_a_node_that_joins_half_way_by_a_snapshot_ends_with_the_same_state(saved, empty, new_log):
    parts = parts_of(saved)
    staged(empty, parts[:2])
    other = new_log(Store.load(empty.store.snapshot().chunks()))
    assert other.store.digest() == empty.store.digest()
    for log in (empty, other):
        for position, part in enumerate(parts[2:], 2):
            assert isinstance(log(Stage(ID, position, part)), Written)
        assert isinstance(log(switch_of(saved, parts)), Written)
    assert other.store.digest() == empty.store.digest()


OCCUPANTS = [
    lambda log: log.registration("a"),
    lambda log: Put("k", b"v"),
    lambda log: Grant(9, 10_000),
    lambda log: SetService(Service("default", "web")),
    lambda log: SetService(Service("system", "discovery")),
    lambda log: Register(Instance("system", "discovery", "x", ("10.0.0.1",)), True, None, True, 901, 0, 0),
]


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_only_an_empty_cluster_takes_a_backup(saved, empty, refused, occupant):
    parts = parts_of(saved)
    staged(empty, parts)
    assert isinstance(empty(occupant(empty)), Written)
    before = empty.store.digest()
    for command in (Stage(6, 0, parts[0]), switch_of(saved, parts)):
        failure = empty(command)
        assert isinstance(failure, Failure)
        assert failure.code == "conflict"
        assert "not empty" in failure.detail
    assert empty.store.digest() == before


def test_parts_out_of_order_of_another_restore_or_missing_are_refused(saved, empty):
    parts = parts_of(saved)
    staged(empty, parts[:2])
    wrong = [Stage(ID, 1, parts[1]), Stage(ID, 3, parts[2]), Stage(6, 2, parts[2]), switch_of(saved, parts),
             switch_of(saved, parts[:2], id=6)]  # fmt: skip
    assert [empty(command).code for command in wrong] == ["conflict"] * len(wrong)
    staged(empty, parts, id=6)  # one that begins anew takes the place
    assert empty(Stage(ID, 2, parts[2])).code == "conflict"
    assert isinstance(empty(switch_of(saved, parts, id=6)), Written)


def test_what_is_given_up_leaves_the_cluster_as_it_was(saved, empty):
    before = empty.store.digest()
    staged(empty, parts_of(saved)[:2])
    assert empty.store.digest() != before
    assert empty(Unstage(6)).deleted == 0
    assert empty(Unstage(ID)).deleted == 1
    assert empty.store.digest() == before


def test_what_nobody_continues_is_dropped_by_age(saved, empty):
    parts = parts_of(saved)
    staged(empty, parts[:1])
    empty.time_ms += limits.RESTORE_AGE_MS + 1
    empty(own("n3", 903))
    assert empty(Stage(ID, 1, parts[1])).code == "conflict"


def test_a_damaged_part_changes_nothing_and_the_restore_can_go_on(saved, empty):
    parts = parts_of(saved)
    staged(empty, parts[:1])
    before = empty.store.digest()
    for bad in (parts[1][:-1], parts[1] + parts[0], parts[0], b"\0\0\0\1\xc1"):
        assert isinstance(empty(Stage(ID, 1, bad)), Failure)
        assert empty.store.digest() == before
    for position, part in enumerate(parts[1:], 1):
        assert isinstance(empty(Stage(ID, position, part)), Written)
    assert isinstance(empty(switch_of(saved, parts)), Written)
    assert len(instances(empty.store)) == len(instances(saved)) + 1


def frame(section, *rows):
    body = msgspec.msgpack.encode(section)
    items = b"".join(map(msgspec.msgpack.encode, rows))
    whole = b"\x92" + body + b"\xdd" + len(rows).to_bytes(4, "big") + items
    return LENGTH.pack(len(whole)) + whole


def instance(**fields):
    spec = {"namespace": "default", "service": "web", "id": "a", "addresses": ("10.0.0.1",), **fields}
    return [msgspec.to_builtins(Instance(**spec)), 0, 1, 1, 1]


HOME = frame("namespaces", ["default", 1]) + frame("services", ["default", "web", 1, None])


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (frame("head", [1]), "out of place"),
        (frame("events"), "out of place"),
        (frame("instances", instance()), "does not hold"),
        (HOME + frame("instances", instance(addresses=("x",))), "must be an IPv4 or IPv6 address"),
        (HOME + frame("instances", instance(id="a b")), "id must be"),
        (HOME + frame("instances", instance(), instance()), "twice"),
        (HOME + HOME, "out of place"),
        (frame("namespaces", ["A", 1]), "lower-case"),
        (frame("leases", [0, 10_000, 1, None, True]), "lease id"),
        (frame("leases", [1, 10, 1, None, True]), "ttl must be"),
        (frame("leases", [1, 10_000, 1, None, True], [1, 10_000, 1, None, True]), "twice"),
        (frame("keys", ["..", [b"", 0, 1, 1, 1]]), "segment"),
        (frame("keys", ["k", [b"", 7, 1, 1, 1]]), "does not hold"),
        (frame("keys", ["k", [b"", 0, 1, 1, 1]], ["k", [b"", 0, 1, 1, 1]]), "twice"),
    ],
)
def test_every_value_of_a_file_from_anywhere_is_judged(empty, part, text):
    failure = empty(Stage(ID, 0, part))
    assert isinstance(failure, Failure)
    assert text in failure.detail


@pytest.mark.parametrize(
    ("part", "revision"),
    [(HOME, 9), (frame("namespaces", ["default", 1]), 9), (frame("keys", ["k", [b"", 0, 1, 10, 1]]), 9)],
)
def test_a_file_that_contradicts_itself_is_refused_at_the_switch(empty, part, revision):
    assert isinstance(empty(Stage(ID, 0, part)), Written)
    failure = empty(Switch(ID, 1, "h3", revision, 0))
    assert failure.code == "invalid_input"
    assert "contradicts itself" in failure.detail


def test_a_backup_above_its_limit_is_refused(empty, monkeypatch):
    monkeypatch.setattr(limits, "RESTORE_BYTES_MAX", len(HOME))
    assert isinstance(empty(Stage(ID, 0, HOME)), Written)
    assert empty(Stage(ID, 1, frame("keys", ["k", [b"", 0, 1, 1, 1]]))).code == "too_large"


@pytest.mark.parametrize("fields", [{"history": ""}, {"history": "h2"}, {"revision": -1}, {"serial": 2**63 - 1}])
def test_a_switch_must_make_sense(saved, empty, fields):
    parts = parts_of(saved)
    staged(empty, parts)
    assert empty(switch_of(saved, parts, **fields)).code == "invalid_input"


def test_a_repeated_switch_with_its_key_is_answered_and_not_applied_again(saved, empty):
    parts = parts_of(saved)
    staged(empty, parts)
    first = empty(switch_of(saved, parts), "key")
    assert empty(Switch(1, 0, "h4", 0, 0), "key") == first
    assert empty(Switch(1, 0, "h4", 0, 0), "other").code == "conflict"


@given(st.integers(1, 100_000))
def test_a_file_may_be_cut_anywhere_on_its_way(saved, size):
    whole, reader = file_of(saved), backup.Reader()
    frames = [frame for start in range(0, len(whole), size) for frame in reader.push(whole[start : start + size])]
    assert reader.finish().revision == saved.revision
    assert b"".join(frames) == b"".join(parts_of(saved))


def test_the_header_says_what_is_in_it(saved):
    first, second = file_of(saved).split(b"\n")[:2]
    assert first == b"discovery-snapshot 1"
    head = msgspec.json.decode(second)
    assert (head["history"], head["revision"], head["zone"]) == ("h1", saved.revision, "cluster.local")
    assert head["counts"] == {"namespaces": 2, "services": 3, "leases": 1_502, "instances": 1_503, "keys": 50}


def read(data):
    reader = backup.Reader()
    reader.push(data)
    return reader.finish()


@given(st.data())
def test_a_file_with_any_byte_changed_lost_or_added_is_refused(saved, data):
    whole = bytearray(file_of(saved))
    place = data.draw(st.integers(0, len(whole) - 1))
    match data.draw(st.sampled_from(["change", "cut", "add"])):
        case "change":
            whole[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del whole[place:]
        case "add":
            whole += b"\0"
    with pytest.raises(CorruptData, match="snapshot"):
        read(bytes(whole))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "ends after 0 bytes"),
        (b"PK\x03\x04", "no snapshot of discovery: it begins otherwise"),
        (b"discovery-snapshot 2\n{}\n", "format 2, this version reads 1"),
        (b"discovery-snapshot 1\n{}\n", "header does not decode"),
        (b"discovery-snapshot 1\n" + b"x" * 70_000, "no end"),
    ],
)
def test_a_foreign_file_is_refused_with_a_clear_text(data, text):
    with pytest.raises(CorruptData, match=text):
        read(data)


def test_counts_that_are_not_those_of_the_header_are_refused(saved):
    with pytest.raises(CorruptData, match="its header says"):
        read(file_of(saved, counts={"keys": 1}))


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_clear_refusal(data):
    with contextlib.suppress(CorruptData):
        read(b"discovery-snapshot 1\n" + data)
