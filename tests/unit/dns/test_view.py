"""The worker's side of the feed, against a node played by hand in the same thread, in a time of our own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import dnslib
import pytest

from discovery import feed
from discovery.dns.loop import Loop
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.dns.view import View
from discovery.dns.zone import Origin
from discovery.model import InstanceRecord, Service
from discovery.testing.dns_case import Registry, content, instance, instance_record, question, record_of, responder
from discovery.testing.dns_worker import FeedNode

NAME = "web.default.svc.cluster.local"


class Clock:
    """Monotonic seconds that pass when told to, and a little with every look if wanted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.per_look = 0.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.per_look
        return self.now


class Bench:
    """A view, its node, its responder."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.loop = Loop()
        self.node = FeedNode(path)
        self.responder = Responder(Settings())
        self.view = View(self.loop, str(path), 3, Origin("cluster.local", Settings()), self.responder, self.clock)

    def pump(self, times: int = 3) -> None:
        """Let the worker's loop turn."""
        for _ in range(times):
            self.view.tick()
            self.loop.poll(0)
            self.view.work()

    def connect(self) -> feed.Hello:
        self.pump()
        return self.node.accept()

    def sync(self, *specs: InstanceRecord, history: str = "h", revision: int = 10) -> None:
        self.say(
            feed.State(leader=True, stale_ms=0),
            feed.Begin(history, revision, revision),
            feed.Items(specs),
            feed.End(revision),
        )
        assert self.node.take(feed.Ack).revision == revision

    def say(self, *frames: feed.FromNode) -> None:
        self.node.send(*frames)
        self.pump()

    def addresses(self, service: str = "web") -> set[str]:
        reply = self.responder.datagram(question(f"{service}.default.svc.cluster.local"))
        assert reply is not None
        return {str(record.rdata) for record in dnslib.DNSRecord.parse(reply).rr}


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "feed")
    yield bench
    bench.view._disconnect("end of test")
    bench.node.close()


WEB = instance_record(instance("web", "a", "10.0.0.1"))
WEB_B = instance_record(instance("web", "b", "10.0.0.2"))


def test_a_worker_says_who_it_is_and_serves_what_it_is_told(bench: Bench) -> None:
    hello = bench.connect()
    assert (hello.worker, hello.history, hello.revision, hello.bound) == (3, "", 0, False)
    assert not bench.view.synced
    bench.sync(WEB)
    assert bench.view.synced
    assert bench.addresses() == {"10.0.0.1"}
    bench.say(feed.Changes(11, 12, (feed.PutInstance(WEB_B),)))
    assert bench.node.take(feed.Ack).revision == 11
    assert bench.addresses() == {"10.0.0.1", "10.0.0.2"}
    bench.say(feed.Changes(12, 13, (feed.DropInstance("default", "web", "a"),)))
    assert bench.node.take(feed.Ack).revision == 12
    assert bench.addresses() == {"10.0.0.2"}


def test_settings_of_services_come_and_go(bench: Bench) -> None:
    bench.connect()
    bench.sync()
    bench.say(feed.Changes(11, 11, (feed.PutService(record_of(Service("default", "vip", "virtual", ("10.9.0.1",)))),)))
    assert bench.addresses("vip") == {"10.9.0.1"}
    bench.say(feed.Changes(12, 12, (feed.DropService("default", "vip"),)))
    assert bench.addresses("vip") == set()


