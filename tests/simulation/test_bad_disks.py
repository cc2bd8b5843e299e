"""Seeded chaos with disks that are full and syncs that fail: every promise holds, and broken nodes are caught."""

from __future__ import annotations

import pytest

from discovery.raft.engine import Engine
from discovery.testing.simbaddisk import BadDiskNode, BadDisks, plan
from discovery.testing.simdisk import SimDisk

CHUNK = 15


@pytest.mark.parametrize(("nodes", "first"), [(1, 1), (3, 1), (3, 16), (5, 1)])
def test_full_disks_and_failing_syncs_break_no_promise(nodes, first):
    fulls = failures = acknowledged = 0
    for seed in range(first, first + CHUNK):
        run = BadDisks(seed, plan(nodes))
        try:
            acknowledged += run.run().acknowledged
        except Exception as error:
            pytest.fail(f"BadDisks({seed}, plan({nodes})).run(): {error}")
        fulls += sum(node.fulls for node in run.nodes)
        failures += sum(node.failures for node in run.nodes)
    assert min(fulls, failures) > CHUNK
    assert acknowledged > 20 * CHUNK


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1001, 2001, 250))
def test_the_same_for_a_thousand_seeds(first):
    for seed in range(first, first + 250):
        try:
            BadDisks(seed, plan()).run()
        except Exception as error:
            pytest.fail(f"BadDisks({seed}, plan()).run(): {error}")


def first_caught(seeds: range) -> int | None:
    for seed in seeds:
        try:
            BadDisks(seed, plan()).run()
        except Exception:
            return seed
    return None


def test_a_node_that_believes_the_page_cache_is_caught(monkeypatch):
    monkeypatch.setattr(SimDisk, "rewrite", lambda *arguments: None)
    assert first_caught(range(1, 300)) is not None


def test_a_node_that_takes_a_full_disk_for_a_written_one_is_caught(monkeypatch):
    def boastful(self, error):
        self._syncing = False
        self.disk.settle()
        self._synced(self._last)

    monkeypatch.setattr(BadDiskNode, "_no_room", boastful)
    assert first_caught(range(1, 100)) is not None


def test_a_node_that_speaks_although_its_disk_is_full_is_caught(monkeypatch):
    monkeypatch.setattr(Engine, "unsynced", lambda self, cause: self.synced())
    assert first_caught(range(1, 100)) is not None
