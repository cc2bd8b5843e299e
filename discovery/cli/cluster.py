"""``members``, ``leader`` and ``status``: the cluster as one of its nodes sees it, and how it is changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from discovery.cli import client, options, output
from discovery.cli.client import Client, Unreachable

PATH: Final = client.API + "cluster"
LOOK_S: Final = 0.2


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  discovery members
  discovery members add n4 --raft 10.0.0.4:8300 --http http://10.0.0.4:8500
  discovery members remove n2
To replace a node whose disk was lost: remove it, start it on an empty data directory
with the same id and --peer for the others, add it.""",
)
@options.client
@click.pass_context
def members(context: click.Context, /, as_json: bool, **connection: Any) -> None:
    """List the members of the cluster; add or remove one."""
    if context.invoked_subcommand is None:
        _list(as_json, connection)


@members.command()
@click.argument("id")
@click.option("--raft", required=True, metavar="HOST:PORT", help="Where its Raft port is, for the others")
@click.option("--http", default="", metavar="URL", help="Where its API is")
@click.option(
    "--wait", "wait_s", type=options.Duration(), default=60.0, show_default=True, metavar="S",
    help="How long to wait until it votes; 0: not at all",
)  # fmt: skip
@options.client
def add(id: str, raft: str, http: str, wait_s: float, as_json: bool, **connection: Any) -> None:
    """Add a node. It learns all there is first, and then votes; adding it costs no quorum.

    Start the node on an empty data directory with --peer for the members there are: it waits until it is added.
    """
    body = options.ask("POST", f"{PATH}/members", {"id": id, "raft": raft, "http": http}, **connection).json()
    deadline = time.monotonic() + wait_s
    while _role(body, id) in (None, "learner") and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        body = options.ask("GET", PATH, **connection).json()
    if as_json:
        output.show_json({"members": body["members"]})
    elif _role(body, id) in (None, "learner"):
        click.echo(f"{id} is added; it votes once it is started, connected and has caught up")
    else:
        click.echo(f"{id} is a member and votes")
    if wait_s and _role(body, id) in (None, "learner"):
        sys.exit(1)


def _role(body: Mapping[str, Any], id: str) -> str | None:
    return next((str(member["role"]) for member in body["members"] if member["id"] == id), None)


@members.command()
@click.argument("id")
@options.client
def remove(id: str, as_json: bool, **connection: Any) -> None:
    """Remove a node; one that leads hands its leadership over first.

    Its data directory may not be used again before it was emptied.
    """
    options.ask("DELETE", client.path("cluster", "members", id), **connection)
    if as_json:
        output.show_json({"removed": id})
    else:
        click.echo(f"{id} is no member any more")


def _list(as_json: bool, connection: Mapping[str, Any]) -> None:
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
            member.get("version"),
            member.get("level"),
        )
        for member in body["members"]
    ]
    click.echo(
        output.table(("MEMBER", "ROLE", "ALIVE", "RAFT", "HTTP", "APPLIED", "LAST CONTACT", "VERSION", "LEVEL"), rows)
    )


def _level(cluster: Mapping[str, Any]) -> str | None:
    """The feature level in force, and who holds a higher one up."""
    level, members = cluster.get("level"), cluster["members"]
    highest = max((member.get("level") or 0 for member in members), default=0)
    if level is None or level >= highest:
        return None if level is None else str(level)
    held = [str(member["id"]) for member in members if (member.get("level") or 0) < highest]
    return f"{level}; {highest} once all know it" + (f", not yet: {', '.join(held)}" if held else "")


def _restarts(child: Mapping[str, Any]) -> str:
    """How often a process was started, and whether the next start waits because it ends again and again."""
    held = f"; it ends again and again: next start held back for {child['held']:g} s" if child["held"] else ""
    return f"started {child['starts']} times{held}"


def _last_contact(member: Mapping[str, Any]) -> str | None:
    ago = member.get("last_contact_ms")
    return None if ago is None else f"{ago:g} ms ago"


@click.command()
@click.option("--to", metavar="ID", help="Hand leadership to this member first")
@options.client
def leader(to: str | None, as_json: bool, **connection: Any) -> None:
    """Name the leader, or hand leadership over; exit code 1 when there is none."""
    if to is None:
        body = options.ask("GET", PATH, **connection).json()
    else:
        body = options.ask("POST", f"{PATH}/leader", {"to": to}, **connection).json()
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
        pairs += [("level", _level(cluster)), ("members", f"{len(cluster['members'])}, {alive} alive")]
        pairs += [("ready", "yes" if ready.ok else "no")]
        told = [(member["id"], member.get("problem")) for member in cluster["members"]]
        pairs += [(f"{node} cannot write", problem) for node, problem in told if problem]
        again = [one for one in cluster.get("processes", ()) if one["starts"] > 1 or one["held"]]
        pairs += [(one["name"], _restarts(one)) for one in again]
        if braked := cluster.get("braked"):
            pairs += [("held back", f"{braked} expired leases, by the brake of their services (discovery services)")]
        click.echo(output.fields(pairs))
        if not ready.ok:
            click.echo(output.problem(ready), err=True)
    sys.exit(0 if ready.ok else 1)
