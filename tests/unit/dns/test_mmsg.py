"""Batches of datagrams on real loopback sockets, and the plain way beside them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from discovery import limits
from discovery.dns import mmsg, udp
from discovery.dns.cookies import Cookies
from discovery.dns.loop import Loop
from discovery.dns.mmsg import SLOT_BYTES, Slots
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.dns.udp import BatchedExchange, PlainExchange, UdpSocket
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = "web.default.svc.cluster.local"
COOKIE_QUESTION = question(WEB, edns=1232)[:-2] + b"\0\x0c\0\x0a\0\x08abcdefgh"
WAYS = pytest.mark.parametrize("batched", [True, False], ids=["batched", "plain"])


def server() -> Responder:
    return responder(Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}") for n in range(3))))


class Client:
    """A socket that asks one address."""

    def __init__(self, host: str, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(2)
        self.address = (host, port)

    def ask(self, *packets: bytes) -> None:
        for packet in packets:
            self.sock.sendto(packet, self.address)

    def take(self) -> tuple[bytes, Any]:
        reply, address = self.sock.recvfrom(65535)
        return reply, address[:2]

    def hears_nothing(self) -> bool:
        self.sock.setblocking(False)
        try:
            self.sock.recv(65535)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(2)
        return False


@pytest.fixture(name="opened")
def _opened() -> Iterator[list[Any]]:
    opened: list[Any] = []
    yield opened
    for one in opened:
        one.close()


def listen(opened: list[Any], host: str, batched: bool, host_server: Responder | None = None) -> UdpSocket:
    made = UdpSocket(Loop(), host, 0, host_server or server(), batched=batched)
    opened.append(made)
    assert isinstance(made.exchange, BatchedExchange if batched else PlainExchange)
    return made


def client(opened: list[Any], sock: UdpSocket, host: str = "127.0.0.1") -> Client:
    made = Client(host, sock.sock.getsockname()[1])
    opened.append(made.sock)
    return made


def test_it_works_here() -> None:
    assert mmsg.works(), "every Linux with a 64-bit libc; else all tests below judge the plain way only"


@WAYS
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_batch_goes_back_to_those_who_asked(opened: list[Any], host: str, batched: bool) -> None:
    sock = listen(opened, host, batched)
    clients = [client(opened, sock, host) for _ in range(5)]
    for number, one in enumerate(clients):
        one.ask(*(question(WEB, ident=100 * number + again) for again in range(4)))
    assert sock.exchange.turn() == 20
    for number, one in enumerate(clients):
        idents = [struct.unpack_from("!H", one.take()[0])[0] for _ in range(4)]
        assert idents == [100 * number + again for again in range(4)]


@WAYS
@pytest.mark.parametrize(("wildcard", "asked"), [("0.0.0.0", "127.0.0.7"), ("::", "::1")])
def test_a_wildcard_answers_from_the_address_that_was_asked(
    opened: list[Any], wildcard: str, asked: str, batched: bool
) -> None:
    """In every batch: the kernel shortens the room for control messages and addresses as it fills them."""
    sock = listen(opened, wildcard, batched)
    one = client(opened, sock, asked)
    for _ in range(3):
        one.ask(question(WEB), question(WEB))
        assert sock.exchange.turn() == 2
        assert [one.take()[1] for _ in range(2)] == [(asked, sock.sock.getsockname()[1])] * 2


@WAYS
def test_what_gets_no_answer_leaves_no_trace_in_the_batch(opened: list[Any], batched: bool) -> None:
    sock = listen(opened, "127.0.0.1", batched)
    one = client(opened, sock)
    silent = [b"", b"\0", question(WEB)[:11], b"\0\1\x80\0" + question(WEB)[4:], bytes(SLOT_BYTES + 1)]
    for position in range(5):
        asked = [*silent[:position], question(WEB, ident=position), *silent[position:], question(WEB, ident=99)]
        one.ask(*asked)
        assert sock.exchange.turn() == 7
        assert [one.take()[0][1] for _ in range(2)] == [position, 99]
        assert one.hears_nothing()


@WAYS
def test_a_message_longer_than_a_slot_is_dropped_and_one_as_long_is_read(opened: list[Any], batched: bool) -> None:
    """Cut to its first 4,096 bytes it would be a valid question: padding as long as that is left behind."""
    host = server()
    sock = listen(opened, "127.0.0.1", batched, host)
    one = client(opened, sock)
    room = limits.DNS_UDP_BYTES_MAX - len(question(WEB, edns=1232)) - 4
    padded = question(WEB, edns=1232)[:-2] + struct.pack("!HHH", room + 4, 12, room) + bytes(room)
    one.ask(padded + b"x", padded)
    assert sock.exchange.turn() == 2
    assert one.take()[0][3] & 15 == 0
    assert one.hears_nothing()


@WAYS
def test_more_than_a_batch_is_read_in_batches(opened: list[Any], batched: bool) -> None:
    sock = listen(opened, "127.0.0.1", batched)
    one = client(opened, sock)
    one.ask(*[question(WEB)] * 150)
    assert [sock.exchange.turn() for _ in range(4)] == [64, 64, 22, 0]
    assert len([one.take() for _ in range(150)]) == 150


@WAYS
def test_who_is_told_to_leave_answers_what_has_arrived(opened: list[Any], batched: bool) -> None:
    sock = listen(opened, "127.0.0.1", batched)
    one = client(opened, sock)
    one.ask(*[question(WEB)] * 200)
    sock.close()
    assert len([one.take() for _ in range(200)]) == 200


def test_a_reply_that_cannot_be_sent_costs_that_one_only(opened: list[Any]) -> None:
    """Port 0 stands for whatever the kernel refuses: sendmmsg stops there, and goes on behind it."""
    sock = listen(opened, "127.0.0.1", True)
    slots: Slots = sock.exchange._slots  # type: ignore[attr-defined]
    one = client(opened, sock)
    for bad in ({0}, {3}, {7}, {2, 3, 5}, set(range(8))):
        one.ask(*[question(WEB, ident=number) for number in range(8)])
        assert slots.receive() == 8
        for slot in bad:
            slots._names[slot * 32 + 2 : slot * 32 + 4] = b"\0\0"  # type: ignore[assignment]
        lost = slots.lost
        slots.send(8, gaps=server().serve_slots(slots, 8) > 0)
        assert [one.take()[0][1] for _ in range(8 - len(bad))] == [n for n in range(8) if n not in bad]
        assert slots.lost == lost + len(bad)
        assert one.hears_nothing()


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS, errno.EPERM])
def test_a_full_queue_is_loss_and_no_endless_loop(opened: list[Any], error: int) -> None:
    sock = listen(opened, "127.0.0.1", True)
    slots: Slots = sock.exchange._slots  # type: ignore[attr-defined]
    one = client(opened, sock)
    calls = []

    def full(*rest: Any) -> int:
        calls.append(rest)
        ctypes.set_errno(error)
        return -1

    slots._sendmmsg = full
    one.ask(*[question(WEB)] * 8)
    assert sock.exchange.turn() == 8
    assert (len(calls), sock.lost) == (8, 8)


def test_nothing_there_is_an_empty_batch(opened: list[Any]) -> None:
    sock = listen(opened, "127.0.0.1", True)
    assert [sock.exchange.turn() for _ in range(3)] == [0, 0, 0]


def test_room_for_addresses_and_control_messages_is_given_anew_each_time(opened: list[Any]) -> None:
    sock = listen(opened, "0.0.0.0", True)
    slots: Slots = sock.exchange._slots  # type: ignore[attr-defined]
    one = client(opened, sock)
    for _ in range(2):
        slots._namelens[0], slots._controllens[0] = 0, 0
        one.ask(question(WEB))
        assert slots.receive() == 1
        assert (slots._namelens[0], slots._controllens[0]) == (16, 32)


@pytest.mark.parametrize("what", list(mmsg._LAYOUT))
def test_another_layout_of_the_structures_is_noticed(
    opened: list[Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a 32-bit machine."""
    monkeypatch.setitem(mmsg._LAYOUT, what, (mmsg._LAYOUT[what][0] - 4, mmsg._LAYOUT[what][1]))
    with pytest.raises(mmsg.Unsupported):
        mmsg.check_layout()
    mmsg.works.cache_clear()
    try:
        sock = UdpSocket(Loop(), "127.0.0.1", 0, server())
        opened.append(sock)
        assert isinstance(sock.exchange, PlainExchange)
    finally:
        mmsg.works.cache_clear()


