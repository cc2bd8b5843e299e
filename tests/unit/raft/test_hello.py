"""The handshake: two who share a secret agree, everyone else is refused, and nothing can be used twice."""

from __future__ import annotations

import contextlib
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.raft.founding import Announced
from discovery.raft.hello import Dialer, Hello, Listener, Refused, encode_announced

SECRET = b"sixteen bytes and more"


def announced(node):
    return Announced(node, f"inc-{node}", "", "cluster.local", ("n1", "n2"), (), "127.0.0.1:1", "http://h", "0.1")


def dialer(secret=SECRET, node="n1", to="n2", nonce=b"d" * 32):
    return Dialer(node, to, announced(node), secret, nonce)


def listener(secret=SECRET, node="n2", peers=("n1", "n3"), nonce=b"l" * 32):
    return Listener(node, peers, announced(node), secret, nonce)


def shake(one, other):
    payload, turn = one.first(), [other, one]
    while payload is not None:
        payload = turn[0].feed(payload)
        turn.reverse()


@pytest.mark.parametrize("secret", [SECRET, None])
def test_two_peers_agree_and_know_each_other(secret):
    one, other = dialer(secret), listener(secret)
    shake(one, other)
    assert one.done
    assert other.done
    assert one.peer == announced("n2")
    assert other.peer == announced("n1")


@pytest.mark.parametrize(("one", "other"), [(SECRET, b"another secret, as long"), (SECRET, None), (None, SECRET)])
def test_different_secrets_never_agree(one, other):
    left, right = dialer(one), listener(other)
    with pytest.raises(Refused, match="secret"):
        shake(left, right)
    assert not left.done
    assert not right.done


def test_a_proof_cannot_be_replayed_on_another_connection():
    one, other = dialer(), listener()
    proof = one.feed(other.feed(one.first()))
    later = listener(nonce=b"m" * 32)
    later.feed(one.first())
    with pytest.raises(Refused, match="secret"):
        later.feed(proof)


def test_a_listeners_own_proof_cannot_be_reflected():
    other = listener()
    one = dialer()
    welcome = msgspec.msgpack.decode(other.feed(one.first()))
    reflected = msgspec.msgpack.encode(["proof", welcome[3], welcome[4]])
    with pytest.raises(Refused):
        other.feed(reflected)


def test_an_announcement_cannot_be_exchanged_on_the_way():
    one, other = dialer(), listener()
    welcome = msgspec.msgpack.decode(other.feed(one.first()))
    welcome[3] = encode_announced(msgspec.structs.replace(announced("n2"), incarnation="forged"))
    with pytest.raises(Refused, match="secret"):
        one.feed(msgspec.msgpack.encode(welcome))


def test_ones_own_nonce_is_not_accepted_back():
    with pytest.raises(Refused, match="nonce"):
        listener(nonce=b"d" * 32).feed(dialer().first())


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (Hello(3, "n1", "n2", b"d" * 32), "protocol 3"),
        (Hello(1, "n1", "n2", b"d" * 32), "no cluster secret"),
        (Hello(2, "n1", "n3", b"d" * 32), "leads here"),
        (Hello(2, "n9", "n2", b"d" * 32), "no peer"),
        (Hello(2, "n3", "n2", b"d" * 32), "no peer that dials"),
        (Hello(2, "n1", "n2", b"short"), "nonce"),
    ],
)
def test_a_stranger_is_refused_before_he_learns_anything(hello, why):
    with pytest.raises(Refused, match=why):
        listener().feed(msgspec.msgpack.encode(hello))


def test_a_dialer_that_reaches_another_node_says_so():
    one = dialer(to="n3")
    welcome = ["welcome", "n2", b"l" * 32, encode_announced(announced("n2")), b""]
    with pytest.raises(Refused, match="leads to another node"):
        one.feed(msgspec.msgpack.encode(welcome))


