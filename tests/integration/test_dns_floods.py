"""A worker under floods: what a client chooses costs no memory, and who holds TCP connections moves no datagram."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery import limits
from discovery.testing.cluster import eventually
from discovery.testing.dns_case import instance, instance_record, question
from discovery.testing.dns_load import Generator, latencies, quantile, rss_mib
from discovery.testing.dns_worker import DnsWorker, FeedNode, framed, read_framed

WEB = "web.default.svc.cluster.local"
SERVICES = 300
BELOW = (b"default", b"svc", b"cluster", b"local")
MANY = [question(f"svc{number}.default.svc.cluster.local") for number in range(SERVICES)]
CHOSEN_MIB_MAX = 8
CACHED_MIB_MAX = 30  # of the cache's 16, as it counts; without a limit it would be 37
TCP_MIB_MAX = 64
CONNECTIONS, CLIENTS = 2000, 40
CALM_FACTOR_MAX, CALM_MORE_S_MAX = 30, 0.1


@pytest.fixture(name="worker", scope="module")
def _worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsWorker]:
    node = FeedNode(Path(tmp_path_factory.mktemp("feed")) / "feed")
    with DnsWorker(node.path, settings={"log_level": "warning"}) as worker:
        node.accept()
        specs = [instance("web", f"web-{n}", f"10.0.0.{n}", ports={"http": 80}) for n in range(5)]
        specs += [instance(f"svc{n}", "only", f"10.1.{n >> 8}.{n & 255}") for n in range(SERVICES)]
        node.sync([instance_record(spec) for spec in specs])
        yield worker
    node.close()


def answered(worker: DnsWorker, packets: list[bytes]) -> int:
    """Ask each once or more; how many answers came."""
    generator = Generator(worker.port, packets, 0)
    total = 0
    try:
        while total < len(packets):
            total += generator.run(0.2, lambda: None)
    finally:
        generator.close()
    return total


def flood(draw: random.Random, count: int) -> list[bytes]:
    """Names that exist in random case, names that do not, EDNS of any size, flags and options of any kind."""
    plain = [question(f"svc{number}.default.svc.cluster.local", edns=1232) for number in range(SERVICES)]
    made = []
    for number in range(count):
        packet = bytearray(plain[number % SERVICES])
        end = packet.index(0, 12)
        kind = draw.randrange(4)
        if kind == 0:
            packet[12:end] = bytes(b ^ 0x20 if 97 <= b <= 122 and draw.random() < 0.5 else b for b in packet[12:end])
        elif kind == 1:
            packet[12:12] = b"\x08" + draw.randbytes(8)
        elif kind == 2:
            packet[-8:-6] = draw.randbytes(2)  # the size
            packet[2:4] = draw.choice([b"\0\0", b"\1\0", b"\1\x20", b"\1\x10", b"\0\x40"])
        else:
            packet[-2:] = b"\0\x0c" + b"\0\x0a\0\x08" + draw.randbytes(8)  # a cookie
        made.append(bytes(packet))
    return made


def test_what_a_client_chooses_costs_a_worker_no_memory(worker: DnsWorker) -> None:
    draw = random.Random(5)
    pid = (worker.process.pid,)
    answered(worker, flood(draw, 5000) + MANY)
    before = rss_mib(pid)
    packets = flood(draw, 60_000)
    assert answered(worker, packets) >= len(packets)
    assert rss_mib(pid) - before < CHOSEN_MIB_MAX


def test_every_name_in_every_common_shape_stays_within_the_limit_of_the_cache(worker: DnsWorker) -> None:
    """What is stored at all: names that exist, common types, sizes and flags. Three times what the cache may hold."""
    pid = (worker.process.pid,)
    before = rss_mib(pid)
    packets = []
    for size in (None, 512, 1232, 1400, 1452, 4096):
        for rtype in ("A", "AAAA", "TXT", "HTTPS", "SRV"):
            sample = question("x", rtype, edns=size)
            for number in range(SERVICES):
                name = b"".join(bytes((len(label),)) + label for label in (b"svc%d" % number, *BELOW)) + b"\0"
                for flags in (b"\0\0", b"\1\0", b"\1\x20", b"\1\x10", b"\0\x10"):
                    packets.append(sample[:2] + flags + sample[4:12] + name + sample[15:])
    assert answered(worker, packets) >= len(packets)
    assert rss_mib(pid) - before < CACHED_MIB_MAX


@contextlib.contextmanager
def connections(worker: DnsWorker, count: int) -> Iterator[list[socket.socket]]:
    """TCP connections from many addresses; every other has begun a question and sends no more of it."""
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            source = (f"127.0.2.{number % CLIENTS + 1}", 0)
            sock = stack.enter_context(socket.create_connection((worker.host, worker.port), 30, source))
            if number % 2:
                sock.send(framed(question(WEB))[: 1 + number % 20])
            made.append(sock)
        yield made


@pytest.fixture(name="many_files")
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} open files are allowed")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_two_thousand_idle_and_slow_connections_move_no_datagram(worker: DnsWorker) -> None:
    pid = worker.process.pid
    calm, lost = latencies(worker.port, MANY, 1.0, probes_per_s=500)
    assert (lost, len(calm) > 100) == (0, True)
    before = rss_mib((pid,))
    with connections(worker, CONNECTIONS):
        crowded, lost = latencies(worker.port, MANY, 1.5, probes_per_s=500)
        assert lost == 0
        bound = max(CALM_FACTOR_MAX * quantile(calm, 0.99), quantile(calm, 0.99) + CALM_MORE_S_MAX)
        assert quantile(crowded, 0.99) < bound
        held = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        assert held <= limits.DNS_TCP_CONNECTIONS_MAX + 50
        assert rss_mib((pid,)) - before < TCP_MIB_MAX
        with worker.tcp() as good:
            good.sendall(framed(question(WEB, ident=8)))
            assert read_framed(good)[:2] == b"\0\x08", "who asks is served all the same"
    eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 50, 30, "every connection's end")
