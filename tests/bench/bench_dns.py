"""One DNS worker beside NSD, Knot and BIND on the same zone. Run by ``make bench``; prints one table.

1,000 services of 5 instances each. The server is pinned to one core, the generator (this process) to another; the
contenders take turns in rounds of half a second within one run, because a shared machine drifts. The figure is the
time on a CPU of all threads of the server's process tree (schedstat) by answers received: rates depend on the
generator, this hardly does. The others come from Debian (nsd, knot, bind9); those that are missing are named.

    bench_dns.py            everything, about five minutes
    bench_dns.py A changes  the rows whose names begin so
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from discovery import feed
from discovery.dns import mmsg
from discovery.dns.mmsg import Slots
from discovery.drill.load import session
from discovery.testing.cluster import Node
from discovery.testing.dns_case import Registry, question, responder
from discovery.testing.dns_load import Generator, latencies, on_cpu_s, pin, quantile, rss_mib, split_s
from discovery.testing.dns_peers import PEERS, Server, running
from discovery.testing.dns_sample import (
    INSTANCES,
    SERVICES,
    SUFFIX,
    loads,
    random_case,
    record,
    records,
    zone_file,
)
from discovery.testing.dns_worker import DnsWorker, FeedNode

MANY_SERVICES = 20_000  # of 5: 100,000 instances
ROUND_S, ROUNDS, WARM_S = 0.5, 7, 1.5
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, GENERATOR_CPU = CPUS[0], CPUS[-1]
CHANGES_PER_S = 500
PROBES_PER_S = 1000
LATENCY_S, LATENCY_ROUNDS = 1.5, 4
HALF_LOAD_MAX_PER_S = 60_000  # more a generator that paces itself does not do
TCP_CONNECTIONS, TCP_CLIENTS = 2000, 40
HTTP_SERVICES, HTTP_CLIENTS = 200, 32
NOERROR, NXDOMAIN = 0, 3

Meanwhile = Callable[[], None]


def nothing() -> None:
    """What happens meanwhile, usually."""


class Contender(NamedTuple):
    """Who takes a turn: a server, and what happens to it meanwhile."""

    name: str
    server: Server
    meanwhile: Meanwhile = nothing


class Flow(NamedTuple):
    """Sockets of the generator, and how many questions are open on each."""

    sockets: int = 8
    outstanding: int = 16


USUAL = Flow()


@dataclass
class Result:
    """What the rounds of one contender under one load came to."""

    us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def median_us(self) -> float:
        return statistics.median(self.us[1:])

    def __str__(self) -> str:
        share = 100 * self.system_s / max(self.user_s + self.system_s, 1e-9)
        return f"{self.median_us:6.2f} us ({share:.0f} % kernel, {statistics.median(self.rates[1:]) / 1000:.0f}k/s)"


class Changes:
    """Moves one instance after another, so many times a second; the worker's acknowledgements are read."""

    def __init__(self, node: FeedNode, per_s: int = CHANGES_PER_S) -> None:
        self._node = node
        self._revision = 1
        self._due = 0.0
        self.sent = 0
        self._per_s = per_s
        draw = random.Random(2)
        places = [(draw.randrange(SERVICES), draw.randrange(INSTANCES)) for _ in range(2000)]
        self._moves = [(feed.PutInstance(record(*place, moved)),) for moved in (1, 2) for place in places]

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = max(self._due, now - 0.1) + 1 / self._per_s
        self._revision += 1
        self.sent += 1
        moved = self._moves[self._revision % len(self._moves)]
        self._node.send(feed.Changes(self._revision, self._revision, moved))
        if self._node.has_acknowledged(self._revision - 8):
            self._node.forget()


def measure(contender: Contender, packets: Sequence[bytes], result: Result, seconds: float, flow: Flow = USUAL) -> None:
    """One round."""
    pids = contender.server.pids
    start = random.randrange(len(packets))
    generator = Generator(contender.server.port, packets, start, sockets=flow.sockets, outstanding=flow.outstanding)
    try:
        before, split, began = on_cpu_s(pids), split_s(pids), time.monotonic()
        answers = generator.run(seconds, contender.meanwhile)
        used, took, after = on_cpu_s(pids) - before, time.monotonic() - began, split_s(pids)
    finally:
        generator.close()
    if not answers:
        raise RuntimeError(f"{contender.name} did not answer")
    result.us.append(1e6 * used / answers)
    result.rates.append(answers / took)
    result.user_s += after[0] - split[0]
    result.system_s += after[1] - split[1]


