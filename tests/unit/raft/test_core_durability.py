"""What the engine keeps: over restarts, snapshots and transfers, and what makes it stop instead of going on wrongly."""

from __future__ import annotations

import msgspec
import pytest

from discovery.errors import ConfigError, CorruptData
from discovery.raft import codec, seam
from discovery.testing.rig import SMALL, Rig


def led_by_a(count: int = 3, **options) -> Rig:
    rig = Rig(count, **options)
    rig.elect("a")
    assert rig.leaders() == ["a"]
    return rig


def test_everything_survives_the_loss_of_power_of_all():
    rig = led_by_a()
    for number in range(20):
        rig.propose("b", b"%d" % number)
        rig.settle()
    for name in "abc":
        rig[name].restart(power=True)
    for name in "abc":
        rig.join(name)
    rig.run(1)
    assert [node.machine.applied for node in rig.nodes.values()] == [[b"%d" % n for n in range(20)]] * 3


def test_a_node_left_behind_is_brought_up_by_a_snapshot_and_the_log_after_it():
    rig = led_by_a(settings=msgspec.structs.replace(SMALL, snapshot_bytes=4096), retained_bytes=0)
    rig.isolate("c")
    for number in range(80):
        rig.propose("a", bytes([number]) * 200)
        rig.settle()
    assert rig["a"].status.first_index > 2
    rig.join("c")
    rig.run(0.5)
    assert rig["c"].machine.applied == rig["a"].machine.applied
    rig["c"].restart(power=True)
    rig.join("c")
    rig.run(0.5)
    assert rig["c"].machine.applied == rig["a"].machine.applied


def test_a_transfer_goes_on_where_the_connection_broke():
    settings = msgspec.structs.replace(SMALL, snapshot_bytes=8192, chunk_bytes=256, chunks_in_flight=1)
    rig = led_by_a(settings=settings, retained_bytes=0)
    rig.isolate("c")
    for number in range(80):
        rig.propose("a", bytes([number]) * 200)
        rig.settle()
    rig.join("c", "a")
    rig.settle(30)
    had = rig["c"].engine._incoming._offset
    assert had > 0
    rig.isolate("c", "a")
    rig.join("c", "a")
    offsets: list[int] = []
    while rig["c"].status.applied < 10 and len(offsets) < 500:
        rig.settle(1)
        offsets += [m.offset for _, target, m in rig.queue if isinstance(m, codec.SnapshotChunk) and target == "c"]
        rig.now += 0.01
    assert min(offsets) >= had - 256
    rig.run(0.3)
    assert rig["c"].machine.applied == rig["a"].machine.applied


def test_a_snapshot_that_does_not_fit_the_log_stops_the_node():
    rig = led_by_a(settings=msgspec.structs.replace(SMALL, snapshot_bytes=4096), retained_bytes=0)
    for number in range(80):
        rig.propose("a", bytes([number]) * 200)
        rig.settle()
    disk = rig["a"].disk
    for name in disk.list():
        if name.startswith("snapshot"):
            disk.remove(name)
    with pytest.raises(CorruptData, match="no snapshot"):
        rig["a"].start()


def test_two_leaders_of_one_term_stop_the_node():
    rig = led_by_a()
    with pytest.raises(CorruptData, match="both lead"):
        rig.inject("b", "a", codec.AppendEntries(1, 1, 0, 1, 0))


def test_a_leader_that_contradicts_what_is_committed_stops_the_node():
    rig = led_by_a()
    rig.propose("a", b"x")
    rig.settle()
    rig.run(0.2)
    core = rig["b"].core
    with pytest.raises(CorruptData, match="committed"):
        core.cut(core.commit)


def test_a_pass_before_the_sync_of_the_last_is_a_defect():
    rig = Rig(3)
    rig["a"].engine.step()
    with pytest.raises(RuntimeError, match="before the sync"):
        rig["a"].engine.step()


def test_an_idle_cluster_makes_few_passes():
    rig = led_by_a()
    rig.run(1)
    passes = 0
    for node in rig.nodes.values():
        original = node.engine.step

        def counted(original=original):
            nonlocal passes
            passes += 1
            return original()

        node.engine.step = counted
    rig.run(10)
    assert passes < 10 * 45


def test_the_source_of_the_library_is_checked():
    seam.verify_source()
    with pytest.raises(ConfigError, match=r"pysyncobj==0\.3\.14"):
        seam.verify_source("0" * 64)


def test_nothing_can_be_unpickled():
    with pytest.raises(RuntimeError, match="banned"):
        seam.base.pickle.loads(b"")


def test_log_time_goes_on_under_the_next_leader_at_three_quarters_when_his_clock_is_behind():
    rig = led_by_a()
    rig.propose("a", b"x")
    rig.settle()
    rig.run(1)
    rig["b"].engine._wall_ms = lambda: 0
    rig.elect("b")
    rig.propose("b", b"y")
    rig.settle()
    first, second = (meta.time_ms for meta in rig["c"].machine.metas)
    assert (first, second) == (1_000_000, 1_000_750)
