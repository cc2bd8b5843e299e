"""One DNS question, asked as a stub resolver does and answered in words."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import dnslib


@dataclass(frozen=True)
class DnsAnswer:
    """What came back: the response code in letters, and the records' data of the answer section, as text."""

    rcode: str
    answers: tuple[str, ...]
    message: dnslib.DNSRecord

    @property
    def addresses(self) -> list[str]:
        """Sorted record data."""
        return sorted(self.answers)


def ask(server: tuple[str, int], name: str, qtype: str = "A", timeout_s: float = 2.0, tcp: bool = False) -> DnsAnswer:
    """Ask ``server``. Raises :class:`TimeoutError` when nothing comes back in time."""
    question = dnslib.DNSRecord.question(name, qtype)
    data = (_over_tcp if tcp else _over_udp)(server, question.pack(), timeout_s)
    message = dnslib.DNSRecord.parse(data)
    assert message.header.id == question.header.id, "the answer to another question"
    answers = tuple(str(record.rdata) for record in message.rr)
    return DnsAnswer(str(dnslib.RCODE.get(message.header.rcode)), answers, message)


def _over_udp(server: tuple[str, int], query: bytes, timeout_s: float) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect(server)
        sock.send(query)
        return sock.recv(65536)


def _over_tcp(server: tuple[str, int], query: bytes, timeout_s: float) -> bytes:
    with socket.create_connection(server, timeout_s) as sock, sock.makefile("rb") as stream:
        sock.sendall(len(query).to_bytes(2, "big") + query)
        return stream.read(int.from_bytes(stream.read(2), "big"))
