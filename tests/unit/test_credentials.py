"""Certificate files are judged as a peer would judge them; what is wrong is named with its file."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from discovery import authority, credentials
from discovery.credentials import Files, Unfit
from discovery.errors import InvalidInput
from discovery.testing.certificates import Authority

DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture
def files(ours: Authority) -> Files:
    return ours.files("n1")


def refusal(files: Files, node: str = "n1") -> tuple[str, str]:
    with pytest.raises(Unfit) as caught:
        credentials.load(files, node)
    return caught.value.part, str(caught.value)


def with_file(files: Files, part: str, data: bytes, folder: Path) -> Files:
    path = folder / part
    path.write_bytes(data)
    return msgspec.structs.replace(files, **{part: str(path)})


def test_files_that_fit_are_loaded_with_their_end(files: Files) -> None:
    loaded = credentials.load(files, "n1")
    assert abs(loaded.expires - time.time() - 30 * DAY_S) < 60
    assert loaded.begins < time.time()
    assert loaded.server.num_tickets == 0


def test_another_nodes_certificate_names_what_it_is_for(files: Files) -> None:
    assert refusal(files, "n2") == (
        "cert", f"{files.cert} is not for node n2, whose id must be a DNS name in it (it has n1)"
    )  # fmt: skip


def test_the_name_must_be_the_id_letter_for_letter(ours: Authority) -> None:
    pair = authority.issue(ours.pair, authority.Subject("node1", ("n1.example.net",)), 1, time.time())
    files = ours.files("n1")
    ours.put(files, pair)
    for node in ("n1", "node", "node1.example.net", "example"):
        assert "is not for node" in refusal(files, node)[1]


def test_another_authority_is_not_trusted(files: Files, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    part, text = refusal(msgspec.structs.replace(files, ca=str(other.ca)))
    assert (part, "is not signed by an authority in" in text) == ("cert", True)


def test_an_authority_of_the_same_name_is_another_one(files: Files, tmp_path: Path) -> None:
    twin = Authority(tmp_path / "twin", "authority of the test")
    assert "is not signed by" in refusal(msgspec.structs.replace(files, ca=str(twin.ca)))[1]


def test_an_authority_is_no_node(ours: Authority, files: Files, tmp_path: Path) -> None:
    assert refusal(msgspec.structs.replace(files, ca=files.cert))[0] == "ca"


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_junk_and_what_is_missing_is_named(files: Files, tmp_path: Path, part: str) -> None:
    gone = msgspec.structs.replace(files, **{part: str(tmp_path / "gone")})
    assert refusal(gone) == (part, f"{tmp_path}/gone cannot be read: No such file or directory")
    assert "in PEM" in refusal(with_file(files, part, b"junk", tmp_path))[1]


def test_a_key_of_another_certificate_is_named(ours: Authority, files: Files, tmp_path: Path) -> None:
    changed = with_file(files, "key", ours.make("n1").key, tmp_path)
    part, text = refusal(changed)
    assert part == "key"
    assert "is not the key of" in text


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_passphrase(files: Files, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    assert "is encrypted" in refusal(with_file(files, "key", locked, tmp_path))[1]


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
def test_a_certificate_for_one_side_only_is_refused(
    ours: Authority, files: Files, tmp_path: Path, purpose: x509.ObjectIdentifier
) -> None:
    made = x509.load_pem_x509_certificate(Path(files.cert).read_bytes())
    key = serialization.load_pem_private_key(ours.pair.key, None)
    builder = x509.CertificateBuilder(made.issuer, made.subject, made.public_key(), made.serial_number)
    builder = builder.not_valid_before(made.not_valid_before_utc).not_valid_after(made.not_valid_after_utc)
    for extension in made.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        else:
            builder = builder.add_extension(extension.value, extension.critical)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]
    assert "must be for servers and clients alike" in refusal(with_file(files, "cert", pem, tmp_path))[1]


def test_the_time_is_judged_apart(ours: Authority) -> None:
    now = time.time()
    old = credentials.load(ours.files("n1", days=1, age_days=3), "n1")
    assert "has expired on" in old.trouble(now)
    early = credentials.load(ours.files("n1", age_days=-2), "n1")
    assert "is not valid before" in early.trouble(now)
    good = credentials.load(ours.files("n1", days=90), "n1")
    assert good.trouble(now) == ""
    assert "in 29 days" in good.trouble(now + 60.5 * DAY_S)


def test_a_certificate_ends_with_its_authority(tmp_path: Path) -> None:
    now = time.time()
    short = authority.new_authority("short", 5, now)
    pair = authority.issue(short, authority.Subject("n1"), 300, now)
    described = authority.describe(pair.cert)[0]
    assert abs(described.expires - now - 5 * DAY_S) < 60


def test_an_expired_authority_signs_nothing() -> None:
    now = time.time()
    old = authority.new_authority("old", 1, now - 3 * DAY_S)
    with pytest.raises(InvalidInput) as caught:
        authority.issue(old, authority.Subject("n1"), 1, now)
    assert caught.value.detail.startswith("the authority has expired on")


def test_every_key_and_serial_number_is_another(ours: Authority) -> None:
    pairs = [ours.make("n1") for _ in range(5)]
    assert len({pair.key for pair in pairs}) == 5
    assert len({authority.describe(pair.cert)[0].serial for pair in pairs}) == 5


def test_a_node_signs_nothing(ours: Authority) -> None:
    with pytest.raises(InvalidInput):
        authority.issue(ours.make("n1"), authority.Subject("n2"), 1, time.time())
