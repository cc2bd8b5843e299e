"""CPU time per DNS answer of one worker, beside NSD on the same zone. Run by ``make bench``.

1,000 services of 5 instances each. The server is pinned to one core, the generator (this process) to another; the
contenders take turns in rounds of half a second within one run, because a shared machine drifts. The figure is the
time on a CPU of all threads of the server's process tree (schedstat) by answers received: rates depend on the
generator, this hardly does. NSD comes from Debian (package nsd); without it only our own figures are printed.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from discovery import feed
from discovery.dns import mmsg
from discovery.dns.mmsg import Slots
from discovery.model import InstanceRecord
from discovery.testing.dns_case import Registry, instance, instance_record, question, responder
from discovery.testing.dns_worker import DnsWorker, FeedNode

SERVICES, INSTANCES = 1000, 5
SOCKETS, OUTSTANDING = 8, 16
ROUND_S, ROUNDS, WARM_S = 0.5, 7, 2.0
QUESTIONS = 30_000
SUFFIX = "default.svc.cluster.local"
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, GENERATOR_CPU = CPUS[0], CPUS[-1]
NOERROR, NXDOMAIN = 0, 3


class Load(NamedTuple):
    """What is asked, and how often the catalogue changes meanwhile (ours only)."""

    name: str
    questions: list[bytes]
    changes_per_s: int = 0


class Server(NamedTuple):
    name: str
    port: int
    pid: int


@dataclass
class Result:
    """What the rounds of one server under one load came to."""

    us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def system_share(self) -> float:
        return self.system_s / max(self.user_s + self.system_s, 1e-9)


def record(service: int, number: int, moved: int = 0) -> InstanceRecord:
    address = f"10.{service >> 8}.{service & 255}.{number + 1 + 8 * (moved % 30)}"
    return instance_record(instance(f"svc{service}", f"i{number}", address, ports={"http": 8080}))


def loads() -> list[Load]:
    """Questions are drawn in advance, with a seed: every run and every contender is asked the same."""
    draw = random.Random(1)

    def name() -> str:
        return f"svc{draw.randrange(SERVICES)}.{SUFFIX}"

    kinds: dict[str, Callable[[], bytes]] = {
        "A": lambda: question(name()),
        "AAAA": lambda: question(name(), "AAAA"),
        "SRV": lambda: question(f"_http._tcp.{name()}", "SRV"),
        "instance": lambda: question(f"i{draw.randrange(INSTANCES)}.{name()}"),
        "nxdomain": lambda: question(f"x{draw.getrandbits(40):x}.{SUFFIX}"),
    }
    a = [kinds["A"]() for _ in range(QUESTIONS)]
    shares = [("A", 60), ("AAAA", 20), ("SRV", 10), ("instance", 5), ("nxdomain", 5)]
    drawn = draw.choices([kind for kind, _ in shares], [share for _, share in shares], k=QUESTIONS)
    mixed = [kinds[kind]() for kind in drawn]
    return [
        Load("A", a),
        Load("mixed", mixed),
        Load("random case", [_random_case(packet, draw) for packet in a]),
        Load("NXDOMAIN flood", [kinds["nxdomain"]() for _ in range(QUESTIONS)]),
        Load("mixed, 20 changes/s", mixed, 20),
        Load("mixed, 500 changes/s", mixed, 500),
    ]


def _random_case(packet: bytes, draw: random.Random) -> bytes:
    name = bytes(byte ^ 0x20 if 97 <= byte <= 122 and draw.random() < 0.5 else byte for byte in packet[12:-4])
    return packet[:12] + name + packet[-4:]


class Generator:
    """Keeps ``OUTSTANDING`` questions open on each of its sockets; an answer is written over with the next one."""

    def __init__(self, port: int, questions: Sequence[bytes], start: int) -> None:
        self._socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(SOCKETS)]
        self._address = ("127.0.0.1", port)
        self._slots = []
        self._questions, self._at = questions, start
        self._poll = select.poll()
        for sock in self._socks:
            sock.bind(("127.0.0.1", 0))
            self._slots.append(Slots(sock, control=False))
            self._poll.register(sock, select.POLLIN)

    def _next(self, count: int) -> Sequence[bytes]:
        if self._at + count > len(self._questions):
            self._at = 0
        self._at += count
        return self._questions[self._at - count : self._at]

    def _prime(self) -> None:
        for sock in self._socks:
            for packet in self._next(OUTSTANDING):
                sock.sendto(packet, self._address)

    def run(self, seconds: float, meanwhile: Callable[[], None]) -> int:
        """Ask for that long; how many answers came. What is lost is replaced when all falls silent."""
        self._prime()
        answers = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            meanwhile()
            got = sum(map(self._exchange, self._slots))
            answers += got
            if not got and not self._poll.poll(100):
                self._prime()
        return answers + self._drain()

    def _exchange(self, slots: Slots) -> int:
        count = slots.receive()
        memory = slots.memory
        for slot, packet in enumerate(self._next(count)):
            start = slots.starts[slot] - 2
            memory[start : start + len(packet)] = packet
            slots.lengths[slot] = len(packet)
        if count:
            slots.send(count, gaps=False)
        return count

    def _drain(self) -> int:
        """Take what is still on its way, so that the next round begins clean."""
        answers = 0
        while self._poll.poll(20):
            answers += sum(slots.receive() for slots in self._slots)
        return answers

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from tree(int(child))


def on_cpu_s(pid: int) -> float:
    """Seconds on a CPU so far, by the scheduler's own count."""
    threads = [thread for process in tree(pid) for thread in Path(f"/proc/{process}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def split_s(pid: int) -> tuple[float, float]:
    """User and system seconds, by ticks: rough, for their proportion."""
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in tree(pid)]
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(int(f[11]) for f in fields) / ticks, sum(int(f[12]) for f in fields) / ticks


def pin(pid: int) -> None:
    for process in tree(pid):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {SERVER_CPU})


