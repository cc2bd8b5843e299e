"""DNS over UDP: datagrams in batches from a port that all workers share (SO_REUSEPORT)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from discovery import limits
from discovery.dns.loop import READ, Loop

BATCH: Final = 64  # FIGURES of the design: larger batches gain nothing, and the feed must not wait
LAST_BATCHES_MAX: Final = 256
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024  # the default holds 256 questions
_IP_PKTINFO: Final = 8  # linux/in.h; not in Python's socket module before 3.14
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_CONTROL_BYTES: Final = socket.CMSG_SPACE(struct.calcsize("=I4s4s")) + socket.CMSG_SPACE(20)
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- recognised

Serve = Callable[[list[tuple[bytes, Any]]], list[tuple[bytes, Any]]]


class UdpSocket:
    """One listening address.

    A socket bound to a wildcard answers from the address that was asked: the control message that says which one
    (IP_PKTINFO) is sent back as it came.

    Args:
        loop: to be registered with.
        host, port: address literal and port number.
        serve: takes and returns batches of (datagram, where it goes).
    """

    def __init__(self, loop: Loop, host: str, port: int, serve: Serve) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._serve = serve
        self._loop = loop
        self.lost = 0
        self.sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._configure(family, host in _WILDCARDS)
            self.sock.bind((host, port))
        except OSError:
            self.sock.close()
            raise
        self._batch = self._wildcard_batch if host in _WILDCARDS else self._address_batch
        loop.add(self.sock.fileno(), READ, self._on_event)

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
        self._batch()

    def _address_batch(self) -> int:
        """Read, answer and send one batch; its size. A longer datagram than we take is dropped, not cut."""
        size = limits.DNS_UDP_BYTES_MAX + 1
        batch = []
        receive = self.sock.recvfrom
        try:
            for _ in range(BATCH):
                packet, address = receive(size)
                if len(packet) < size:
                    batch.append((packet, address))
        except OSError:
            pass  # EAGAIN: all read; anything else concerns an earlier answer
        send = self.sock.sendto
        for reply, address in self._serve(batch):
            try:
                send(reply, address)
            except OSError:  # EAGAIN, ENOBUFS, EPERM, port 0: lost, as datagrams may be
                self.lost += 1
        return len(batch)

    def _wildcard_batch(self) -> int:
        size = limits.DNS_UDP_BYTES_MAX + 1
        batch = []
        try:
            for _ in range(BATCH):
                packet, control, _, address = self.sock.recvmsg(size, _CONTROL_BYTES)
                if len(packet) < size:
                    batch.append((packet, (control, address)))
        except OSError:
            pass
        for reply, (control, address) in self._serve(batch):
            try:
                self.sock.sendmsg([reply], control, 0, address)
            except OSError:
                self.lost += 1
        return len(batch)

    def close(self) -> None:
        """Answer what has arrived, as far as that ends, and leave the port."""
        if self.sock.fileno() < 0:
            return
        self._loop.remove(self.sock.fileno())
        for _ in range(LAST_BATCHES_MAX):
            if not self._batch():
                break
        self.sock.close()
