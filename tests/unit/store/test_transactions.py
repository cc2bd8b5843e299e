"""Public keys: put, delete, prefix reads and transactions in etcd's model."""

from __future__ import annotations

import pytest

from discovery import limits
from discovery.command import Compare, Delete, Get, Grant, OpResult, Put, Txn, encode
from discovery.model import KeyRecord


def test_a_key_counts_its_versions(log):
    assert log(Put("a", b"1")).created is True
    assert log(Put("a", b"2")).created is False
    assert log.store.key("a") == KeyRecord(b"2", 0, 1, 2, 2)
    log(Delete("a"))
    log(Put("a", b"3"))
    assert log.store.key("a") == KeyRecord(b"3", 0, 4, 4, 1)


def test_a_key_is_written_under_a_condition(log, refused):
    refused(Put("a", b"", if_revision=1), "precondition_failed", "does not exist")
    log(Put("a", b"", if_revision=0))
    refused(Put("a", b"", if_revision=0), "precondition_failed", "stands at 1")
    assert log(Put("a", b"", if_revision=1)).revision == 2
    refused(Delete("a", if_revision=1), "precondition_failed")
    assert log(Delete("a", if_revision=2)).deleted == 1
    refused(Delete("a", prefix=True, if_revision=2), "invalid_input", "together with prefix")


def test_deleting_what_is_absent_moves_nothing(log):
    written = log(Delete("a"))
    assert (written.deleted, written.changed, written.revision) == (0, False, 0)


def test_a_prefix_of_too_many_keys_is_deleted_in_steps_only(log, refused, monkeypatch):
    monkeypatch.setattr(limits, "DELETIONS_PER_COMMAND_MAX", 3)
    for key in ("a", "p/1", "p/2", "p/3", "p/4"):
        log(Put(key, b""))
    refused(Delete("p/", prefix=True), "too_large", "limit=3")
    refused(Txn((), (Delete("p/", prefix=True),), ()), "too_large", "limit=3")
    refused(Txn((), (Delete("a"), Delete("p/1"), Delete("p/2"), Delete("p/3")), ()), "too_large", "more than 3")
    assert len(log.store.keys("")) == 5
    assert log(Delete("p/", prefix=True, limit=2)).deleted == 2
    assert [key for key, _ in log.store.keys("p/")] == ["p/3", "p/4"]
    assert log(Delete("p/", prefix=True)).deleted == 2


@pytest.mark.parametrize("limit", [-1, limits.DELETIONS_PER_COMMAND_MAX + 1])
def test_a_limit_of_a_deletion_is_kept(refused, limit):
    refused(Delete("a", prefix=True, limit=limit), "invalid_input", "limit")
    refused(Delete("a", limit=1), "invalid_input", "limit")
    refused(Txn((), (Delete("a", prefix=True, limit=1),), ()), "invalid_input", "in a transaction")


def test_a_prefix_is_read_and_deleted_in_order(log):
    for key in ("b/2", "a", "b/1", "b", "c", "b0"):
        log(Put(key, key.encode()))
    assert [key for key, _ in log.store.keys("b/")] == ["b/1", "b/2"]
    assert [key for key, _ in log.store.keys("")] == ["a", "b", "b/1", "b/2", "b0", "c"]
    outcome = log.outcome(Delete("b", prefix=True))
    assert [change.name for change in outcome.group.changes] == ["b", "b/1", "b/2", "b0"]
    assert (outcome.result.deleted, [key for key, _ in log.store.keys("")]) == (4, ["a", "c"])


@pytest.mark.parametrize("key", ["", "a/../b", "./a", "..", "a\0", "ä" * 257])
def test_a_bad_key_is_refused(refused, key):
    assert refused(Put(key, b""), "invalid_input").field == "key"
    assert refused(Delete(key), "invalid_input").field == "key"


def test_a_value_is_bounded(log, refused):
    refused(Put("a", bytes(limits.VALUE_BYTES_MAX + 1)), "invalid_input", "value")
    assert log(Put("a", bytes(limits.VALUE_BYTES_MAX))).changed


def test_keys_are_bounded_as_a_whole(log, refused, monkeypatch):
    log(Put("a", b"12345678"))
    monkeypatch.setattr(limits, "KEYS_MAX", 1)
    refused(Put("b", b""), "overloaded", "holds 1 keys")
    monkeypatch.setattr(limits, "KEYS_MAX", 9)
    monkeypatch.setattr(limits, "KEYS_BYTES_MAX", 10)
    refused(Put("b", b"12"), "overloaded")
    assert log(Put("b", b"")).changed


def test_a_key_hangs_on_a_lease_until_another_takes_it(log, refused):
    refused(Put("a", b"", 5), "not_found", "0000000000000005")
    log(Grant(5, 10_000))
    log(Grant(6, 10_000))
    log(Put("a", b"", 5))
    assert log.store.lease(5).keys == ("a",)
    log(Put("a", b"", 6))
    assert (log.store.lease(5).keys, log.store.lease(6).keys) == ((), ("a",))
    log(Put("a", b""))
    assert log.store.lease(6).keys == ()


