"""Questions by the hundred thousand and what they cost: a generator, a probe of latency, the CPU time of a server."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from discovery.dns.mmsg import SLOTS, Slots

_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h
_TIMESPEC: Final = struct.Struct("@qq")
_LATE_S: Final = 5.0  # an answer that takes longer is lost
_PACE_S: Final = 0.0005


class Generator:
    """Keeps questions open on each of its sockets; an answer is written over with the next one.

    Args:
        port: of a name server on loopback.
        questions: packets, asked in turn.
        start: index of the first.
        sockets, outstanding: how many, and how many questions are open on each.
    """

    def __init__(
        self, port: int, questions: Sequence[bytes], start: int, *, sockets: int = 8, outstanding: int = 16
    ) -> None:
        self._socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(sockets)]
        self._outstanding = outstanding
        self._address = ("127.0.0.1", port)
        self._slots = []
        self._questions, self._at = questions, start
        self._poll = select.poll()
        for sock in self._socks:
            sock.bind(("127.0.0.1", 0))
            self._slots.append(self._addressed(sock, port))
            self._poll.register(sock, select.POLLIN)

    @staticmethod
    def _addressed(sock: socket.socket, port: int) -> Slots:
        """Slots whose datagrams go to the server also before anything was received into them."""
        slots = Slots(sock, control=False)
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
        stride = len(slots._names) // SLOTS
        for slot in range(SLOTS):
            slots._names[slot * stride : slot * stride + len(address)] = address  # type: ignore[call-overload]
        return slots

    def _next(self, count: int) -> Sequence[bytes]:
        if self._at + count > len(self._questions):
            self._at = 0
        self._at += count
        return self._questions[self._at - count : self._at]

    def _prime(self) -> None:
        for sock in self._socks:
            for packet in self._next(self._outstanding):
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
        self._lay_out(slots, self._next(count))
        if count:
            slots.send(count, gaps=False)
        return count

    def _lay_out(self, slots: Slots, packets: Sequence[bytes]) -> None:
        memory = slots.memory
        for slot, packet in enumerate(packets):
            start = slots.starts[slot] - 2
            memory[start : start + len(packet)] = packet
            slots.lengths[slot] = len(packet)

    def _drain(self) -> int:
        """Take what is still on its way, so that the next round begins clean."""
        answers = 0
        while self._poll.poll(20):
            answers += sum(slots.receive() for slots in self._slots)
        return answers

    def burst(self, count: int) -> None:
        """Send ``count`` questions, spread over the sockets; take the answers that are there."""
        for slots in self._slots:
            slots.receive()
        share = min(SLOTS, -(-count // len(self._slots)))
        for slots in self._slots[: -(-count // share)]:
            self._lay_out(slots, self._next(share))
            slots.send(share, gaps=False)

    def close(self) -> None:
        """Close its sockets."""
        for sock in self._socks:
            sock.close()


class Probe:
    """Measures single answers: sent by our clock, received by the kernel's, so that a busy prober adds nothing."""

    def __init__(self, port: int, questions: Sequence[bytes]) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sock.connect(("127.0.0.1", port))
        self._questions = questions
        self._sent: dict[int, float] = {}
        self._number = 0
        self.times: list[float] = []

    def send(self) -> None:
        """Ask one question."""
        self._number += 1
        ident = self._number & 0xFFFF
        packet = self._questions[self._number % len(self._questions)]
        self._sent[ident] = time.clock_gettime(time.CLOCK_REALTIME)
        self._sock.send(ident.to_bytes(2, "big") + packet[2:])

    def receive(self) -> None:
        """Take the answers that are there."""
        while True:
            try:
                reply, control, _, _ = self._sock.recvmsg(4096, 128)
            except BlockingIOError:
                return
            sent = self._sent.pop(int.from_bytes(reply[:2], "big"), None)
            if sent is not None and control:
                seconds, nanoseconds = _TIMESPEC.unpack(control[0][2][: _TIMESPEC.size])
                self.times.append(seconds + nanoseconds / 1e9 - sent)

    @property
    def lost(self) -> int:
        """Questions without an answer, so far."""
        return len(self._sent)

    def close(self) -> None:
        """Close its socket."""
        self._sock.close()


def latencies(
    port: int, questions: Sequence[bytes], seconds: float, *, background_per_s: int = 0, probes_per_s: int = 1000
) -> tuple[list[float], int]:
    """Ask single questions, and so many others a second besides.

    Returns:
        Seconds that the single answers took, in order, and how many were lost.
    """
    probe, generator = Probe(port, questions), Generator(port, questions, 0)
    began = now = time.monotonic()
    asked = probed = 0
    try:
        while now - began < seconds:
            due = int((now - began) * background_per_s) - asked
            if due > 0:
                generator.burst(min(due, 64))
                asked += due
            if probed < (now - began) * probes_per_s:
                probe.send()
                probed += 1
            probe.receive()
            time.sleep(_PACE_S)
            now = time.monotonic()
        while probe.lost and time.monotonic() < now + _LATE_S:
            probe.receive()
            time.sleep(_PACE_S)
    finally:
        generator.close()
        probe.close()
    return sorted(probe.times), probe.lost


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``ordered`` lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from tree(int(child))


def _threads(pids: Sequence[int]) -> Iterator[Path]:
    for pid in pids:
        for process in tree(pid):
            yield from Path(f"/proc/{process}/task").iterdir()


def on_cpu_s(pids: Sequence[int]) -> float:
    """Seconds on a CPU so far, of all threads of the process trees, by the scheduler's own count."""
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in _threads(pids)) / 1e9


def split_s(pids: Sequence[int]) -> tuple[float, float]:
    """User and system seconds, by ticks: rough, for their proportion."""
    stats = [Path(f"/proc/{process}/stat").read_text() for pid in pids for process in tree(pid)]
    fields = [text.rpartition(")")[2].split() for text in stats]
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(int(f[11]) for f in fields) / ticks, sum(int(f[12]) for f in fields) / ticks


def rss_mib(pids: Sequence[int]) -> float:
    """Resident memory of the process trees; what processes share counts once a process."""
    processes = [process for pid in pids for process in tree(pid)]
    pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def pin(pids: Sequence[int], cpu: int) -> None:
    """Keep all threads of the process trees on one CPU."""
    for thread in _threads(pids):
        os.sched_setaffinity(int(thread.name), {cpu})
