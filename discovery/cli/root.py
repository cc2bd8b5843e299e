"""The group of all commands.

Exit codes: 0 fine, 1 failed, 2 usage or configuration. Commands are told apart from mistakes by click, which exits
with 2; what a server refuses is shown by :mod:`discovery.cli.output` and exits with 1.
"""

from __future__ import annotations

import click

from discovery import __version__
from discovery.cli import catalogue, certs, cluster, drill, instance, kv, run, serve, snapshot, upgrade

EPILOG = """\b
Try it:
  discovery serve                                         a single node on loopback
  discovery run web --address 127.0.0.1 --port http=8080 -- python3 -m http.server 8080
  discovery instances web
  dig @127.0.0.1 -p 8600 web.default.svc.cluster.local +short

\b
Client commands ask http://127.0.0.1:8500 unless --server or DISCOVERY_SERVER names
others (several: tried in turn). --json prints the server's answer for programs.
Exit codes: 0 fine, 1 failed, 2 usage or configuration."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="discovery", message="%(prog)s %(version)s")
def group() -> None:
    """Find services by name: register over HTTP with a lease, look up by DNS."""


for command in (
    serve.serve,
    run.run,
    instance.register,
    instance.deregister,
    instance.heartbeat,
    catalogue.services,
    catalogue.instances,
    catalogue.resolve,
    catalogue.events,
    kv.kv,
    cluster.members,
    cluster.leader,
    cluster.status,
    drill.drill,
    snapshot.snapshot,
    upgrade.upgrade,
    certs.certs,
):
    group.add_command(command)
