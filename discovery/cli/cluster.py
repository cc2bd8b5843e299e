"""``members``, ``leader`` and ``status``: the cluster as one of its nodes sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from discovery.cli import client, options, output
from discovery.cli.client import Client, Unreachable

PATH = client.API + "cluster"


@click.command()
@options.client
def members(as_json: bool, **connection: Any) -> None:
    """List the members of the cluster."""
    body = options.ask("GET", PATH, **connection).json()
    if as_json:
        output.show_json({"members": body["members"]})
        return
    rows = [
        (
            member["id"],
            member["role"],
            "yes" if member["alive"] else "no",
            member["raft"],
            member["http"],
            member["applied"],
            _last_contact(member),
        )
        for member in body["members"]
    ]
    click.echo(output.table(("MEMBER", "ROLE", "ALIVE", "RAFT", "HTTP", "APPLIED", "LAST CONTACT"), rows))


def _last_contact(member: Mapping[str, Any]) -> str | None:
    ago = member.get("last_contact_ms")
    return None if ago is None else f"{ago:g} ms ago"


@click.command()
@options.client
def leader(as_json: bool, **connection: Any) -> None:
    """Name the leader; exit code 1 when there is none."""
    body = options.ask("GET", PATH, **connection).json()
    if as_json:
        output.show_json({"leader": body["leader"], "term": body["term"]})
    elif body["leader"]:
        click.echo(body["leader"])
    if not body["leader"]:
        output.fail(f"{body['node']} knows no leader (term {body['term']})")


@click.command()
@options.client
def status(as_json: bool, servers: list[str], token: str, timeout_s: float) -> None:
    """Say whether a node is ready, and what is missing; exit code 1 when it is not."""
    with Client(servers, token, timeout_s) as node:
        try:
            ready = node.send("GET", "/readyz", pass_on=frozenset())  # the first that answers, ready or not
            cluster = output.checked(node.get(PATH)).json()
        except Unreachable as problem:
            output.fail(str(problem))
    if as_json:
        output.show_json({"ready": ready.ok, "missing": [] if ready.ok else ready.json().get("errors", []), **cluster})
    else:
        pairs = [(name, cluster[name]) for name in ("node", "leader", "term", "revision", "history")]
        alive = sum(bool(member["alive"]) for member in cluster["members"])
        pairs += [("members", f"{len(cluster['members'])}, {alive} alive"), ("ready", "yes" if ready.ok else "no")]
        click.echo(output.fields(pairs))
        if not ready.ok:
            click.echo(output.problem(ready), err=True)
    sys.exit(0 if ready.ok else 1)
