"""``register``, ``deregister`` and ``heartbeat``: one request each about one instance.

:func:`registration` gives ``register`` and ``run`` the same options; :func:`body` makes the request's body of them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from discovery import limits
from discovery.cli import client, options, output
from discovery.model import STATUSES

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONAL: Final = ("hostname", "weight", "priority", "dns_ttl", "status")


def registration(command: Command) -> Command:
    """The options that describe an instance."""
    for option in reversed(
        (
            click.option("--address", "-a", "addresses", multiple=True, required=True, metavar="IP",
                         help="Address under which it is reached (repeat)"),
            click.option("--port", "-p", "ports", multiple=True, type=options.Port(), metavar="NAME=N",
                         help="Port: NAME=N, NAME=N/udp or N (repeat); a named one has an SRV record"),
            options.namespace,
            click.option("--id", "instance_id", metavar="ID", help="Instance id  [HOST-PORT, else HOST]"),
            click.option("--hostname", metavar="LABEL", help="Its own name below the service's"),
            click.option("--weight", type=int, metavar="N", help="SRV weight  [1]"),
            click.option("--priority", type=int, metavar="N", help="SRV priority  [0]"),
            click.option("--dns-ttl", type=options.Duration(), metavar="S", help="TTL of its records"),
            click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag (repeat)"),
            click.option("--meta", multiple=True, type=options.Pair(), metavar="KEY=VALUE", help="Metadata (repeat)"),
            click.option("--status", type=click.Choice(STATUSES), help="Only ready ones are answered by DNS  [ready]"),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def default_id(ports: Sequence[Mapping[str, Any]], host: str = "") -> str:
    """The id of an instance that was given none: host name and first port, so that a restart has it again."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", (host or socket.gethostname() or "host").split(".")[0]).strip("-").lower()
    suffix = f"-{ports[0]['port']}" if ports else ""
    return (name[: limits.LABEL_CHARS_MAX - len(suffix)] or "host") + suffix


def body(
    addresses: Sequence[str],
    ports: Sequence[Mapping[str, Any]],
    tags: Sequence[str],
    meta: Sequence[tuple[str, str]],
    **optional: object,
) -> dict[str, object]:
    """The body of a registration; what was not given is left to the server's defaults."""
    found: dict[str, object] = {"addresses": list(addresses), "ports": list(ports)}
    if tags:
        found["tags"] = list(tags)
    if meta:
        found["meta"] = dict(meta)
    found.update((name, optional[name]) for name in OPTIONAL if optional.get(name) is not None)
    return found


def instance_path(namespace: str, service: str, instance_id: str, *more: str) -> str:
    """The path of an instance, or of something below it."""
    return client.path("namespaces", namespace, "services", service, "instances", instance_id, *more)


@click.command(
    epilog="""\b
Examples:
  discovery register web --address 10.0.0.7 --port http=8080 --id web-0
  discovery register db --address 10.0.0.9 --port 5432 --ttl none      (stays until deregistered)

Without heartbeats it leaves when its TTL is over; `discovery run` sends them for you."""
)
@click.argument("service")
@registration
@click.option("--ttl", type=options.Duration(none=True), metavar="S", help="Lease, or none for ever  [15]")
@click.option("--join", metavar="LEASE", help="Join this lease instead of having one")
@options.lease
@options.if_revision
@options.visible
@options.client
def register(
    service: str, namespace: str, instance_id: str | None, ttl: float | str | None, join: str | None,
    lease: str | None, if_revision: int | None, visible: str, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Register an instance of SERVICE, or replace it."""
    connection = {name: given.pop(name) for name in ("servers", "token", "timeout_s")}
    content = body(**given)
    if ttl is not None:
        content["ttl"] = None if ttl == "none" else ttl
    if join is not None:
        content["lease"] = join
    path = instance_path(namespace, service, instance_id or default_id(given["ports"]))
    query = {"lease": lease, "if_revision": if_revision, "visible": _wide(visible)}
    answer = options.ask("PUT", client.with_query(path, query), content, **connection)
    output.show_json(answer.json()) if as_json else click.echo(describe(answer.json()))


def describe(instance: Mapping[str, Any]) -> str:
    """An instance as the API answers it, for people."""
    held = instance.get("lease") or {}
    lasting = f"{held['id']} ({held['ttl']:g} s)" if held else "none, permanent"
    return output.fields(
        (
            ("instance", f"{instance['namespace']}/{instance['service']}/{instance['id']}"),
            ("addresses", ",".join(instance["addresses"])),
            ("ports", output.ports(instance["ports"])),
            ("status", instance["status"]),
            ("lease", lasting),
            ("revision", instance["revision"]),
            ("dns", " ".join(instance.get("dns", ()))),
        )
    )


def _wide(visible: str) -> str | None:
    return "cluster" if visible == "cluster" else None


@click.command(
    epilog="""\b
Example:
  discovery deregister web web-0"""
)
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@options.namespace
@options.lease
@options.if_revision
@options.visible
@options.client
def deregister(
    service: str, instance_id: str, namespace: str, lease: str | None, if_revision: int | None, visible: str,
    as_json: bool, **connection: Any,
) -> None:  # fmt: skip
    """Remove the instance ID of SERVICE; fine when it was gone already."""
    query = {"lease": lease, "if_revision": if_revision, "visible": _wide(visible)}
    answer = options.ask(
        "DELETE", client.with_query(instance_path(namespace, service, instance_id), query), **connection
    )
    if as_json:
        output.show_json({"revision": int(answer.headers.get("x-registry-revision", "0"))})


@click.command(
    epilog="""\b
Example:
  discovery heartbeat web web-0 --lease 00a1b2c3d4e5f607"""
)
@click.argument("service")
@click.argument("instance_id", metavar="ID")
@options.namespace
@options.lease
@options.client
def heartbeat(
    service: str, instance_id: str, namespace: str, lease: str | None, as_json: bool, **connection: Any
) -> None:
    """Renew the lease of the instance ID of SERVICE."""
    path = client.with_query(instance_path(namespace, service, instance_id, "heartbeat"), {"lease": lease})
    answer = options.ask("PUT", path, **connection)
    body = answer.json()
    if as_json:
        output.show_json(body)
    else:
        click.echo("permanent, nothing to renew" if body["ttl"] is None else f"renewed for {body['ttl']:g} s")