class Changes:
    """Moves one instance after another, so many times a second; the worker's acknowledgements are read."""

    def __init__(self, node: FeedNode) -> None:
        self._node = node
        self._revision = 1
        self._due = 0.0
        self._draw = random.Random(2)
        self.per_s = 0

    def __call__(self) -> None:
        now = time.monotonic()
        if not self.per_s or now < self._due:
            return
        self._due = max(self._due, now - 1) + 1 / self.per_s
        self._revision += 1
        moved = record(self._draw.randrange(SERVICES), self._draw.randrange(INSTANCES), self._revision)
        self._node.send(feed.Changes(self._revision, self._revision, (feed.PutInstance(moved),)))
        self._node.has_acknowledged(self._revision)


def measure(server: Server, load: Load, result: Result, changes: Changes | None, seconds: float) -> None:
    """One round."""
    generator = Generator(server.port, load.questions, random.randrange(len(load.questions)))
    if changes is not None:
        changes.per_s = load.changes_per_s
    try:
        before, split, began = on_cpu_s(server.pid), split_s(server.pid), time.monotonic()
        answers = generator.run(seconds, changes or (lambda: None))
        used, took, after = on_cpu_s(server.pid) - before, time.monotonic() - began, split_s(server.pid)
    finally:
        generator.close()
    if not answers:
        raise RuntimeError(f"{server.name} did not answer")
    result.us.append(1e6 * used / answers)
    result.rates.append(answers / took)
    result.user_s += after[0] - split[0]
    result.system_s += after[1] - split[1]


def check(server: Server) -> None:
    """Both serve the zone that is meant."""
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
            if (reply[3] & 15, int.from_bytes(reply[6:8], "big")) != expected:
                raise RuntimeError(f"{server.name} answers {reply.hex()} to {packet.hex()}")


ZONE_HEAD = """$ORIGIN cluster.local.
$TTL 5
@ SOA ns.dns hostmaster 1 7200 1800 86400 1
@ NS ns.dns
ns.dns A 127.0.0.1
"""
NSD_CONF = """server:
  ip-address: 127.0.0.1@{port}
  server-count: 1
  username: ""
  zonesdir: "{folder}"
  zonelistfile: "{folder}/zone.list"
  database: ""
  pidfile: "{folder}/pid"
  xfrdfile: "{folder}/xfrd"
  logfile: "{folder}/log"
  round-robin: yes
  minimal-responses: yes
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: cluster.local
  zonefile: zone
"""