def compare(title: str, packets: Sequence[bytes], contenders: Sequence[Contender], flow: Flow = USUAL) -> None:
    """One row: the first contender's figure, then those of the others and the first by them."""
    results = [Result() for _ in contenders]
    for seconds in (WARM_S, *[ROUND_S] * ROUNDS):
        for contender, result in zip(contenders, results, strict=True):
            measure(contender, packets, result, seconds, flow)
    first = results[0]
    row = f"{title:26} {first}"
    for contender, result in zip(contenders[1:], results[1:], strict=True):
        pairs = [a / b for a, b in zip(first.us[1:], result.us[1:], strict=True)]
        row += f" | {contender.name} {result.median_us:.2f}, x {first.median_us / result.median_us:.2f}"
        row += f" ({min(pairs):.2f}-{max(pairs):.2f})"
    print(row, flush=True)


def check(server: Server) -> None:
    """All serve the zone that is meant. Raises ``OSError`` while there is no answer."""
    asked = {
        question(f"svc7.{SUFFIX}"): (NOERROR, 5),
        question(f"svc7.{SUFFIX}", "AAAA"): (NOERROR, 0),
        question(f"_http._tcp.svc7.{SUFFIX}", "SRV"): (NOERROR, 5),
        question(f"i3.svc7.{SUFFIX}"): (NOERROR, 1),
        question(f"nobody.{SUFFIX}"): (NXDOMAIN, 0),
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(1)
        for packet, expected in asked.items():
            sock.send(packet)
            reply = sock.recv(4096)
            found = (reply[3] & 15, int.from_bytes(reply[6:8], "big"))
            if found[0] in (2, 5):  # SERVFAIL, REFUSED: it still loads
                raise BlockingIOError(f"{server.name} has no zone yet")
            if found != expected:
                raise RuntimeError(f"{server.name} answers {reply.hex()} to {packet.hex()}")


@contextmanager
def ours(folder: Path, services: int = SERVICES, workers: int = 1) -> Iterator[tuple[Server, FeedNode]]:
    """Workers of one port, fed by this process; the feed of the first."""
    with ExitStack() as stack:
        running_workers: list[DnsWorker] = []
        feeds: list[FeedNode] = []
        for index in range(workers):
            node = FeedNode(folder / f"feed{services}-{workers}-{index}")
            stack.callback(node.close)
            shared = running_workers[0].listener.dup() if index else None
            worker = DnsWorker(node.path, settings={"log_level": "warning"}, index=index, listener=shared)
            stack.enter_context(worker)
            node.accept()
            node.sync(records(services))
            running_workers.append(worker)
            feeds.append(node)
        pids = tuple(worker.process.pid for worker in running_workers)
        yield Server("ours", running_workers[0].port, pids), feeds[0]


class Bench:
    """Everything that runs beside each other, and the rows made of it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.server, self.feed = stack.enter_context(ours(folder))
        found = [stack.enter_context(running(peer, folder / peer.name, zone_file(), check)) for peer in PEERS]
        self.peers = [Contender(server.name, server) for server in found if server is not None]
        self.all = [Contender("ours", self.server), *self.peers]
        for contender in self.all:
            check(contender.server)
            pin(contender.server.pids, SERVER_CPU)
        self.loads = loads()

    def questions(self, title: str) -> None:
        compare(title, self.loads[title], self.all)

    def changes(self, title: str) -> None:
        """Beside itself without changes, in the same rounds; the others' zones stand still."""
        changes = Changes(self.feed)
        quiet = Contender("quiet", self.server)
        compare(title, self.loads["mixed"], [Contender("changing", self.server, changes), quiet, *self.peers[:1]])
        reached = changes.sent / (WARM_S + ROUNDS * ROUND_S)
        print(f"{title:26} {reached:6.0f} changes a second were sent and acknowledged", flush=True)

    def two_workers(self, title: str) -> None:
        """Both on the server's core, beside one, with enough sockets for the kernel to share them out."""
        with ours(self.folder, workers=2) as (both, _):
            pin(both.pids, SERVER_CPU)
            compare(title, self.loads["A"], [Contender("two", both), Contender("one", self.server)], Flow(32, 8))

    def latency(self, title: str) -> None:
        """At half of the rate that we reach, or what the generator can pace."""
        result = Result()
        measure(self.all[0], self.loads["mixed"], result, 1.0)
        rate = min(HALF_LOAD_MAX_PER_S, int(result.rates[0] / 2))
        loaded = [(contender.name, contender.server.port, nothing_else) for contender in self.all]
        _latency_rows(f"{title}, {rate / 1000:.0f}k/s", loaded, self.loads["mixed"], rate)

    def tcp(self, title: str) -> None:
        """Connections that stand idle, and others that send a byte now and then, beside none."""
        port = self.server.port
        cases = [
            ("no TCP connection", port, nothing_else),
            (f"{TCP_CONNECTIONS} TCP connections", port, lambda: _connections(port, TCP_CONNECTIONS)),
        ]
        _latency_rows(title, cases, self.loads["mixed"], 10_000)

    def http(self, title: str) -> None:
        """A node of its own: its worker on the server's core, node process and HTTP clients on the other."""
        node = Node("n1", self.folder / "node").start()
        self.stack.callback(node.close)
        node.wait_ready()
        asyncio.run(_register(node.url))
        workers = tuple(node.worker_processes())
        pin([node.node_process()], GENERATOR_CPU)
        pin(workers, SERVER_CPU)
        packets = loads(HTTP_SERVICES)["mixed"]
        os.sched_setaffinity(0, {SERVER_CPU})  # the probe; the kernel's clock stamps what it receives
        cases = [
            ("HTTP quiet", node.dns_port, nothing_else),
            ("HTTP under full load", node.dns_port, lambda: _http_load(node.url)),
        ]
        _latency_rows(title, cases, packets, 5_000)
        os.sched_setaffinity(0, {GENERATOR_CPU})

    def memory(self, title: str) -> None:
        """Resident memory of each alone with 100,000 instances, 300,000 records, before any question but a few."""
        found = {}
        with ours(self.folder, MANY_SERVICES) as (server, _):
            found["ours"] = rss_mib(server.pids)
        zone = zone_file(MANY_SERVICES)
        for peer in PEERS:
            with running(peer, self.folder / f"{peer.name}-many", zone, check) as other:
                if other is not None:
                    found[peer.name] = rss_mib(other.pids)
        print(f"{title:26} {' | '.join(f'{name} {mib:.0f} MiB' for name, mib in found.items())}", flush=True)

    def parts(self, title: str) -> None:
        parts(title)


def nothing_else() -> AbstractContextManager[None]:
    """What goes on while latency is measured, usually."""
    return nullcontext()


def _latency_rows(
    title: str,
    cases: Sequence[tuple[str, int, Callable[[], AbstractContextManager[None]]]],
    packets: Sequence[bytes],
    rate: int,
) -> None:
    """Name, port and circumstances of each case; they take turns."""
    times: list[list[float]] = [[] for _ in cases]
    lost = [0] * len(cases)
    for _ in range(LATENCY_ROUNDS):
        for at, (_, port, circumstances) in enumerate(cases):
            with circumstances():
                took, missing = latencies(
                    port, packets, LATENCY_S, background_per_s=rate - PROBES_PER_S, probes_per_s=PROBES_PER_S
                )
            times[at] += took
            lost[at] += missing
    for (name, _, _), took, missing in zip(cases, map(sorted, times), lost, strict=True):
        p50, p99, p999 = (1e6 * quantile(took, share) for share in (0.5, 0.99, 0.999))
        figures = f"p50 {p50:5.0f} us, p99 {p99:6.0f} us, p99.9 {p999:6.0f} us, {missing} lost"
        print(f"{title:26} {figures}: {name}", flush=True)


@contextmanager
def _connections(port: int, count: int) -> Iterator[None]:
    """TCP connections from many addresses; every other has begun a question and does not go on."""
    with ExitStack() as stack:
        for number in range(count):
            source = (f"127.0.1.{number % TCP_CLIENTS + 1}", 0)
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5, source))
            if number % 2:
                sock.send(b"\0")
        yield


