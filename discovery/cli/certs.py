"""``certs init | issue | renew | show | verify``: a small authority for one cluster, and a certificate for each node.

Everything lies in one folder: ``ca.pem`` and ``ca-key.pem``, ``NODE.pem`` and ``NODE-key.pem``. Keys are mode 0600. No
file is ever overwritten: what a renewal replaces stays under a name with its serial number.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from discovery.cli import output
from discovery.errors import InvalidInput

if TYPE_CHECKING:
    from discovery.authority import Description, Pair, Subject

FOLDER: Final = "discovery-certs"
_DAY_S: Final = 24 * 3600


def _folder(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=FOLDER, show_default=True,
        metavar="DIR", help="Where authority and certificates lie",
    )(command)  # fmt: skip


def _days(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--days", type=int, default=default, show_default=True, metavar="N", help="How long it is valid"
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON")


@click.group(
    epilog="""\b
An authority, once; then a certificate for each node. Keep ca-key.pem away from the nodes:
  discovery certs init
  discovery certs issue n1 --address 10.0.0.1
  discovery certs issue n2 --address 10.0.0.2 --dns-name host2.example.net

\b
Bring n1.pem, n1-key.pem and ca.pem to the host of n1, and start it there with
  discovery serve --id n1 --tls-cert n1.pem --tls-key n1-key.pem --tls-ca ca.pem ...

\b
Before a certificate ends; the running node takes up the new files by itself:
  discovery certs verify n1 --within 30
  discovery certs renew n1
  discovery certs show discovery-certs/n1.pem"""
)
def certs() -> None:
    """Make the certificates with which nodes prove to each other who they are."""


class Files:
    """The files of one name in the folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.cert = folder / f"{name}.pem"
        self.key = folder / f"{name}-key.pem"

    def read(self) -> Pair:
        """Certificate and key. Raises OSError."""
        from discovery.authority import Pair

        return Pair(self.cert.read_bytes(), self.key.read_bytes())


@certs.command()
@_folder
@click.option("--name", default="discovery cluster", show_default=True, help="What the authority is called")
@_days(3650)
def init(folder: Path, name: str, days: int) -> None:
    """Make an authority for a cluster: ca.pem for every node, ca-key.pem to keep safe."""
    from discovery import authority

    with _problems():
        pair = authority.new_authority(name, days, time.time())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = Files(folder, "ca")
        _create(files, pair)
    click.echo(f"{files.cert} is the authority, for every node; whoever has {files.key} can let nodes in: keep it safe")


@certs.command()
@click.argument("node")
@_folder
@click.option("--dns-name", "names", multiple=True, metavar="NAME", help="Host name of the node (repeat)")
@click.option("--address", "addresses", multiple=True, metavar="IP", help="IP address of the node (repeat)")
@_days(365)
def issue(node: str, folder: Path, names: tuple[str, ...], addresses: tuple[str, ...], days: int) -> None:
    """Make key and certificate for the node NODE, which is its id.

    Peers check the id alone; names and addresses are for other programs that connect to its host.
    """
    from discovery.authority import Subject

    with _problems():
        pair = _issued(folder, Subject(node, names, addresses), days)
        files = Files(folder, node)
        _create(files, pair)
    _tell(files, pair)


@certs.command()
@click.argument("node")
@_folder
@_days(365)
def renew(node: str, folder: Path, days: int) -> None:
    """Make a new key and certificate for NODE with the names and addresses of the one before, which is kept aside."""
    from discovery import authority

    with _problems():
        files = Files(folder, node)
        before = files.cert.read_bytes()
        with _about(files.cert):
            subject = authority.subject_of(before, node)
            serial = authority.describe(before)[0].serial
        pair = _issued(folder, subject, days)
        aside = Files(folder, f"{node}-{serial[:16]}")
        _replace(files, pair, aside)
    _tell(files, pair)
    click.echo(f"the one before is {aside.cert} with {aside.key}")


@certs.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@json_option
def show(files: tuple[Path, ...], as_json: bool) -> None:
    """Say what the certificates in FILES are: for whom, by whom, until when."""
    from discovery import authority

    found: list[tuple[Path, Description]] = []
    for file in files:
        with _problems(), _about(file):
            found += [(file, one) for one in authority.describe(file.read_bytes())]
    if as_json:
        output.show_json([{"file": str(file), **msgspec.to_builtins(one)} for file, one in found])
        return
    click.echo("\n\n".join(_shown(file, one) for file, one in found))