def zone_file() -> str:
    lines = [ZONE_HEAD]
    for service in range(SERVICES):
        for number in range(INSTANCES):
            host = f"i{number}.svc{service}.default.svc"
            address = record(service, number).spec.addresses[0]
            lines.append(f"svc{service}.default.svc A {address}\n{host} A {address}\n")
            lines.append(f"_http._tcp.svc{service}.default.svc SRV 0 1 8080 {host}\n")
    return "".join(lines)


@contextmanager
def nsd(folder: Path) -> Iterator[Server | None]:
    """NSD with one server process, or nothing where it is not installed."""
    program = shutil.which("nsd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        print("NSD is not installed (Debian: apt-get install nsd): no comparison", flush=True)
        yield None
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    (folder / "zone").write_text(zone_file())
    (folder / "conf").write_text(NSD_CONF.format(port=port, folder=folder))
    process = subprocess.Popen([program, "-d", "-c", str(folder / "conf")], stderr=subprocess.DEVNULL)
    try:
        server = Server("NSD", port, process.pid)
        _wait_for(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"NSD ended with code {process.returncode}")
        try:
            check(server)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("NSD does not answer")


@contextmanager
def ours(folder: Path) -> Iterator[tuple[Server, Changes]]:
    """One worker process, fed by this one."""
    node = FeedNode(folder / "feed")
    with DnsWorker(node.path, settings={"log_level": "warning"}) as worker:
        node.accept()
        node.sync([record(service, number) for service in range(SERVICES) for number in range(INSTANCES)])
        yield Server("discovery", worker.port, worker.process.pid), Changes(node)
    node.close()


def compare(load: Load, server: Server, changes: Changes, peer: Server | None) -> str:
    """One row of the table."""
    mine, theirs = Result(), Result()
    contenders = [(server, mine, changes)] + ([(peer, theirs, None)] if peer is not None else [])
    for seconds in (WARM_S, *[ROUND_S] * ROUNDS):
        for contender, result, meanwhile in contenders:
            measure(contender, load, result, meanwhile, seconds)
    us = statistics.median(mine.us[1:])
    row = f"{load.name:21} {us:6.2f} us ({100 * mine.system_share:3.0f} % kernel) {_rate(mine):6.0f}k/s"
    if peer is None:
        return row
    other = statistics.median(theirs.us[1:])
    pairs = [a / b for a, b in zip(mine.us[1:], theirs.us[1:], strict=True)]
    row += f"   {other:6.2f} us ({100 * theirs.system_share:3.0f} % kernel) {_rate(theirs):6.0f}k/s"
    return row + f"   {us / other:5.2f} x NSD ({min(pairs):.2f} to {max(pairs):.2f})"


def _rate(result: Result) -> float:
    return statistics.median(result.rates[1:]) / 1000


def parts() -> None:
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
            "ready, random case": [_random_case(question(name), draw) for name in names],
            "no such name": [question(f"x{name}") for name in names],
            "outside the zone": [question(f"svc{number}.example.com") for number in range(64)],
        }
        for kind, packets in kinds.items():
            for _ in range(16):  # every rotation is ready
                for packet in packets:
                    server.datagram(packet)
            print(f"  {kind:22} {_own_us(packets, slots, server.serve_slots):5.2f} us", flush=True)
        server._cache.put_all = lambda *rest: None  # type: ignore[method-assign]
        server._cache.clear()
        fills = {"composed, A, 5 orders": kinds["ready, as asked"]}
        for kind, packets in fills.items():
            print(f"  {kind:22} {_own_us(packets, slots, server.serve_slots):5.2f} us", flush=True)


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


def main() -> None:
    os.sched_setaffinity(0, {GENERATOR_CPU})
    print(
        f"DNS, {SERVICES} services x {INSTANCES}; server on CPU {SERVER_CPU}, generator on {GENERATOR_CPU}", flush=True
    )
    with tempfile.TemporaryDirectory() as text, ours(Path(text)) as (server, changes), nsd(Path(text)) as peer:
        for contender in filter(None, (server, peer)):
            check(contender)
            pin(contender.pid)
        for load in loads():
            print(compare(load, server, changes, peer), flush=True)
    print("In the worker's own code, per answer of a batch of 64 (the kernel's part left out):", flush=True)
    parts()


if __name__ == "__main__":
    main()
