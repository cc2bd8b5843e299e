"""A name server of the world outside, as well or ill behaved as a test wants it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import dnslib

_JOIN_S_MAX: Final = 10.0
Sender = tuple[Any, ...]
Behave = Callable[["Upstream", bytes, bool], list[bytes]]


class Upstream:
    """Listens on a loopback address, UDP and TCP, and does what it is told with each question.

    Args:
        behave: from the server, a question and whether it came by TCP to the messages sent back.
        port: 0 picks a free one.

    Attributes:
        asked: names in the order they were asked for, letter case as it came.
        packets: the questions.
        senders: where the UDP questions came from.
    """

    def __init__(self, behave: Behave, host: str = "127.0.0.1", port: int = 0) -> None:
        self.behave = behave
        self.asked: list[str] = []
        self.packets: list[bytes] = []
        self.senders: list[Sender] = []
        self.host = host
        self._tcp, self._udp = _sockets(host, port)
        self.port: int = self._udp.getsockname()[1]
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self.port}"

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, sender = self._udp.recvfrom(65535)
                if not packet:
                    return
                self._note(packet)
                self.senders.append(sender)
                for reply in self.behave(self, packet, False):
                    self._udp.sendto(reply, sender)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._tcp.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(10)
                    size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
                    packet = sock.recv(size, socket.MSG_WAITALL)
                    if not packet:
                        continue
                    self._note(packet)
                    for reply in self.behave(self, packet, True):
                        sock.sendall(len(reply).to_bytes(2, "big") + reply)

    def _note(self, packet: bytes) -> None:
        self.packets.append(packet)
        with contextlib.suppress(Exception):
            self.asked.append(str(dnslib.DNSRecord.parse(packet).q.qname))

    def send_from_elsewhere(self, reply: bytes, to: Sender) -> None:
        """Send from another port than the one that was asked."""
        with socket.socket(self._udp.family, socket.SOCK_DGRAM) as other:
            other.bind((self.host, 0))
            other.sendto(reply, to)

    def close(self) -> None:
        """Be gone: nothing listens there any more."""
        with contextlib.suppress(OSError):
            self._udp.sendto(b"", self._udp.getsockname())  # wakes the thread: a closed socket lives on while it waits
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_S_MAX)
        self._udp.close()
        self._tcp.close()


def _sockets(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP listener and a UDP socket on one port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        tcp, udp = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((host, port))
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            if port:
                raise
            continue
        tcp.listen(16)
        return tcp, udp


@contextlib.contextmanager
def upstream(behave: Behave, host: str = "127.0.0.1", port: int = 0) -> Iterator[Upstream]:
    """An :class:`Upstream` that is gone afterwards."""
    server = Upstream(behave, host, port)
    try:
        yield server
    finally:
        server.close()


def reply_to(packet: bytes, *records: str, rcode: str = "NOERROR", authority: str = "", **flags: int) -> Any:
    """An answer to a question, records in zone-file text; flags of dnslib's header such as ``tc=1``."""
    question = dnslib.DNSRecord.parse(packet)
    answer = question.reply()
    answer.rr = []
    answer.header.ra, answer.header.aa = 1, 0
    answer.header.rcode = getattr(dnslib.RCODE, rcode)
    for name, value in flags.items():
        setattr(answer.header, name, value)
    for text in records:
        answer.add_answer(*dnslib.RR.fromZone(text))
    if authority:
        answer.add_auth(*dnslib.RR.fromZone(authority))
    if question.ar:
        answer.add_ar(dnslib.EDNS0(udp_len=1232))
    return answer


def honest(*records: str, **fields: Any) -> Behave:
    """Answers every question with the same records."""

    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        return [bytes(reply_to(packet, *records, **fields).pack())]

    return behave


def silent(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
    """Takes questions and says nothing."""
    return []
