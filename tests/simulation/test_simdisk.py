"""The simulated disk is as bad as a real one may be, and no worse."""

from __future__ import annotations

import random

import pytest

from discovery.testing.simdisk import BLOCK_BYTES, SimDisk


def crashed(seed: int, *, settle: bool) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    disk.create("log")
    disk.sync_dir()
    disk.append("log", b"a" * 1000)
    disk.sync("log")
    disk.settle()
    disk.append("log", b"b" * 4 * BLOCK_BYTES)
    disk.sync("log")
    if settle:
        disk.settle()
    disk.crash()
    return disk


@pytest.mark.parametrize("seed", range(20))
def test_what_was_synced_survives(seed):
    assert crashed(seed, settle=True).read("log") == b"a" * 1000 + b"b" * 4 * BLOCK_BYTES
    assert crashed(seed, settle=False).read("log")[:1000] == b"a" * 1000


def test_what_was_not_synced_is_kept_in_any_combination_of_blocks():
    outcomes = {crashed(seed, settle=False).read("log") for seed in range(200)}
    assert len(outcomes) > 8
    assert any(b"\0" in data for data in outcomes), "a later block may be there without an earlier one"


def test_names_survive_only_behind_a_sync_of_the_directory():
    lost = 0
    for seed in range(20):
        disk = SimDisk(random.Random(seed))
        disk.create("a")
        disk.sync_dir()
        disk.settle()
        disk.create("b")
        disk.settle()
        disk.crash()
        assert "a" in disk.list()
        lost += "b" not in disk.list()
    assert 0 < lost < 20


def test_a_killed_process_loses_nothing_that_the_kernel_has():
    disk = SimDisk(random.Random(1))
    disk.create("log")
    disk.append("log", b"x")
    disk.settle()
    disk.stop()
    assert disk.read("log") == b"x"


def test_a_removed_file_is_not_found():
    disk = SimDisk(random.Random(1))
    with pytest.raises(FileNotFoundError):
        disk.read("nothing")
