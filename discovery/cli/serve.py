"""``discovery serve``: flags for every option of the configuration, taken from its table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from discovery.config_schema import OPTIONS, Option
from discovery.errors import ConfigError

EPILOG = """\b
A single node on loopback, HTTP 8500, DNS 8600, Raft 8300:
  discovery serve

\b
The first of three nodes; the other two likewise, with the same list of peers:
  discovery serve --id n1 --data-dir /var/lib/discovery --raft 10.0.0.1:8300 \\
      --peer n1=10.0.0.1:8300 --peer n2=10.0.0.2:8300 --peer n3=10.0.0.3:8300 \\
      --raft-secret-file /etc/discovery/secret --http 10.0.0.1:8500 --http-insecure \\
      --dns 10.0.0.1:53

\b
Defaults < file (--config) < environment < flag. --dns-workers is the key dns.workers
of the file and the variable DISCOVERY_DNS_WORKERS; lists by comma in variables.
Prints `ready id=… http=… dns=… raft=…` once it serves. SIGTERM drains and ends it."""


def _flag(option: Option) -> click.Option:
    """The flag of one option. Values stay text: :mod:`discovery.config` parses all layers alike."""
    if option.kind == "boolean":
        return click.Option([*option.flags, option.name], is_flag=True, default=None, help=option.help)
    metavar = {"table": "ID=HOST:PORT", "integer": "N"}.get(option.kind, "TEXT")
    return click.Option(
        [*option.flags, option.name], multiple=option.kind in ("list", "table"), metavar=metavar, help=option.help
    )


def _serve(config: Path | None, **flags: Any) -> None:
    """Run a node: HTTP API, DNS server and a member of the Raft cluster."""
    from discovery import supervisor  # not at the head: the client commands start without it
    from discovery.config import load

    try:
        loaded = load(config, os.environ, flags)
    except ConfigError as problem:
        click.echo(f"discovery serve: {problem.detail}", err=True)
        sys.exit(2)
    sys.exit(supervisor.serve(loaded))


serve = click.Command(
    "serve",
    callback=_serve,
    help=_serve.__doc__,
    epilog=EPILOG,
    params=[
        click.Option(["--config"], type=click.Path(path_type=Path), metavar="FILE", help="TOML file of options"),
        *map(_flag, OPTIONS),
    ],
)
