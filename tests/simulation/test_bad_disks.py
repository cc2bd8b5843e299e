"""Seeded chaos of full disks, failing syncs, kills and power losses: promises hold, broken nodes are caught."""

from __future__ import annotations

import pytest

from discovery.raft.engine import Engine
from discovery.testing.simdisk import SimDisk
from discovery.testing.simulation import Plan, simulate

WEIGHTS = (("full_disk", 6), ("bad_sync", 5), ("kill", 3), ("power", 4), ("power_all", 2), ("partition", 2), ("cut", 2))


def plan(nodes: int) -> Plan:
    return Plan(nodes=nodes, chaos_s=8.0, quiet_s=16.0, fault_every_s=(0.1, 0.6), weights=WEIGHTS)


@pytest.mark.parametrize(("nodes", "seeds"), [(1, range(1, 13)), (3, range(1, 21)), (5, range(1, 9))])
def test_full_disks_and_failing_syncs_break_no_promise(nodes, seeds):
    fulls = failures = acknowledged = 0
    for seed in seeds:
        try:
            report = simulate(seed, plan(nodes))
        except Exception as error:
            pytest.fail(f"simulate({seed}, plan({nodes})): {error}")
        fulls, failures = fulls + report.fulls, failures + report.failures
        acknowledged += report.acknowledged
    assert min(fulls, failures) > len(seeds) / 2
    assert acknowledged > 10 * len(seeds)


def test_a_node_that_believes_the_page_cache_is_caught(monkeypatch):
    monkeypatch.setattr(SimDisk, "rewrite", lambda *arguments: None)
    assert first_caught(range(1, 200)) is not None


def test_a_node_that_counts_what_found_no_room_is_caught(monkeypatch):
    monkeypatch.setattr(Engine, "unsynced", lambda self, cause: self.synced())
    assert first_caught(range(1, 200)) is not None


def first_caught(seeds: range) -> int | None:
    for seed in seeds:
        try:
            simulate(seed, plan(3))
        except Exception:
            return seed
    return None
