"""Idempotency keys: a repeated request is answered, not applied (DESIGN guarantee 7)."""

from __future__ import annotations

from discovery import limits
from discovery.command import Delete, Failure, Get, Put, Txn
from discovery.store import Store


def test_a_repeated_request_is_answered_and_not_applied_again(log):
    command = log.registration("web-0")
    first = log(command, "key-1")
    again = log.outcome(command, "key-1")
    assert (again.result, again.group, again.leases) == (first, None, ())
    assert log.store.revision == 1


def test_compare_and_swap_is_exactly_once(log):
    first = log(Put("a", b"", if_revision=0), "key-1")
    assert log(Put("a", b"", if_revision=0), "key-1") == first
    assert log(Put("a", b"", if_revision=0), "key-2").code == "precondition_failed"


def test_a_refusal_is_an_answer_too(log):
    refused = log(Put("a", b"", if_revision=7), "key-1")
    for number in range(7):
        log(Put("a", bytes(number)))
    assert log(Put("a", b"", if_revision=7), "key-1") == refused


def test_a_transactions_answer_is_repeated_whole(log):
    log(Put("a", b"1"))
    first = log(Txn((), (Get("a"), Delete("a")), ()), "key-1")
    assert log(Txn((), (Get("a"), Delete("a")), ()), "key-1") == first


def test_a_key_used_for_another_request_is_refused(log):
    log(Put("a", b"1"), "key-1", b"one")
    refused = log(Put("a", b"2"), "key-1", b"two")
    assert (refused.code, log.store.key("a").value) == ("idempotency_mismatch", b"1")


def test_a_key_is_forgotten_by_log_time(log):
    log(Put("a", b"1"), "key-1", b"one")
    log.time_ms += limits.IDEMPOTENCY_AGE_MS - 1
    assert log(Put("a", b"2"), "key-1", b"two").code == "idempotency_mismatch"
    log.time_ms += 1
    assert log(Put("a", b"2"), "key-1", b"two").changed


def test_log_time_never_falls(log):
    log(Put("a", b""))
    log.time_ms -= 1_000
    log(Put("a", b""))
    assert log.groups[1].time_ms == log.store.time_ms == log.time_ms + 1_000


def test_a_table_full_of_younger_keys_refuses_and_remembers_nothing(log, monkeypatch):
    monkeypatch.setattr(limits, "IDEMPOTENCY_KEYS_MAX", 2)
    for key in ("1", "2"):
        log(Put("a", b""), key)
    assert log(Put("a", b""), "3").code == "overloaded"
    assert log(Put("a", b""), "2").revision == 2
    assert log(Put("a", b"")).revision == 3, "requests without a key go on"
    log.time_ms += limits.IDEMPOTENCY_AGE_MS
    assert log(Put("a", b""), "3").changed


def test_the_table_is_bounded_in_bytes(log, monkeypatch):
    monkeypatch.setattr(limits, "IDEMPOTENCY_BYTES_MAX", 10)
    log(Put("a", b""), "1")
    assert log(Put("a", b""), "2").code == "overloaded"


def test_a_refusal_for_want_of_room_is_not_remembered(log, monkeypatch):
    monkeypatch.setattr(limits, "KEYS_MAX", 0)
    assert log(Put("a", b""), "1").code == "overloaded"
    monkeypatch.undo()
    assert log(Put("a", b""), "1").changed


def test_keys_and_digests_are_bounded(log):
    for key, digest in (("", b""), ("x" * 256, b""), ("x", bytes(65))):
        refused = log(Put("a", b""), key, digest)
        assert isinstance(refused, Failure)
        assert refused.code == "invalid_input"
    assert log.store.revision == 0


def test_keys_outlive_a_snapshot(log):
    first = log(Put("a", b""), "key-1")
    log.store = Store.load(log.store.snapshot().chunks())
    assert log(Put("a", b""), "key-1") == first