async def _register(url: str) -> None:
    async def one(number: int) -> None:
        service, host = divmod(number, INSTANCES)
        spec = record(service, host).spec
        path = f"/api/v1/namespaces/default/services/{spec.service}/instances/{spec.id}"
        body = {"address": spec.addresses[0], "ports": {"http": 8080}, "ttl": 3600}
        async with http.put(url + path, json=body) as response:
            if response.status != 201:
                raise RuntimeError(f"registration answered {response.status}: {await response.text()}")

    async with session() as http:
        for start in range(0, HTTP_SERVICES * INSTANCES, 50):
            await asyncio.gather(*map(one, range(start, start + 50)))


@contextmanager
def _http_load(url: str) -> Iterator[None]:
    """Another process that asks the node's HTTP API for as much as it gives."""
    process = subprocess.Popen([sys.executable, __file__, "--http-load", url], stdout=subprocess.PIPE)
    try:
        os.sched_setaffinity(process.pid, {GENERATOR_CPU})
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("the HTTP load does not begin")
        yield
    finally:
        process.kill()
        process.wait()


async def http_load(url: str) -> None:
    """Lists, look-ups and heartbeat-like writes by turns, until killed."""
    paths = [f"/api/v1/namespaces/default/services/svc{number}/instances" for number in range(HTTP_SERVICES)]

    async def client(number: int) -> None:
        for turn in range(10**9):
            async with http.get(url + paths[(turn * HTTP_CLIENTS + number) % len(paths)]) as response:
                await response.read()
            async with http.put(f"{url}/api/v1/kv/load/{number}", data=b"x") as response:
                await response.read()
            if turn == number == 0:
                print("begun", flush=True)

    async with session() as http, asyncio.TaskGroup() as tasks:
        for number in range(HTTP_CLIENTS):
            tasks.create_task(client(number))


