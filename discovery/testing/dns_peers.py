"""Other name servers on a zone of our own making, for comparison: NSD, Knot and BIND, each with one serving thread."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

STARTS: Final = 5  # the port that was found free may be taken when the server binds it
END_S_MAX: Final = 10.0


class Server(NamedTuple):
    """A name server on loopback: its port, and the processes below which all of it runs."""

    name: str
    port: int
    pids: tuple[int, ...]


class Peer(NamedTuple):
    """How a server is started. ``arguments`` and ``conf`` are formats of ``folder`` and ``port``."""

    name: str
    package: str
    program: str
    arguments: tuple[str, ...]
    conf: str


PEERS: Final = (
    Peer(
        "NSD",
        "nsd",
        "nsd",
        ("-d", "-c", "{folder}/conf"),
        """server:
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
""",
    ),
    Peer(
        "Knot",
        "knot",
        "knotd",
        ("-c", "{folder}/conf"),
        """server:
    rundir: "{folder}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    answer-rotation: on
database:
    storage: "{folder}"
log:
  - target: stderr
    any: error
zone:
  - domain: cluster.local
    storage: "{folder}"
    file: zone
""",
    ),
    Peer(
        "BIND",
        "bind9",
        "named",
        ("-f", "-n", "1", "-U", "1", "-c", "{folder}/conf"),
        """options {{
  directory "{folder}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  pid-file "{folder}/pid";
  session-keyfile "{folder}/session.key";
  managed-keys-directory "{folder}";
  recursion no;
  dnssec-validation no;
  minimal-responses yes;
  rrset-order {{ order cyclic; }};
  notify no;
}};
controls {{ }};
zone "cluster.local" {{ type primary; file "{folder}/zone"; }};
""",
    ),
)


@contextmanager
def running(peer: Peer, folder: Path, zone: str, check: Callable[[Server], None]) -> Iterator[Server | None]:
    """The server on that zone (text of a zone file), or ``None`` where it is not installed; gone afterwards.

    Args:
        folder: for its files; is made.
        check: raises ``OSError`` while the server does not answer, anything else when it answers wrongly.

    Raises:
        RuntimeError: it does not start.
    """
    program = shutil.which(peer.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        print(f"{peer.name} is not installed (Debian: apt-get install {peer.package}): no comparison", flush=True)
        yield None
        return
    folder.mkdir()
    (folder / "zone").write_text(zone)
    server, process = _start(peer, program, folder, check)
    try:
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()


def _start(
    peer: Peer, program: str, folder: Path, check: Callable[[Server], None]
) -> tuple[Server, subprocess.Popen[bytes]]:
    for _ in range(STARTS):
        port = _free_port()
        (folder / "conf").write_text(peer.conf.format(folder=folder, port=port))
        arguments = [argument.format(folder=folder) for argument in peer.arguments]
        process = subprocess.Popen([program, *arguments], stderr=subprocess.DEVNULL)  # noqa: S603 -- from PEERS
        server = Server(peer.name, port, (process.pid,))
        if _answers(server, process, check):
            return server, process
        process.kill()
        process.wait()
    raise RuntimeError(f"{peer.name} does not start")


def _answers(server: Server, process: subprocess.Popen[bytes], check: Callable[[Server], None]) -> bool:
    for _ in range(300):
        try:
            check(server)
        except OSError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True
    return False


def _free_port() -> int:
    """Free for UDP and TCP a moment ago."""
    while True:
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
            port: int = datagrams.getsockname()[1]
            try:
                stream.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
