"""TLS 1.3 around a stream between peers, without I/O: bytes of the wire in, bytes of the handshake and frames out.

OpenSSL does the work on buffers in memory, in the one loop and in the order of the stream; there is no second queue
between a frame and its socket. Who the other side is, is told by :attr:`Stream.names` once its certificate was proved.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

from discovery import limits
from discovery.credentials import names_of
from discovery.raft.hello import Refused

_RECORD_BYTES: Final = 16 * 1024  # RFC 8446 section 5.1: no record holds more
RECORDS: Final = (b"\x15\x03", b"\x16\x03")
"""How TLS begins (RFC 8446 section 5.1): with an alert or the handshake."""

# What OpenSSL says against the other side's certificate, and what the operator makes of it.
_VERIFY: Final[dict[int, str]] = {
    9: "shows a certificate that is not valid yet: compare the clocks of both hosts",
    10: "shows a certificate that has expired: put a new one in its place there",
    26: "shows a certificate that is not for this use: it must be for servers and clients (extended key usage)",
} | dict.fromkeys(
    (2, 18, 19, 20, 21), "shows a certificate of an authority that is not trusted here: compare --tls-ca of both"
)

# Reasons of OpenSSL: the other side's words about our certificate; a dialer hears them after its own handshake is done.
_REFUSALS: Final[dict[str, str]] = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a certificate of this node: it needs --tls-cert and --tls-key",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust the authority of this node's certificate: compare --tls-ca of both",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "refuses this node's certificate as expired: put a new one in its place here",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refuses this node's certificate: its log says why",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "refuses this node's certificate: it must be for servers and clients",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "refuses this node's certificate: its log says why",
}
_REASONS: Final[dict[str, str]] = _REFUSALS | {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "shows no certificate: it needs --tls-cert, --tls-key and --tls-ca",
    "TLSV1_ALERT_PROTOCOL_VERSION": "does not speak TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "does not speak TLS: it needs --tls-cert, --tls-key and --tls-ca, as this node has",
}


class Stream:
    """One side of a connection.

    Args:
        context: with this node's certificate and the authorities it trusts, for the role.
        server: whether this side was connected to.
    """

    def __init__(self, context: ssl.SSLContext, *, server: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._received = 0
        self.names: frozenset[str] | None = None
        """DNS names of the other side's certificate; ``None`` until the handshake is done."""
        if not server:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the wire; gives what they say. There may be :meth:`outgoing` bytes afterwards, in any case.

        Raises:
            Refused: the other side is not to be spoken to, or ended the stream.
        """
        self._incoming.write(data)
        try:
            if self.names is None:
                self._shake(len(data))
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            raise Refused(_explain(error, begun=self.names is not None)) from error

    def seal(self, data: bytes) -> None:
        """Encrypt ``data``; it waits in :meth:`outgoing`."""
        write = self._tls.write
        sent = write(data)
        if sent < len(data):
            with memoryview(data) as whole:
                while sent < len(data):
                    sent += write(whole[sent:])

    def outgoing(self) -> bytes:
        """What must be sent now, in order."""
        return self._outgoing.read()

    def _shake(self, size: int) -> None:
        self._received += size
        if self._received > limits.PEER_TLS_HANDSHAKE_BYTES_MAX:
            raise Refused(f"sent more than {limits.PEER_TLS_HANDSHAKE_BYTES_MAX} bytes before TLS was agreed on")
        self._tls.do_handshake()
        self.names = names_of(self._tls.getpeercert() or {})

    def _read(self) -> bytes:
        read, incoming, tls = self._tls.read, self._incoming, self._tls
        first = b""
        parts: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while incoming.pending or tls.pending():
                part = read(_RECORD_BYTES)
                if not part:
                    raise Refused("ended the TLS session")
                if first:
                    parts.append(part)
                else:
                    first = part
        return b"".join((first, *parts)) if parts else first


def _explain(error: ssl.SSLError, *, begun: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _VERIFY.get(error.verify_code)
        return known or f"shows a certificate that is refused: {error.verify_message}"
    reason = error.reason or str(error)
    if begun and reason not in _REFUSALS:
        return f"sent something that is no TLS record of this connection ({reason})"
    return _REASONS.get(reason) or f"failed in the TLS handshake ({reason})"
