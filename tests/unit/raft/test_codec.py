"""Peer messages and frames: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.errors import InvalidInput
from discovery.raft import codec, packing
from discovery.raft.codec import Frames, decode, encode, frame

numbers = st.integers(0, 2**63 - 1)
blobs = st.binary(max_size=64)
FIELDS = {
    "commit": numbers,
    "data": blobs,
    "digest": blobs,
    "done": st.booleans(),
    "entries": st.lists(st.tuples(blobs, numbers, numbers), max_size=4).map(tuple),
    "error": st.text(max_size=20),
    "granted": st.booleans(),
    "ids": st.lists(blobs, max_size=4).map(tuple),
    "items": st.lists(st.tuples(blobs, blobs), max_size=4).map(tuple),
    "kind": st.text(max_size=20),
    "overloaded": st.booleans(),
    "payload": blobs,
    "reset": st.booleans(),
    "success": st.booleans(),
}
KINDS = codec.Message.__args__


def message_of(kind: type) -> st.SearchStrategy[codec.Message]:
    index = numbers | st.none() if kind is codec.ReadIndexReply else numbers
    fields = {
        field.name: index if field.name == "index" else FIELDS.get(field.name, numbers)
        for field in msgspec.structs.fields(kind)
    }
    return st.builds(kind, **fields)


messages = st.one_of([message_of(kind) for kind in KINDS])


@given(messages)
def test_a_message_comes_out_as_it_went_in(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        message = decode(data)
    except InvalidInput:
        return
    assert isinstance(message, KINDS)


@given(messages, st.data())
def test_a_message_cut_short_is_refused(message, data):
    payload = encode(message)
    with pytest.raises(InvalidInput):
        decode(payload[: data.draw(st.integers(0, len(payload) - 1))])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (codec.AppRequest, codec.AppResponse)])
def test_every_raft_message_carries_the_senders_term(kind):
    assert msgspec.structs.fields(kind)[0].name == "term"


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode(["append", -1, 0, 0, 0, 0, []]),  # a negative term
        msgspec.msgpack.encode(["append", 2**63, 0, 0, 0, 0, []]),  # beyond the numbers of the log
        msgspec.msgpack.encode(["append", "1", 0, 0, 0, 0, []]),
        msgspec.msgpack.encode(["append", 1, 0, 0, 0, 0, [["text", 1, 1]]]),
        msgspec.msgpack.encode(["voted", 1]),
        msgspec.msgpack.encode(["nonsense", 1]),
        b"\x80\x04\x95",  # a pickle
        b"\x91" * 100_000,
    ],
)
def test_what_breaks_the_schema_is_refused(payload):
    with pytest.raises(InvalidInput, match="no message"):
        decode(payload)


@given(st.lists(blobs, max_size=8), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(payloads, data):
    stream = b"".join(frame(payload) for payload in payloads)
    splitter, found, at = Frames(), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        found += splitter.feed(stream[at : at + step])
        at += step
    assert found == payloads


def test_a_frame_above_the_limit_is_refused_before_its_bytes_arrive():
    with pytest.raises(InvalidInput, match="announced"):
        Frames().feed((limits.PEER_FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(InvalidInput, match="above"):
        frame(bytes(limits.PEER_FRAME_BYTES_MAX + 1))


@given(st.integers(0, 2**63), st.lists(st.tuples(blobs, blobs), max_size=8))
def test_a_packed_entry_comes_out_as_it_went_in(time_ms, items):
    packed = packing.pack(time_ms, items)
    assert packing.unpack(packed) == (time_ms, items)
    assert packing.time_of(packed) == time_ms


@given(st.binary(max_size=100))
def test_any_entry_is_commands_or_refused(data):
    try:
        time_ms, items = packing.unpack(data)
    except InvalidInput:
        return
    assert time_ms >= 0
    assert all(isinstance(wire, bytes) and isinstance(command, bytes) for wire, command in items)


def test_the_largest_command_fits_an_entry():
    entry = packing.pack(0, [(bytes(16), bytes(limits.COMMAND_BYTES_MAX))])
    assert len(entry) <= limits.ENTRY_BYTES_MAX < 1024 * 1024
