"""Messages between peers: one strict msgpack schema a kind, and the length-prefixed frames they travel in. Pure.

Every message that speaks for a node's Raft state carries the sender's ``term`` (hazards 10 and 16): a receiver drops
what belongs to an older term and adopts a newer one. Nothing here can execute anything: plain data, decoded by schema.

A frame is ``u32 big endian length | msgpack``. Handshake frames belong to the transport and travel before these.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from discovery import limits
from discovery.errors import InvalidInput

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A term, index, counter or size."""

Entry = tuple[bytes, Number, Number]
"""(command, index, term), in PySyncObj's order."""

Item = tuple[bytes, bytes]
"""(wire id of a proposal, command)."""


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """Leader to follower: entries after (``prev_index``, ``prev_term``), none for a heartbeat.

    Args:
        commit: the leader's commit index.
        round: number of the newest confirmation round of this leader in this term; echoed in the answer.
    """

    term: Number
    prev_index: Number
    prev_term: Number
    commit: Number
    round: Number
    entries: tuple[Entry, ...] = ()


class NextIndex(msgspec.Struct, frozen=True, array_like=True, tag="next"):
    """Follower's answer to :class:`AppendEntries` (PySyncObj's ``next_node_idx``).

    Args:
        next: success: everything below is verified against this leader and durable here. ``reset``: send from here.
        round: the number that came with the message being answered (0: none).
        applied: last index applied here, for the status page.
    """

    term: Number
    next: Number
    reset: bool
    success: bool
    round: Number = 0
    applied: Number = 0


class RequestVote(msgspec.Struct, frozen=True, array_like=True, tag="vote"):
    """Candidate to all."""

    term: Number
    last_log_index: Number
    last_log_term: Number


class ResponseVote(msgspec.Struct, frozen=True, array_like=True, tag="voted"):
    """Answer to :class:`RequestVote`; a refusal only tells our term."""

    term: Number
    granted: bool


class PreVote(msgspec.Struct, frozen=True, array_like=True, tag="prevote"):
    """Would you vote for me in ``next_term``? Changes nothing at the receiver (Raft thesis section 9.6)."""

    term: Number
    next_term: Number
    attempt: Number
    last_log_index: Number
    last_log_term: Number


class PreVoteResponse(msgspec.Struct, frozen=True, array_like=True, tag="prevoted"):
    """Answer to attempt ``attempt`` of :class:`PreVote`."""

    term: Number
    attempt: Number
    granted: bool


class Propose(msgspec.Struct, frozen=True, array_like=True, tag="propose"):
    """Follower to the leader *of term* ``term``: any other term refuses (hazard 24)."""

    term: Number
    items: tuple[Item, ...]


class ProposeRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """These items of a :class:`Propose` were not taken; ``overloaded`` says why."""

    term: Number
    ids: tuple[bytes, ...]
    overloaded: bool = False


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk"):
    """Leader to a follower whose next entry the log no longer holds: raw bytes of a snapshot file.

    Args:
        index, last_term: the last log entry that the snapshot holds.
        offset, size: where ``data`` belongs, and the size of the whole file.
        digest: SHA-256 of the whole file.
    """

    term: Number
    index: Number
    last_term: Number
    offset: Number
    size: Number
    digest: bytes
    data: bytes


class SnapshotAck(msgspec.Struct, frozen=True, array_like=True, tag="chunked"):
    """Answer to :class:`SnapshotChunk`: go on at ``offset``; ``done``: all up to ``index`` is applied and durable."""

    term: Number
    index: Number
    offset: Number
    done: bool


class ReadIndex(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """Follower to leader: tell the index that must be applied to serve a read that began now."""

    term: Number
    token: Number


class ReadIndexReply(msgspec.Struct, frozen=True, array_like=True, tag="readable"):
    """The index, confirmed by a round begun after the question; ``None``: ask another."""

    term: Number
    token: Number
    index: Number | None


class Campaign(msgspec.Struct, frozen=True, array_like=True, tag="campaign"):
    """Leader to the target of a transfer: begin an election at once, without pre-vote."""

    term: Number


class AppRequest(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """A question between registries (a batch of heartbeats…); answered by :class:`AppResponse` with the same ``id``."""

    id: Number
    kind: str
    payload: bytes


class AppResponse(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """Answer to :class:`AppRequest`; ``error`` is a code of :mod:`discovery.errors`, with its text as payload."""

    id: Number
    error: str
    payload: bytes


RaftMessage = (
    AppendEntries
    | NextIndex
    | RequestVote
    | ResponseVote
    | PreVote
    | PreVoteResponse
    | Propose
    | ProposeRefused
    | SnapshotChunk
    | SnapshotAck
    | ReadIndex
    | ReadIndexReply
    | Campaign
)
"""What the engine sends and receives."""

Message = RaftMessage | AppRequest | AppResponse
"""Everything on a peer connection after the handshake; the last two are the driver's."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)
_LENGTH: Final = struct.Struct(">I")
LENGTH_BYTES: Final = _LENGTH.size


def encode(message: Message) -> bytes:
    """The payload of one frame."""
    return _encoder.encode(message)


def decode(payload: bytes | memoryview) -> Message:
    """The message.

    Raises:
        InvalidInput: the bytes are no message of this version; close the connection.
    """
    try:
        message: Message = _decoder.decode(payload)
        return message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InvalidInput(f"a peer sent something that is no message: {error}") from error


def frame(payload: bytes) -> bytes:
    """The payload with its length before it.

    Raises:
        InvalidInput: above the frame limit (a defect here: entries, proposals and chunks are capped below it).
    """
    if len(payload) > limits.PEER_FRAME_BYTES_MAX:
        raise InvalidInput(f"a peer frame of {len(payload)} bytes is above {limits.PEER_FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(payload)) + payload


class Frames:
    """Splits a byte stream into payloads; never holds more than one frame's bytes beyond what it was fed."""

    def __init__(self, bytes_max: int = limits.PEER_FRAME_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are complete now, in order.

        Raises:
            InvalidInput: a length above the limit; close the connection.
        """
        buffer = self._buffer
        buffer += data
        payloads, at = [], 0
        while len(buffer) - at >= LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > self._bytes_max:
                raise InvalidInput(f"a peer announced a frame of {length} bytes, above {self._bytes_max}")
            end = at + LENGTH_BYTES + length
            if end > len(buffer):
                break
            payloads.append(bytes(memoryview(buffer)[at + LENGTH_BYTES : end]))
            at = end
        if at:
            del buffer[:at]
        return payloads
