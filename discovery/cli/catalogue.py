"""``services``, ``instances``, ``resolve`` and ``events``: what there is, what DNS says, what happened."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from discovery.cli import client, options, output
from discovery.model import STATUSES


def _more(body: Mapping[str, Any]) -> None:
    """Say that a list goes on."""
    if body.get("next"):
        click.echo(f"there is more: --after {body['next']}", err=True)


@click.command()
@options.namespace
@options.limit
@options.after
@options.strong
@options.client
def services(
    namespace: str, limit: int | None, after: str | None, strong: bool, as_json: bool, **connection: Any
) -> None:
    """List the services of a namespace, with the number of their instances.

    HELD BACK: instances that have expired and that the brake of their service keeps (min_healthy).
    """
    query = {"limit": limit, "after": after, "consistency": "strong" if strong else None}
    path = client.with_query(client.path("namespaces", namespace, "services"), query)
    body = options.ask("GET", path, **connection).json()
    if as_json:
        output.show_json(body)
        return
    shown = body["services"]
    rows = [(one["name"], one["instances"], one["ready"], one.get("braked") or None) for one in shown]
    click.echo(output.table(("SERVICE", "INSTANCES", "READY", "HELD BACK"), rows))
    _more(body)


@click.command(
    epilog="""\b
Examples:
  discovery instances web --status ready --tag v2
  discovery instances            (of all services and namespaces)"""
)
@click.argument("service", required=False)
@options.namespace
@click.option("--status", type=click.Choice(STATUSES), help="Only those of this status")
@click.option("--tag", metavar="TAG", help="Only those with this tag")
@options.limit
@options.after
@options.strong
@options.client
def instances(
    service: str | None, namespace: str, status: str | None, tag: str | None, limit: int | None, after: str | None,
    strong: bool, as_json: bool, **connection: Any,
) -> None:  # fmt: skip
    """List the instances of SERVICE, or all there are."""
    query = {"status": status, "tag": tag, "limit": limit, "after": after}
    query["consistency"] = "strong" if strong else None
    path = (
        client.path("namespaces", namespace, "services", service, "instances") if service else client.API + "instances"
    )
    body = options.ask("GET", client.with_query(path, query), **connection).json()
    if as_json:
        output.show_json(body)
        return
    click.echo(
        output.table(("INSTANCE", "ADDRESSES", "PORTS", "STATUS", "LEASE", "LEFT"), map(_row, body["instances"]))
    )
    _more(body)


def _row(instance: Mapping[str, Any]) -> tuple[object, ...]:
    lease = instance.get("lease") or {}
    left = lease.get("remaining")
    return (
        f"{instance['namespace']}/{instance['service']}/{instance['id']}",
        ",".join(instance["addresses"]),
        output.ports(instance["ports"]),
        instance["status"],
        lease.get("id"),
        None if left is None else f"{left:.1f} s",
    )


@click.command(
    epilog="""\b
Examples:
  discovery resolve web.default.svc.cluster.local
  discovery resolve _http._tcp.web.default.svc.cluster.local SRV"""
)
@click.argument("name")
@click.argument("type", default="A")
@options.client
def resolve(name: str, type: str, as_json: bool, **connection: Any) -> None:
    """Ask a node what its DNS answers for NAME and TYPE (A when not given)."""
    path = client.with_query(client.API + "resolve", {"name": name, "type": type.upper()})
    body = options.ask("GET", path, **connection).json()
    if as_json:
        output.show_json(body)
    else:
        for answer in body["answers"]:
            click.echo(_record(answer))
        if body.get("stale"):
            click.echo("warning: stale, the node has lost its leader", err=True)
        if not body["answers"]:
            click.echo(f"{name} {type.upper()}: {body['rcode']}, no answer", err=True)
    if body["rcode"] != "NOERROR" or not body["answers"]:
        sys.exit(1)


def _record(answer: Mapping[str, Any]) -> str:
    """A record as in a zone file (RFC 1035 section 5.1)."""
    return f"{answer['name']} {answer['ttl']} IN {answer['type']} {answer['data']}"


@click.command(
    epilog="""\b
Example:
  discovery events --service web --since 41"""
)
@click.option("--namespace", "-n", metavar="NS", help="Only of this namespace")
@click.option("--service", metavar="SVC", help="Only of this service")
@click.option("--since", type=int, metavar="REV", help="Only after this revision")
@options.client
def events(namespace: str | None, service: str | None, since: int | None, as_json: bool, **connection: Any) -> None:
    """Show what happened to instances: registered, expired, drained and why."""
    query = {"namespace": namespace, "service": service, "since": since}
    body = options.ask("GET", client.with_query(client.API + "events", query), **connection).json()
    if as_json:
        output.show_json(body)
        return
    rows = [
        (
            event["revision"],
            output.moment(event["time"]),
            event["kind"],
            f"{event['namespace']}/{event['service']}/{event['id']}",
            output.moment(event["last_heartbeat"]),
            event["actor"],
            event["detail"],
        )
        for event in body["events"]
    ]
    click.echo(output.table(("REVISION", "TIME", "EVENT", "INSTANCE", "LAST HEARTBEAT", "ACTOR", "DETAIL"), rows))