def parts(title: str) -> None:
    """What an answer costs in the worker's own code, without the kernel: measured in this process."""
    registry = Registry().put(*(record(service, n).spec for service in range(64) for n in range(INSTANCES)))
    server = responder(registry)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        slots = Slots(sock, control=False)
        names = [f"svc{service}.{SUFFIX}" for service in range(64)]
        draw = random.Random(3)
        kinds = {
            "ready, as asked": [question(name) for name in names],
            "ready, no such type": [question(name, "AAAA") for name in names],
            "ready, random case": [random_case(question(name), draw) for name in names],
            "no such name": [question(f"x{name}") for name in names],
            "outside the zone": [question(f"svc{number}.example.com") for number in range(64)],
        }
        for kind, packets in kinds.items():
            for _ in range(16):  # every rotation is ready
                for packet in packets:
                    server.datagram(packet)
            print(f"{title:26} {_own_us(packets, slots, server.serve_slots):6.2f} us {kind}", flush=True)
        server._cache.put_all = lambda *rest: None  # type: ignore[method-assign]
        server._cache.clear()
        us = _own_us(kinds["ready, as asked"], slots, server.serve_slots)
        print(f"{title:26} {us:6.2f} us composed, A, 5 orders", flush=True)


def _own_us(packets: Sequence[bytes], slots: Slots, serve: Callable[[Slots, int], int]) -> float:
    """The least of many batches, without the time it takes to lay the questions out."""
    slots.sizes = [len(packet) for packet in packets]
    times = []
    for _ in range(400):
        for start, packet in zip(slots.starts, packets, strict=True):
            slots.memory[start - 2 : start - 2 + len(packet)] = packet
        began = time.perf_counter()
        serve(slots, mmsg.SLOTS)
        times.append(time.perf_counter() - began)
    return 1e6 * min(times) / mmsg.SLOTS


ROWS: dict[str, Callable[[Bench, str], None]] = {
    "A": Bench.questions,
    "mixed": Bench.questions,
    "random case": Bench.questions,
    "NXDOMAIN flood": Bench.questions,
    f"changes, {CHANGES_PER_S}/s, mixed": Bench.changes,
    "workers, two on one core": Bench.two_workers,
    "latency at half load": Bench.latency,
    "tcp: UDP latency": Bench.tcp,
    "http: DNS latency": Bench.http,
    "memory, 100,000 instances": Bench.memory,
    "parts, without the kernel": Bench.parts,
}


def main(wanted: Sequence[str]) -> None:
    if wanted and wanted[0] == "--http-load":
        asyncio.run(http_load(wanted[1]))
    os.sched_setaffinity(0, {GENERATOR_CPU})
    print(
        f"DNS, {SERVICES} services x {INSTANCES}; server on CPU {SERVER_CPU}, generator on {GENERATOR_CPU};"
        f" CPU per answer: ours, then the others and ours by theirs (range of the rounds)",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        bench = Bench(stack, Path(text))
        for title, row in ROWS.items():
            if not wanted or title.startswith(tuple(wanted)):
                row(bench, title)


if __name__ == "__main__":
    main(sys.argv[1:])
