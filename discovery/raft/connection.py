"""One TCP connection to a peer: TLS when the node has a certificate, a handshake, then frames of messages.

It is closed at the first thing that is neither. Memory is bounded: before the handshake a frame is at most
``PEER_HANDSHAKE_BYTES_MAX``, afterwards ``PEER_FRAME_BYTES_MAX``; what waits to be sent at most
``PEER_SEND_BUFFER_BYTES_MAX`` (else the connection is closed, and the peer starts again); what was received but not
yet worked off makes the reader pause.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

from discovery import limits
from discovery.errors import InvalidInput
from discovery.raft import codec
from discovery.raft.hello import TAG_BYTES, Dialer, Handshake, Listener, Refused, Seal
from discovery.raft.secure import RECORDS, Stream

if TYPE_CHECKING:
    from discovery.raft.founding import Announced
    from discovery.raft.transport import Transport

_log: Final = logging.getLogger(__name__)
_LENGTH: Final = struct.Struct(">I")
_USER_TIMEOUT_MS: Final = 5_000
_JOINED_BYTES_MAX: Final = 128 * 1024
"""Below this one copy is cheaper than many buffers."""


class Connection(asyncio.Protocol):
    """A connection in either direction. ``peer`` is empty until the handshake is done."""

    def __init__(self, owner: Transport, handshake: Handshake) -> None:
        self._owner = owner
        self._handshake: Handshake | None = handshake
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._tls: Stream | None = None
        self._sealing: Seal | None = None
        self._unsealing: Seal | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._refused = False
        self._place = ""
        self.unread = 0
        self.peer = ""
        self.replaced = False
        """Set when this side closes it: its end says nothing about the peer."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- asyncio's calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, with its time limit."""
        self._transport = cast("asyncio.Transport", transport)
        self._place = _place(transport.get_extra_info("peername"))
        _set_options(transport.get_extra_info("socket"))
        if not self._owner.is_protected and not _is_loopback(transport.get_extra_info("peername")):
            self._refuse(
                "is not on loopback, and this node has neither certificate (--tls-cert) nor cluster secret "
                "(--raft-secret-file)"
            )
            return
        if self._owner.unfit:
            self._refuse(f"is not spoken to: {self._owner.unfit}")
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limits.PEER_HANDSHAKE_S_MAX, self._refuse, "did not finish the handshake in time")
        self._owner.handshake_began(self)
        self._tls = self._owner.secure(server=isinstance(self._handshake, Listener))
        if self._tls is not None:
            self._send_sealed(self._tls)
        elif isinstance(self._handshake, Dialer):
            self._write(self._handshake.first())

    def data_received(self, data: bytes) -> None:
        """Split off frames and hand them on; anything improper closes the connection."""
        try:
            self._split(data if self._tls is None else self._unseal(self._tls, data))
        except Refused as error:
            self._refuse(str(error))
        except InvalidInput as error:
            self._refuse(error.detail)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, at once: for a killed process this is the fastest sign there is."""
        self._stop_timer()
        if isinstance(self._handshake, Dialer) and not (self.replaced or self._refused):
            self._complain("ended the connection before the handshake was done: its log says why")
        self._buffer.clear()
        self._owner.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    # -- the owner's calls --------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self._handshake is None and self._transport is not None and not self._transport.is_closing()

    def send(self, frames: list[bytes]) -> None:
        """Send frames, each whole, in order; a peer that does not read is dropped when its buffer is full."""
        transport, tls = self._transport, self._tls
        if transport is None or transport.is_closing():
            return
        if self._sealing is not None:
            frames = [part for frame in frames for part in (frame, self._sealing.tag(frame))]
        if tls is not None:
            self._seal(tls, frames)
        elif len(frames) == 1:
            transport.write(frames[0])
        elif sum(map(len, frames)) < _JOINED_BYTES_MAX:
            transport.write(b"".join(frames))
        else:
            transport.writelines(frames)
        if transport.get_write_buffer_size() > limits.PEER_SEND_BUFFER_BYTES_MAX:
            _log.warning("peer %s does not read: its connection is closed", self.peer)
            transport.abort()

    def worked_off(self) -> None:
        """All that was handed on so far is done; read on."""
        self.unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close from this side, without a word to the owner about the peer's health."""
        self.replaced = True
        if self._transport is not None:
            self._transport.abort()

    # -- inside -------------------------------------------------------------------------------------------------

    def _unseal(self, tls: Stream, data: bytes) -> bytes:
        """What the bytes of the wire say; answers of TLS itself, alerts too, go out at once."""
        agreed = tls.names is not None
        try:
            text = tls.receive(data)
            if not agreed and tls.names is not None and self._handshake is not None:
                self._handshake.certified(tls.names)
                if isinstance(self._handshake, Dialer):
                    self._write(self._handshake.first())
            return text
        finally:
            self._send_sealed(tls)

    def _seal(self, tls: Stream, frames: list[bytes]) -> None:
        """Small frames share a record: each costs a call, 22 bytes and a tag."""
        if len(frames) == 1 or sum(map(len, frames)) < _JOINED_BYTES_MAX:
            tls.seal(b"".join(frames))
        else:
            for frame in frames:
                tls.seal(frame)
        self._send_sealed(tls)

    def _send_sealed(self, tls: Stream) -> None:
        data = tls.outgoing()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _split(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            self._check_length(length)
            end = at + _LENGTH.size + length
            after = end if self._unsealing is None else end + TAG_BYTES
            if after > len(buffer):
                break
            with memoryview(buffer) as whole, whole[at + _LENGTH.size : end] as payload:
                if self._unsealing is not None:
                    self._unsealing.check(whole[at:end], whole[end:after])
                self._take(payload)
            at = after
        if at:
            del buffer[:at]

    def _check_length(self, length: int) -> None:
        most = limits.PEER_HANDSHAKE_BYTES_MAX if self._handshake is not None else limits.PEER_FRAME_BYTES_MAX
        if length > most and self._tls is None and length.to_bytes(4, "big").startswith(RECORDS):
            raise Refused("speaks TLS, and this node has no certificate: it needs --tls-cert, --tls-key and --tls-ca")
        if length > most:
            raise Refused(f"announced a frame of {length} bytes, above {most}")

    def _take(self, payload: memoryview) -> None:
        if self._handshake is None:
            self._count(len(payload))
            self._owner.received(self, codec.decode(payload))
            return
        answer = self._handshake.feed(bytes(payload))
        if answer is not None:
            self._write(answer)
        if self._handshake.done and self._handshake.peer is not None:
            self._open(self._handshake.peer)

    def _open(self, announced: Announced) -> None:
        self._stop_timer()
        assert self._handshake is not None
        self.peer = announced.node
        self._sealing, self._unsealing = self._handshake.seals() or (None, None)
        self._handshake = None
        self._owner.opened(self, announced)

    def _count(self, size: int) -> None:
        self.unread += size
        if self.unread > limits.PEER_UNREAD_BYTES_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _write(self, payload: bytes) -> None:
        if self._transport is not None:
            self.send([_LENGTH.pack(len(payload)) + payload])

    def _refuse(self, why: str) -> None:
        first, self._refused = not self._refused, True
        if first:
            self._complain(why)
        if self._transport is None:
            return
        if first and self._tls is not None and self._handshake is not None:
            self._transport.close()  # sends first what TLS says about it; the timer sees to it that it ends
        else:
            self._transport.abort()

    def _complain(self, why: str) -> None:
        name = self.peer or (self._handshake.peer_id if self._handshake is not None else "")
        self._owner.complain(name, f"{name or 'someone'} at {self._place} {why}")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _place(peername: Any) -> str:
    return f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else "an unknown address"


def _is_loopback(peername: Any) -> bool:
    try:
        address = ipaddress.ip_address(peername[0])
    except (TypeError, ValueError, IndexError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _set_options(sock: socket.socket) -> None:
    """No Nagle; a peer whose host vanished is noticed after about 5 s, also when there is nothing to send."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 2),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
