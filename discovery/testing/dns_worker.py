"""A DNS worker as a real process, fed by a stand-in for the node: what tests and drills of the DNS rooms use."""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from discovery import feed
from discovery.model import InstanceRecord, ServiceRecord

WAIT_S_MAX: Final = 10.0
_Frame = TypeVar("_Frame", bound=feed.FromWorker)


class FeedNode:
    """The node's side of the feed, by hand: accepts one worker, sends what it is told, takes what comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.settimeout(WAIT_S_MAX)
        self._sock: socket.socket | None = None
        self._splitter = feed.Splitter()
        self._frames: list[feed.FromWorker] = []

    def accept(self) -> feed.Hello:
        """Wait for a worker; what it says of itself."""
        self.hang_up()
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(WAIT_S_MAX)
        self._splitter = feed.Splitter()
        self._frames.clear()
        return self.take(feed.Hello)

    def send(self, *frames: feed.FromNode) -> None:
        """Send frames, in one go."""
        self.send_bytes(b"".join(map(feed.encode, frames)))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._sock is not None
        self._sock.sendall(data)

    def take(self, kind: type[_Frame]) -> _Frame:
        """Wait for the next frame of a kind; others before it are dropped."""
        assert self._sock is not None
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if isinstance(frame, kind):
                    return frame
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionResetError("the worker closed the feed")
            self._frames += map(feed.decode_from_worker, self._splitter.push(data))

    def has_acknowledged(self, revision: int) -> bool:
        """Whether the worker has said by now that it serves ``revision``; does not wait."""
        assert self._sock is not None
        while select.select([self._sock], [], [], 0)[0] and (data := self._sock.recv(65536)):
            self._frames += map(feed.decode_from_worker, self._splitter.push(data))
        return any(isinstance(frame, feed.Ack) and frame.revision >= revision for frame in self._frames)

    def forget(self) -> None:
        """Drop what has come and was not taken."""
        self._frames.clear()

    def sync(
        self,
        instances: Sequence[InstanceRecord] = (),
        services: Sequence[ServiceRecord] = (),
        *,
        history: str = "h1",
        revision: int = 1,
        serial: int = 1,
    ) -> None:
        """Send a whole view and a known leader; wait until the worker serves it."""
        self.send(feed.State(leader=True, stale_ms=0))
        for frame in feed.whole_view(feed.Begin(history, revision, serial), instances, services):
            self.send_bytes(frame)
        assert self.take(feed.Ack).revision == revision

    def change(self, revision: int, *changes: feed.ViewChange, serial: int | None = None) -> None:
        """Send one revision; wait until the worker serves it."""
        self.send(feed.Changes(revision, revision if serial is None else serial, changes))
        while self.take(feed.Ack).revision < revision:
            pass

    def hang_up(self) -> None:
        """End the connection, as a node that dies does."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def close(self) -> None:
        """Be gone altogether."""
        self.hang_up()
        self._listener.close()
        self.path.unlink(missing_ok=True)


class DnsWorker:
    """``python -m discovery.dns.worker`` on a free port of a loopback address, with the TCP listener it inherits."""

    def __init__(
        self,
        feed_path: Path,
        *,
        host: str = "127.0.0.1",
        zone: str = "cluster.local",
        settings: dict[str, object] | None = None,
        join: str = "now",
        index: int = 0,
        listener: socket.socket | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = listener or _listener(family, host)
        self.host = host
        self.port: int = self.listener.getsockname()[1]
        listen = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        fd = self.listener.fileno()
        arguments = ["--index", str(index), "--feed", str(feed_path), "--listen", listen, "--tcp-fd", str(fd)]
        arguments += ["--zone", zone, "--settings", json.dumps(settings or {}), "--join", join]
        command = [sys.executable, "-P", "-m", "discovery.dns.worker", *arguments]
        self.process = subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.PIPE)  # noqa: S603 -- ourselves

    def __enter__(self) -> DnsWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the worker, wait for its end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(WAIT_S_MAX)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            if self.process.stderr is not None:
                self.process.stderr.close()
            self.listener.close()
        return code

    def ask(self, packet: bytes, timeout_s: float = 2.0) -> bytes:
        """Send a datagram from a new socket; the reply. Raises ``TimeoutError``."""
        with self.udp() as sock:
            sock.settimeout(timeout_s)
            sock.send(packet)
            return sock.recv(65535)

    def ask_until(self, packet: bytes, good: Callable[[bytes], bool]) -> bytes:
        """Ask again until a reply is good; it is returned."""
        end = time.monotonic() + WAIT_S_MAX
        while True:
            try:
                reply = self.ask(packet, timeout_s=0.1)
            except (TimeoutError, ConnectionRefusedError):
                reply = b""
            if reply and good(reply):
                return reply
            if time.monotonic() > end:
                raise TimeoutError(f"no good reply; the last was {reply.hex()}")

    def udp(self) -> socket.socket:
        """A socket connected to the worker's port."""
        sock = socket.socket(self.listener.family, socket.SOCK_DGRAM)
        sock.connect((self.host, self.port))
        return sock

    def tcp(self) -> socket.socket:
        """A TCP connection to the worker."""
        sock = socket.create_connection((self.host, self.port), WAIT_S_MAX)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def framed(message: bytes) -> bytes:
    """A DNS message as TCP carries it (RFC 1035 section 4.2.2)."""
    return struct.pack("!H", len(message)) + message


def read_framed(sock: socket.socket) -> bytes:
    """The next DNS message of a TCP connection. Raises ``EOFError`` at its end."""
    return _exactly(sock, struct.unpack("!H", _exactly(sock, 2))[0])


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        poll = select.poll()  # also for a descriptor above 1,023
        poll.register(sock, select.POLLIN)
        part = sock.recv(count - len(data)) if poll.poll(1000 * WAIT_S_MAX) else b""
        if not part:
            raise EOFError(f"{len(data)} of {count} bytes")
        data += part
    return data


def _listener(family: int, host: str) -> socket.socket:
    """A TCP listener on a port that is free for UDP too."""
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.bind((host, 0))
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(sock.getsockname())
            except OSError:
                sock.close()
                continue
        sock.listen(1024)
        return sock
