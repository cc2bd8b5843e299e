"""Members added, removed and replaced under chaos; and that the guard of hazard 15 is what keeps it right."""

from __future__ import annotations

import pytest

from discovery.raft import member
from discovery.raft.core import Core
from discovery.testing.simmembers import main, simulate
from discovery.testing.simulation import Plan

CHUNK = 10


@pytest.mark.parametrize("first", range(1, 41, CHUNK))
def test_three_become_four_and_five_and_three_again_with_a_wiped_one_between(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "3"]) == 0


@pytest.mark.parametrize("first", range(1, 21, CHUNK))
def test_one_becomes_three(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "1"]) == 0


def test_a_wiped_one_is_replaced_also_when_haste_removed_another_meanwhile():
    assert main(["--seeds", "69", "--nodes", "3"]) == 0


def test_runs_change_what_they_are_there_to_change():
    runs = [simulate(seed, Plan(chaos_s=14.0)) for seed in range(1, 6)]
    done = " ".join(" ".join(steps) for _, steps, _ in runs)
    assert all(word in done for word in ("n4 added", "n5 added", "wiped", "removed", "n9 removed"))
    assert sum(refused for _, _, refused in runs) > 5
    assert sum(report.installs for report, _, _ in runs) > 5


def test_one_seed_is_one_run():
    assert simulate(3) == simulate(3)


def broken(seeds: range) -> int:
    """How many of the runs break a guarantee, or the program."""
    failed = 0
    for seed in seeds:
        try:
            simulate(seed, Plan(chaos_s=14.0))
        except Exception:
            failed += 1
    return failed


def test_late_acks_of_removed_members_would_end_leaders(monkeypatch):
    monkeypatch.setattr(member, "_OF_MEMBERS", ())
    monkeypatch.setattr(Core, "is_member", lambda self, peer: peer in self.links)
    assert broken(range(1, 4)) > 0
