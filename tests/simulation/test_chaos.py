"""Seeded chaos on the real engine, log, snapshots, store and lease clocks; a failure prints its seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from discovery.testing.simulation import Plan, main, simulate

CHUNK = 25
"""Seeds a test, so that none takes long on a loaded machine."""


@pytest.mark.parametrize("first", range(1, 201, CHUNK))
def test_three_nodes_keep_every_promise(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "3"]) == 0


@pytest.mark.parametrize("first", range(1, 76, CHUNK))
def test_five_nodes_keep_every_promise(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "5"]) == 0


def test_a_node_alone_keeps_every_promise():
    assert main(["--seeds", "1..20", "--nodes", "1"]) == 0


@pytest.mark.parametrize(("seed", "nodes", "chaos_s"), [(5021, 5, 8), (10144, 3, 15), (10725, 3, 15)])
def test_seeds_that_once_failed(seed, nodes, chaos_s):
    assert main(["--seeds", str(seed), "--nodes", str(nodes), "--chaos-s", str(chaos_s)]) == 0


def test_a_run_exercises_what_it_is_there_for():
    report = simulate(4)
    assert report.acknowledged > 100
    assert report.reads > 10
    assert report.confirmations > 20
    assert report.leaders > 2
    assert report.evictions > 0
    assert report.installs > 0


def test_one_seed_is_one_run_in_every_process():
    code = "from discovery.testing.simulation import simulate, Plan; print(simulate(7, Plan(nodes=3, chaos_s=3.0)))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert str(simulate(7, Plan(nodes=3, chaos_s=3.0))) in runs.pop()


def test_a_failing_seed_is_printed_with_its_replay(capsys, monkeypatch):
    def broken(seed, plan):
        raise AssertionError("lost")

    monkeypatch.setattr("discovery.testing.simulation.simulate", broken)
    assert main(["--seeds", "3", "--nodes", "5"]) == 1
    assert "--seeds 3 --nodes 5" in capsys.readouterr().out
