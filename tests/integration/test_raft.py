"""Three members in one process, over real sockets and disks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import msgspec
import pytest

from discovery import limits
from discovery.errors import ConfigError, CorruptData, NotApplied, OutcomeUnknown, Unavailable
from discovery.raft import Raft, RaftConfig
from discovery.raft import raft as raft_module
from discovery.raft.disk import RealDisk
from discovery.raft.identity import DataDirectory
from discovery.raft.types import Settings
from discovery.raft.wal import Wal
from discovery.testing.raft_member import Items

IDS = ("n1", "n2", "n3")
ZONE = "cluster.local"


class Cluster:
    """Members by id, which can be stopped and started again on the same directory and address."""

    def __init__(self, path, ids=IDS, **options):
        self.path, self.options = path, options
        self.sockets = {node: socket.create_server(("127.0.0.1", 0)) for node in ids}
        self.peers = {node: f"127.0.0.1:{sock.getsockname()[1]}" for node, sock in self.sockets.items()}
        self.rafts, self.machines = {}, {}
        self.deaths = []

    def config(self, node, **changes):
        config = RaftConfig(
            node, ZONE, self.path / node, self.peers, self.peers[node], f"http://{node}", **self.options
        )
        return msgspec.structs.replace(config, **changes)

    async def start(self, *ids, **changes):
        for node in ids or self.peers:
            machine = Items()
            raft = Raft(self.config(node, **changes), machine, fatal=lambda *death: self.deaths.append(death))
            self.rafts[node], self.machines[node] = raft, machine
            await raft.start([self.sockets[node].dup()])

    async def stop(self, *ids):
        for node in ids or tuple(self.rafts):
            await self.rafts.pop(node).stop()

    def leader(self):
        return next((node for node, raft in self.rafts.items() if raft.status().ready), None)

    async def elected(self):
        await eventually(lambda: self.leader() and all(raft.status().leader for raft in self.rafts.values()))
        return self.leader()

    async def follower(self):
        leader = await self.elected()
        return next(node for node in self.rafts if node != leader)


async def eventually(condition, within_s=8.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.005)


@pytest.fixture
async def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    await made.stop()
    for sock in made.sockets.values():
        sock.close()
    assert made.deaths == []


async def test_three_members_found_a_cluster_elect_and_replicate_from_each(cluster):
    await cluster.start()
    await cluster.elected()
    assert len({raft.cluster for raft in cluster.rafts.values()}) == 1
    for position, node in enumerate(IDS, 1):
        assert await cluster.rafts[node].propose(node.encode(), 5.0) == position
    for node in IDS:
        await cluster.rafts[node].read_barrier(2.0)
        assert cluster.machines[node].items == [b"n1", b"n2", b"n3"]


async def test_an_acknowledged_write_is_read_through_a_barrier_on_every_member(cluster):
    await cluster.start()
    await cluster.elected()
    for count in range(1, 31):
        await cluster.rafts[IDS[count % 3]].propose(b"%d" % count, 5.0)
        reader = IDS[(count + 1) % 3]
        await cluster.rafts[reader].read_barrier(2.0)
        assert len(cluster.machines[reader].items) == count


async def test_only_the_leader_confirms(cluster):
    await cluster.start()
    leader = await cluster.elected()
    assert await cluster.rafts[leader].confirm() == cluster.rafts[leader].status().term
    with pytest.raises(NotApplied):
        await cluster.rafts[await cluster.follower()].confirm()


async def test_a_decision_of_another_term_is_dropped_and_never_forwarded(cluster):
    await cluster.start()
    leader = await cluster.elected()
    term = cluster.rafts[leader].status().term
    assert await cluster.rafts[leader].propose(b"mine", 2.0, term=term) == 1
    with pytest.raises(NotApplied):
        await cluster.rafts[leader].propose(b"old", 2.0, term=term - 1)
    with pytest.raises(NotApplied):
        await cluster.rafts[await cluster.follower()].propose(b"not the leader", 2.0, term=term)
    assert cluster.machines[leader].items == [b"mine"]


async def test_the_status_names_all_members_with_their_addresses(cluster):
    await cluster.start()
    leader = await cluster.elected()
    status = cluster.rafts[leader].status()
    assert [(m.id, m.raft, m.http, m.alive) for m in status.members] == [
        (node, cluster.peers[node], f"http://{node}", True) for node in IDS
    ]
    assert [m.id for m in status.members if m.role == "leader"] == [leader]
    assert (status.node, status.role, status.ready, status.leaderless_s) == (leader, "leader", True, 0.0)


async def test_the_machine_hears_of_every_turn_of_leadership(cluster):
    await cluster.start()
    leader = await cluster.elected()
    term = cluster.rafts[leader].status().term
    assert cluster.machines[leader].roles[-1] == ("leader", term, leader, True)
    assert ("leader", term, leader, False) in cluster.machines[leader].roles
    assert cluster.machines[await cluster.follower()].roles[-1] == ("follower", term, leader, False)


async def test_a_leader_that_stops_hands_over_and_writes_go_on_at_once(cluster):
    await cluster.start()
    leader = await cluster.elected()
    await cluster.rafts[leader].propose(b"before", 5.0)
    rest = [node for node in IDS if node != leader]
    term = cluster.rafts[leader].status().term
    begin = time.monotonic()
    await cluster.stop(leader)
    assert await cluster.rafts[rest[0]].propose(b"after", 5.0) == 2
    assert time.monotonic() - begin < 0.5
    assert cluster.rafts[rest[0]].status().term == term + 1


async def test_everything_is_there_after_all_members_stopped(cluster):
    await cluster.start()
    await cluster.elected()
    for count in range(50):
        await cluster.rafts["n2"].propose(b"%d" % count, 5.0)
    before = cluster.rafts["n1"].cluster
    await cluster.stop()
    await cluster.start()
    await cluster.elected()
    await cluster.rafts["n3"].read_barrier(3.0)
    assert cluster.machines["n3"].items == [b"%d" % count for count in range(50)]
    assert cluster.rafts["n1"].cluster == before


async def test_nothing_is_founded_while_a_peer_is_missing_and_the_wait_is_named(cluster):
    await cluster.start("n1", "n2")
    await eventually(lambda: cluster.rafts["n1"].status().members[1].alive)
    assert cluster.rafts["n1"].waiting() == "peers n3, to found the cluster"
    with pytest.raises(NotApplied, match="waits for peers n3"):
        await cluster.rafts["n1"].propose(b"x", 1.0)
    with pytest.raises(Unavailable, match="peers n3"):
        await cluster.rafts["n1"].read_barrier(1.0)
    await cluster.start("n3")
    await cluster.elected()
    assert await cluster.rafts["n1"].propose(b"x", 5.0) == 1
    assert cluster.rafts["n1"].waiting() == ""


async def test_a_cluster_of_one_founds_itself_and_leads_at_once(tmp_path):
    cluster = Cluster(tmp_path, ("n1",))
    await cluster.start()
    begin = time.monotonic()
    await cluster.elected()
    assert time.monotonic() - begin < 0.3
    assert await cluster.rafts["n1"].propose(b"x", 5.0) == 1
    assert await cluster.rafts["n1"].confirm() >= 1
    await cluster.rafts["n1"].read_barrier(1.0)
    await cluster.stop()
    await cluster.start()
    await cluster.elected()
    assert cluster.machines["n1"].items == [b"x"]
    await cluster.stop()
    cluster.sockets["n1"].close()


async def test_hazard_20_a_wiped_member_neither_votes_nor_counts(cluster):
    await cluster.start()
    leader = await cluster.elected()
    wiped, other = (node for node in IDS if node != leader)
    await cluster.rafts[leader].propose(b"kept", 5.0)
    await cluster.stop(wiped)
    for file in sorted((cluster.path / wiped).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    await cluster.start(wiped)
    await eventually(lambda: "must add this node first" in cluster.rafts[wiped].waiting())
    await cluster.stop(other)
    with pytest.raises((NotApplied, OutcomeUnknown)):
        await cluster.rafts[leader].propose(b"no majority", 1.5)
    await cluster.start(other)
    await eventually(lambda: cluster.rafts[leader].status().leader)
    assert await cluster.rafts[other].propose(b"again", 5.0) in (2, 3)


async def test_the_founded_list_holds_and_another_one_is_only_a_warning(cluster, caplog):
    await cluster.start()
    await cluster.elected()
    await cluster.stop()
    await cluster.start("n1", "n2")
    await cluster.start("n3", peers={"n1": "127.0.0.1:1", "n9": "127.0.0.1:2"})
    await cluster.elected()
    assert "the data directory holds" in caplog.text
    assert [member.id for member in cluster.rafts["n3"].status().members] == list(IDS)
    assert await cluster.rafts["n3"].propose(b"x", 5.0) == 1


async def test_a_member_whose_log_is_gone_refuses_to_start(cluster):
    await cluster.start()
    await cluster.elected()
    await cluster.stop("n1")
    for file in (cluster.path / "n1" / "raft").iterdir():
        file.unlink()
    with pytest.raises(CorruptData, match="the log of this member is missing"):
        await cluster.start("n1")


async def test_questions_travel_between_members_in_order_with_the_rounds(cluster):
    await cluster.start()
    leader = await cluster.elected()
    heard = []

    async def slow(peer, payload):
        await asyncio.sleep(0.01)
        return payload.upper()

    def at_once(peer, payload):
        heard.append((peer, payload))
        return b"noted"

    def refuse(peer, payload):
        raise Unavailable("not now")

    cluster.rafts[leader].on_request("slow", slow)
    cluster.rafts[leader].on_request("note", at_once)
    cluster.rafts[leader].on_request("refuse", refuse)
    follower = await cluster.follower()
    asked = cluster.rafts[follower]
    assert await asked.request(leader, "slow", b"text", 2.0) == b"TEXT"
    assert await cluster.rafts[leader].request(leader, "slow", b"self", 2.0) == b"SELF"
    with pytest.raises(Unavailable, match="not now"):
        await asked.request(leader, "refuse", b"", 2.0)
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        await asked.request(leader, "slow", b"", 0.001)
    with pytest.raises(Unavailable, match="no connection"):
        await asked.request("n9", "slow", b"", 1.0)

    pending = []
    for node in IDS:
        if node != leader:
            raft = cluster.rafts[node]
            raft.before_round(lambda raft=raft: pending.append(raft.request(leader, "note", b"beat", 2.0)))
    await cluster.rafts[leader].confirm()
    assert heard  # what a follower flushed before its answer was heard before the round ended
    await asyncio.gather(*pending)


@pytest.mark.parametrize("secret", [None, b"the secret of this cluster"], ids=["plain", "secret"])
async def test_a_full_log_is_compacted_and_a_member_far_behind_gets_a_snapshot(tmp_path, secret):
    """Its parts and the entries behind it are the largest messages there are: with a secret each bears a tag."""
    settings = Settings(snapshot_bytes=2_000_000)
    cluster = Cluster(tmp_path, settings=settings, segment_bytes=500_000, retained_bytes=1_000_000, secret=secret)
    await cluster.start()
    leader = await cluster.elected()
    behind = await cluster.follower()
    await cluster.stop(behind)
    blob = b"x" * 10_000
    for _ in range(8):
        await asyncio.gather(*(cluster.rafts[leader].propose(blob, 5.0) for _ in range(100)))
        leader = await cluster.elected()
    await eventually(lambda: list((tmp_path / leader / "raft").glob("snapshot-*")))
    await eventually(lambda: cluster.rafts[leader]._engine.status().first_index > 2)
    await cluster.start(behind)
    await eventually(lambda: len(cluster.machines[behind].items) == 800)
    assert cluster.machines[behind].items == cluster.machines[leader].items
    await cluster.stop()
    await cluster.start()
    await cluster.elected()
    await cluster.rafts[behind].read_barrier(3.0)
    assert len(cluster.machines[behind].items) == 800
    await cluster.stop()
    for sock in cluster.sockets.values():
        sock.close()
    assert cluster.deaths == []


async def test_a_secret_beyond_loopback_is_required(tmp_path):
    sock = socket.create_server(("0.0.0.0", 0))
    raft = Raft(RaftConfig("n1", ZONE, tmp_path, {}, "10.0.0.1:8300"), Items())
    with pytest.raises(ConfigError, match="--raft-secret-file"):
        await raft.start([sock])
    await raft.stop()
    sock.close()


async def test_members_with_different_secrets_never_meet(cluster):
    await cluster.start("n1", secret=b"one secret of ours")
    await cluster.start("n2", "n3", secret=b"a different secret")
    await eventually(lambda: cluster.rafts["n2"].status().members[2].alive)
    assert cluster.rafts["n1"].waiting() == "peers n2, n3, to found the cluster"


def test_addresses_that_do_not_fit_into_a_handshake_are_refused_at_start(tmp_path):
    peers = {f"n{number}": "h" * 500 + ":8300" for number in range(9)}
    with pytest.raises(ConfigError, match=r"--peer, .*too many for a handshake"):
        Raft(RaftConfig("n1", ZONE, tmp_path, peers, "10.0.0.1:8300"), Items())


def test_a_short_secret_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="fewer than 16 bytes"):
        Raft(RaftConfig("n1", ZONE, tmp_path, {}, "10.0.0.1:8300", secret=b"short"), Items())


async def test_a_failed_sync_ends_the_process_and_acknowledges_nothing(cluster):
    await cluster.start()
    leader = await cluster.elected()

    def fail(name):
        raise OSError(5, "Input/output error")

    cluster.rafts[leader]._disk.sync = fail
    proposal = asyncio.ensure_future(cluster.rafts[leader].propose(b"x", 1.0))
    await eventually(lambda: cluster.deaths)
    assert not proposal.done()
    proposal.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await proposal
    what, error = cluster.deaths.pop()
    assert what == "the log cannot be written"
    assert isinstance(error, OSError)
    del cluster.rafts[leader]._disk.sync
    cluster.rafts[leader]._driver._task.cancel()


async def test_an_exception_in_a_pass_ends_the_process(cluster):
    await cluster.start()
    leader = await cluster.elected()

    def fail():
        raise ZeroDivisionError

    cluster.rafts[leader]._engine.step = fail
    await eventually(lambda: cluster.deaths)
    assert cluster.deaths.pop()[0] == "the Raft driver failed"


async def test_an_idle_cluster_of_three_takes_hardly_any_cpu(cluster):
    await cluster.start()
    await cluster.elected()
    begin, used = time.monotonic(), time.process_time()
    await asyncio.sleep(1.0)
    share = (time.process_time() - used) / (time.monotonic() - begin)
    print(f"\nthree idle members: {share:.2%} of a core together")
    assert share < 0.06


async def test_a_disk_that_stands_still_keeps_nobody_waiting_beyond_his_time(tmp_path, monkeypatch):
    """No pass ends while the disk does not answer: deadlines must not depend on one."""
    monkeypatch.setattr(raft_module, "GRACE_S", 0.05)
    monkeypatch.setattr(limits, "HEARTBEAT_TIMEOUT_S", 0.1)
    alone = Cluster(tmp_path, ids=("n1",))
    await alone.start()
    await alone.elected()
    raft = alone.rafts["n1"]
    goes_on = threading.Event()
    write = raft._wal.write
    monkeypatch.setattr(raft._wal, "write", lambda batch: (goes_on.wait(20), write(batch)))
    try:
        async with asyncio.timeout(5):
            with pytest.raises(OutcomeUnknown):
                await raft.propose(b"one", 0.1)
            with pytest.raises(NotApplied):
                await raft.confirm()
            with pytest.raises(Unavailable):
                await raft.read_barrier(0.1)
    finally:
        goes_on.set()
    assert await raft.propose(b"two", 5.0) == 2, "what was given up is applied all the same"
    await alone.stop()
    alone.sockets["n1"].close()
    assert alone.deaths == []


class Crash(BaseException):
    """The process is gone: nothing of it runs on."""


def _crashing(monkeypatch, node, step):
    """Let the member that is built next die when its founding comes to ``step``; returns what says that it did."""
    died = []

    def crash(*_):
        died.append(node)
        raise Crash

    raft_begin, store, rename = Wal.begin, DataDirectory.store, RealDisk.rename

    def founding(identity):
        return identity.founded and identity.node == node

    def begin(wal):
        if node not in str(wal._disk.path):
            return raft_begin(wal)
        if step == "before the log":
            crash()
        if step == "the log's file is empty":
            wal._segment_for_next()
            crash()
        return raft_begin(wal)

    def stored(directory, identity):
        if founding(identity) and step == "before the identity":
            crash()
        store(directory, identity)
        if founding(identity) and step == "after the identity":
            crash()

    def renamed(disk, old, new):
        if step == "the identity has no name" and b'"cluster": ""' not in disk.read(old) and disk.path.name == node:
            crash()
        return rename(disk, old, new)

    monkeypatch.setattr(Wal, "begin", begin)
    monkeypatch.setattr(DataDirectory, "store", stored)
    monkeypatch.setattr(RealDisk, "rename", renamed)
    return died


@pytest.mark.parametrize(
    "step",
    [
        "before the log",
        "the log's file is empty",
        "before the identity",
        "the identity has no name",
        "after the identity",
    ],
)
async def test_a_crash_at_any_step_of_the_founding_heals(cluster, monkeypatch, step):
    with monkeypatch.context() as patch:
        died = _crashing(patch, "n2", step)
        await cluster.start()
        await eventually(lambda: died)
        await cluster.stop("n2")
    await cluster.start("n2")
    await cluster.elected()
    assert len({raft.cluster for raft in cluster.rafts.values()}) == 1
    for number, node in enumerate(IDS, 1):
        assert await cluster.rafts[node].propose(node.encode(), 5.0) == number


async def test_a_disk_that_fails_at_the_founding_ends_the_process(cluster, monkeypatch):
    """A second fsync after a failed one may report success for pages that were thrown away."""

    def failing(wal):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Wal, "begin", failing)
    await cluster.start()
    await eventually(lambda: cluster.deaths)
    assert isinstance(cluster.deaths[0][1], OSError)
    cluster.deaths.clear()
