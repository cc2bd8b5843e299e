"""Hosts of a network of their own: namespaces joined by a bridge, which the test cuts and heals as it likes.

The bridge lives in a namespace too, so nothing of the machine itself is touched: neither its links nor its rules. Who
is :meth:`Hosts.inside` stands at the bridge: he reaches every host always, also those that no longer reach each other.
Needs root, ``ip`` (iproute2) and ``nft`` (nftables).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from discovery.testing.cluster import Cluster, Node

NETWORK: Final = "10.77.0"
SECRET: Final = "a secret of the test's cluster"  # noqa: S105
HTTP_PORT, DNS_PORT, RAFT_PORT = 8500, 8600, 8300
_CLONE_NEWNET: Final = 0x40000000
_TABLE: Final = "bridge cuts"
_numbers: Final = itertools.count()


class Hosts:
    """Some hosts, numbered from 0; :func:`hosts` makes and removes them."""

    def __init__(self, count: int) -> None:
        self.count = count
        name = f"discovery-{os.getpid()}-{next(_numbers)}"
        self.bridge = f"{name}-bridge"
        self.names = [f"{name}-{number}" for number in range(count)]

    def address(self, number: int) -> str:
        """IPv4 address of a host."""
        return f"{NETWORK}.{number + 1}"

    def prefix(self, number: int) -> tuple[str, ...]:
        """What stands before a command to run it on a host."""
        return "ip", "netns", "exec", self.names[number]

    def make(self) -> None:
        """Make namespaces, links and bridge."""
        for name in (self.bridge, *self.names):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge")
        for number, name in enumerate(self.names):
            link = ("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", self.bridge, *link)
            run("ip", "-n", self.bridge, "link", "set", f"v{number}", "master", "br0", "up")
            run("ip", "-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", self.bridge, "address", "add", f"{NETWORK}.254/24", "dev", "br0")
        run("ip", "-n", self.bridge, "link", "set", "br0", "up")

    def remove(self) -> None:
        """Remove what :meth:`make` made, as far as it came."""
        for name in (self.bridge, *self.names):
            if (Path("/run/netns") / name).exists():
                run("ip", "netns", "del", name)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and threads and processes that it starts, stand at the bridge meanwhile."""
        with open("/proc/thread-self/ns/net") as home, (Path("/run/netns") / self.bridge).open() as bridge:
            enter(bridge.fileno())
            try:
                yield
            finally:
                enter(home.fileno())

    # Faults

    def cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From now on drop what goes from the first to the second host of each pair, and nothing else."""
        self._rule(" ".join(f"iifname v{source} oifname v{target} drop;" for source, target in pairs))

    def isolate(self, number: int, *, hears: bool = False, speaks: bool = False) -> None:
        """Cut a host off from the others, or only one way: it still ``hears`` them, or still ``speaks`` to them."""
        others = [other for other in range(self.count) if other != number]
        silent = [] if speaks else [(number, other) for other in others]
        deaf = [] if hears else [(other, number) for other in others]
        self.cut([*silent, *deaf])

    def heal(self) -> None:
        """Let everything pass again."""
        self.cut([])

    def lose(self, percent: int) -> None:
        """From now on drop so many of a hundred packets between hosts, by chance; :meth:`heal` ends it."""
        self._rule(f"numgen random mod 100 < {percent} drop;")

    def unplug(self, number: int) -> None:
        """Take a host's cable out: also who stands at the bridge does not reach it."""
        run("ip", "-n", self.bridge, "link", "set", f"v{number}", "down")

    def plug(self, number: int) -> None:
        """Put it in again."""
        run("ip", "-n", self.bridge, "link", "set", f"v{number}", "up")

    def reset(self, number: int, port: int) -> None:
        """From now on answer every packet from and to a TCP port of a host with a reset."""
        table = f"chain answer {{ type filter hook input priority 0; tcp dport {port} reject with tcp reset; "
        table += f"tcp sport {port} reject with tcp reset; }};"
        run(*self.prefix(number), "nft", "-f", "-", text=f"table inet resets {{ {table} }};\n")

    def calm(self, number: int) -> None:
        """End :meth:`reset`."""
        run(*self.prefix(number), "nft", "delete", "table", "inet", "resets")

    def shrink(self, number: int, size: int) -> None:
        """Set the largest packet of a host, bytes; larger ones to it vanish, nobody is told (1500 is usual)."""
        for name in self.names:  # a packet that the network would cut passes whole between namespaces
            run("ip", "-n", name, "link", "set", "eth0", "gso_max_segs", "1")
        run("ip", "-n", self.names[number], "link", "set", "eth0", "mtu", str(size))

    def narrow(self, number: int, rate: str) -> None:
        """Let no more than ``rate`` (as tc writes it: ``1mbit``) reach a host; nothing of it: all again."""
        where = ("ip", "netns", "exec", self.bridge, "tc", "qdisc")
        if rate:
            shape = ("root", "tbf", "rate", rate, "burst", "16kb", "latency", "200ms")
            run(*where, "replace", "dev", f"v{number}", *shape)
        else:
            run(*where, "del", "dev", f"v{number}", "root")

    def _rule(self, rules: str) -> None:
        chain = f"chain forward {{ type filter hook forward priority 0; {rules} }};"
        run("ip", "netns", "exec", self.bridge, "nft", "-f", "-", text=f"{_FRESH} table {_TABLE} {{ {chain} }};\n")


_FRESH: Final = f"table {_TABLE} {{ }}; delete table {_TABLE};"


def run(*line: str, text: str | None = None) -> None:
    """Run a command. Raises :class:`OSError` with what it said when it fails."""
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise OSError(f"{' '.join(line)}: {done.stderr.strip()}")


def enter(namespace: int) -> None:
    """``setns(2)`` into a network: of this thread alone (os.setns comes with Python 3.12)."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def hosts(count: int = 3) -> Iterator[Hosts]:
    """A network of ``count`` hosts that leaves nothing behind."""
    network = Hosts(count)
    try:
        network.make()
        yield network
    finally:
        network.remove()


def cluster_on(network: Hosts, folder: Path) -> Cluster:
    """A cluster with one node on each host, n1 on host 0 and so on; not yet started."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    nodes = [
        Node(
            f"n{number + 1}",
            folder,
            HTTP_PORT,
            DNS_PORT,
            RAFT_PORT,
            options=("--raft-secret-file", str(secret), "--http-insecure"),
            prefix=network.prefix(number),
            host=network.address(number),
        )
        for number in range(network.count)
    ]
    return Cluster.of(nodes)