def test_a_node_that_announces_another_name_is_refused():
    one, other = dialer(None), Listener("n2", ("n1",), announced("n5"), None, b"l" * 32)
    with pytest.raises(Refused, match="calls itself"):
        shake(one, other)


@pytest.mark.parametrize("turn", ["accepted", "proof"])
def test_frames_out_of_turn_are_refused(turn):
    frame = {"accepted": ["accepted"], "proof": ["proof", b"", b""]}[turn]
    with pytest.raises(Refused, match="out of turn"):
        dialer().feed(msgspec.msgpack.encode(frame))
    with pytest.raises(Refused, match="out of turn"):
        listener().feed(msgspec.msgpack.encode(frame))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("executed",))


@pytest.mark.parametrize("payload", [b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", pickle.dumps(Bomb())])
def test_garbage_and_pickles_are_refused_and_nothing_runs(payload):
    with pytest.raises(Refused):
        listener().feed(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(payload):
    with pytest.raises(Refused):
        listener().feed(payload)


def test_an_announcement_too_long_for_a_frame_is_an_error_at_home():
    with pytest.raises(ValueError, match="too many for a handshake"):
        encode_announced(msgspec.structs.replace(announced("n1"), http="h" * 5000))


# -- the tags of what follows -----------------------------------------------------------------------------------------


def sealed(one, other):
    """A frame's way there and back: (sending, expecting) of each direction."""
    shake(one, other)
    (from_one, to_one), (from_other, to_other) = one.seals(), other.seals()
    return (from_one, to_other), (from_other, to_one)


def test_with_a_secret_both_directions_are_tagged_under_keys_of_their_own():
    there, back = sealed(dialer(), listener())
    for number in range(3):
        frame = b"frame %d" % number
        for sending, expecting in (there, back):
            expecting.check(frame, sending.tag(frame))
    assert there[0].tag(b"x") != back[0].tag(b"x")


@given(st.binary(max_size=300), st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_frame_or_tag_passes(frame, at, flip):
    (sending, expecting), _ = sealed(dialer(), listener())
    whole = bytearray(frame + sending.tag(frame))
    whole[at % len(whole)] ^= flip
    with pytest.raises(Refused, match="tag is wrong"):
        expecting.check(bytes(whole[:-16]), bytes(whole[-16:]))


@pytest.mark.parametrize("order", [(0, 0), (1,), (0, 2), (1, 0)], ids=["replayed", "cut", "one left out", "swapped"])
def test_a_frame_out_of_its_place_does_not_pass(order):
    (sending, expecting), _ = sealed(dialer(), listener())
    tagged = [(b"same", sending.tag(b"same")) for _ in range(3)]
    *first, last = (tagged[position] for position in order)
    with contextlib.suppress(Refused):
        for one in first:
            expecting.check(*one)
    with pytest.raises(Refused, match="one is missing"):
        expecting.check(*last)


def test_what_was_said_on_another_connection_or_by_this_side_does_not_pass():
    (sending, expecting), (_, own) = sealed(dialer(), listener())
    (later, _), _ = sealed(dialer(nonce=b"e" * 32), listener())
    with pytest.raises(Refused):
        expecting.check(b"x", later.tag(b"x"))
    with pytest.raises(Refused):
        own.check(b"x", sending.tag(b"x"))


@pytest.mark.parametrize("secret", [SECRET, None])
def test_over_tls_or_without_a_secret_there_are_no_tags(secret):
    one, other = dialer(secret), listener(secret)
    if secret is not None:
        one.certified(frozenset({"n2"}))
        other.certified(frozenset({"n1"}))
    shake(one, other)
    assert (one.done, other.done, one.seals(), other.seals()) == (True, True, None, None)


def test_nobody_on_the_way_can_talk_two_who_have_a_secret_out_of_tags():
    one, other = dialer(), listener()
    weaker = msgspec.msgpack.decode(one.first())
    weaker[1] = 1
    with pytest.raises(Refused, match="no cluster secret, or a version that does not protect messages"):
        other.feed(msgspec.msgpack.encode(weaker))
