"""A switch in user space between network namespaces: it delays, loses and doubles frames, so that they overtake.

Not every kernel has tc netem. Each host has a TAP device whose other end this process holds; the last one is the
client's, and what goes to or from it passes at once. ``python -m discovery.testing.switch`` takes the rules and the
names of the namespaces, writes a line once all devices are there, and ends at the end of its standard input.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from discovery.testing.hosts import Hosts, enter, run

FRAME_BYTES_MAX: Final = 65_536
WAITING_MAX: Final = 100_000  # frames; more are dropped, as by any switch
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Rules:
    """What happens to a frame between two hosts. Times in seconds, shares of one."""

    def __init__(self, delay_s: float, jitter_s: float, loss: float, doubled: float, seed: int) -> None:
        self.delay_s, self.jitter_s, self.loss, self.doubled = delay_s, jitter_s, loss, doubled
        self._chance = random.Random(seed)  # noqa: S311 -- a fault to be played again

    def fates(self) -> list[float]:
        """After how many seconds it arrives, once, twice or never."""
        copies = 0 if self._chance.random() < self.loss else 2 if self._chance.random() < self.doubled else 1
        return [max(0.0, self.delay_s + self._chance.uniform(-self.jitter_s, self.jitter_s)) for _ in range(copies)]


class Switch:
    """Forwards between TAP devices by the addresses that it has seen."""

    def __init__(self, ports: Sequence[int], rules: Rules) -> None:
        self._ports, self._rules = ports, rules
        self._places: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def run(self, until: int) -> None:
        """Forward until the file ``until`` ends."""
        selector = selectors.DefaultSelector()
        for port, device in enumerate(self._ports):
            selector.register(device, selectors.EVENT_READ, port)
        selector.register(until, selectors.EVENT_READ, -1)
        while True:
            patience = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            for key, _ in selector.select(patience):
                if key.data < 0:
                    return
                self._take(key.data, os.read(self._ports[key.data], FRAME_BYTES_MAX))
            self._give()

    def _take(self, port: int, frame: bytes) -> None:
        self._places[frame[6:12]] = port
        known = self._places.get(frame[:6])
        targets = [known] if known is not None else [other for other in range(len(self._ports)) if other != port]
        client, now = len(self._ports) - 1, time.monotonic()
        for target in targets:
            for after in [0.0] if client in (port, target) else self._rules.fates():
                if len(self._waiting) < WAITING_MAX:
                    heapq.heappush(self._waiting, (now + after, next(self._numbers), target, frame))

    def _give(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                os.write(self._ports[target], frame)
            except OSError:  # its host is not up yet, or does not keep up
                continue


def _tap(namespace: str) -> int:
    """The switch's end of a device ``eth0`` in a namespace. This process stands in that namespace afterwards."""
    with (Path("/run/netns") / namespace).open() as place:
        enter(place.fileno())
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI))
    return device


class SwitchedHosts(Hosts):
    """Hosts behind such a switch instead of a bridge; who is :meth:`inside` is its client."""

    def __init__(self, count: int, rules: Sequence[str]) -> None:
        super().__init__(count)
        self._rules = rules
        self._process: subprocess.Popen[str] | None = None

    def make(self) -> None:
        """Make namespaces and switch. Raises :class:`OSError` when there are no TAP devices here."""
        ends = [*self.names, self.bridge]
        for name in ends:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        line = [sys.executable, "-P", "-m", "discovery.testing.switch", *self._rules, *ends]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise OSError("no TAP devices")
        for number, name in enumerate(ends):
            address = self.address(number) if name != self.bridge else self.address(253)
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """End the switch, remove the namespaces."""
        if self._process is not None:
            self._process.communicate("")
        super().remove()


def main() -> None:
    """Parse the command line and forward."""
    parser = argparse.ArgumentParser(description="A switch between network namespaces")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--doubled", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("namespaces", nargs="+")
    given = parser.parse_args()
    ports = [_tap(name) for name in given.namespaces]
    print("ready", flush=True)
    Switch(ports, Rules(given.delay, given.jitter, given.loss, given.doubled, given.seed)).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
