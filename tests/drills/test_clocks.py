"""Clocks that jump, and clocks that differ from host to host, under real processes: leases follow none of them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from discovery.testing.clocks import Dial, build
from discovery.testing.cluster import Cluster, Node, children, eventually
from discovery.testing.promises import Doomed, Promises

Say = Callable[[str], None]
Need = Callable[..., str]
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
DAY_S = 86_400
LATE_S_MAX = 5.0  # ten times and more of what an election costs: CI asserts safety, figures are printed


class Leaping(Node):
    """A node whose clocks can leap while it runs, the monotonic one too, as after a live migration."""

    @property
    def dial(self) -> Path:
        return self.folder / f"{self.id}.clock"

    def command(self) -> list[str]:
        self.turn(0)
        fake = ["env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={self.dial}", "FAKETIME_NO_CACHE=1"]
        return [*fake, *super().command()]

    def turn(self, seconds: int) -> None:
        new = self.dial.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.dial)


class Elsewhere(Node):
    """A node on a host that has been up for longer or shorter: it sees another monotonic clock."""

    up_s = 0

    def command(self) -> list[str]:
        shift = ["unshare", "--time", "--monotonic", str(self.up_s), "--boottime", str(self.up_s), "--fork"]
        return [*shift, *super().command()]

    @property
    def supervisor(self) -> int:
        """``unshare`` stays and waits for it."""
        unshare = super().supervisor
        return eventually(lambda: children(unshare), what="the process in the other time")[0]


def cluster_of(kind: type[Node], folder: Path) -> Cluster:
    return Cluster.of([kind(f"n{number}", folder) for number in (1, 2, 3)])


@pytest.fixture
def wound(require_tool: Need, tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, Dial]]]:
    """A cluster, and the dial of each node's wall clock."""
    library = build(require_tool("gcc", "gcc"), tmp_path)
    cluster = cluster_of(Node, tmp_path)
    dials = {node.id: Dial(tmp_path / f"{node.id}.dial", library) for node in cluster}
    for node in cluster:
        node.prefix = dials[node.id].prefix
    try:
        yield cluster.start(), dials
    finally:
        cluster.close()


def log_times(node: Node) -> list[datetime]:
    """Log time of everything that happened to instances, in the order of the log."""
    events = node.request("GET", "events?consistency=strong").json()["events"]
    return [datetime.fromisoformat(event["time"]) for event in events]


@pytest.mark.timeout(120)
async def test_a_wall_clock_that_jumps_evicts_nobody_early_and_keeps_nobody_for_ever(
    wound: tuple[Cluster, dict[str, Dial]], say: Say
) -> None:
    cluster, dials = wound
    leader = await asyncio.to_thread(cluster.leader)
    late = []
    began = time.monotonic()
    promises = Promises(cluster, 2.0)
    async with promises.made():
        for ahead in (DAY_S, -DAY_S):
            victim = Doomed(1.0)
            await victim.register(leader)
            dials[leader.id].turn(ahead)
            late.append(await victim.gone(leader))
        for dial in dials.values():
            dial.turn(DAY_S)
        await promises.more(20)
        await asyncio.sleep(promises.living.ttl_s)
    times = log_times(leader)
    say(f"the leader's wall clock jumped a day ahead and back: dead ones gone {late[0]:.2f} and {late[1]:.2f} s late")
    assert min(late) > 0, "nothing dies before its TTL"
    assert max(late) < LATE_S_MAX
    assert times == sorted(times), "log time never goes back"
    elapsed = time.monotonic() - began
    assert times[-1] - times[0] < timedelta(seconds=1.25 * elapsed + 1), "no jump moves log time beyond its bound"
    assert f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}" in await asyncio.to_thread(leader.log), "it did jump"


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_monotonic_clock_that_leaps_is_a_stall_that_is_counted_against_nobody(
    require_tool: Need, tmp_path: Path, say: Say
) -> None:
    require_tool("faketime", "faketime")
    if not Path(FAKETIME).exists():
        pytest.skip("libfaketime is elsewhere on this architecture")
    cluster = cluster_of(Leaping, tmp_path)
    try:
        await asyncio.to_thread(cluster.start)
        leader = await asyncio.to_thread(cluster.leader)
        assert isinstance(leader, Leaping)
        victim = Doomed(2.0)
        async with Promises(cluster, 2.0).made():
            await victim.register(leader)
            leader.turn(3600)
            late = await victim.gone(next(node for node in cluster if node is not leader))
        say(f"the leader's monotonic clock leapt an hour: the dead one gone {late:.2f} s late")
        assert 0 < late < LATE_S_MAX
    finally:
        cluster.close()


@pytest.fixture
def elsewhere(require_root: Callable[[], None], require_tool: Need, tmp_path: Path) -> Iterator[Cluster]:
    require_root()
    unshare = require_tool("unshare", "util-linux")
    if subprocess.run([unshare, "--time", "--monotonic", "1", "--fork", "true"], check=False).returncode:
        pytest.skip("this kernel has no time namespaces")
    cluster = cluster_of(Elsewhere, tmp_path)
    for node, up_s in zip(cluster, (0, 10 * DAY_S, 1000 * DAY_S), strict=True):
        assert isinstance(node, Elsewhere)
        node.up_s = up_s
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_hosts_whose_monotonic_clocks_differ_take_leases_over_from_each_other(
    elsewhere: Cluster, say: Say
) -> None:
    late = []
    async with Promises(elsewhere, 3.0).made():
        for _ in range(2):
            leader = await asyncio.to_thread(elsewhere.leader)
            survivor = next(node for node in elsewhere if node is not leader)
            victim = Doomed(1.0)
            await victim.register(survivor)
            await asyncio.to_thread(leader.stop_processes, signal.SIGSTOP)
            try:
                late.append(await victim.gone(survivor))
            finally:
                await asyncio.to_thread(leader.stop_processes, signal.SIGCONT)
            await asyncio.to_thread(leader.request, "GET", "namespaces?consistency=strong")
    say(f"leadership went to hosts up for days more or less: dead ones gone {late[0]:.2f} and {late[1]:.2f} s late")
    assert min(late) > 0
    assert max(late) < LATE_S_MAX
