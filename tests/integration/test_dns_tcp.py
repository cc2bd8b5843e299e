"""DNS over TCP with a real worker: framing, pipelining, half-close, and the limits that keep it bounded."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import dnslib
import pytest

from discovery import limits
from discovery.dns.loop import Loop
from discovery.dns.tcp import Connection, TcpServer
from discovery.testing.dns_case import instance, instance_record, question
from discovery.testing.dns_worker import DnsWorker, FeedNode, framed, read_framed

WEB = "web.default.svc.cluster.local"


@pytest.fixture(name="worker", scope="module")
def _worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsWorker]:
    node = FeedNode(Path(tmp_path_factory.mktemp("feed")) / "feed")
    with DnsWorker(node.path) as worker:
        node.accept()
        specs = [instance("web", f"web-{n}", f"10.0.{n >> 8}.{n & 255}", ports={"http": 80}) for n in range(200)]
        node.sync([instance_record(spec) for spec in specs])
        yield worker
    node.close()


def ids(sock: socket.socket, count: int) -> list[int]:
    return [int.from_bytes(read_framed(sock)[:2], "big") for _ in range(count)]


def test_an_answer_too_large_for_udp_comes_whole(worker: DnsWorker) -> None:
    with worker.tcp() as sock:
        sock.sendall(framed(question(f"_http._tcp.{WEB}", "SRV")))
        reply = dnslib.DNSRecord.parse(read_framed(sock))
    assert not reply.header.tc
    assert len(reply.rr) == 100
    assert len(reply.ar) == 100


def test_many_questions_on_one_connection_in_one_go(worker: DnsWorker) -> None:
    with worker.tcp() as sock:
        sock.sendall(b"".join(framed(question(WEB, ident=number)) for number in range(300)))
        assert ids(sock, 300) == list(range(300))


def test_questions_byte_by_byte(worker: DnsWorker) -> None:
    with worker.tcp() as sock:
        for byte in framed(question(WEB, ident=5)) + framed(question(WEB, ident=6)):
            sock.sendall(bytes((byte,)))
        assert ids(sock, 2) == [5, 6]


def test_a_client_that_closes_its_half_still_gets_its_answers(worker: DnsWorker) -> None:
    with worker.tcp() as sock:
        sock.sendall(b"".join(framed(question(WEB, ident=number)) for number in range(50)))
        sock.shutdown(socket.SHUT_WR)
        assert ids(sock, 50) == list(range(50))
        assert sock.recv(1) == b"", "then it is closed"


def test_a_client_that_reads_late_gets_everything_in_the_end(worker: DnsWorker) -> None:
    """2,000 answers of about 6 KB exceed what may pile up: reading stops, then goes on where it stopped."""
    with worker.tcp() as sock:
        sock.settimeout(0.5)
        sent = 0
        packets = b"".join(framed(question(f"_http._tcp.{WEB}", "SRV", ident=number)) for number in range(2000))
        with contextlib.suppress(TimeoutError):
            while sent < len(packets):
                sent += sock.send(packets[sent : sent + 65536])
        sock.settimeout(10)
        whole = sent // (len(packets) // 2000)
        assert whole > 100
        assert ids(sock, whole) == list(range(whole))


NO_QUESTIONS = {
    "empty": b"\0\0",
    "short": b"\0\5hello",
    "a response": framed(question(WEB)[:2] + b"\x80" + question(WEB)[3:]),
}


@pytest.mark.parametrize("data", NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_what_is_no_question_closes_the_connection(worker: DnsWorker, data: bytes) -> None:
    with worker.tcp() as sock:
        sock.sendall(data)
        assert sock.recv(10) == b""


def test_a_malformed_question_gets_a_code_and_the_connection_lives(worker: DnsWorker) -> None:
    with worker.tcp() as sock:
        sock.sendall(framed(b"\0\7\0\0\0\1\0\0\0\0\0\0\xff") + framed(question(WEB, ident=8)))
        first = read_framed(sock)
        assert first[:4] == b"\0\7\x80\1"
        assert ids(sock, 1) == [8]


def test_garbage_ends_only_its_own_connection(worker: DnsWorker) -> None:
    rng = random.Random(5)
    with worker.tcp() as good:
        for _ in range(100):
            with worker.tcp() as bad:
                bad.sendall(rng.randbytes(rng.randrange(1, 3000)))
        good.sendall(framed(question(WEB, ident=9)))
        assert ids(good, 1) == [9]


def test_no_client_gets_more_than_his_share_of_connections(worker: DnsWorker) -> None:
    socks = [worker.tcp() for _ in range(limits.DNS_TCP_CONNECTIONS_PER_CLIENT_MAX + 10)]
    refused = 0
    for sock in socks:
        try:
            sock.sendall(framed(question(WEB, ident=1)))
            ids(sock, 1)
        except (OSError, EOFError):
            refused += 1
    assert refused == 10
    other = socket.create_connection((worker.host, worker.port), 5, source_address=("127.0.0.9", 0))
    with other:
        other.sendall(framed(question(WEB, ident=2)))
        assert ids(other, 1) == [2], "another client has his own"
    for sock in socks:
        sock.close()


def test_a_slow_question_is_cut_off(worker: DnsWorker) -> None:
    with worker.tcp() as slow:
        slow.sendall(b"\0")
        begun = time.monotonic()
        slow.settimeout(limits.DNS_TCP_QUERY_S_MAX + 3)
        assert slow.recv(1) == b""
        assert time.monotonic() - begun > limits.DNS_TCP_QUERY_S_MAX - 0.5


# The same shell in a time of our own


class Bench:
    """A server in this thread whose clock stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loop = Loop()
        self.server = TcpServer(self.loop, lambda message, client, idle_s: message, lambda: self.now)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = listener.getsockname()
            self.server.listen(listener.detach())

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(self.address, 2, source_address=(source, 0))
        self.turn()
        return sock

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.loop.poll(0.01)


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.close()


