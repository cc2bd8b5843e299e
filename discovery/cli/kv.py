"""``kv get | put | delete | list``: the public keys."""

from __future__ import annotations

import base64
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import click

from discovery import limits
from discovery.cli import client, options, output

_TOO_MANY: Final = 413


@click.group(
    epilog="""\b
Examples:
  discovery kv put config/color blue
  discovery kv put config/logo --file logo.png --if-revision 0     (only if it is new)
  discovery kv get config/color
  discovery kv list config/
  discovery kv delete config/ --prefix"""
)
def kv() -> None:
    """Read and write keys."""


def key_path(key: str) -> str:
    """The path of a key: its slashes stay, everything else that is not plain is percent-encoded."""
    return f"{client.API}kv/{quote(key, safe='/')}"


@kv.command("get")
@click.argument("key")
@options.strong
@options.client
def get(key: str, strong: bool, as_json: bool, **connection: Any) -> None:
    """Write the value of KEY to stdout as it is; --json adds revision, version and lease."""
    query = {"consistency": "strong" if strong else None}
    answer = options.ask("GET", client.with_query(key_path(key), query), **connection)
    if not as_json:
        click.echo(answer.body, nl=False)
        return
    names = ("revision", "create_revision", "version")
    found: dict[str, object] = {"key": key, "value_base64": base64.b64encode(answer.body).decode()}
    found |= {name: int(answer.headers[f"x-key-{name.replace('_', '-')}"]) for name in names}
    output.show_json(found | {"lease": answer.headers.get("x-key-lease") or None})


@kv.command("put")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "source", type=click.File("rb"), metavar="FILE", help="Take the value from FILE, - for stdin")
@click.option("--lease", metavar="ID", help="The key goes when this lease goes")
@options.if_revision
@options.client
def put(
    key: str, value: str | None, source: BinaryIO | None, lease: str | None, if_revision: int | None, as_json: bool,
    **connection: Any,
) -> None:  # fmt: skip
    """Set KEY to VALUE, or to the bytes of --file."""
    if (value is None) == (source is None):
        raise click.UsageError("give a VALUE or --file")
    data: bytes = source.read() if source is not None else (value or "").encode()
    path = client.with_query(key_path(key), {"lease": lease, "if_revision": if_revision})
    body = options.ask("PUT", path, data, **connection).json()
    output.show_json(body) if as_json else click.echo(f"revision {body['revision']}")


@kv.command("delete")
@click.argument("key")
@click.option("--prefix", is_flag=True, help="Delete every key that begins with KEY")
@options.if_revision
@options.client
def delete(key: str, prefix: bool, if_revision: int | None, as_json: bool, **connection: Any) -> None:
    """Delete KEY; fine when it was absent. Very many keys under a prefix go in several steps."""
    query = {"prefix": "true" if prefix else None, "if_revision": if_revision}
    answer = options.ask("DELETE", client.with_query(key_path(key), query), **connection, also=_TOO_MANY)
    body = _delete_in_steps(key, connection) if answer.status == _TOO_MANY else answer.json()
    output.show_json(body) if as_json else click.echo(f"deleted {body['deleted']}, revision {body['revision']}")


def _delete_in_steps(prefix: str, connection: dict[str, Any]) -> dict[str, Any]:
    """Only when it was refused at once: servers of an older version know neither bound nor steps."""
    path = client.with_query(key_path(prefix), {"prefix": "true", "limit": limits.DELETIONS_PER_COMMAND_MAX})
    deleted, more, body = 0, True, {}
    while more:
        body = options.ask("DELETE", path, **connection).json()
        deleted, more = deleted + body["deleted"], body.pop("more")
    return body | {"deleted": deleted}


@kv.command("list")
@click.argument("prefix", default="")
@options.limit
@options.after
@options.strong
@options.client
def list_(prefix: str, limit: int | None, after: str | None, strong: bool, as_json: bool, **connection: Any) -> None:
    """List the keys that begin with PREFIX (all when not given)."""
    query = {"prefix": "true", "limit": limit, "after": after, "consistency": "strong" if strong else None}
    body = options.ask("GET", client.with_query(key_path(prefix), query), **connection).json()
    if as_json:
        output.show_json(body)
        return
    rows = [
        (item["key"], _shown(item["value_base64"]), item["revision"], item["version"], item["lease"])
        for item in body["items"]
    ]
    click.echo(output.table(("KEY", "VALUE", "REVISION", "VERSION", "LEASE"), rows))
    if body.get("next"):
        click.echo(f"there is more: --after {body['next']}", err=True)


def _shown(value_base64: str, chars_max: int = 60) -> str:
    """A value for a table: text when it is text, cut to a readable length."""
    data = base64.b64decode(value_base64)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"({len(data)} bytes)"
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
