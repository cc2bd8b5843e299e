"""A worker as a real process: what resolvers see of it, how it comes, goes and outlives its node."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dnslib
import pytest

from discovery import feed
from discovery.dns import codes
from discovery.model import InstanceRecord
from discovery.testing.dns_case import instance, instance_record, question
from discovery.testing.dns_worker import DnsWorker, FeedNode, framed, read_framed

WEB = "web.default.svc.cluster.local"
SRV = f"_http._tcp.{WEB}"


@pytest.fixture(name="node")
def _node(tmp_path: Path) -> Iterator[FeedNode]:
    node = FeedNode(tmp_path / "feed")
    yield node
    node.close()


@pytest.fixture(name="worker")
def _worker(node: FeedNode) -> Iterator[DnsWorker]:
    with DnsWorker(node.path, settings={"log_level": "warning"}) as worker:
        node.accept()
        node.sync(records(3))
        yield worker


def record(number: int, **fields: object) -> InstanceRecord:
    spec = instance("web", f"web-{number}", f"10.0.{number >> 8}.{number & 255}", ports={"http": 8080}, **fields)
    return instance_record(spec)


def records(count: int) -> list[InstanceRecord]:
    return [record(number) for number in range(count)]


def parsed(reply: bytes) -> dnslib.DNSRecord:
    return dnslib.DNSRecord.parse(reply)


def addresses(worker: DnsWorker, name: str = WEB) -> set[str]:
    return {str(rr.rdata) for rr in parsed(worker.ask(question(name, edns=1232))).rr}


def dig(worker: DnsWorker, *arguments: str) -> list[str]:
    command = ["dig", f"@{worker.host}", "-p", str(worker.port), "+tries=1", "+time=3", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_dig_finds_what_was_registered(worker: DnsWorker, require_tool: Callable[[str, str], str]) -> None:
    require_tool("dig", "bind9-dnsutils")
    everybody = {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    for transport in ("+notcp", "+tcp"):
        for edns in ("+edns", "+noedns", "+bufsize=512", "+cookie", "+dnssec", "+nsid"):
            assert set(dig(worker, transport, edns, "+short", WEB)) == everybody
    assert sorted(dig(worker, "+short", SRV, "SRV")) == [f"0 1 8080 web-{number}.{WEB}." for number in range(3)]
    assert dig(worker, "+short", "-x", "10.0.0.1") == [f"web-1.{WEB}."]
    assert any("status: NXDOMAIN" in line for line in dig(worker, f"gone.{WEB}"))
    assert any("status: NOERROR" in line for line in dig(worker, WEB, "AAAA"))
    assert any("status: BADVERS" in line for line in dig(worker, "+edns=7", "+noednsneg", WEB))
    assert any("status: NOTIMP" in line for line in dig(worker, "+opcode=UPDATE", "+noedns", WEB))
    assert any("EDE: 20" in line for line in dig(worker, "example.com"))
    assert dig(worker, "+short", "CH", "TXT", "version.bind")[0].startswith('"discovery ')
    assert not [line for line in dig(worker, WEB) if "malformed" in line.lower() or "extra" in line.lower()]


def test_a_change_is_answered_as_soon_as_it_is_acknowledged(node: FeedNode, worker: DnsWorker) -> None:
    for revision in range(2, 502, 2):
        number = revision + 1000
        node.change(revision, feed.PutInstance(record(number)))
        assert parsed(worker.ask(question(f"web-{number}.{WEB}"))).header.rcode == codes.NOERROR
        node.change(revision + 1, feed.DropInstance("default", "web", f"web-{number}"))
        assert parsed(worker.ask(question(f"web-{number}.{WEB}"))).header.rcode == codes.NXDOMAIN
        assert addresses(worker) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}


def test_without_batches_it_does_the_same(node: FeedNode) -> None:
    with DnsWorker(node.path, settings={"log_level": "warning", "udp_batches": False}) as worker:
        node.accept()
        node.sync(records(3))
        for revision in range(2, 20):
            node.change(revision, feed.PutInstance(record(revision + 1000)))
            assert parsed(worker.ask(question(f"web-{revision + 1000}.{WEB}"))).header.rcode == codes.NOERROR
            assert len(addresses(worker)) == revision + 2


def test_before_the_first_sync_it_fails_rather_than_denies(node: FeedNode) -> None:
    with DnsWorker(node.path) as worker:
        assert node.accept().bound, "it joined the port at once"
        reply = parsed(worker.ask_until(question(WEB, edns=1232), bool))
        assert reply.header.rcode == codes.SERVFAIL
        assert reply.ar[0].rdata[0].data == codes.EDE_NOT_READY.to_bytes(2, "big")
        node.sync(records(1))
        assert addresses(worker) == {"10.0.0.0"}


def test_a_replacement_joins_the_port_only_when_it_is_in_step(node: FeedNode) -> None:
    with DnsWorker(node.path, join="synced") as worker:
        assert not node.accept().bound
        with pytest.raises(ConnectionRefusedError):
            worker.ask(question(WEB))
        node.sync(records(1))
        # Until the node has read that acknowledgement it may acknowledge a write without this worker.
        node.send(feed.State(leader=True, stale_ms=0, revision=1))
        node.change(2, feed.PutInstance(record(1)))
        with pytest.raises(ConnectionRefusedError):
            worker.ask(question(WEB))
        node.send(feed.State(leader=True, stale_ms=0, revision=2, counted=True))
        node.take(feed.Bound)
        assert addresses(worker) == {"10.0.0.0", "10.0.0.1"}
        with worker.tcp() as sock:
            sock.sendall(framed(question(WEB)))
            assert len(parsed(read_framed(sock)).rr) == 2


def test_it_answers_on_when_the_node_process_dies_and_says_stale_after_two_seconds(
    node: FeedNode, worker: DnsWorker
) -> None:
    node.close()
    asked = question(WEB, edns=1232)
    begun = time.monotonic()
    assert parsed(worker.ask(asked)).ar[0].rdata == []
    reply = parsed(worker.ask_until(asked, lambda data: bool(parsed(data).ar[0].rdata)))
    assert 1.0 < time.monotonic() - begun < 4.0
    assert reply.ar[0].rdata[0].data == codes.EDE_STALE.to_bytes(2, "big")
    assert len(reply.rr) == 3
    again = FeedNode(node.path)
    hello = again.accept()
    assert (hello.history, hello.revision, hello.bound) == ("h1", 1, True)
    again.send(feed.State(leader=True, stale_ms=0), feed.Resume("h1", 1))
    assert again.take(feed.Ack).revision == 1
    assert parsed(worker.ask(asked)).ar[0].rdata == []
    again.change(2, feed.PutInstance(record(7)))
    assert "10.0.0.7" in addresses(worker)
    again.close()


def test_a_big_view_does_not_keep_questions_waiting(node: FeedNode, worker: DnsWorker) -> None:
    """While 30,000 instances arrive, the slowest answer takes a fraction of the time that applying them does."""
    waits = []

    def ask() -> None:
        begun = time.perf_counter()
        worker.ask(question(WEB))
        waits.append(time.perf_counter() - begun)

    for frame in feed.whole_view(feed.Begin("h1", 50, 50), records(30_000), ()):
        node.send_bytes(frame)
        ask()
    while not node.has_acknowledged(50):
        ask()
    assert max(waits) < 0.2
    assert len(addresses(worker)) == 73


def test_counters_come_once_a_second(node: FeedNode, worker: DnsWorker) -> None:
    for _ in range(10):
        worker.ask(question(WEB))
    worker.ask(question("example.com"))

    def samples() -> dict[tuple[str, ...], float]:
        stats = node.take(feed.Stats).samples
        return {(sample.name, *(text for pair in sample.labels for text in pair)): sample.value for sample in stats}

    found = samples()
    while found["dns_queries_total",] < 11:
        found = samples()
    assert found["dns_responses_total", "rcode", "NOERROR"] == 10
    assert found["dns_responses_total", "rcode", "REFUSED"] == 1
    assert found["dns_cache_hits_total",] == 8, "one to learn its shape, one to deal every rotation"
    assert found["dns_revision",] == 1


def test_sigterm_ends_it_after_what_has_arrived_was_answered(worker: DnsWorker) -> None:
    socks = [worker.udp() for _ in range(50)]
    os.kill(worker.process.pid, signal.SIGSTOP)
    for number, sock in enumerate(socks):
        sock.send(question(WEB, ident=number))
    os.kill(worker.process.pid, signal.SIGTERM)
    os.kill(worker.process.pid, signal.SIGCONT)
    assert worker.process.wait(5) == 0
    for number, sock in enumerate(socks):
        sock.settimeout(1)
        assert int.from_bytes(sock.recv(4096)[:2], "big") == number
        sock.close()


def test_ctrl_c_is_the_supervisors_affair(worker: DnsWorker) -> None:
    worker.process.send_signal(signal.SIGINT)
    assert addresses(worker) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert worker.stop() == 0


PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-P", "-m", "discovery.dns.worker", *sys.argv[1:]])
print(child.pid, flush=True)
signal.pause()
"""