def test_patience_ends_by_the_clock(bench: Bench) -> None:
    idle, slow, busy = bench.connect(), bench.connect(), bench.connect()
    slow.sendall(b"\0")
    for _ in range(3):
        bench.turn()
        bench.now += 4
        busy.sendall(b"\0\3abc")
        slow.sendall(b"\x01") if bench.now < 5 else None
        bench.turn()
        bench.server.tick()
    assert len(bench.server) == 1
    assert idle.recv(1) == b""
    assert slow.recv(1) == b""
    busy.sendall(b"\0\1x")
    bench.turn()
    assert busy.recv(100) == b"\0\3abc" * 3 + b"\0\1x"
    for sock in (idle, slow, busy):
        sock.close()


def test_clients_are_told_to_close_when_places_run_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_CONNECTIONS_MAX", 4)
    told = []
    monkeypatch.setattr(bench.server, "answer", lambda message, client, idle_s: told.append((client, idle_s)) or b"")
    connections = []
    for _ in range(4):
        connections.append(bench.connect())
        connections[-1].sendall(b"\0\1a")
        bench.turn()
    assert told == [("127.0.0.1", limits.DNS_TCP_IDLE_S_MAX)] * 3 + [("127.0.0.1", 0.0)]
    for sock in connections:
        sock.close()


def test_the_quietest_gives_way_when_all_places_are_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_CONNECTIONS_MAX", 3)
    first, second, third = (bench.connect() for _ in range(3))
    first.sendall(b"\0\1a")
    bench.turn()
    fourth = bench.connect()
    assert second.recv(1) == b"", "the first asked something since"
    assert len(bench.server) == 3
    assert bench.server.refused == 1
    for sock in (first, second, third, fourth):
        sock.close()


def test_a_client_that_resets_behind_its_end_is_gone_at_once_although_it_is_owed_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owing: list[Connection] = []

    def later(message: bytes, connection: Connection) -> bool:
        owing.append(connection)
        return True

    monkeypatch.setattr(bench.server, "answer", lambda message, client, idle_s: None)
    monkeypatch.setattr(bench.server, "later", later)
    sock = bench.connect()
    sock.sendall(b"\0\1a")
    sock.shutdown(socket.SHUT_WR)
    end = time.monotonic() + 30
    while not (owing and owing[0]._ended) and time.monotonic() < end:
        bench.turn(1)
    assert len(bench.server) == 1, "it may still read what it is owed"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    while len(bench.server) and time.monotonic() < end:
        bench.turn(1)
    assert len(bench.server) == 0
    owing[0].reply(b"late")


def test_what_one_client_leaves_unread_is_bounded(bench: Bench) -> None:
    sock = bench.connect()
    sock.setblocking(False)
    message = b"\xff\xff" + b"x" * 65535
    sent = 0
    for _ in range(300):
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(message[sent % len(message) :])
        bench.turn(1)
    connection = next(iter(bench.server._connections.values()))
    assert len(connection._out) <= limits.DNS_TCP_OUTSTANDING_BYTES_MAX + 65537
    assert len(connection._in) <= 2 * 65537
    sock.close()
    bench.turn()
    assert len(bench.server) == 0
    assert bench.server._clients == {}
