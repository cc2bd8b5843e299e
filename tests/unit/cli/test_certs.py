"""``discovery certs``: files that fit, modes, nothing overwritten, and mistakes that are said."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from discovery import credentials
from discovery.cli.root import group
from discovery.testing.certificates import Authority


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "certs"


def run(folder: Path, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(group, ["certs", *words, *(() if words[0] == "show" else ("--dir", str(folder)))])
    assert result.exit_code == code, result.output
    return result.output


def files_of(folder: Path, node: str) -> credentials.Files:
    return credentials.Files(str(folder / f"{node}.pem"), str(folder / f"{node}-key.pem"), str(folder / "ca.pem"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def made(folder: Path) -> Path:
    run(folder, "init", "--name", "ours")
    run(folder, "issue", "n1", "--address", "10.0.0.1", "--address", "fd00::1", "--dns-name", "Host1.example.net")
    return folder


def test_what_is_made_fits_the_node_and_no_other(made: Path) -> None:
    loaded = credentials.load(files_of(made, "n1"), "n1")
    assert 364 < (loaded.expires - time.time()) / 86400 <= 365
    assert "is good for node n1 for 36" in run(made, "verify", "n1")
    with pytest.raises(credentials.Unfit, match="is not for node n2"):
        credentials.load(files_of(made, "n1"), "n2")


def test_keys_are_for_their_owner_alone(made: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "n1.pem": 0o644, "n1-key.pem": 0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_show_says_for_whom_by_whom_and_until_when(made: Path) -> None:
    shown = run(made, "show", str(made / "n1.pem"), str(made / "ca.pem"))
    for line in ("kind       node", "issuer     CN=ours", "names      n1, host1.example.net", "kind       authority"):
        assert line in shown
    assert "addresses  10.0.0.1, fd00::1" in shown
    assert "(in 364 days)" in shown
    told = json.loads(run(made, "show", str(made / "n1.pem"), "--json"))[0]
    assert (told["names"], told["authority"]) == (["n1", "host1.example.net"], False)


@pytest.mark.parametrize("words", [("init",), ("issue", "n1")], ids=["init", "issue"])
def test_nothing_is_overwritten(made: Path, words: tuple[str, ...]) -> None:
    before = contents(made)
    assert "-key.pem exists, and nothing is overwritten" in run(made, *words, code=1)
    assert contents(made) == before


def test_half_a_pair_is_not_left_behind(made: Path) -> None:
    (made / "n2.pem").write_text("of somebody else")
    before = contents(made)
    assert "n2.pem exists" in run(made, "issue", "n2", code=1)
    assert contents(made) == before


def test_a_renewal_keeps_names_changes_the_key_and_keeps_what_it_replaced(made: Path) -> None:
    before = contents(made)
    assert "the one before is" in run(made, "renew", "n1", "--days", "20")
    credentials.load(files_of(made, "n1"), "n1")
    assert "names      n1, host1.example.net" in run(made, "show", str(made / "n1.pem"))
    after = contents(made)
    assert after["n1-key.pem"] != before["n1-key.pem"]
    kept = set(after) - set(before)
    assert sorted(after[name] for name in kept) == sorted(before[name] for name in ("n1.pem", "n1-key.pem"))
    assert all(name.startswith("n1-") for name in kept)
    assert stat.S_IMODE((made / "n1-key.pem").stat().st_mode) == 0o600
    run(made, "renew", "n1")
    assert len(contents(made)) == len(after) + 2


def test_what_ends_soon_has_ended_or_is_anothers_does_not_verify(made: Path, tmp_path: Path) -> None:
    run(made, "issue", "n2", "--days", "20")
    assert "for node n2 for 19 days" in run(made, "verify", "n2", "--within", "19")
    assert "expires in 19 days" in run(made, "verify", "n2", "--within", "20", code=1)
    old = Authority(tmp_path / "old").files("n1", days=1, age_days=3)
    shown = run(made, "verify", "n1", "--cert", old.cert, "--key", old.key, "--ca", old.ca, code=1)
    assert "has expired on" in shown
    assert "is not signed by an authority in" in run(made, "verify", "n1", "--ca", old.ca, code=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("issue", "N_1"), "a node id is a DNS label"),
        (("issue", "n2", "--dns-name", "n1"), "a name without a dot would let n2 pass as the node 'n1'"),
        (("issue", "n2", "--dns-name", "*.example.net"), "a host name is DNS labels joined by dots"),
        (("issue", "n2", "--address", "10.0.0"), "an address is IPv4 or IPv6 (got '10.0.0')"),
        (("issue", "n2", "--days", "0"), "days must be 1..36500 (got 0)"),
        (("init", "--name", ""), "the name of an authority must have 1..64"),
    ],
)
def test_a_mistake_is_said_and_nothing_is_made(made: Path, words: tuple[str, ...], message: str) -> None:
    before = contents(made)
    assert message in run(made, *words, code=2)
    assert contents(made) == before


def test_without_an_authority_the_way_to_one_is_said(folder: Path) -> None:
    assert f"make one with `discovery certs init --dir {folder}`" in run(folder, "issue", "n1", code=2)


def test_files_that_are_none_are_named(made: Path, tmp_path: Path) -> None:
    assert "n1-key.pem holds no certificate in PEM" in run(made, "show", str(made / "n1-key.pem"), code=2)
    assert "n7.pem: No such file or directory" in run(made, "renew", "n7", code=1)
    (made / "n8.pem").write_bytes((made / "n1.pem").read_bytes())
    assert "is not the certificate of node n8 but of n1" in run(made, "renew", "n8", code=2)
    (made / "ca-key.pem").write_bytes(Authority(tmp_path / "other").pair.key)
    assert "the key of the authority is not the one of its certificate" in run(made, "issue", "n2", code=2)


def test_no_other_command_pays_for_the_library() -> None:
    code = "import sys, discovery.cli.root, discovery.node; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0


def helped(*words: str) -> Any:
    return CliRunner().invoke(group, ["certs", *words, "--help"])


@pytest.mark.parametrize("command", ["init", "issue", "renew", "show", "verify"])
def test_every_command_explains_itself(command: str) -> None:
    assert command in helped().output
    assert helped(command).exit_code == 0
