"""Seeded chaos on the real engine, log, snapshots, store and lease clocks; a failure prints its seed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from discovery.testing.simfaults import USUAL, Chaos
from discovery.testing.simulation import Plan, Report, Simulation, main, simulate

CHUNK = 20
"""Seeds a test, so that none takes long on a loaded machine. Thousands run with `make simulate`."""


@pytest.mark.parametrize("first", range(1, 121, CHUNK))
def test_three_nodes_keep_every_promise(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "3"]) == 0


@pytest.mark.parametrize("first", range(1, 41, CHUNK))
def test_five_nodes_keep_every_promise(first):
    assert main(["--seeds", f"{first}..{first + CHUNK - 1}", "--nodes", "5"]) == 0


def test_a_node_alone_keeps_every_promise():
    assert main(["--seeds", "1..20", "--nodes", "1"]) == 0


@pytest.mark.parametrize("seed", range(1, 7))
def test_log_time_keeps_its_pace_while_clocks_jump_and_leaders_change(seed):
    weights = (("clock", 6), ("transfer", 2), ("kill", 2), ("power", 1), ("partition", 2), ("pause", 1))
    run = Simulation(seed, Plan(nodes=3, weights=weights, fault_every_s=(0.1, 0.6)))
    run.run()
    assert run.watch.log_time.judged > 50


def test_runs_exercise_what_they_are_there_for():
    reports = [simulate(seed) for seed in range(1, 9)]
    sums = {name: sum(getattr(report, name) for report in reports) for name in Report.__struct_fields__[1:-1]}
    least = {
        "acknowledged": 1000,
        "refused": 5,
        "unknown": 1,
        "repeats": 50,
        "reads": 100,
        "confirmations": 200,
        "leaders": 16,
        "evictions": 8,
        "judged": 1000,
        "fulls": 5,
        "failures": 1,
        "installs": 5,
        "views": 1,
    }
    assert {name: count for name, count in least.items() if sums[name] < count} == {}


def test_every_fault_does_something():
    run = Simulation(1, Plan(chaos_s=30, fault_every_s=(0.05, 0.2)))
    run.run()
    assert {line.split()[3] for line in run.chaos.story} == {kind for kind, _ in USUAL}


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


def test_a_run_without_some_faults_keeps_the_others():
    whole, part = Simulation(5, Plan()), Simulation(5, Plan(), only=[2, 4])
    assert part.chaos.faults == [fault for fault in whole.chaos.faults if fault.number in (2, 4)]


def kinds_of(seed: int) -> list[str]:
    return [fault.kind for fault in Simulation(seed, Plan(chaos_s=20)).chaos.faults]


def test_a_failing_seed_is_printed_with_what_is_enough_and_its_replay(capsys, monkeypatch):
    def broken(self, fault):
        original(self, fault)
        if sum(" kill " in line for line in self.story) == 2:
            raise AssertionError("a second kill")

    original = Chaos._do
    monkeypatch.setattr(Chaos, "_do", broken)
    seed = next(seed for seed in range(1, 50) if kinds_of(seed).count("kill") >= 4)
    assert main(["--seeds", str(seed), "--nodes", "3", "--chaos-s", "20"]) == 1
    printed = capsys.readouterr().out
    numbers = re.search(rf"replay: .* --seeds {seed} --nodes 3 --chaos-s 20.0 --faults ([\d,]+)", printed).group(1)
    assert len(numbers.split(",")) == 2
    assert printed.count(" kill ") == 2
    assert main(["--seeds", str(seed), "--nodes", "3", "--chaos-s", "20", "--faults", numbers]) == 1
    assert "a second kill" in capsys.readouterr().out
