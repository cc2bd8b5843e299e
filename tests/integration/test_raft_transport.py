"""Connections between peers: in order, back at once after a loss, bounded whatever the other side does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

import pytest

from discovery import limits
from discovery.raft import codec
from discovery.raft.certificate import Keeper
from discovery.raft.codec import AppRequest
from discovery.raft.connection import _is_loopback
from discovery.raft.founding import Announced
from discovery.raft.hello import NONCE_BYTES, Dialer, Hello
from discovery.raft.transport import Transport
from discovery.testing.certificates import Authority

IDS = ("n1", "n2")


class Recorder:
    """Hears what a transport tells."""

    def __init__(self):
        self.told = []

    def peer_connected(self, peer, announced):
        self.told.append(("connected", peer))

    def peer_disconnected(self, peer, hint):
        self.told.append(("disconnected", peer, hint))

    def peer_message(self, peer, message):
        self.told.append(("message", message.id))


class Node:
    """A transport with what it told and its listening socket."""

    def __init__(self, node, sockets, secret, keeper=None):
        self.node, self.sockets, self.events = node, sockets, Recorder()
        self.addresses = {peer: [f"127.0.0.1:{sock.getsockname()[1]}"] for peer, sock in sockets.items()}
        self.transport = Transport(node, self.events, lambda: announced(node), self.addresses, secret, keeper)

    @property
    def told(self):
        return self.events.told

    async def start(self):
        await self.transport.start([self.sockets[self.node].dup()])


def announced(node):
    return Announced(node, "i", "", "cluster.local", IDS, (), "127.0.0.1:1", "", "0")


def frame(number, payload=b""):
    return codec.frame(codec.encode(AppRequest(number, "k", payload)))


async def eventually(condition, within_s=5.0):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def keepers(authority):
    """What each node shows to the other."""
    return {node: Keeper(authority.files(node), node) for node in IDS}


@pytest.fixture(params=["no secret", "secret", "TLS", "TLS and secret"])
def protection(request):
    return request.param


@pytest.fixture
def secret(protection):
    return b"sixteen bytes or more" if "secret" in protection.split(" and ") else None


@pytest.fixture
def keeper_of(protection, keepers):
    return keepers.get if "TLS" in protection else lambda node: None


@pytest.fixture
async def pair(secret, keeper_of):
    sockets = {node: socket.create_server(("127.0.0.1", 0)) for node in IDS}
    nodes = [Node(node, sockets, secret, keeper_of(node)) for node in IDS]
    for node in nodes:
        await node.start()
    await eventually(lambda: all(("connected", other) in n.told for n, other in zip(nodes, IDS[::-1], strict=True)))
    yield nodes
    for node in nodes:
        await node.transport.stop()
    for sock in sockets.values():
        sock.close()


async def test_messages_arrive_in_order_both_ways(pair):
    one, other = pair
    for number in range(1000):
        one.transport.send("n2", [frame(number), frame(number + 5000, os.urandom(200))])
        other.transport.send("n1", [frame(number)])
    await eventually(lambda: len(other.told) == 2001 and len(one.told) == 1001)
    assert [number for _, number in other.told[1::2]] == list(range(1000))
    assert [number for _, number in one.told[1:]] == list(range(1000))


async def test_large_frames_pass_and_larger_ones_close_the_connection(pair):
    one, other = pair
    one.transport.send("n2", [frame(1, bytes(limits.PEER_FRAME_BYTES_MAX - 100))])
    await eventually(lambda: ("message", 1) in other.told)
    one.transport.send("n2", [(limits.PEER_FRAME_BYTES_MAX + 1).to_bytes(4, "big")])
    await eventually(lambda: ("disconnected", "n1", True) in other.told)


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00\x05hello", b"\x00\x00\x00\x00", b"\x00\x00\x00\x02\x91\xa3"])
async def test_garbage_after_the_handshake_closes_the_connection_and_a_new_one_follows(pair, garbage):
    one, other = pair
    one.transport.send("n2", [garbage])
    await eventually(lambda: other.told == [("connected", "n1"), ("disconnected", "n1", True), ("connected", "n1")])


async def test_a_message_that_somebody_put_in_on_the_way_ends_the_connection(pair, protection, caplog):
    """What a stranger can do who got between two nodes: with TLS or a secret he cannot speak."""
    if protection == "no secret":
        pytest.skip("on loopback, without a secret, nothing is checked")
    one, other = pair
    one.transport.send("n2", [frame(1)])
    await eventually(lambda: ("message", 1) in other.told)
    one.transport._connections["n2"]._transport.write(frame(666) + bytes(16))
    await eventually(lambda: ("disconnected", "n1", True) in other.told)
    assert ("message", 666) not in other.told
    word = "whose tag is wrong" if protection == "secret" else "no TLS record of this connection"
    await eventually(lambda: word in caplog.text)


async def test_an_end_is_told_at_once_as_a_hint_and_the_way_back_is_short(pair):
    one, other = pair
    begin = time.monotonic()
    one.transport._connections["n2"]._transport.abort()
    await eventually(lambda: ("disconnected", "n1", True) in other.told)
    assert time.monotonic() - begin < 0.05
    await eventually(lambda: other.told.count(("connected", "n1")) == 2)
    assert time.monotonic() - begin < 0.5
    assert one.told[1:] == [("disconnected", "n2", True), ("connected", "n2")]


async def test_a_restarted_peer_takes_the_place_of_its_former_connection(pair, secret, keeper_of):
    one, other = pair
    again = Node(
        "n1", {"n1": socket.create_server(("127.0.0.1", 0)), "n2": other.sockets["n2"]}, secret, keeper_of("n1")
    )
    for task in one.transport._dialers.values():
        task.cancel()
    await again.start()
    await eventually(lambda: len(other.told) == 3)
    assert other.told[1:] == [("disconnected", "n1", False), ("connected", "n1")]
    await eventually(lambda: ("disconnected", "n2", True) in one.told)
    other.transport.send("n1", [frame(7)])
    await eventually(lambda: ("message", 7) in again.told)
    await again.transport.stop()
    again.sockets["n1"].close()


async def test_a_node_that_stops_says_nothing_about_its_peers_health(pair):
    one, _ = pair
    await one.transport.stop()
    assert one.told[-1] == ("disconnected", "n2", False)
    assert one.transport.send("n2", [frame(1)]) is False


async def test_silent_strangers_are_closed_after_a_second_and_never_more_than_the_limit_stay(pair):
    _, other = pair
    port = other.sockets["n2"].getsockname()[1]
    strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(limits.PEER_HANDSHAKES_MAX + 10)]
    await eventually(lambda: len(other.transport._handshakes) == limits.PEER_HANDSHAKES_MAX)
    begin = time.monotonic()
    for position, (reader, writer) in enumerate(strangers):
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 3.0) == b""
        if position == 9:
            assert time.monotonic() - begin < 0.5  # the oldest went to make room
        writer.close()
    assert time.monotonic() - begin < 2.0
    assert other.told == [("connected", "n1")]


async def test_a_flood_of_strangers_does_not_lock_a_real_peer_out(pair):
    one, other = pair
    port = other.sockets["n2"].getsockname()[1]
    strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    one.transport._connections["n2"]._transport.abort()
    await eventually(lambda: other.told.count(("connected", "n1")) == 2, within_s=2.0)
    for _, writer in strangers:
        writer.close()


async def test_a_reader_that_does_not_keep_up_pauses_and_goes_on(pair):
    one, other = pair
    blob = bytes(2**20)
    for number in range(40):
        one.transport.send("n2", [frame(number, blob)])
    await eventually(lambda: other.transport._connections["n1"]._paused)
    held = len(other.told)
    assert held < 25
    while len(other.told) < 41:
        other.transport.worked_off()
        await asyncio.sleep(0.005)
    assert [number for _, number in other.told[1:]] == list(range(40))


async def test_a_peer_that_never_reads_is_dropped_when_its_buffer_is_full(pair, monkeypatch):
    one, other = pair
    monkeypatch.setattr(limits, "PEER_SEND_BUFFER_BYTES_MAX", 8 * 2**20)
    blob = bytes(2**20)
    sent = 0
    while ("disconnected", "n2", True) not in one.told:
        one.transport.send("n2", [frame(sent, blob)])
        sent += 1
        assert sent < 100
        await asyncio.sleep(0)
    await eventually(lambda: ("disconnected", "n1", True) in other.told)


async def test_an_address_that_leads_to_another_node_is_noticed(pair, caplog, keeper_of):
    _, other = pair
    sockets = {"n1": socket.create_server(("127.0.0.1", 0)), "n3": other.sockets["n2"]}
    lost = Node("n1", sockets, other.transport._secret, keeper_of("n1"))
    await lost.start()
    word = "either the address leads to another node" if keeper_of("n1") else "its address for that leads here"
    await eventually(lambda: word in caplog.text)
    assert lost.told == []
    await lost.transport.stop()
    sockets["n1"].close()


async def test_a_dialer_who_only_knows_the_names_gets_nowhere(secret, protection):
    if protection != "secret":
        pytest.skip("without a secret names are all there is, and only loopback is let in")
    sock = socket.create_server(("127.0.0.1", 0))
    node = Node("n2", {"n1": sock, "n2": sock}, secret)
    await node.start()
    impostor = Dialer("n1", "n2", announced("n1"), b"a guess of 16 bytes", os.urandom(NONCE_BYTES))
    reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
    writer.write(codec.frame(impostor.first()))
    head = await reader.readexactly(4)
    await reader.readexactly(int.from_bytes(head, "big"))
    writer.write(codec.frame(codec.encode(AppRequest(1, "k", b""))))  # no proof at all
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 2.0) == b""
    assert node.told == []
    writer.close()
    await node.transport.stop()
    sock.close()


def test_hello_names_a_protocol_so_that_a_later_one_can_be_told():
    assert Hello(1, "n1", "n2", b"").protocol == 1


@pytest.mark.parametrize(
    ("peername", "loopback"),
    [
        (("127.0.0.1", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("10.0.0.1", 1), False),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("fe80::1", 1, 0, 0), False),
        (None, False),
        ("", False),
    ],
)
def test_only_loopback_may_come_without_a_secret(peername, loopback):
    assert _is_loopback(peername) is loopback
