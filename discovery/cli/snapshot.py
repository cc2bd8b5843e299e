"""``snapshot save | restore | inspect``: the whole state as a file, back into a new cluster, and what is in a file."""

from __future__ import annotations

import contextlib
import http.client
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from discovery.cli import client, options, output
from discovery.cli.client import Answer, Client, Unreachable
from discovery.errors import CorruptData
from discovery.store import backup
from discovery.store.backup import Header

PATH: Final = client.API + "snapshot"
BLOCK_BYTES: Final = 256 * 1024

file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group(
    epilog="""\b
Examples:
  discovery snapshot save before-upgrade.snapshot
  discovery snapshot save last.snapshot --stale --server http://10.0.0.2:8500     (no leader)
  discovery snapshot inspect before-upgrade.snapshot
  discovery snapshot restore before-upgrade.snapshot     (into a new, empty cluster)"""
)
def snapshot() -> None:
    """Back up the whole state, put it back, look into a file."""


class LocalError(Exception):
    """The file cannot be written here, whatever the server sends."""


@snapshot.command("save")
@file_argument
@click.option("--stale", is_flag=True, help="Take what the node has; needed when there is no leader")
@options.client
def save(file: Path, stale: bool, as_json: bool, servers: list[str], token: str, timeout_s: float) -> None:
    """Write the cluster's state to FILE: whole, checked and on the disk, or not at all."""
    query = {"consistency": None if stale else "strong"}
    part = file.with_name(file.name + ".part")
    taken: list[Header] = []

    def take(response: http.client.HTTPResponse) -> bytes:
        taken[:] = [_write(part, response)]
        return b""

    try:
        with Client(servers, token, timeout_s) as node:
            answer = node.send("GET", client.with_query(PATH, query), take=take)
        output.checked(answer)
        with _local(file):
            _publish(part, file)
    except (Unreachable, LocalError, CorruptData) as problem:
        output.fail(str(problem))
    finally:
        part.unlink(missing_ok=True)
    _show(file, taken[0], as_json)


def _write(part: Path, response: http.client.HTTPResponse) -> Header:
    reader = backup.Reader()
    with _local(part):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while data := response.read(BLOCK_BYTES):
            reader.push(data)
            with _local(part):
                file.write(data)
        header = reader.finish()
        with _local(part):
            file.flush()
            os.fsync(file.fileno())
    return header


def _publish(part: Path, file: Path) -> None:
    part.rename(file)
    descriptor = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _local(file: Path) -> Iterator[None]:
    """Tell errors of this machine's files from those of the connection."""
    try:
        yield
    except OSError as problem:
        raise LocalError(f"{file}: {problem.strerror or problem}") from problem


@snapshot.command("restore")
@file_argument
@options.client
def restore(file: Path, as_json: bool, servers: list[str], token: str, timeout_s: float) -> None:
    """Make FILE the state of a new, empty cluster: under a new history, every revision above those of before."""
    header = _checked(file)
    try:
        with _local(file):
            source = file.open("rb")
        with source, Client(servers, token, timeout_s) as node:
            answer = _send(node, source)
    except (Unreachable, LocalError) as problem:
        output.fail(str(problem))
    body = output.checked(answer).json()
    if as_json:
        output.show_json(body)
        return
    click.echo(
        f"restored revision {header.revision} of history {header.history}; "
        f"the cluster goes on at revision {body['revision']} of history {body['history']}"
    )


def _send(node: Client, source: Any) -> Answer:
    size = os.fstat(source.fileno()).st_size
    headers = {"Content-Length": str(size), "Idempotency-Key": uuid.uuid4().hex}
    return node.send("PUT", PATH, source, headers)


@snapshot.command("inspect")
@file_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
def inspect(file: Path, as_json: bool) -> None:
    """Say what FILE holds, after its checksum was found right; asks no server."""
    _show(file, _checked(file), as_json)


def _checked(file: Path) -> Header:
    """The header of a file that was read whole, or the end of the program."""
    reader = backup.Reader()
    try:
        with _local(file), file.open("rb") as source:
            while data := source.read(BLOCK_BYTES):
                reader.push(data)
        return reader.finish()
    except (LocalError, CorruptData) as problem:
        text = str(problem)
        output.fail(text if text.startswith(str(file)) else f"{file}: {text}")


def _show(file: Path, header: Header, as_json: bool) -> None:
    size = file.stat().st_size
    if as_json:
        output.show_json({"file": str(file), "bytes": size, "format": backup.FORMAT, **msgspec.to_builtins(header)})
        return
    pairs: list[tuple[str, object]] = [
        ("file", f"{file}, {size:,} bytes, checksum right"),
        ("format", f"{backup.FORMAT}, written by {header.node} with version {header.version}"),
        ("taken", output.moment(header.time_ms / 1000)),
        ("zone", header.zone),
        ("history", header.history),
        ("revision", header.revision),
        ("serial", header.serial),
    ]
    click.echo(output.fields(pairs + [(name, count) for name, count in header.counts.items()]))