def test_it_dies_with_its_parent_however_that_dies(node: FeedNode) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--index", "0", "--feed", str(node.path), "--listen", f"127.0.0.1:{port}", "--zone", "cluster.local"]
    command = [sys.executable, "-c", PARENT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert node.accept().pid == pid
        parent.kill()
    end = time.monotonic() + 5
    while _lives(pid):
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_share_a_port(node: FeedNode, tmp_path: Path) -> None:
    other = FeedNode(tmp_path / "other")
    with DnsWorker(node.path) as first, DnsWorker(other.path, index=1, listener=first.listener.dup()) as second:
        for each in (node, other):
            each.accept()
        node.sync([record(1)])
        other.sync([record(2)])
        assert first.port == second.port
        seen = set()
        for _ in range(200):
            seen |= addresses(first)
        assert seen == {"10.0.0.1", "10.0.0.2"}
        seen = set()
        for _ in range(60):
            with first.tcp() as sock:
                sock.sendall(framed(question(WEB)))
                seen.add(str(parsed(read_framed(sock)).rr[0].rdata))
        assert seen <= {"10.0.0.1", "10.0.0.2"}
    other.close()


def test_ipv6(node: FeedNode) -> None:
    with DnsWorker(node.path, host="::1") as worker:
        node.accept()
        node.sync(records(2))
        assert addresses(worker) == {"10.0.0.0", "10.0.0.1"}


@pytest.mark.parametrize(("wildcard", "asked"), [("0.0.0.0", "127.0.0.5"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_an_answer_comes_from_the_address_that_was_asked(node: FeedNode, wildcard: str, asked: str) -> None:
    """A connected socket takes answers only from the address it asked."""
    with DnsWorker(node.path, host=wildcard) as worker:
        node.accept()
        node.sync(records(2))
        worker.host = asked
        assert addresses(worker) == {"10.0.0.0", "10.0.0.1"}
        with worker.tcp() as sock:
            sock.sendall(framed(question(WEB)))
            assert len(parsed(read_framed(sock)).rr) == 2


def test_random_packets_leave_it_unmoved(node: FeedNode, worker: DnsWorker) -> None:
    rng = random.Random(3)
    with worker.udp() as sock:
        sock.setblocking(False)
        for number in range(20_000):
            seed = question(WEB if number % 2 else SRV, rng.choice(["A", "SRV", "ANY"]), edns=1232)
            data = rng.randbytes(rng.randrange(60)) if number % 3 else seed[: rng.randrange(len(seed))]
            try:
                sock.send(data)
            except OSError:  # its buffer is full, or an empty datagram
                continue
            if number % 64 == 0:
                assert addresses(worker) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert worker.process.poll() is None


def test_a_datagram_longer_than_any_question_is_dropped_not_cut(worker: DnsWorker) -> None:
    with worker.udp() as sock:
        sock.settimeout(0.2)
        sock.send(question(WEB) + b"\0" * 5000)
        with pytest.raises(TimeoutError):
            sock.recv(4096)
    assert len(addresses(worker)) == 3


def test_an_answer_that_cannot_be_sent_costs_nobody_else_his(worker: DnsWorker) -> None:
    """A raw packet whose source port is 0 cannot be answered; the batch that holds it must go on."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs root for a raw socket")
    data = question(WEB)
    with raw, worker.udp() as sock:
        os.kill(worker.process.pid, signal.SIGSTOP)
        for _ in range(5):
            header = b"\0\0" + worker.port.to_bytes(2, "big") + (8 + len(data)).to_bytes(2, "big") + b"\0\0"
            raw.sendto(header + data, ("127.0.0.1", 0))
            sock.send(data)
        os.kill(worker.process.pid, signal.SIGCONT)
        sock.settimeout(2)
        for _ in range(5):
            assert len(parsed(sock.recv(4096)).rr) == 3


def test_the_receive_buffer_holds_thousands_of_questions(worker: DnsWorker) -> None:
    """The default of 212,992 bytes holds 256; a worker that is busy for a moment must not lose the rest."""
    os.kill(worker.process.pid, signal.SIGSTOP)
    with worker.udp() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        for number in range(2000):
            sock.send(question(WEB, ident=number))
        os.kill(worker.process.pid, signal.SIGCONT)
        sock.settimeout(2)
        got = {int.from_bytes(sock.recv(4096)[:2], "big") for _ in range(600)}
    assert len(got) == 600
