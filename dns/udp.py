"""DNS over UDP: datagrams in batches from a port that all workers share (SO_REUSEPORT)."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Final, Protocol

from discovery import limits
from discovery.dns import mmsg
from discovery.dns.loop import READ, Loop
from discovery.dns.mmsg import Slots

BATCH: Final = mmsg.SLOTS
_ROUNDS: Final = 4  # full batches in a row (about a millisecond) before the feed, TCP and the clock have their turn
LAST_BATCHES_MAX: Final = 256
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024  # the default holds 256 questions
_IP_PKTINFO: Final = 8  # linux/in.h; not in Python's socket module before 3.14
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_CONTROL_BYTES: Final = socket.CMSG_SPACE(struct.calcsize("=I4s4s")) + socket.CMSG_SPACE(20)
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- recognised


class Server(Protocol):
    """Who answers: whole batches, so that what they have in common is done once."""

    def serve(self, batch: list[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
        """Replies to datagrams, with where they go; what deserves none is left out."""

    def serve_slots(self, slots: Slots, count: int) -> int:
        """Write replies over the first ``count`` datagrams and set their lengths; how many got none."""


class Exchange(Protocol):
    """One way to move datagrams."""

    @property
    def lost(self) -> int:
        """Replies that the kernel did not take."""

    def turn(self) -> int:
        """Read, answer and send one batch; how many datagrams were read. Never raises."""


class BatchedExchange:
    """By ``recvmmsg`` and ``sendmmsg``. Raises :class:`discovery.dns.mmsg.Unsupported`."""

    def __init__(self, sock: socket.socket, server: Server, *, wildcard: bool) -> None:
        if not mmsg.works():
            raise mmsg.Unsupported("recvmmsg and sendmmsg do not do here what they should")
        self._slots = Slots(sock, control=wildcard)
        self._serve = server.serve_slots

    @property
    def lost(self) -> int:
        """Replies that the kernel did not take."""
        return self._slots.lost

    def turn(self) -> int:
        """Read, answer and send one batch."""
        slots = self._slots
        count = slots.receive()
        if count:
            slots.send(count, gaps=self._serve(slots, count) > 0)
        return count


class PlainExchange:
    """By one system call a datagram, wherever sockets exist."""

    def __init__(self, sock: socket.socket, server: Server, *, wildcard: bool) -> None:
        self.lost: int = 0
        self._sock = sock
        self._serve = server.serve
        self._turn = self._wildcard_turn if wildcard else self._address_turn

    def turn(self) -> int:
        """Read, answer and send one batch."""
        return self._turn()

    def _address_turn(self) -> int:
        """A longer datagram than we take is dropped, not cut."""
        size = limits.DNS_UDP_BYTES_MAX + 1
        batch = []
        receive = self._sock.recvfrom
        try:
            for _ in range(BATCH):
                batch.append(receive(size))
        except OSError:
            pass  # EAGAIN: all read; anything else concerns an earlier answer
        send = self._sock.sendto
        for reply, address in self._serve([one for one in batch if len(one[0]) < size]):
            try:
                send(reply, address)
            except OSError:  # EAGAIN, ENOBUFS, EPERM, port 0: lost, as datagrams may be
                self.lost += 1
        return len(batch)

    def _wildcard_turn(self) -> int:
        size = limits.DNS_UDP_BYTES_MAX + 1
        batch = []
        try:
            for _ in range(BATCH):
                packet, control, _, address = self._sock.recvmsg(size, _CONTROL_BYTES)
                batch.append((packet, (control, address)))
        except OSError:
            pass
        for reply, (control, address) in self._serve([one for one in batch if len(one[0]) < size]):
            try:
                self._sock.sendmsg([reply], control, 0, address)
            except OSError:
                self.lost += 1
        return len(batch)


def exchange(sock: socket.socket, server: Server, *, wildcard: bool, batched: bool) -> Exchange:
    """The fastest way that works here, or the plain one when it is asked for."""
    if batched:
        with contextlib.suppress(mmsg.Unsupported):
            return BatchedExchange(sock, server, wildcard=wildcard)
    return PlainExchange(sock, server, wildcard=wildcard)


class UdpSocket:
    """One listening address.

    A socket bound to a wildcard answers from the address that was asked: the control message that says which one
    (IP_PKTINFO) is sent back as it came.

    Args:
        loop: to be registered with.
        host, port: address literal and port number.
        server: takes and answers batches.
        batched: whether to move many datagrams a system call where that works.
    """

    def __init__(self, loop: Loop, host: str, port: int, server: Server, *, batched: bool = True) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        wildcard = host in _WILDCARDS
        self._loop = loop
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._configure(family, wildcard)
            self.sock.bind((host, port))
        except OSError:
            self.sock.close()
            raise
        self.exchange = exchange(self.sock, server, wildcard=wildcard, batched=batched)
        self._turn = self.exchange.turn
        loop.add(self.sock.fileno(), READ, self._on_event)

    @property
    def lost(self) -> int:
        """Replies that the kernel did not take."""
        return self.exchange.lost

    def _configure(self, family: int, wildcard: bool) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # up to net.core.rmem_max
        with contextlib.suppress(OSError):  # beyond it, with CAP_NET_ADMIN
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if wildcard and family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif wildcard:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def _on_event(self, events: int) -> None:
        for _ in range(_ROUNDS):
            if self._turn() < BATCH:
                break

    def close(self) -> None:
        """Answer what has arrived, as far as that ends, and leave the port."""
        if self.sock.fileno() < 0:
            return
        self._loop.remove(self.sock.fileno())
        for _ in range(LAST_BATCHES_MAX):
            if not self._turn():
                break
        self.sock.close()
