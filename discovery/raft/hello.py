"""The handshake of two peers, without I/O: who is there, is it he, and does he know the cluster's secret.

The node with the lesser id dials::

    dialer                                    listener
    Hello(protocol, node, to, nonce)    ->
                                        <-    Welcome(node, nonce, announced, proof)
    Proof(announced, proof)             ->
                                        <-    Accepted()

A proof is HMAC-SHA256 under the cluster secret over the role, both ids, both nonces and the announcement, so that
none can be replayed, reflected or moved to another connection. Without a secret proofs are empty. Over TLS the id must
moreover be a DNS name of the certificate that the other side proved (:meth:`Handshake.certified`). With neither, the
transport lets only loopback peers in.

With a secret and without TLS (protocol 2) every frame that follows carries a tag (:class:`Seal`) under keys of this
connection, so that nobody on the way can change, replay, reorder or leave out one. Frames are not encrypted: TLS does
that.
"""

from __future__ import annotations

import abc
import hashlib
import hmac
from collections.abc import Container
from typing import Final

import msgspec

from discovery import limits
from discovery.raft.founding import Announced

PROTOCOL: Final = 1
TAGGED: Final = 2
"""The protocol whose frames carry tags."""
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 32
SECRET_BYTES_MIN: Final = 16


class Refused(Exception):
    """The connection must be closed; the text says why, for the log (never for the other side)."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """First frame; ``to`` is whom the dialer believes to reach."""

    protocol: int
    node: str
    to: str
    nonce: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The listener's answer; ``announced`` is an encoded :class:`Announced`."""

    node: str
    nonce: bytes
    announced: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof"):
    """The dialer's proof."""

    announced: bytes
    proof: bytes


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The listener is content; messages may flow."""


_Frame = Hello | Welcome | Proof | Accepted
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Frame)
_announced: Final = msgspec.msgpack.Decoder(Announced)


def encode_announced(announced: Announced) -> bytes:
    """The announcement's bytes.

    Raises:
        ValueError: they would not fit into a handshake frame (too long names or addresses).
    """
    data = _encoder.encode(announced)
    if len(data) > limits.PEER_HANDSHAKE_BYTES_MAX - 256:
        raise ValueError(f"ids and addresses of the peers take {len(data)} bytes, too many for a handshake")
    return data


def decode_announced(data: bytes) -> Announced:
    """The announcement.

    Raises:
        Refused: the bytes are none.
    """
    try:
        return _announced.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(f"sent an announcement that is none: {error}") from error


class Seal:
    """Makes, or expects, the tag after each frame of one direction of one connection: BLAKE2b under its own key.

    The number of the frame goes in as the salt, so that each stands at its place in the stream.
    """

    __slots__ = ("_count", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def tag(self, frame: bytes | memoryview) -> bytes:
        """The tag of the next frame."""
        self._count = count = self._count + 1
        return hashlib.blake2b(frame, digest_size=TAG_BYTES, key=self._key, salt=count.to_bytes(16, "big")).digest()

    def check(self, frame: bytes | memoryview, tag: bytes | memoryview) -> None:
        """Expect the tag of the next frame.

        Raises:
            Refused: it is another.
        """
        if not hmac.compare_digest(self.tag(frame), tag):
            raise Refused("sent a message whose tag is wrong: it was changed, or one is missing, on the way")


class Handshake(abc.ABC):
    """What both sides share. After an exchange :attr:`peer` says who the other is, :attr:`done` that both agree."""

    def __init__(self, node: str, announced: Announced, secret: bytes | None, nonce: bytes) -> None:
        self._node = node
        self._announced = encode_announced(announced)
        self._secret = secret
        self._nonce = nonce
        self._other_nonce = b""
        self._names: frozenset[str] | None = None
        self.peer: Announced | None = None
        self.peer_id = ""
        self.done = False

    def feed(self, payload: bytes) -> bytes | None:
        """Take a frame of the other side; gives the payload to answer with, if any.

        Raises:
            Refused: close the connection.
        """
        try:
            frame = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(f"sent something that is no handshake: {error}") from error
        return self._next(frame)

    def certified(self, names: frozenset[str]) -> None:
        """The other side proved a certificate with these DNS names: its id must be one of them.

        Raises:
            Refused: close the connection.
        """
        self._names = names
        self._check_name()

    def _check_name(self) -> None:
        if self._names is not None and self.peer_id and self.peer_id not in self._names:
            found = ", ".join(sorted(self._names)) or "no name"
            raise Refused(
                f"shows a certificate for {found}, not for {self.peer_id}: either the address leads to another node, "
                f"or its certificate lacks the DNS name {self.peer_id}"
            )

    @property
    def protocol(self) -> int:
        """What this side speaks."""
        return TAGGED if self._secret is not None and self._names is None else PROTOCOL

    def seals(self) -> tuple[Seal, Seal] | None:
        """For what this side sends and receives after the handshake; ``None``: TLS does it, or nothing has to."""
        if self._secret is None or self.protocol != TAGGED:
            return None
        dialing = isinstance(self, Dialer)
        ids = (self._node, self.peer_id) if dialing else (self.peer_id, self._node)
        of_dialer, of_listener = (Seal(self._mac(f"{role} frames", *ids)) for role in ("dialer", "listener"))
        return (of_dialer, of_listener) if dialing else (of_listener, of_dialer)

    @abc.abstractmethod
    def _next(self, frame: _Frame) -> bytes | None:
        """Take a frame of this side's turn."""

    def _proof(self, role: str, dialer: str, listener: str, announced: bytes) -> bytes:
        return b"" if self._secret is None else self._mac(role, dialer, listener, announced)

    def _mac(self, role: str, dialer: str, listener: str, announced: bytes = b"") -> bytes:
        assert self._secret is not None
        nonces = (self._nonce, self._other_nonce) if self._node == dialer else (self._other_nonce, self._nonce)
        tag = b"discovery-peer-%d" % self.protocol
        parts = (tag, role.encode(), dialer.encode(), listener.encode(), *nonces, announced)
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(self._secret, text, hashlib.sha256).digest()

    def _check(self, expected: bytes, proof: bytes) -> None:
        if not hmac.compare_digest(expected, proof):
            raise Refused(
                "does not know the cluster secret" if self._secret else "uses a cluster secret, this node none"
            )

    def _believe(self, announced: bytes) -> None:
        peer = decode_announced(announced)
        if peer.node != self.peer_id:
            raise Refused(f"calls itself {self.peer_id} and {peer.node}")
        self.peer = peer


