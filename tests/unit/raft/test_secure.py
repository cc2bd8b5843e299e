"""TLS between two peers without a socket: whom it lets in, what it says of the others, and that nothing is lost."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import credentials, limits
from discovery.raft.hello import Dialer, Listener, Refused
from discovery.raft.secure import RECORDS, Stream
from discovery.testing.certificates import Authority

from .test_hello import announced, dialer, listener


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority):
    return {node: credentials.load(authority.files(node), node) for node in ("n1", "n2")}


def pair(client, server):
    return Stream(client.client, server=False), Stream(server.server, server=True)


def shake(one, other, limit=10):
    """Carry bytes to and fro until there are none; gives what each said in plain text."""
    heard = {one: b"", other: b""}
    for _ in range(limit):
        for source, target in ((one, other), (other, one)):
            if data := source.outgoing():
                heard[target] += target.receive(data)
    return heard[one], heard[other]


def test_both_sides_know_the_others_names(ours):
    one, other = pair(ours["n1"], ours["n2"])
    assert shake(one, other) == (b"", b"")
    assert one.names == {"n2"}
    assert other.names == {"n1"}
    assert one._tls.version() == "TLSv1.3"


@given(
    parts=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=70_000)), max_size=8),
    chunk=st.integers(1, 5000),
)
@settings(max_examples=30)
def test_every_byte_arrives_in_order_however_the_wire_cuts_it(ours, parts, chunk):
    one, other = pair(ours["n1"], ours["n2"])
    shake(one, other)
    said = {one: b"", other: b""}
    heard = {one: b"", other: b""}
    for forth, data in parts:
        source, target = (one, other) if forth else (other, one)
        source.seal(data)
        said[target] += data
        wire = source.outgoing()
        for at in range(0, len(wire), chunk):
            heard[target] += target.receive(wire[at : at + chunk])
    assert heard == said


def test_a_write_taken_in_parts_is_still_whole(ours):
    taken = []

    class Sparing:
        """OpenSSL in a mode in which it takes some bytes at a time."""

        def write(self, data):
            taken.append(bytes(data[:3]))
            return len(taken[-1])

    one, _ = pair(ours["n1"], ours["n2"])
    one._tls = Sparing()
    one.seal(b"vote for me")
    assert taken == [b"vot", b"e f", b"or ", b"me"]


def refusals(client, server):
    """What each side says when they do not agree: the first to refuse, and the other once it hears the alert."""
    one, other = pair(client, server)
    said = {}
    for _ in range(6):
        for name, source, target in (("listener", one, other), ("dialer", other, one)):
            data = source.outgoing()
            if data and name not in said:
                try:
                    target.receive(data)
                except Refused as error:
                    said[name] = str(error)
    return said


def test_another_authority_is_said_on_both_sides(ours, tmp_path):
    other = Authority(tmp_path / "other")
    stranger = credentials.load(other.files("n2"), "n2")
    assert refusals(ours["n1"], stranger) == {
        "dialer": "shows a certificate of an authority that is not trusted here: compare --tls-ca of both",
        "listener": "does not trust the authority of this node's certificate: compare --tls-ca of both",
    }


def test_a_dialer_of_another_authority_is_refused_by_the_listener(ours, authority, tmp_path):
    files = Authority(tmp_path / "other").files("n1")
    stranger = credentials.load(files, "n1")
    stranger.client.load_verify_locations(str(authority.ca))  # trusts ours; ours does not trust it
    said = refusals(stranger, ours["n2"])
    assert "of an authority that is not trusted here" in said["listener"]
    assert "does not trust the authority of this node's certificate" in said["dialer"]


@pytest.mark.parametrize(("age_days", "word"), [(3, "has expired"), (-1, "is not valid yet: compare the clocks")])
def test_a_certificate_out_of_its_time_is_refused(ours, authority, age_days, word):
    files = authority.files("n3", days=1, age_days=age_days)
    late = credentials.load(files, "n3")
    assert word in refusals(ours["n1"], late)["dialer"]
    assert word in refusals(late, ours["n2"])["listener"]
    if age_days > 0:
        assert "refuses this node's certificate as expired" in refusals(late, ours["n2"])["dialer"]


def test_a_dialer_without_a_certificate_is_refused(ours, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(str(authority.ca))
    bare = credentials.Credentials(ours["n1"].server, context, 0, 0)
    said = refusals(bare, ours["n2"])
    assert said["listener"].startswith("shows no certificate")
    assert said["dialer"].startswith("wants a certificate of this node")


def test_an_older_tls_is_refused(ours, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(str(authority.ca))
    said = refusals(credentials.Credentials(ours["n1"].server, context, 0, 0), ours["n2"])
    assert said["listener"] == "does not speak TLS 1.3"


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00\x00\x2a" + bytes(50), b"GET / HTTP/1.1\r\n\r\n" * 5, b"SSH-2.0-x\r\n" * 5]
)
def test_who_speaks_no_tls_is_told_from_who_speaks_it_badly(ours, garbage):
    with pytest.raises(Refused):
        Stream(ours["n1"].server, server=True).receive(garbage)


def test_a_plain_peer_is_recognised(ours):
    hello = dialer().first()
    with pytest.raises(Refused, match="does not speak TLS: it needs --tls-cert"):
        Stream(ours["n1"].server, server=True).receive(len(hello).to_bytes(4, "big") + hello)


def test_tls_begins_as_the_plain_side_expects(ours):
    assert Stream(ours["n1"].client, server=False).outgoing().startswith(RECORDS)


def test_what_comes_before_the_agreement_is_bounded(ours):
    one, other = pair(ours["n1"], ours["n2"])
    begin = one.outgoing()
    other.receive(begin[:-1])
    other._received = limits.PEER_TLS_HANDSHAKE_BYTES_MAX
    with pytest.raises(Refused, match="before TLS was agreed on"):
        other.receive(begin[-1:])


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=40)
def test_a_bit_changed_on_the_way_ends_the_stream_and_gives_nothing(ours, at, flip):
    one, other = pair(ours["n1"], ours["n2"])
    shake(one, other)
    one.seal(b"vote for me" * 30)
    wire = bytearray(one.outgoing())
    wire[at % len(wire)] ^= flip
    with contextlib.suppress(Refused):
        assert other.receive(bytes(wire)) == b""  # a length made greater: it waits for more


def test_a_record_replayed_or_left_out_ends_the_stream(ours):
    one, other = pair(ours["n1"], ours["n2"])
    shake(one, other)
    one.seal(b"first")
    first = one.outgoing()
    one.seal(b"second")
    second = one.outgoing()
    assert other.receive(first) == b"first"
    with pytest.raises(Refused, match="no TLS record of this connection"):
        other.receive(first)
    with pytest.raises(Refused):
        other.receive(second)


def test_a_stream_that_is_ended_properly_is_refused_too(ours):
    one, other = pair(ours["n1"], ours["n2"])
    shake(one, other)
    with pytest.raises(ssl.SSLWantReadError):
        one._tls.unwrap()
    with pytest.raises(Refused, match="ended the TLS session"):
        other.receive(one.outgoing())


# -- the id and the name ----------------------------------------------------------------------------------------------


def test_an_id_that_is_no_name_of_the_certificate_is_refused_on_both_sides():
    with pytest.raises(Refused, match="shows a certificate for n3, not for n2"):
        dialer().certified(frozenset({"n3"}))
    other = listener()
    other.certified(frozenset({"n3", "n1.example.net", "*"}))
    with pytest.raises(Refused, match=r"shows a certificate for \*, n1.example.net, n3, not for n1"):
        other.feed(dialer().first())


def test_an_id_that_is_a_name_goes_on_and_still_needs_the_secret():
    one, other = dialer(b"one secret of sixteen"), listener(b"another secret of sixteen")
    one.certified(frozenset({"n2", "host2.example.net"}))
    other.certified(frozenset({"n1"}))
    welcome = other.feed(one.first())
    with pytest.raises(Refused, match="does not know the cluster secret"):
        one.feed(welcome)


def test_a_certificate_without_names_is_nobodys():
    with pytest.raises(Refused, match="shows a certificate for no name"):
        dialer().certified(frozenset())


def test_names_are_asked_of_the_whole_handshake():
    """What a listener believes at the end is what the certificate said at the beginning."""
    other = Listener("n2", ("n1", "n0"), announced("n2"), None, b"l" * 32)
    other.certified(frozenset({"n1"}))
    one = Dialer("n1", "n2", announced("n1"), None, b"d" * 32)
    proof = one.feed(other.feed(one.first()))
    other.feed(proof)
    assert other.peer == announced("n1")
    liar = Listener("n2", ("n1", "n0"), announced("n2"), None, b"l" * 32)
    liar.certified(frozenset({"n1"}))
    with pytest.raises(Refused):
        liar.feed(Dialer("n0", "n2", announced("n0"), None, b"d" * 32).first())