def test_a_key_keeps_an_instances_lease_alive_after_the_instance(log):
    lease = log.register("web-0").lease.id
    log(Put("a", b"", lease))
    log.deregister("web-0")
    assert log.store.lease(lease).keys == ("a",)
    outcome = log.outcome(Delete("a"))
    assert [(effect.kind, effect.id) for effect in outcome.leases] == [("gone", lease)]


def test_a_transaction_can_move_the_last_thing_of_a_lease(log):
    lease = log.register("web-0").lease.id
    log(Put("a", b"", lease))
    log.deregister("web-0")
    done = log(Txn((), (Delete("a"), Put("b", b"", lease)), ()))
    assert (done.changed, log.store.lease(lease).keys) == (True, ("b",))


def test_a_transaction_takes_one_branch_in_one_revision(log):
    log(Put("a", b"1"))
    command = Txn((Compare("a", "value", "==", b"1"),), (Put("a", b"2"), Get("a"), Delete("x")), (Put("lost", b""),))
    done = log(command)
    record = KeyRecord(b"2", 0, 1, 2, 2)
    assert (done.revision, done.changed, done.succeeded) == (2, True, True)
    assert done.results == (OpResult("put"), OpResult("get", 0, (("a", record),)), OpResult("delete"))
    again = log(command)
    assert (again.succeeded, log.store.key("lost").value) == (False, b"")


def test_a_transaction_that_only_reads_moves_nothing(log):
    log(Put("p/b", b"2"))
    log(Put("p/a", b"1"))
    done = log(Txn((), (Get("p/", prefix=True), Get("none")), ()))
    assert (done.changed, done.revision) == (False, 2)
    assert [[key for key, _ in result.items] for result in done.results] == [["p/a", "p/b"], []]


@pytest.mark.parametrize(
    ("target", "op", "value", "holds"),
    [
        ("revision", "==", 2, True),
        ("revision", ">", 2, False),
        ("create_revision", "<", 2, True),
        ("version", "!=", 1, True),
        ("lease", "==", 0, True),
        ("value", "<", b"b", True),
        ("value", "!=", b"a", False),
    ],
)
def test_comparisons(log, target, op, value, holds):
    log(Put("a", b""))
    log(Put("a", b"a"))
    assert log(Txn((Compare("a", target, op, value),), (), ())).succeeded is holds


@pytest.mark.parametrize("target", ["revision", "create_revision", "version", "lease"])
def test_an_absent_key_has_only_zeros(log, target):
    assert log(Txn((Compare("a", target, "==", 0),), (), ())).succeeded is True


@pytest.mark.parametrize("op", ["==", "!=", "<", ">"])
def test_an_absent_key_has_no_value_to_compare(log, op):
    assert log(Txn((Compare("a", "value", op, b"x"),), (), ())).succeeded is False


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (Txn((Compare("", "revision", "==", 0),), (), ()), "compare[0].key"),
        (Txn((Compare("a", "revision", "==", b""),), (), ()), "compare[0].value"),
        (Txn((Compare("a", "value", "==", 1),), (), ()), "compare[0].value"),
        (Txn((), (Get("a"), Put("", b"")), ()), "then[1].key"),
        (Txn((), (), (Put("a", b"", -1),)), "else[0].lease"),
        (Txn((), (Put("a", b"", if_revision=1),), ()), "then[0].if_revision"),
        (Txn((), (Put("a", b""), Put("a", b"")), ()), "then"),
        (Txn((), (Put("a", b""), Delete("a")), ()), "then"),
        (Txn((), (Delete("", prefix=True), Put("a", b"")), ()), "then"),
        (Txn((), (Get("a"),) * (limits.TXN_OPS_MAX + 1), ()), "then"),
    ],
)
def test_a_bad_transaction_names_its_field(refused, command, field):
    assert refused(command, "invalid_input").field == field


def test_a_transaction_is_refused_whole(log, refused, monkeypatch):
    log(Grant(5, 10_000))
    refused(Txn((), (Put("a", b""), Put("b", b"", 6)), ()), "not_found")
    monkeypatch.setattr(limits, "LEASE_ATTACHMENTS_MAX", 1)
    refused(Txn((), (Put("a", b"", 5), Put("b", b"", 5)), ()), "conflict")
    assert log.store.keys("") == []


def test_a_transaction_answers_a_bounded_number_of_bytes(log, refused):
    for key in ("a", "b"):
        log(Put(key, bytes(limits.VALUE_BYTES_MAX)))
    refused(Txn((), (Put("c", b""), Get("", prefix=True)), ()), "too_large", "read fewer keys")
    assert len(log(Txn((), (Get("a"),), ())).results) == 1


def test_a_command_is_bounded(log, refused):
    big = encode(Txn((), (Put("a", bytes(500_000)), Put("b", bytes(500_000))), ()))
    refused(big, "too_large", "split it")
