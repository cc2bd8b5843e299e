"""A small certificate authority for one cluster: makes its certificate, and one for each node. Bytes in, bytes out.

The only module that uses the library ``cryptography``; only the command ``discovery certs`` imports it. What it makes
fits :mod:`discovery.credentials`: the node id is a DNS name of the certificate, which is good for both sides of TLS.
"""

from __future__ import annotations

import datetime
import ipaddress
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from discovery import model
from discovery.errors import InvalidInput

DAYS_MAX: Final = 36_500
_SKEW: Final = datetime.timedelta(hours=1)
"""A certificate is valid from a little before it was made: the clocks of hosts differ."""
_CURVE: Final = ec.SECP256R1  # a signature takes 0.03 ms; RSA would hold the loop of a node for milliseconds

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes


class Subject(msgspec.Struct, frozen=True):
    """Whom a certificate is for: the node, and other names and addresses under which its host is reached."""

    node: str
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Description(msgspec.Struct, frozen=True):
    """What a certificate says. ``begins`` and ``expires`` in seconds since 1970."""

    subject: str
    issuer: str
    authority: bool
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    begins: float
    expires: float
    serial: str
    sha256: str


def new_authority(name: str, days: int, now: float) -> Pair:
    """A new authority.

    Args:
        name: what it is called in the certificates that it signs.
        days: how long it is valid.
        now: seconds since 1970.

    Raises:
        InvalidInput: name or days.
    """
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise InvalidInput(f"the name of an authority must have 1..64 printable characters (got {name!r})")
    key = ec.generate_private_key(_CURVE())
    subject = _name(name)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    public = key.public_key()
    builder = (
        _builder(subject, subject, public, days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return _signed(builder, key, key)


def issue(authority: Pair, subject: Subject, days: int, now: float) -> Pair:
    """A certificate for a node, with a new key. It ends with its authority at the latest.

    Args:
        authority: which signs it.
        subject: whom it is for.
        days: how long it is valid.
        now: seconds since 1970.

    Raises:
        InvalidInput: id, name, address or days; or the authority is none, its key another's, or it has expired.
    """
    issuer, issuer_key = _authority(authority, now)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in _names(subject)]
    names += [x509.IPAddress(_address(text)) for text in subject.addresses]
    key = ec.generate_private_key(_CURVE())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _builder(_name(subject.node), issuer.subject, key.public_key(), days, now, issuer.not_valid_after_utc)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return _signed(builder, key, issuer_key)


def describe(pem: bytes) -> list[Description]:
    """What the certificates of a PEM file say, in their order.

    Raises:
        InvalidInput: there is none, or one that cannot be read.
    """
    try:
        return [_describe(one) for one in x509.load_pem_x509_certificates(pem)]
    except ValueError as error:
        raise InvalidInput("holds no certificate in PEM") from error


def subject_of(pem: bytes, node: str) -> Subject:
    """Whom the first certificate of a PEM file is for, to issue the next one for the same.

    Raises:
        InvalidInput: it cannot be read, or is another node's.
    """
    found = describe(pem)[0]
    if node not in found.names:
        raise InvalidInput(f"is not the certificate of node {node} but of {', '.join(found.names) or found.subject}")
    return Subject(node, tuple(name for name in found.names if name != node), found.addresses)


def _authority(authority: Pair, now: float) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        cert = x509.load_pem_x509_certificate(authority.cert)
        key = serialization.load_pem_private_key(authority.key, password=None)
        cert.verify_directly_issued_by(cert)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InvalidInput(f"the authority cannot be used: {error or 'it is not signed by itself'}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
        raise InvalidInput("the key of the authority is not the one of its certificate")
    if not _describe(cert).authority:
        raise InvalidInput("the certificate of the authority is no authority's")
    if cert.not_valid_after_utc.timestamp() <= now:
        raise InvalidInput(f"the authority has expired on {cert.not_valid_after_utc:%Y-%m-%d}: make a new one")
    return cert, key


def _names(subject: Subject) -> list[str]:
    if not model.is_label(subject.node):
        raise InvalidInput(f"a node id is a DNS label: a-z, 0-9 and hyphens, at most 63 (got {subject.node!r})")
    names = [name.removesuffix(".").lower() for name in subject.names]
    for name in names:
        if len(name) > 253 or not all(model.is_label(label) for label in name.split(".")):
            raise InvalidInput(f"a host name is DNS labels joined by dots (got {name!r})")
        if "." not in name and name != subject.node:
            raise InvalidInput(f"a name without a dot would let {subject.node} pass as the node {name!r}")
    return [subject.node, *names]


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidInput(f"an address is IPv4 or IPv6 (got {text!r})") from error


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    now: float,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    if not 1 <= days <= DAYS_MAX:
        raise InvalidInput(f"days must be 1..{DAYS_MAX} (got {days})")
    begin = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    end = begin + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _SKEW)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _describe(cert: x509.Certificate) -> Description:
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    authority = False
    for extension in cert.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
            addresses = tuple(str(one) for one in extension.value.get_values_for_type(x509.IPAddress))
        if isinstance(extension.value, x509.BasicConstraints):
            authority = extension.value.ca
    return Description(
        subject=cert.subject.rfc4514_string(),
        issuer=cert.issuer.rfc4514_string(),
        authority=authority,
        names=names,
        addresses=addresses,
        begins=cert.not_valid_before_utc.timestamp(),
        expires=cert.not_valid_after_utc.timestamp(),
        serial=f"{cert.serial_number:x}",
        sha256=cert.fingerprint(hashes.SHA256()).hex(":"),
    )
