"""Transports over TLS: who is refused is named with cause and remedy, files change meanwhile, stalls move nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import msgspec
import pytest

from discovery import limits
from discovery.raft.certificate import Keeper
from discovery.testing.certificates import Authority

from .test_raft_transport import IDS, Node, eventually, frame

SECRET = b"sixteen bytes or more"
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"), "authority of others")


@contextlib.asynccontextmanager
async def running(*shown):
    """n1 and n2, each with (certificate, secret)."""
    sockets = {node: socket.create_server(("127.0.0.1", 0)) for node in IDS}
    nodes = [Node(node, sockets, secret, keeper) for node, (keeper, secret) in zip(IDS, shown, strict=True)]
    for node in nodes:
        await node.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.transport.stop()
        for sock in sockets.values():
            sock.close()


def connected(*nodes):
    return all(node.told[-1:] and node.told[-1][0] in ("connected", "message") for node in nodes)


def refused(caplog, *words):
    text = "\n".join(line for line in caplog.text.splitlines() if "peer connection refused" in line)
    return all(word in text for word in words)


async def stays_refused(nodes, caplog, *words):
    await eventually(lambda: refused(caplog, *words), WITHIN_S)
    assert [node.told for node in nodes] == [[], []]


async def test_a_node_of_another_authority_is_refused_and_both_say_why(authority, other_authority, caplog):
    shown = Keeper(authority.files("n1"), "n1"), Keeper(other_authority.files("n2"), "n2")
    async with running(*((keeper, None) for keeper in shown)) as nodes:
        words = "n2 at 127.0.0.1", "shows a certificate of an authority that is not trusted here: compare --tls-ca"
        await stays_refused(nodes, caplog, *words, "does not trust the authority of this node's certificate")


@pytest.mark.parametrize("late", IDS)
async def test_an_expired_certificate_is_refused_and_both_say_so(authority, tmp_path, caplog, late):
    made = {node: authority.files(node, days=1, age_days=3 if node == late else 0) for node in IDS}
    async with running(*((Keeper(made[node], node), None) for node in IDS)) as nodes:
        words = "shows a certificate that has expired", "refuses this node's certificate as expired"
        await stays_refused(nodes, caplog, *words)


@pytest.mark.parametrize("liar", IDS)
async def test_a_certificate_for_another_name_is_refused(authority, caplog, liar):
    files = {node: authority.files(node) for node in (*IDS, "n3")}
    keepers = {node: Keeper(files["n3"], "n3") if node == liar else Keeper(files[node], node) for node in IDS}
    async with running(*((keepers[node], None) for node in IDS)) as nodes:
        await stays_refused(nodes, caplog, f"{liar} at 127.0.0.1", f"shows a certificate for n3, not for {liar}")


@pytest.mark.parametrize("plain", IDS)
@pytest.mark.parametrize("secret", [None, SECRET], ids=["no secret", "secret"])
async def test_a_plain_peer_is_refused_whoever_dials(authority, caplog, plain, secret):
    keepers = {node: None if node == plain else Keeper(authority.files(node), node) for node in IDS}
    word = {
        "n1": "does not speak TLS: it needs --tls-cert, --tls-key and --tls-ca, as this node has",
        "n2": "speaks TLS, and this node has no certificate: it needs --tls-cert, --tls-key and --tls-ca",
    }[plain]
    async with running(*((keepers[node], secret) for node in IDS)) as nodes:
        await stays_refused(nodes, caplog, word)


async def test_the_dialer_of_a_plain_peer_says_that_it_hung_up(authority, caplog):
    async with running((Keeper(authority.files("n1"), "n1"), None), (None, None)) as nodes:
        await stays_refused(nodes, caplog, "n2 at 127.0.0.1", "ended the connection before the handshake was done")


@pytest.mark.parametrize("secrets", [(SECRET, b"another of sixteen bytes"), (SECRET, None), (None, SECRET)])
async def test_a_certificate_does_not_replace_the_secret(authority, caplog, secrets):
    shown = [(Keeper(authority.files(node), node), secret) for node, secret in zip(IDS, secrets, strict=True)]
    async with running(*shown) as nodes:
        await stays_refused(nodes, caplog, "cluster secret")


async def test_new_files_serve_new_connections_and_those_that_stand_go_on(authority):
    files = {node: authority.files(node) for node in IDS}
    keepers = {node: Keeper(files[node], node) for node in IDS}
    async with running(*((keepers[node], None) for node in IDS)) as (one, other):
        await eventually(lambda: connected(one, other), WITHIN_S)
        stream = one.transport._connections["n2"]
        before = serial(other, "n1")
        authority.put(files["n1"], authority.make("n1"))
        keepers["n1"].look()
        keepers["n1"].look()
        one.transport.send("n2", [frame(1)])
        await eventually(lambda: ("message", 1) in other.told, WITHIN_S)
        assert one.transport._connections["n2"] is stream
        assert serial(other, "n1") == before
        stream._transport.abort()
        await eventually(lambda: other.told.count(("connected", "n1")) == 2, WITHIN_S)
        assert serial(other, "n1") != before


def serial(node, peer):
    return node.transport._connections[peer]._tls._tls.getpeercert()["serialNumber"]


async def test_another_authority_is_brought_in_without_an_interruption(authority, other_authority, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(authority.pair.cert + other_authority.pair.cert)
    old = {node: msgspec.structs.replace(authority.files(node), ca=str(both)) for node in IDS}
    new = msgspec.structs.replace(other_authority.files("n2"), ca=str(both))
    async with running((Keeper(old["n1"], "n1"), None), (Keeper(new, "n2"), None)) as nodes:
        await eventually(lambda: connected(*nodes), WITHIN_S)


async def test_a_node_whose_files_do_not_fit_speaks_to_nobody_until_they_do(authority, caplog):
    files = {node: authority.files(node) for node in IDS}
    gone = msgspec.structs.replace(files["n2"], key=files["n2"].key + ".later")
    waiting = Keeper(gone, "n2")
    async with running((Keeper(files["n1"], "n1"), None), (waiting, None)) as nodes:
        await stays_refused(nodes, caplog, "is not spoken to", "cannot be read: No such file or directory")
        Path(files["n2"].key).rename(gone.key)
        waiting.look()
        waiting.look()
        await eventually(lambda: connected(*nodes), WITHIN_S)


async def test_stalled_handshakes_are_bounded_in_number_and_time_and_move_nobody(authority):
    async with running(*((Keeper(authority.files(node), node), None) for node in IDS)) as (one, other):
        await eventually(lambda: connected(one, other), WITHIN_S)
        hello = one.transport.secure(server=False).outgoing()
        port = other.sockets["n2"].getsockname()[1]
        strangers = []
        for number in range(limits.PEER_HANDSHAKES_MAX * 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hello[: number * 7] if number % 2 else hello)  # half a hello, or one and then silence
            strangers.append((reader, writer))
        await eventually(lambda: len(other.transport._handshakes) == limits.PEER_HANDSHAKES_MAX, WITHIN_S)
        for number in range(200):
            one.transport.send("n2", [frame(number)])
            await eventually(lambda n=number: ("message", n) in other.told, WITHIN_S)
            assert len(other.transport._handshakes) <= limits.PEER_HANDSHAKES_MAX
        one.transport._connections["n2"]._transport.abort()
        await eventually(lambda: other.told.count(("connected", "n1")) == 2, WITHIN_S)
        begin = time.monotonic()
        for reader, writer in strangers:
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), WITHIN_S)
            writer.close()
        assert time.monotonic() - begin < 10 * limits.PEER_HANDSHAKE_S_MAX
        assert not other.transport._handshakes
        assert connected(one, other)
