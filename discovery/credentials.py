"""What this node shows to its peers, and whom it believes: certificate, key and authorities from files (TLS 1.3).

A node *is* its certificate's name: one of the DNS names in the subject alternative name is the node id, letter for
letter after lower-casing. Wildcards, the common name and addresses count for nothing. Files are judged as a peer would
judge them, by a handshake of the two roles in memory, so that what is wrong is said here and not found by the others.
What the time says is judged apart: a node whose certificate has expired still serves what it knows, and takes the new
one as soon as it is there (:mod:`discovery.raft.certificate`).
"""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import Any, Final, Literal, NoReturn

import msgspec

Part = Literal["cert", "key", "ca"]

SOON_S: Final = 30 * 24 * 3600.0
_DAY_S: Final = 24 * 3600
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the module ssl does not name
_RECORDS_MAX: Final = 8  # a handshake needs three flights


class Files(msgspec.Struct, frozen=True):
    """Paths of PEM files: the certificate with its intermediates, its key, and the authorities that are trusted."""

    cert: str
    key: str
    ca: str


class Unfit(Exception):
    """The files make no identity for this node. The text says which file, why, and what to do; ``part`` is the file."""

    def __init__(self, part: Part, text: str) -> None:
        super().__init__(text)
        self.part: Part = part


class Credentials(msgspec.Struct, frozen=True):
    """What :func:`load` read: contexts for both roles, and from when to when it is valid (seconds since 1970)."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    begins: float
    expires: float

    def trouble(self, now: float) -> str:
        """What the time says against them, or an empty text."""
        if now < self.begins:
            return f"is not valid before {moment(self.begins)}: peers refuse it. Is the clock right?"
        if now >= self.expires:
            return f"has expired on {moment(self.expires)}: peers refuse it. Put a new one in its place"
        if self.expires - now < SOON_S:
            days = int((self.expires - now) / _DAY_S)
            return f"expires on {moment(self.expires)}, in {days} days: put a new one in its place before"
        return ""


def moment(seconds: float) -> str:
    """A time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def names_of(certificate: dict[str, Any]) -> frozenset[str]:
    """The DNS names, in lower case, of a certificate as :meth:`ssl.SSLObject.getpeercert` shows it."""
    return frozenset(value.lower() for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")


def load(files: Files, node: str) -> Credentials:
    """Read the files and judge them as a peer would, except for the time. Blocks for some milliseconds.

    Raises:
        Unfit: a file cannot be read, they do not belong together, or the certificate is not this node's.
    """
    server = _context(ssl.PROTOCOL_TLS_SERVER, files)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    server.num_tickets = 0  # every connection shows its certificate anew
    certificate = _rehearse(server, client, files)
    names = names_of(certificate)
    if node not in names:
        found = ", ".join(sorted(names)) or "no DNS name at all"
        raise Unfit("cert", f"{files.cert} is not for node {node}, whose id must be a DNS name in it (it has {found})")
    begins, expires = _validity(certificate, client)
    return Credentials(server, client, begins, expires)


def _context(protocol: ssl._SSLMethod, files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # who a peer is, is checked against its id, see raft/hello.py
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate may be all that is trusted
    _readable("cert", files.cert)
    _readable("key", files.key)
    _readable("ca", files.ca)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except _Encrypted:
        raise Unfit("key", f"{files.key} is encrypted: a node needs it without a passphrase") from None
    except (ssl.SSLError, OSError) as error:
        _refuse_pair(files, error)
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, OSError) as error:
        raise Unfit("ca", f"{files.ca} holds no certificate of an authority in PEM") from error
    if not context.get_ca_certs():
        raise Unfit("ca", f"{files.ca} holds certificates, but none of an authority")
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> NoReturn:
    raise _Encrypted


def _readable(part: Part, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Unfit(part, f"{path} cannot be read: {error.strerror}") from error


def _refuse_pair(files: Files, error: OSError) -> NoReturn:
    reason = _reason(error)
    if "KEY_VALUES_MISMATCH" in reason or "KEY_TYPE_MISMATCH" in reason:
        raise Unfit("key", f"{files.key} is not the key of {files.cert}: they were not issued together") from error
    if "PEM" not in reason:
        raise Unfit("cert", f"{files.cert} with {files.key} cannot be used ({reason})") from error
    raise Unfit("cert", f"{files.cert} with {files.key} is no certificate with its private key, both in PEM") from error


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


def _rehearse(server: ssl.SSLContext, client: ssl.SSLContext, files: Files) -> dict[str, Any]:
    """A handshake of both roles in memory, without regard to the time; gives the certificate."""
    flags = client.verify_flags
    for context in (server, client):
        context.verify_flags = flags | _NO_CHECK_TIME
    try:
        return _shake(server, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == 26:  # X509_V_ERR_INVALID_PURPOSE
            text = "must be for servers and clients alike (extended key usage): each node is both"
            raise Unfit("cert", f"{files.cert} {text}") from error
        text = f"is not signed by an authority in {files.ca} ({error.verify_message})"
        raise Unfit("cert", f"{files.cert} {text}") from error
    except ssl.SSLError as error:
        raise Unfit("cert", f"{files.cert} cannot be used for TLS 1.3 ({_reason(error)})") from error
    finally:
        for context in (server, client):
            context.verify_flags = flags


def _shake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_RECORDS_MAX):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1].getpeercert() or {}


def _validity(certificate: dict[str, Any], context: ssl.SSLContext) -> tuple[float, float]:
    """Of the certificate; it ends with its authority, when that is one of the trusted ones."""
    signers = [one for one in context.get_ca_certs() if one["subject"] == certificate["issuer"]]
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in signers]
    own = ssl.cert_time_to_seconds(certificate["notAfter"])
    return ssl.cert_time_to_seconds(certificate["notBefore"]), min(own, max(ends, default=own))
