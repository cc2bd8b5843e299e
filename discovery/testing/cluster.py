"""Real clusters on one host: processes of ``discovery serve``, killed and started again as an operator would.

Everything here is synchronous and for tests and drills: a :class:`Node` is one node (supervisor, node process, DNS
workers) with its own data directory and ports, a :class:`Cluster` several that are peers. Ports lie below the range
the kernel picks from, so that a client's connection cannot take the port of a node that is down for a moment, and
are locked for the life of this process, so that tests may run side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from discovery.testing.ask import DnsAnswer, ask

HOST: Final = "127.0.0.1"
PORTS: Final = range(12_000, 32_000)
POLL_S: Final = 0.02
_T = TypeVar("_T")
_held_ports: Final[dict[int, int]] = {}


def eventually(attempt: Callable[[], _T], timeout_s: float = 10.0, what: str = "the condition") -> _T:
    """Call ``attempt`` until its value is true, and return that.

    Raises:
        TimeoutError: it stayed false, or kept raising OSError, for ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if value := attempt():
                return value
            last = value
        except (OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(POLL_S)
    raise TimeoutError(f"{what} did not come true within {timeout_s:.1f} s; last: {last!r}")


def free_port() -> int:
    """A port that is free for TCP and UDP on loopback, and given to nobody else who asks by this function."""
    folder = Path(tempfile.gettempdir()) / f"discovery-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        port = random.choice(PORTS)  # noqa: S311 -- no secret
        if port not in _held_ports and _lock_port(folder, port):
            return port
    raise OSError("no port is free")


def _lock_port(folder: Path, port: int) -> bool:
    fd = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.bind((HOST, port))
    except OSError:
        os.close(fd)
        return False
    _held_ports[port] = fd
    return True


def children(pid: int) -> list[int]:
    """The living children of a process (zombies are dead)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def request(
    url: str,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 12,
) -> Answer:
    """One HTTP request on a connection of its own; ``body`` is bytes, or something to send as JSON."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class Node:
    """One node. ``options`` go to ``discovery serve`` as they are; ``prefix`` (strace) stands before it."""

    id: str
    folder: Path
    http_port: int = field(default_factory=free_port)
    dns_port: int = field(default_factory=free_port)
    raft_port: int = field(default_factory=free_port)
    peers: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    options: Sequence[str] = ()
    prefix: Sequence[str] = ()
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def url(self) -> str:
        """Of its HTTP API."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def dns(self) -> tuple[str, int]:
        """Address of its DNS."""
        return self.host, self.dns_port

    @property
    def raft(self) -> str:
        """Address for its peers."""
        return f"{self.host}:{self.raft_port}"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / self.id

    def command(self) -> list[str]:
        """The command line, as in a Procfile."""
        line = [*self.prefix, str(Path(sys.executable).with_name("discovery")), "serve", "--id", self.id]
        line += ["--data-dir", str(self.data)]
        line += [
            "--http",
            f"{self.host}:{self.http_port}",
            "--dns",
            f"{self.host}:{self.dns_port}",
            "--raft",
            self.raft,
        ]
        line += ["--dns-workers", str(self.workers)]
        for peer, address in self.peers.items():
            line += ["--peer", f"{peer}={address}"]
        return [*line, *self.options]

    def start(self) -> Node:
        """Start it; :meth:`wait_ready` waits until it serves."""
        assert self.process is None, "it runs already"
        self.starts += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self.process = subprocess.Popen(  # noqa: S603
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        return self

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.id}.{self.starts}.{kind}"

    def log(self) -> str:
        """What it wrote to stderr since its last start."""
        return self._file("err").read_text()

    def output(self) -> str:
        """What it wrote to stdout since its last start."""
        return self._file("out").read_text()

    def wait_ready(self, timeout_s: float = 20.0) -> Node:
        """Wait for its ready line. Raises :class:`RuntimeError` with its log when it ends before, or in time."""

        def ready() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"{self.id} ended with exit code {self.process.returncode}:\n{self.log()}")
            return "ready id=" in self.output()

        try:
            eventually(ready, timeout_s, f"{self.id}'s ready line")
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self.log()}") from error
        return self

    def request(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        """One request to its API; ``path`` without ``/api/v1`` when it does not begin with a slash."""
        return request(self.url, method, path if path.startswith("/") else f"/api/v1/{path}", body, **more)

    def ask(self, name: str, qtype: str = "A", **more: Any) -> DnsAnswer:
        """One question to its DNS; a name without a dot at the end is completed by the default zone."""
        return ask(self.dns, name if name.endswith(".") else f"{name}.svc.cluster.local.", qtype, **more)

    def register(self, service: str, id: str, address: str, namespace: str = "default", **fields: Any) -> Answer:
        """Register an instance; ``fields`` go into the body."""
        path = f"namespaces/{namespace}/services/{service}/instances/{id}"
        return self.request("PUT", path, {"address": address, **fields})

    # Faults

    @property
    def supervisor(self) -> int:
        """Process id of the supervisor."""
        assert self.process is not None, "it does not run"
        return self.process.pid

    def _children(self, module: str) -> list[int]:
        """Children by the module they run; a child between fork and exec still shows the parent's command line."""
        word = f"\0-m\0{module}\0".encode()
        found = []
        for pid in children(self.supervisor):
            with contextlib.suppress(OSError):
                if word in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                    found.append(pid)
        return found

    def node_process(self) -> int:
        """Process id of the node process."""
        return eventually(lambda: self._children("discovery.node"), what="a node process")[0]

    def worker_processes(self) -> list[int]:
        """Process ids of the DNS workers."""
        return self._children("discovery.dns.worker")

    def kill(self) -> None:
        """Kill -9 of the supervisor and all its children, as if the host had died; returns when all are gone."""
        assert self.process is not None, "it does not run"
        family = [self.supervisor, *children(self.supervisor)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        eventually(lambda: not any(map(alive, family)), what="the death of every process")

    def kill_node_process(self) -> None:
        """Kill -9 of the node process alone; the supervisor starts it again."""
        os.kill(self.node_process(), signal.SIGKILL)

    def stop_processes(self, number: signal.Signals) -> None:
        """Send SIGSTOP or SIGCONT to supervisor and children: the host hangs, or comes back."""
        for pid in (self.supervisor, *children(self.supervisor)):
            os.kill(pid, number)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM to the supervisor; returns its exit code."""
        assert self.process is not None, "it does not run"
        self.process.terminate()
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def wait_exit(self, timeout_s: float = 20.0) -> int:
        """Wait until it ends by itself; returns its exit code."""
        assert self.process is not None, "it does not run"
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def restart(self) -> Node:
        """Start it again after :meth:`kill` or :meth:`terminate`, and wait until it serves."""
        return self.start().wait_ready()

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None:
            self.kill()


class Cluster:
    """Nodes n1, n2, … that are each other's peers.

    Args:
        folder: for data directories and logs.
        size: number of nodes.
        workers: DNS workers of each.
        options: more options of ``discovery serve`` for every node.
    """

    def __init__(self, folder: Path, size: int = 3, workers: int = 1, options: Sequence[str] = ()) -> None:
        self._join([Node(f"n{i + 1}", folder, workers=workers, options=options) for i in range(size)])

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Cluster:
        """A cluster of nodes made elsewhere, on other hosts for instance."""
        cluster = cls.__new__(cls)
        cluster._join(nodes)
        return cluster

    def _join(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        addresses = {node.id: node.raft for node in self.nodes} if len(self.nodes) > 1 else {}
        for node in self.nodes:
            node.peers = addresses

    def __getitem__(self, id: str) -> Node:
        return next(node for node in self.nodes if node.id == id)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def running(self) -> list[Node]:
        """The nodes that were started and not killed."""
        return [node for node in self.nodes if node.process is not None]

    @property
    def urls(self) -> list[str]:
        """HTTP addresses of all nodes."""
        return [node.url for node in self.nodes]

    def start(self) -> Cluster:
        """Start all and wait until all serve."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_ready()
        return self

    def leader(self, timeout_s: float = 10.0) -> Node:
        """The node that a majority of all nodes calls leader."""

        def named() -> str | None:
            names = [name for node in self.running if (name := _leader_of(node)) is not None]
            return next((name for name in names if names.count(name) > len(self.nodes) // 2), None)

        return self[str(eventually(named, timeout_s, "a leader"))]

    def followers(self) -> list[Node]:
        """The running nodes that do not lead."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def close(self) -> None:
        """Leave no process behind."""
        for node in self.nodes:
            node.close()


def _leader_of(node: Node) -> str | None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        leader = node.request("GET", "cluster", timeout_s=1).json().get("leader")
        return leader if isinstance(leader, str) else None
    return None


@contextlib.contextmanager
def running_cluster(folder: Path, size: int = 3, **settings: Any) -> Iterator[Cluster]:
    """A started cluster that leaves no process behind."""
    cluster = Cluster(folder, size, **settings)
    try:
        yield cluster.start()
    finally:
        cluster.close()