class Dialer(Handshake):
    """The side that connects; send :meth:`first` at once."""

    def __init__(self, node: str, to: str, announced: Announced, secret: bytes | None, nonce: bytes) -> None:
        super().__init__(node, announced, secret, nonce)
        self.peer_id = to

    def first(self) -> bytes:
        """The payload of the first frame."""
        return _encoder.encode(Hello(self.protocol, self._node, self.peer_id, self._nonce))

    def _next(self, frame: _Frame) -> bytes | None:
        if isinstance(frame, Accepted) and self.peer is not None:
            self.done = True
            return None
        if not isinstance(frame, Welcome) or self.peer is not None:
            raise Refused(f"answered with {type(frame).__name__} out of turn")
        if frame.node != self.peer_id:
            raise Refused(f"is {frame.node} and not {self.peer_id}: the address leads to another node")
        self._other_nonce = _nonce(frame.nonce, self._nonce)
        self._check(self._proof("listener", self._node, self.peer_id, frame.announced), frame.proof)
        self._believe(frame.announced)
        return _encoder.encode(
            Proof(self._announced, self._proof("dialer", self._node, self.peer_id, self._announced)),
        )


class Listener(Handshake):
    """The side that was connected to; ``peers`` are the ids that may dial it."""

    def __init__(
        self, node: str, peers: Container[str], announced: Announced, secret: bytes | None, nonce: bytes
    ) -> None:
        super().__init__(node, announced, secret, nonce)
        self._peers = peers

    def _next(self, frame: _Frame) -> bytes | None:
        if isinstance(frame, Hello) and not self.peer_id:
            return self._welcome(frame)
        if isinstance(frame, Proof) and self.peer_id and not self.done:
            self._check(self._proof("dialer", self.peer_id, self._node, frame.announced), frame.proof)
            self._believe(frame.announced)
            self.done = True
            return _encoder.encode(Accepted())
        raise Refused(f"sent {type(frame).__name__} out of turn")

    def _welcome(self, hello: Hello) -> bytes:
        if hello.protocol not in (PROTOCOL, TAGGED):
            raise Refused(f"speaks protocol {hello.protocol}, this node {self.protocol}")
        if hello.protocol < self.protocol:
            raise Refused("has no cluster secret, or a version that does not protect messages with it")
        if hello.to != self._node:
            raise Refused(f"{hello.node!r} looks for {hello.to!r}: its address for that leads here")
        if hello.node not in self._peers or hello.node >= self._node:
            raise Refused(f"{hello.node!r} is no peer that dials this node")
        self.peer_id = hello.node
        self._check_name()
        self._other_nonce = _nonce(hello.nonce, self._nonce)
        proof = self._proof("listener", self.peer_id, self._node, self._announced)
        return _encoder.encode(Welcome(self._node, self._nonce, self._announced, proof))


def _nonce(nonce: bytes, own: bytes) -> bytes:
    if len(nonce) != NONCE_BYTES or nonce == own:
        raise Refused("sent no proper nonce")
    return nonce
