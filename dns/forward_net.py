"""Sockets to other servers: a new one for each question, from a port drawn at random, connected to who is asked.

A connected socket takes nothing from anybody else: the kernel compares address and port (RFC 5452 section 9).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from discovery import limits
from discovery.dns.forward_flight import Attempt
from discovery.dns.forward_health import Random
from discovery.dns.loop import READ, WRITE, Loop

log: Final = logging.getLogger(__name__)

_PORT_MIN: Final = 1024
_PORTS: Final = 65536 - _PORT_MIN
_DRAWS: Final = 4  # then the kernel draws, from fewer
_DATAGRAM_BYTES: Final = 65535
_READ_BYTES: Final = 64 * 1024
_LENGTH_BYTES: Final = 2
_DATAGRAMS: Final = 8  # of one socket at a time; a forger must not keep the loop


class Receiver(Protocol):
    """Who judges what comes; :class:`discovery.dns.forward_core.Forwarder` is one."""

    def received(self, attempt: Attempt, packet: bytes, now: float) -> None:
        """A message came."""

    def failed(self, attempt: Attempt, now: float) -> None:
        """The server cannot be reached."""


class Sockets:
    """A :class:`discovery.dns.forward_flight.Network` of real sockets.

    Args:
        loop: to be registered with.
        clock: monotonic seconds.
        random: ``getrandbits`` of a generator that nobody can foresee.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float], random: Random) -> None:
        self.receiver: Receiver | None = None
        self._loop = loop
        self._clock = clock
        self._random = random
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def start(self, attempt: Attempt) -> bool:
        """Send; false when there is no room for another socket or the server has no way to it."""
        if self._open >= limits.DNS_FORWARD_SOCKETS_MAX:
            return False
        upstream = attempt.upstream
        family = socket.AF_INET6 if ":" in upstream.host else socket.AF_INET
        kind = socket.SOCK_STREAM if attempt.stream else socket.SOCK_DGRAM
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:  # no descriptor left, or no such family here
            return False
        try:
            self._connect(sock, attempt)
        except OSError:
            sock.close()
            return False
        self._open += 1
        return True

    def _connect(self, sock: socket.socket, attempt: Attempt) -> None:
        address = (attempt.upstream.host, attempt.upstream.port)
        if attempt.stream:
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
            attempt.handle = _Stream(self, sock, attempt)
            self._loop.add(sock.fileno(), READ | WRITE, attempt.handle.on_event)
            return
        self._bind(sock)
        sock.connect(address)
        sock.send(attempt.sent.packet)
        attempt.handle = _Datagrams(self, sock, attempt)
        self._loop.add(sock.fileno(), READ, attempt.handle.on_event)

    def _bind(self, sock: socket.socket) -> None:
        wildcard = "::" if sock.family == socket.AF_INET6 else ""
        for _ in range(_DRAWS):
            with contextlib.suppress(OSError):  # taken by another
                sock.bind((wildcard, _PORT_MIN + self._random(32) % _PORTS))
                return

    def stop(self, attempt: Attempt) -> None:
        """Listen no more. May be called again."""
        handle, attempt.handle = attempt.handle, None
        if handle is not None:
            self._loop.remove(handle.sock.fileno())
            handle.sock.close()
            self._open -= 1

    def received(self, attempt: Attempt, packet: bytes) -> None:
        """Pass a message on. No message may end the worker: a bug met on the way is logged and is a failure."""
        if self.receiver is None:
            return
        try:
            self.receiver.received(attempt, packet, self._clock())
        except Exception:
            log.exception("an answer could not be read", extra={"packet": packet[:512].hex()})
            self.failed(attempt)

    def failed(self, attempt: Attempt) -> None:
        """Pass on that there is no way."""
        if self.receiver is not None:
            self.receiver.failed(attempt, self._clock())

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._loop.change(fd, events)


class _Datagrams:
    """One question by UDP."""

    def __init__(self, sockets: Sockets, sock: socket.socket, attempt: Attempt) -> None:
        self._sockets = sockets
        self.sock = sock
        self._attempt = attempt

    def on_event(self, events: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                packet = self.sock.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there (ICMP)
                self._sockets.failed(self._attempt)
                return
            self._sockets.received(self._attempt, packet)
            if self._attempt.handle is not self:
                return


class _Stream:
    """One question by TCP (RFC 7766): connect, send, read one answer."""

    def __init__(self, sockets: Sockets, sock: socket.socket, attempt: Attempt) -> None:
        self._sockets = sockets
        self.sock = sock
        self._attempt = attempt
        packet = attempt.sent.packet
        self._out = bytearray(len(packet).to_bytes(_LENGTH_BYTES, "big") + packet)
        self._in = bytearray()

    def on_event(self, events: int) -> None:
        try:
            if self._out and events & WRITE:
                del self._out[: self.sock.send(self._out)]
                if not self._out:
                    self._sockets.change(self.sock.fileno(), READ)
            if events & ~WRITE:
                self._receive()
        except BlockingIOError:
            return
        except OSError:
            self._sockets.failed(self._attempt)

    def _receive(self) -> None:
        data = self.sock.recv(_READ_BYTES)
        self._in += data
        end = _LENGTH_BYTES + int.from_bytes(self._in[:_LENGTH_BYTES], "big")
        if len(self._in) >= max(end, _LENGTH_BYTES + 1):
            self._sockets.received(self._attempt, bytes(self._in[_LENGTH_BYTES:end]))
        elif not data:
            self._sockets.failed(self._attempt)
