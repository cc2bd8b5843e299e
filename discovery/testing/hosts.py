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
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", self.bridge, "link", "add", "br0", "type", "bridge")
        for number, name in enumerate(self.names):
            link = ("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "-n", self.bridge, *link)
            _run("ip", "-n", self.bridge, "link", "set", f"v{number}", "master", "br0", "up")
            _run("ip", "-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", self.bridge, "address", "add", f"{NETWORK}.254/24", "dev", "br0")
        _run("ip", "-n", self.bridge, "link", "set", "br0", "up")

    def remove(self) -> None:
        """Remove what :meth:`make` made, as far as it came."""
        for name in (self.bridge, *self.names):
            if (Path("/run/netns") / name).exists():
                _run("ip", "netns", "del", name)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and threads and processes that it starts, stand at the bridge meanwhile."""
        with open("/proc/thread-self/ns/net") as home, (Path("/run/netns") / self.bridge).open() as bridge:
            _enter(bridge.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    # Faults

    def cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From now on drop what goes from the first to the second host of each pair, and nothing else."""
        rules = [f"iifname v{source} oifname v{target} drop;" for source, target in pairs]
        chain = f"chain forward {{ type filter hook forward priority 0; {' '.join(rules)} }};"
        _run("ip", "netns", "exec", self.bridge, "nft", "-f", "-", text=f"{_FRESH} table {_TABLE} {{ {chain} }};\n")

    def isolate(self, number: int, *, hears: bool = False, speaks: bool = False) -> None:
        """Cut a host off from the others, or only one way: it still ``hears`` them, or still ``speaks`` to them."""
        others = [other for other in range(self.count) if other != number]
        silent = [] if speaks else [(number, other) for other in others]
        deaf = [] if hears else [(other, number) for other in others]
        self.cut([*silent, *deaf])

    def heal(self) -> None:
        """Let everything pass again."""
        self.cut([])


_FRESH: Final = f"table {_TABLE} {{ }}; delete table {_TABLE};"


def _run(*line: str, text: str | None = None) -> None:
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise OSError(f"{' '.join(line)}: {done.stderr.strip()}")


def _enter(namespace: int) -> None:
    """``setns(2)``: of this thread alone (os.setns comes with Python 3.12)."""
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
