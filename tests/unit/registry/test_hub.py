"""The node's side of the feed: who is in step, who travels nowhere back, who is replaced."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time

import pytest

from discovery import feed, hub, limits
from discovery.command import Deregister, Found, Grant, Meta, Put, Revoke, encode
from discovery.hub import Hub, kill_worker
from discovery.link import kernel_pid
from discovery.store import Store


class Feed:
    """A hub over a store that the test writes to, without Raft."""

    def __init__(self, path, killed):
        self.path = path
        self.killed = killed
        self.hub = Hub(killed.append, time.monotonic, lambda sock: 0)
        self.store = Store()
        self.index = 0
        self.write(Found("h1"))
        self.hub.use(self.store)

    def write(self, command):
        self.index += 1
        outcome = self.store.apply(encode(command), Meta(self.index, 1, 1_000))
        if outcome.group is not None:
            self.hub.publish(outcome.group)
        return outcome.result

    def restarted(self, store=None):
        """A new node process: its hub knows nothing of the workers."""
        self.hub = Hub(self.killed.append, time.monotonic, lambda sock: 0)
        self.store = Store() if store is None else store
        return self.hub


@pytest.fixture
async def node(tmp_path):
    made = Feed(str(tmp_path / "feed"), [])
    await made.hub.start(made.path)
    yield made
    await made.hub.stop()


def copy(store):
    return Store.load(store.snapshot().chunks())


async def test_what_is_applied_in_one_turn_reaches_a_worker_in_one_write(node, worker, register, until, monkeypatch):
    one = await worker(node.path)
    await until(one.in_step)
    [link] = node.hub._links
    written, write = [], link._transport.writelines

    def writelines(frames):
        written.append(len(frames))
        write(frames)

    monkeypatch.setattr(link._transport, "writelines", writelines)
    for number in range(50):
        node.write(register(f"i{number}"))
    assert await node.hub.visible(node.store.revision, 30)
    assert written == [50]


async def test_a_new_worker_gets_everything_then_what_changes(node, worker, register, until):
    for number in range(600):
        node.write(register(f"i{number}"))
    one = await worker(node.path)
    await until(lambda: one.revision == 600)
    assert one.ids == {f"i{number}" for number in range(600)}
    node.write(register("new"))
    node.write(Deregister("default", "web", "i0"))
    await until(lambda: one.revision == 602)
    assert "new" in one.ids
    assert "i0" not in one.ids
    assert one.kinds() == ["Begin", "Items", "Items", "Items", "End", "Changes", "Changes"]


async def test_what_changes_while_the_view_is_copied_comes_after_it(node, worker, register, until):
    for number in range(3_000):
        node.write(register(f"i{number}"))
    one = await worker(node.path)
    await until(lambda: one.frames)
    node.write(register("during"))
    await until(lambda: one.revision == 3_001)
    assert len(one.ids) == 3_001
    assert one.kinds()[-2:] == ["End", "Changes"]


async def test_a_worker_that_comes_back_resumes_where_it_was(node, worker, register, until):
    node.write(register("a"))
    one = await worker(node.path)
    await until(lambda: one.revision == 1)
    await one.close()
    node.write(register("b"))
    one.frames.clear()
    await one.connect(node.path)
    await until(lambda: one.revision == 2)
    assert one.kinds() == ["Resume", "Changes"]
    assert one.ids == {"a", "b"}


async def test_a_worker_whose_revision_was_compacted_reads_everything_anew(node, worker, register, until):
    node.write(register("a"))
    one = await worker(node.path)
    await until(lambda: one.revision == 1)
    await one.close()
    for number in range(limits.CHANGE_LOG_CHANGES_MAX + 10):
        node.write(register(f"i{number % 2_000}", ttl_ms=10_000 + number))
    assert node.store.floor > 1
    one.frames.clear()
    await one.connect(node.path)
    await until(lambda: one.revision == node.store.revision)
    assert one.kinds()[0] == "Begin"
    assert len(one.ids) == 2_001


async def test_a_node_behind_its_worker_says_nothing_until_it_has_caught_up(node, worker, register, until):
    for number in range(3):
        node.write(register(f"i{number}"))
    early = copy(node.store)
    late = [register(f"j{number}") for number in range(3)]
    for command in late:
        node.write(command)
    one = await worker(node.path)
    await until(lambda: one.revision == 6)
    await one.close()
    await node.hub.stop()
    restarted = node.restarted(early)
    await restarted.start(node.path)
    restarted.use(early)
    one.frames.clear()
    await one.connect(node.path)
    fresh = await worker(node.path)
    for command in late[:2]:
        node.write(command)
    restarted.tell(True, 0)
    await until(lambda: one.frames and fresh.frames)
    assert {type(frame) for frame in one.frames + fresh.frames} == {feed.State}
    assert {frame.revision for frame in one.frames} == {0}
    node.write(late[2])
    await until(lambda: one.kinds() and fresh.ids)
    assert one.kinds() == ["Resume"]
    assert fresh.ids == one.ids
    assert one.revision == fresh.revision == 6


async def test_nothing_is_sent_before_the_history_is_founded(tmp_path, worker, until):
    unfounded = Hub(lambda pid: None, time.monotonic, lambda sock: 0)
    await unfounded.start(str(tmp_path / "feed"))
    store = Store()
    unfounded.use(store)
    one = await worker(str(tmp_path / "feed"))
    await until(lambda: one.frames)
    assert one.kinds() == []
    store.apply(encode(Found("h")), Meta(1, 1, 1))
    unfounded.use(store)
    await until(lambda: one.kinds() == ["Begin", "End"])
    await unfounded.stop()


async def test_another_history_is_read_whole_whatever_the_revision(node, worker, register, until):
    node.write(register("a"))
    one = await worker(node.path)
    await until(lambda: one.revision == 1)
    other = Store()
    other.apply(encode(Found("h2")), Meta(1, 1, 1))
    for number in range(3):
        other.apply(encode(register(f"n{number}")), Meta(2 + number, 1, 1))
    node.hub.use(other)
    await until(lambda: one.history == "h2" and one.revision == 3)
    assert one.ids == {"n0", "n1", "n2"}


async def test_an_installed_snapshot_is_followed_by_a_resume_where_the_log_allows(node, worker, register, until):
    node.write(register("a"))
    one = await worker(node.path)
    await until(lambda: one.revision == 1)
    ahead = copy(node.store)
    ahead.apply(encode(register("b")), Meta(9, 1, 1))
    one.frames.clear()
    node.hub.use(ahead)
    await until(lambda: one.revision == 2)
    assert one.kinds() == ["Resume", "Changes"]


async def test_a_revision_too_large_for_a_frame_is_read_as_a_whole_view(node, worker, register, until, monkeypatch):
    """Everything on one lease goes in one revision, however much that is."""
    node.write(Grant(7, 60_000))
    for number in range(200):
        node.write(register(f"i{number}", None, join=7))
    node.write(register("stays"))
    one = await worker(node.path)
    await until(lambda: one.in_step() and len(one.ids) == 201)
    monkeypatch.setattr(limits, "FEED_FRAME_BYTES_MAX", 2_000)
    revision = node.write(Revoke(7)).revision
    assert await node.hub.visible(revision)
    assert one.ids == {"stays"}
    late = await worker(node.path)
    await until(late.in_step)
    assert late.ids == {"stays"}
    node.write(register("new"))
    await until(lambda: one.ids == late.ids == {"stays", "new"})


async def test_keys_are_not_sent_but_the_revision_follows_with_the_state(node, worker, until):
    one = await worker(node.path)
    await until(lambda: one.kinds())
    node.write(Put("k", b"1"))
    node.hub.tell(True, 0)
    await until(lambda: one.revision == 1)
    assert one.kinds() == ["Begin", "End"]


async def test_workers_hear_of_the_leader_and_of_staleness(node, worker, until):
    one = await worker(node.path)
    await until(lambda: one.kinds())
    node.hub.tell(False, 1_500)
    await until(lambda: feed.State(False, 1_500, 0, counted=True) in one.frames)
    node.hub.tell(True, 0)
    await until(lambda: one.frames[-1] == feed.State(True, 0, 0, counted=True))


async def test_visible_waits_for_the_slowest_worker_on_the_port(node, worker, register, until):
    quick, slow = await worker(node.path), await worker(node.path)
    await until(lambda: quick.in_step() and slow.in_step())
    slow.silent = True
    revision = node.write(register("a")).revision
    waiting = asyncio.ensure_future(node.hub.visible(revision))
    await until(lambda: slow.revision == revision)
    assert not waiting.done()
    slow.say(feed.Ack(revision))
    assert await waiting


async def test_visible_is_false_and_the_worker_is_killed_when_it_does_not_follow(node, worker, register, until):
    one = await worker(node.path)
    await until(one.in_step)
    one.silent = True
    begin = time.monotonic()
    revision = node.write(register("a")).revision
    assert not await node.hub.visible(revision)
    assert time.monotonic() - begin == pytest.approx(limits.VISIBLE_TIMEOUT_S, abs=0.3)
    await until(lambda: node.killed == [one.pid])
    assert await node.hub.visible(revision), "nobody is left on the port who does not serve it"


async def test_a_worker_that_does_not_follow_is_killed_although_nobody_waits(node, worker, register, until):
    one = await worker(node.path)
    await until(one.in_step)
    one.silent = True
    node.write(register("a"))
    await until(lambda: node.killed == [one.pid], within_s=3)


async def test_a_worker_that_is_behind_but_comes_on_is_left_alive(node, worker, register, until, monkeypatch):
    """A node that catches up with the cluster outruns all its workers: killing them would leave nobody to answer."""
    monkeypatch.setattr(limits, "VISIBLE_TIMEOUT_S", 0.3)
    one = await worker(node.path)
    await until(lambda: one.in_step() and not node.hub.behind())
    one.silent = True
    for number in range(10):
        node.write(register(f"i{number}"))
    for revision in range(1, 11):
        await asyncio.sleep(0.1)
        one.say(feed.Ack(revision))
    assert await node.hub.visible(10)
    assert node.killed == []
    node.write(register("j"))
    await until(lambda: node.killed == [one.pid], within_s=3)


async def test_workers_listed_at_the_start_count_before_they_connect(node, worker, register, until):
    node.hub.set_workers([(0, 4711), (1, 4712)])
    revision = node.write(register("a")).revision
    assert not await node.hub.visible(revision, timeout_s=0.05)
    assert len(node.hub.behind()) == 2
    waiting = asyncio.ensure_future(node.hub.visible(revision))
    await worker(node.path, 4711)
    await worker(node.path, 4712)
    assert await waiting
    assert node.hub.behind() == []


async def test_a_replacement_counts_from_its_first_acknowledgement_on(node, worker, register, until):
    node.hub.set_workers([(0, 4711)])
    one = await worker(node.path, 4711)
    await until(lambda: not node.hub.behind())
    await one.close()
    node.hub.set_workers([])
    node.hub.set_workers([(0, 4799)])
    revision = node.write(register("a")).revision
    async with asyncio.timeout(0.5):
        assert await node.hub.visible(revision)
    assert node.hub.behind() == ["1 DNS worker(s) are starting"]
    two = await worker(node.path, 4799)
    await until(lambda: not node.hub.behind())
    two.silent = True
    revision = node.write(register("b")).revision
    assert not await node.hub.visible(revision, timeout_s=0.05)


async def test_a_replacement_is_told_when_it_may_join_its_port(node, worker, until):
    one = await worker(node.path)
    await until(lambda: one.kinds() == ["Begin", "End"])
    acked = one.frames.index(next(frame for frame in one.frames if isinstance(frame, feed.End)))
    await until(lambda: any(isinstance(frame, feed.State) and frame.counted for frame in one.frames[acked:]))


async def test_a_replacement_is_not_told_so_before_the_node_waits_for_it(node, worker, register, until):
    node.hub.set_workers([(0, 4711)])
    node.hub.set_workers([(0, 4799)])
    two = await worker(node.path, 4799)
    two.silent = True  # its acknowledgement is under way
    await until(lambda: two.kinds() == ["Begin", "End"])
    node.hub.tell(True, 0)
    assert await node.hub.visible(node.write(register("a")).revision, timeout_s=0.05), "nobody is on the port"
    await until(lambda: isinstance(two.frames[-1], feed.Changes))
    assert not any(isinstance(frame, feed.State) and frame.counted for frame in two.frames)
    two.say(feed.Ack(node.store.revision))
    await until(lambda: isinstance(two.frames[-1], feed.State) and two.frames[-1].counted)
    assert not await node.hub.visible(node.write(register("b")).revision, timeout_s=0.05)


async def test_a_node_that_is_behind_a_worker_does_not_let_it_join(node, worker, register, until):
    """What the former node acknowledged without that worker may be missing there still."""
    node.write(register("a"))
    one = await worker(node.path, 4711)
    await until(lambda: one.ids == {"a"})
    await one.close()
    await node.hub.stop()
    again = node.restarted()
    await again.start(node.path)
    again.set_workers([(0, 4711)])
    node.write(Found("h1"))
    again.use(node.store)
    await one.connect(node.path)
    again.tell(True, 0)
    await until(lambda: one.frames[-1] == feed.State(True, 0, 0))


async def test_a_worker_that_lost_its_connection_still_counts(node, worker, register, until):
    node.hub.set_workers([(0, 4711)])
    one = await worker(node.path, 4711)
    await until(lambda: not node.hub.behind())
    await one.close()
    await until(lambda: node.hub.behind() == ["DNS worker 0 (pid 4711) is not connected"])
    assert not await node.hub.visible(node.write(register("a")).revision, timeout_s=0.05)


async def test_a_listed_worker_that_never_comes_is_replaced(node, until, monkeypatch):
    monkeypatch.setattr(limits, "WORKER_CONNECT_S_MAX", 0.05)
    node.hub.set_workers([(0, 4711)])
    await until(lambda: node.killed == [4711])


@pytest.mark.parametrize("host_too", [False, True])
async def test_a_stall_of_the_node_itself_kills_nobody(node, worker, register, until, monkeypatch, host_too):
    monkeypatch.setattr(limits, "VISIBLE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(hub, "STALL_S", 0.05)
    one = await worker(node.path)
    await until(one.in_step)
    one.silent = True
    revision = node.write(register("a")).revision
    await until(lambda: one.revision == revision)
    if not host_too:
        one.say(feed.Ack(revision))
    stalled = time.monotonic() + 0.25
    while time.monotonic() < stalled:  # this test and the hub share the loop: nothing else runs now
        pass
    await asyncio.sleep(0.06)
    one.say(feed.Ack(revision))
    await asyncio.sleep(0.2)
    assert node.killed == []


async def test_what_a_worker_says_of_itself_is_kept_by_index(node, worker, until):
    one = await worker(node.path)
    samples = (feed.Sample("queries_total", (("protocol", "udp"),), 3.0),)
    one.say(feed.Stats(samples))
    await until(lambda: node.hub.stats() == {0: samples})


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", feed.encode(feed.Ack(99)), feed.encode(feed.Hello(0, 1))],
    ids=["huge", "garbage", "acknowledges what was not sent", "greets twice"],
)
async def test_a_connection_that_breaks_the_protocol_is_cut_and_the_others_live(node, worker, register, until, data):
    good, bad = await worker(node.path), await worker(node.path)
    await until(lambda: good.in_step() and bad.in_step())
    bad.write(data)
    await until(lambda: bad.closed)
    revision = node.write(register("a")).revision
    assert await node.hub.visible(revision)
    assert "a" in good.ids


async def test_who_connects_and_says_nothing_is_cut_off(node, until, monkeypatch):
    monkeypatch.setattr(limits, "FEED_HELLO_S_MAX", 0.05)
    reader, writer = await asyncio.open_unix_connection(node.path)
    assert await reader.read(1) == b""
    writer.close()


async def test_more_connections_than_the_limit_are_refused(node, monkeypatch):
    monkeypatch.setattr(limits, "FEED_CONNECTIONS_MAX", 1)
    _, first = await asyncio.open_unix_connection(node.path)
    reader, second = await asyncio.open_unix_connection(node.path)
    assert await reader.read(1) == b""
    first.close()
    second.close()


async def test_a_worker_that_does_not_read_is_cut_off_before_memory_runs_out(node, register, until, monkeypatch):
    monkeypatch.setattr(limits, "FEED_BACKLOG_BYTES_MAX", 10_000)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(node.path)
    sock.send(feed.encode(feed.Hello(0, 4711, "h1", 0)))
    await until(lambda: node.hub.behind() == [] and node.hub.stats())
    for number in range(5_000):
        node.write(register(f"i{number}"))
        if number % 500 == 0:
            await asyncio.sleep(0)
    await until(lambda: not node.hub.stats())
    sock.close()


async def test_the_socket_is_for_its_owner_alone_and_is_removed_at_the_end(tmp_path):
    path = tmp_path / "feed"
    path.touch()  # left behind by a process that was killed
    one = Hub(lambda pid: None)
    await one.start(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await one.stop()
    assert not path.exists()


def test_the_kernel_says_who_is_at_the_other_end():
    here, there = socket.socketpair(socket.AF_UNIX)
    assert kernel_pid(here) == os.getpid()
    here.close()
    there.close()


def test_the_node_never_kills_itself_nor_init():
    kill_worker(os.getpid())
    kill_worker(1)
    kill_worker(0)
    kill_worker(-1)