@certs.command()
@click.argument("node")
@_folder
@click.option("--cert", type=click.Path(path_type=Path), metavar="FILE", help="Its certificate  [DIR/NODE.pem]")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Its key  [DIR/NODE-key.pem]")
@click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="The authorities  [DIR/ca.pem]")
@click.option("--within", "within_days", type=int, default=0, metavar="N", help="Fail when it ends within N days")
def verify(node: str, folder: Path, cert: Path | None, key: Path | None, ca: Path | None, within_days: int) -> None:
    """Judge the files of NODE as the node itself and its peers do; exit code 1 when they would refuse them."""
    from discovery import credentials

    files = Files(folder, node)
    paths = credentials.Files(str(cert or files.cert), str(key or files.key), str(ca or folder / "ca.pem"))
    try:
        loaded = credentials.load(paths, node)
    except credentials.Unfit as problem:
        output.fail(str(problem))
    now = time.time()
    if not loaded.begins <= now < loaded.expires:
        output.fail(f"{paths.cert} {loaded.trouble(now)}")
    days = int((loaded.expires - now) / _DAY_S)
    if days < within_days:
        output.fail(f"{paths.cert} expires in {days} days, on {credentials.moment(loaded.expires)}")
    click.echo(f"{paths.cert} is good for node {node} for {days} days, until {credentials.moment(loaded.expires)}")


def _issued(folder: Path, subject: Subject, days: int) -> Pair:
    from discovery import authority

    files = Files(folder, "ca")
    if not files.cert.exists() and not files.key.exists():
        raise InvalidInput(f"{folder} holds no authority: make one with `discovery certs init --dir {folder}`")
    return authority.issue(files.read(), subject, days, time.time())


def _create(files: Files, pair: Pair) -> None:
    """Write both, or neither. Raises OSError: one of them exists, or cannot be written."""
    _write(files.key, pair.key, 0o600)
    try:
        _write(files.cert, pair.cert, 0o644)
    except OSError:
        files.key.unlink()
        raise
    _sync(files.cert.parent)


def _replace(files: Files, pair: Pair, aside: Files) -> None:
    """Put a pair in the place of one, which gets other names first: at no moment is a file missing or unfinished."""
    parts = Files(files.cert.parent, f".{files.cert.stem}-{os.getpid()}")
    _create(parts, pair)
    try:
        os.link(files.cert, aside.cert)  # its name is unique, like its serial number
        os.link(files.key, aside.key)
        parts.key.rename(files.key)
        parts.cert.rename(files.cert)
    finally:
        parts.key.unlink(missing_ok=True)
        parts.cert.unlink(missing_ok=True)
    _sync(files.cert.parent)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        except OSError:
            path.unlink()
            raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """What can go wrong ends the program with a sentence: 2 for what was asked for, 1 for the files of this machine."""
    try:
        yield
    except InvalidInput as problem:
        click.echo(f"discovery certs: {problem.detail}", err=True)
        raise SystemExit(2) from problem
    except FileExistsError as problem:
        output.fail(f"{problem.filename2 or problem.filename} exists, and nothing is overwritten")
    except OSError as problem:
        output.fail(f"{problem.filename}: {problem.strerror}")


@contextlib.contextmanager
def _about(file: Path) -> Iterator[None]:
    try:
        yield
    except InvalidInput as problem:
        raise InvalidInput(f"{file} {problem.detail}") from problem


def _tell(files: Files, pair: Pair) -> None:
    from discovery import authority

    made = authority.describe(pair.cert)[0]
    for_whom = ", ".join((*made.names, *made.addresses))
    click.echo(f"{files.cert} with {files.key} is for {for_whom}, until {output.moment(made.expires)}")


def _shown(file: Path, one: Description) -> str:
    days = int((one.expires - time.time()) // _DAY_S)
    left = f"in {days} days" if days >= 0 else "expired"
    return output.fields(
        [
            ("file", file),
            ("kind", "authority" if one.authority else "node"),
            ("subject", one.subject),
            ("issuer", one.issuer),
            ("names", ", ".join(one.names)),
            ("addresses", ", ".join(one.addresses)),
            ("from", output.moment(one.begins)),
            ("until", f"{output.moment(one.expires)} ({left})"),
            ("serial", one.serial),
            ("sha256", one.sha256),
        ]
    )
