"""``discovery run``: a command that is registered while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click

from discovery import validate
from discovery.cli import instance, options
from discovery.cli.child import ENDING, CannotStart, Child
from discovery.cli.client import Client
from discovery.cli.keeper import LEAVE_S_MAX, Keeper, Registration
from discovery.model import Instance, Port

LEAVING_S_MAX: Final = 3 * LEAVE_S_MAX  # no server answers: the signal must not wait for ever
POLL_S: Final = 0.02  # while leaving only
FOREVER_S: Final = 3600.0


@click.command(
    epilog="""\b
Examples:
  discovery run web --address 10.0.0.7 --port http=8080 -- python3 -m http.server 8080
  discovery run web --address 10.0.0.7 --port http=8080 --ttl 5 --drain 10 \\
      --server http://10.0.0.1:8500 --server http://10.0.0.2:8500 -- /usr/bin/web-server

\b
CMD starts at once, also when no server answers yet. SIGTERM and SIGINT take the
instance out of DNS first and are passed on then; other signals are passed on as they
are. Ends with the exit code of CMD, 128+n when signal n killed it; 127: no such program.""",
)
@click.argument("service")
@instance.registration
@click.option("--ttl", type=options.Duration(), metavar="S", help="Lease; a heartbeat is sent every third of it  [15]")
@click.option(
    "--drain",
    "drain_s",
    type=options.Duration(),
    default=0,
    metavar="S",
    help="Pause between leaving DNS and passing SIGTERM on, for clients with old answers  [0]",
)
@options.servers
@click.argument("command", nargs=-1, required=True, metavar="-- CMD [ARG…]", type=click.UNPROCESSED)
def run(
    service: str, command: Sequence[str], namespace: str, instance_id: str | None, ttl: float | None, drain_s: float,
    servers: Sequence[str], token: str, **given: Any,
) -> None:  # fmt: skip
    """Run CMD, registered as an instance of SERVICE while it runs."""
    name = instance_id or instance.default_id(given["ports"])
    _check(service, namespace, name, ttl, given)
    try:
        child = Child(command)
    except CannotStart as problem:
        _say(str(problem))
        sys.exit(problem.code)
    path = instance.instance_path(namespace, service, name)
    registration = Registration(Client(servers, token), path, instance.body(**given), ttl, _say)
    keeper = Keeper(registration, drain_s)
    keeper.start()
    sys.exit(_supervise(child, keeper, LEAVING_S_MAX + drain_s))


def _check(service: str, namespace: str, name: str, ttl: float | None, given: dict[str, Any]) -> None:
    """Refuse before CMD starts what every server would refuse. Raises :class:`click.UsageError`."""
    spec = Instance(
        namespace.lower(),
        service.lower(),
        name,
        tuple(map(validate.canonical_address, given["addresses"])),
        tuple(Port(port.get("name", "").lower() or None, port["port"], port["protocol"]) for port in given["ports"]),
    )
    faults = validate.instance(spec) + ([] if ttl is None else validate.ttl(round(ttl * 1000)))
    if faults:
        raise click.UsageError(validate.summary(faults))


def _supervise(child: Child, keeper: Keeper, leaving_s_max: float) -> int:
    """Wait for CMD and for signals. Returns the exit code.

    A signal that ends CMD is held back until the instance has left, or could not in time; a second one is not.
    """
    held: int | None = None
    deadline = 0.0
    while child.exit_code is None:
        event = child.wait(FOREVER_S if held is None else POLL_S)
        if event is not None:
            number, had_it = event
            first = number in ENDING and held is None and deadline == 0.0
            keeper.leave(hurry=had_it or not first) if number in ENDING else None
            if first and not had_it:
                held, deadline = number, time.monotonic() + leaving_s_max
            elif not had_it:
                child.send(number)
        if held is not None and (keeper.left.is_set() or time.monotonic() >= deadline):
            child.send(held)
            held = None
    keeper.leave(hurry=True)
    keeper.left.wait(LEAVING_S_MAX)
    return child.exit_code


def _say(text: str) -> None:
    click.echo(f"discovery run: {text}", err=True)