def test_a_libc_without_the_calls_is_no_error(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mmsg._libc.cache_clear()
    mmsg.works.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(mmsg.ctypes, "CDLL", lambda name: object())
            sock = UdpSocket(Loop(), "127.0.0.1", 0, server())
            opened.append(sock)
            assert isinstance(sock.exchange, PlainExchange)
    finally:
        mmsg._libc.cache_clear()
        mmsg.works.cache_clear()


def test_calls_that_do_something_else_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mmsg.works.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Slots, "receive", lambda self: 2)
            assert not mmsg.works()
    finally:
        mmsg.works.cache_clear()


def test_the_buffers_live_as_long_as_the_slots(opened: list[Any]) -> None:
    """Their addresses are known to the kernel's side only: Python must neither free nor move them."""
    sock = listen(opened, "127.0.0.1", True)
    slots: Slots = sock.exchange._slots  # type: ignore[attr-defined]
    with pytest.raises(BufferError):
        slots.memory.close()
    for buffer in (slots._received, slots._sent, slots._room, slots._replies):
        with pytest.raises(BufferError):
            buffer.append(0)
    assert isinstance(slots.memory, mmap.mmap)


def test_many_turns_take_no_memory(opened: list[Any]) -> None:
    sock = listen(opened, "127.0.0.1", True)
    one = client(opened, sock)
    for _ in range(udp.LAST_BATCHES_MAX):
        one.ask(*[question(WEB)] * 4)
        assert sock.exchange.turn() == 4
        assert len([one.take() for _ in range(4)]) == 4
    assert len(sock.exchange._slots.sizes) == 4  # type: ignore[attr-defined]


@WAYS
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_cookie_is_made_for_the_address_that_asks(opened: list[Any], host: str, batched: bool) -> None:
    cookies = Cookies(b"secret")
    host_server = Responder(Settings(), "", cookies, lambda: 1_700_000_000)
    host_server.install(Registry().zone())
    sock = listen(opened, host, batched, host_server)
    near = "::1" if ":" in host else "127.0.0.1"
    one = client(opened, sock, near)
    one.ask(COOKIE_QUESTION, COOKIE_QUESTION)
    sock._turn()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(2):
        whole = one.take()[0][-24:]
        assert cookies.is_valid(whole, socket.inet_pton(family, near), 1_700_000_000)
