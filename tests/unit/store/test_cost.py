"""What the store costs: bytes an instance, and that nothing is quadratic.

Times are printed (``pytest -s``) and bounded loosely: they catch a wrong order of growth, not a slow machine.
"""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

from discovery.command import Evict, Get, Grant, Meta, Put, Revoke, Txn, encode
from discovery.model import Port
from discovery.store import Store

INSTANCES = 20_000


def registrations(log, count):
    for number in range(count):
        yield encode(
            log.registration(
                f"web-{number:06}",
                service=f"web{number % 20}",
                addresses=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",),
                ports=(Port("http", 8080),),
                tags=("v2",),
                meta=(("version", "2.1"),),
                new_lease=(number + 1) << 40,
            )
        )


def apply_all(commands):
    store = Store()
    for index, command in enumerate(commands):
        store.apply(command, Meta(index, 1, 1_700_000_000_000 + index))
    return store


@pytest.fixture(scope="module")
def crowd(new_log):
    return list(registrations(new_log(), INSTANCES))


class Timed:
    def __init__(self, what, most_s):
        self.what, self.most_s = what, most_s

    def __enter__(self):
        gc.collect()
        self.start = time.perf_counter()

    def __exit__(self, *_):
        took = time.perf_counter() - self.start
        print(f"{self.what}: {took * 1e3:.1f} ms")
        assert took < self.most_s


def test_an_instance_takes_about_600_bytes_all_included(crowd):
    """Record, lease and indexes; beside them the bounded logs, which weigh more here than among 100,000 instances."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = apply_all(crowd)
        gc.collect()
        total = tracemalloc.get_traced_memory()[0] - before
        tables = store._tables
        tables.log.groups.clear()
        tables.events.events.clear()
        gc.collect()
        bare = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"bytes an instance: {bare / INSTANCES:.0f}, with the full logs {total / INSTANCES:.0f}")
    assert bare / INSTANCES <= 600
    assert (total - bare) <= 8 * 1024 * 1024


def test_registering_copying_and_loading_are_linear(crowd):
    with Timed(f"apply of {INSTANCES} registrations", 5.0):
        store = apply_all(crowd)
    with Timed("copy", 0.5):
        snapshot = store.snapshot()
    with Timed("chunks", 2.0):
        chunks = list(snapshot.chunks())
    with Timed("load", 5.0):
        Store.load(chunks)


def test_twenty_thousand_leases_expire_at_once(crowd):
    store = apply_all(crowd)
    command = encode(Evict(1, tuple((lease.id, lease.version, None) for lease in store.leases())))
    with Timed(f"eviction of {INSTANCES}", 1.0):
        outcome = store.apply(command, Meta(1, 1, 0))
    assert outcome.result.deleted == INSTANCES


def test_a_page_among_many_keys_costs_what_it_returns():
    store = apply_all(encode(Put(f"k/{number * 7919 % 100_000:05}", b"")) for number in range(100_000))
    for what, one in (("stands", store), ("was loaded", Store.load(store.snapshot().chunks()))):
        with Timed(f"page of a state that {what}", 0.02):
            page = one.keys("k/", "k/50000", 1000)
        assert [page[0][0], page[-1][0]] == ["k/50001", "k/51000"]
        with Timed(f"index of a prefix of a state that {what}", 0.02):
            assert one.index_of_prefix("k/") == 100_000


def test_a_transaction_that_reads_too_much_is_refused_before_it_was_counted():
    store = apply_all(encode(Put(f"{number}/{'k' * 400}", b"")) for number in range(5_000))
    with Timed("refusal", 0.1):
        outcome = store.apply(encode(Txn((), (Get("", prefix=True),) * 128, ())), Meta(1, 1, 0))
    assert outcome.result.code == "too_large"


def test_a_lease_with_many_keys_is_not_quadratic(log):
    log(Grant(5, 10_000))
    with Timed("10,000 keys on one lease", 5.0):
        for number in range(10_000):
            log(Put(f"k/{number}", b"", 5))
    with Timed("prefix read", 0.5):
        assert len(log.store.keys("k/")) == 10_000
    with Timed("revocation", 1.0):
        log(Revoke(5))
    assert log.store.keys("") == []