def test_a_whole_view_takes_the_place_of_the_present_one_at_its_end_and_not_before(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.say(feed.Begin("h", 20, 20), feed.Items((WEB_B,)))
    assert bench.addresses() == {"10.0.0.1"}
    bench.say(feed.End(20))
    assert bench.node.take(feed.Ack).revision == 20
    assert bench.addresses() == {"10.0.0.2"}


def test_a_worker_resumes_after_the_node_came_back(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.view.join()
    bench.node.hang_up()
    bench.pump()
    assert not bench.view.connected
    assert bench.addresses() == {"10.0.0.1"}, "it answers on"
    bench.clock.now += 0.06
    hello = bench.connect()
    assert (hello.history, hello.revision, hello.bound) == ("h", 10, True)
    bench.say(feed.Resume("h", 10))
    assert bench.node.take(feed.Ack).revision == 10
    bench.say(feed.Changes(11, 11, (feed.PutInstance(WEB_B),)))
    assert bench.node.take(feed.Ack).revision == 11
    assert bench.addresses() == {"10.0.0.1", "10.0.0.2"}


def test_a_node_that_is_not_there_is_tried_again_every_50_ms(bench: Bench) -> None:
    bench.node.close()
    bench.pump()
    assert not bench.view.connected
    assert 0 < bench.view.tick() <= 0.05
    again = FeedNode(bench.node.path)
    bench.clock.now += 0.06
    bench.pump()
    assert again.accept().worker == 3
    again.close()


def refused(bench: Bench, *frames: feed.FromNode) -> None:
    """The frames end the connection and change nothing."""
    before = bench.addresses(), bench.view.revision, bench.view.history
    bench.say(*frames)
    assert not bench.view.connected
    assert (bench.addresses(), bench.view.revision, bench.view.history) == before


def test_a_view_behind_ours_in_one_history_is_never_taken(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB, revision=10)
    refused(bench, feed.Begin("h", 9, 9), feed.Items(()), feed.End(9))


def test_another_history_may_begin_lower(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB, revision=10)
    bench.sync(WEB_B, history="restored", revision=3)
    assert (bench.view.history, bench.view.revision) == ("restored", 3)
    assert bench.addresses() == {"10.0.0.2"}


@pytest.mark.parametrize(
    "frames",
    [
        [feed.Items((WEB_B,))],
        [feed.End(10)],
        [feed.Begin("h", 20, 20), feed.End(21)],
        [feed.Resume("other", 10)],
        [feed.Resume("h", 9)],
        [feed.Begin("h", 20, 20), feed.Changes(21, 21, (feed.PutInstance(WEB_B),))],
    ],
)
def test_frames_out_of_order_end_the_connection(bench: Bench, frames: list[feed.FromNode]) -> None:
    bench.connect()
    bench.sync(WEB)
    refused(bench, *frames)


def test_changes_before_any_view_end_the_connection(bench: Bench) -> None:
    bench.connect()
    bench.say(feed.Changes(1, 1, (feed.PutInstance(WEB),)))
    assert not bench.view.connected
    assert not bench.view.synced


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\3abc"])
def test_bytes_that_are_no_frame_end_the_connection(bench: Bench, data: bytes) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.node.send_bytes(data)
    bench.pump()
    assert not bench.view.connected
    assert bench.addresses() == {"10.0.0.1"}


def test_changes_that_came_before_are_acknowledged_and_left_alone(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.say(feed.Changes(10, 10, (feed.DropInstance("default", "web", "a"),)))
    assert bench.node.take(feed.Ack).revision == 10
    assert bench.addresses() == {"10.0.0.1"}


def test_a_half_applied_revision_is_applied_again_after_a_cut(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    many = tuple(feed.PutInstance(instance_record(instance("big", f"i{n}", f"10.1.0.{n}"))) for n in range(200))
    bench.node.send(feed.Changes(11, 11, many))
    bench.clock.per_look = 0.0006
    bench.view.tick()
    bench.loop.poll(0)
    assert bench.view.pending
    bench.view._disconnect("cut in the middle")
    bench.clock.per_look = 0.0
    assert bench.view.revision == 10
    bench.clock.now += 0.06
    assert bench.connect().revision == 10
    bench.say(feed.Resume("h", 10), feed.Changes(11, 11, many))
    assert len(bench.addresses("big")) == 29, "as many as 512 bytes hold"
    assert bench.view.revision == 11


def test_no_answer_is_older_than_the_last_acknowledged_change(bench: Bench) -> None:
    """After every acknowledgement each name answers as a server would that never kept an answer: asked twice, so that
    what the change before left ready would show."""
    draw = random.Random(20261124)
    registry = Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}", ports={"http": 80}) for n in range(3)))
    bench.connect()
    bench.sync(*map(instance_record, registry.specs.values()))
    names = [NAME, f"_http._tcp.{NAME}", *(f"w{n}.{NAME}" for n in range(4)), f"same.{NAME}", f"_tcp.{NAME}"]
    asked = [question(name, rtype, edns=1232) for name in names for rtype in ("A", "AAAA", "SRV")]
    for revision in range(11, 160):
        number = draw.randrange(4)
        if draw.random() < 0.3:
            registry.specs.pop(("default", "web", f"w{number}"), None)
            change: feed.ViewChange = feed.DropInstance("default", "web", f"w{number}")
        else:
            where = draw.sample(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"], draw.randint(1, 2))
            host, ports = draw.choice([None, None, "same"]), draw.choice([{}, {"http": 80}, {"http": 81}])
            status = draw.choice(["ready", "ready", "ready", "not_ready"])
            spec = instance("web", f"w{number}", *where, ports=ports, hostname=host, status=status)
            registry.put(spec)
            change = feed.PutInstance(instance_record(spec))
        registry.serial = revision
        bench.say(feed.Changes(revision, revision, (change,)))
        assert bench.node.has_acknowledged(revision)
        fresh = responder(registry)
        for packet in asked:
            expected = content(fresh.message(packet))
            for _ in range(2):
                assert content(bench.responder.datagram(packet)) == expected, f"revision {revision}, {change}"


def test_a_big_change_is_applied_in_slices_and_shown_to_be_pending_between_them(bench: Bench) -> None:
    """20,000 instances that die at once must not keep questions waiting: a slice ends after about a millisecond."""
    bench.connect()
    bench.sync()
    many = tuple(feed.PutInstance(instance_record(instance("big", f"i{n}", "10.1.0.1"))) for n in range(2000))
    bench.node.send(feed.Changes(11, 11, many))
    bench.clock.per_look = 0.0002  # pretend that eight changes take this long
    slices = 0
    bench.view.tick()
    while not bench.view.pending:  # the frame comes in several reads
        bench.loop.poll(0)
    while bench.view.pending:
        before = bench.clock.now
        bench.view.work()
        assert bench.clock.now - before < 0.002
        slices += 1
    assert slices > 40
    bench.clock.per_look = 0.0
    assert bench.node.take(feed.Ack).revision == 11


def test_a_worker_that_has_much_to_apply_lets_the_socket_wait(bench: Bench) -> None:
    bench.connect()
    bench.sync()
    bench.clock.per_look = 10.0  # every slice ends at once
    many = tuple(feed.PutInstance(instance_record(instance("big", f"i{n}", "10.1.0.1"))) for n in range(80))
    revision = 10
    while len(bench.view._bodies) < 64:
        revision += 1
        bench.node.send(feed.Changes(revision, revision, many))
        bench.loop.poll(0)
    bench.node.send(feed.Changes(revision + 1, revision + 1, many))
    bench.loop.poll(0)
    assert len(bench.view._bodies) == 64
    bench.clock.per_look = 0.0
    bench.pump(60)
    assert bench.view.revision == revision + 1


# Staleness


def test_stale_after_two_seconds_without_a_leader(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.say(feed.State(leader=False, stale_ms=0))
    bench.clock.now += 1.9
    assert not bench.view.stale()
    bench.clock.now += 0.2
    bench.pump()
    assert bench.responder.stale
    bench.say(feed.State(leader=True, stale_ms=0))
    assert not bench.responder.stale


def test_the_node_may_know_of_a_longer_time_than_we_saw(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.say(feed.State(leader=False, stale_ms=60_000))
    assert bench.responder.stale


def test_stale_after_two_seconds_without_the_node_process(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.node.hang_up()
    bench.pump()
    bench.clock.now += 1.9
    bench.view.tick()
    assert not bench.responder.stale
    bench.clock.now += 0.2
    bench.view.tick()
    assert bench.responder.stale
    assert bench.addresses() == {"10.0.0.1"}


def test_stale_when_a_connected_node_falls_silent(bench: Bench) -> None:
    """A node that is stopped (SIGSTOP) keeps its connections open."""
    bench.connect()
    bench.sync(WEB)
    bench.clock.now += 2.1
    bench.pump()
    assert bench.view.connected
    assert bench.responder.stale


def test_changes_show_that_a_node_with_a_leader_lives(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.clock.now += 1.5
    bench.say(feed.Changes(11, 11, (feed.PutInstance(WEB_B),)))
    bench.clock.now += 1.5
    bench.pump()
    assert not bench.responder.stale


def test_a_node_that_comes_back_without_a_leader_does_not_make_us_fresh(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.node.hang_up()
    bench.pump()
    bench.clock.now += 30
    bench.connect()
    bench.say(feed.State(leader=False, stale_ms=100))
    assert bench.responder.stale


def test_revisions_that_touch_no_service_move_ours_by_the_state(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.say(feed.State(leader=True, stale_ms=0, revision=15))
    assert bench.view.revision == 15
    bench.say(feed.State(leader=True, stale_ms=0, revision=0))
    assert bench.view.revision == 15
    bench.say(feed.Changes(16, 16, (feed.PutInstance(WEB_B),)))
    assert bench.node.take(feed.Ack).revision == 16


def test_joining_the_port_and_counters_are_told(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    bench.view.join()
    bench.node.take(feed.Bound)
    bench.view.report((feed.Sample("dns_queries_total", (), 5),))
    assert bench.node.take(feed.Stats).samples[0].value == 5


def test_a_node_that_takes_nothing_is_left(bench: Bench) -> None:
    bench.connect()
    bench.sync(WEB)
    samples = tuple(feed.Sample(f"dns_{'x' * 200}_{n}", (), n) for n in range(500))
    for _ in range(40):
        bench.view.report(samples)
        if not bench.view.connected:
            break
    assert not bench.view.connected
