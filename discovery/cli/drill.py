"""``discovery drill``: rehearse failures on a running cluster. What it does stands in :mod:`discovery.drill`."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from discovery.cli import options, output
from discovery.cli.client import DEFAULT_SERVER

if TYPE_CHECKING:
    from discovery.drill.plan import Plan
    from discovery.drill.rehearsal import Chosen, Order
    from discovery.drill.report import Report

NAMES: Final = (
    "leader-kill", "leader-pause", "partition", "node-kill", "heartbeat-stop", "mass-expiry", "rolling-restart", "all",
)  # fmt: skip
MASS_MAX: Final = 20_000


@click.command(
    epilog="""\b
On the three nodes of `make run`, nodes are found and killed by themselves:
  discovery drill all --html drill.html

\b
On any other cluster, a file says how (docs/drill.md), with {id} for the node:
  [commands]
  kill  = "ssh {id} sudo systemctl kill -s KILL discovery"
  start = "ssh {id} sudo systemctl start discovery"
  discovery drill leader-kill node-kill --config drill.toml --server http://10.0.0.1:8500

\b
It writes only keys below drill/ and instances in the namespace drill, and removes them.
Ctrl-C and SIGTERM end it in order: nodes are brought back, the report holds what was measured.
Exit codes: 0 all passed; 1 one failed, the cluster was not fit, or called off; 2 usage.""",
)
@click.argument("scenarios", nargs=-1, required=True, type=click.Choice(NAMES), metavar="SCENARIO…")
@click.option("--config", "plan", type=click.Path(path_type=Path), metavar="FILE", help="How to kill and start nodes")
@click.option("--yes", is_flag=True, help="Do not ask before anything is killed")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as JSON")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as a page")
@click.option("--short", is_flag=True, help="Short waits, little load: all in less than a minute")
@click.option("--rounds", type=click.IntRange(1, 100), default=1, metavar="N", help="Kill or freeze so often  [1]")
@click.option("--mass", type=click.IntRange(1, MASS_MAX), metavar="N", help="Instances that die at once  [1000]")
@click.option("--write-gap", "write_gap_s", type=options.Duration(), metavar="S", help="Longest pause in writes")
@click.option("--dns-gap", "dns_gap_s", type=options.Duration(), metavar="S", help="Longest pause in DNS")
@click.option("--lateness", "lateness_s", type=options.Duration(), metavar="S", help="Latest eviction after the TTL")
@click.option("--strict", is_flag=True, help="Judge by the goals themselves, not by ten times the goals")
@options.servers
def drill(scenarios: Sequence[str], **given: Any) -> None:
    """Rehearse failures on a running cluster, and report what its users would have noticed.

    \b
    leader-kill      kill the leader          heartbeat-stop   some services die
    leader-pause     freeze the leader        mass-expiry      many die at once
    node-kill        kill a follower          rolling-restart  restart all, in turn
    partition        cut the leader off       all              all that is possible
    """  # noqa: D301 -- \b is click's
    from discovery.drill.plan import BadPlan  # not at the head: the client commands start without all this
    from discovery.drill.summary import summary
    from discovery.drill.target import Unfit

    files = [file for file in (given["json_file"], given["html_file"]) if file]
    for file in files:
        if not file.absolute().parent.is_dir():
            raise click.UsageError(f"{file}: there is no such folder")
    try:
        report = _run(_order(scenarios, given), given["yes"])
    except BadPlan as problem:
        raise click.UsageError(str(problem)) from problem
    except Unfit as problem:
        output.fail(f"no drill on this cluster: {problem}")
    _write(report, given["json_file"], given["html_file"])
    click.echo(summary(report))
    sys.exit(0 if report.ok else 1)


def _order(scenarios: Sequence[str], given: dict[str, Any]) -> Order:
    from discovery.drill.judge import TOLERANCE, Limits
    from discovery.drill.rehearsal import Order
    from discovery.drill.stage import SHORT, Scale

    scale = dataclasses.replace(SHORT if given["short"] else Scale(), rounds=given["rounds"])
    if given["mass"]:
        scale = dataclasses.replace(scale, mass=given["mass"])
    limits = Limits(
        given["write_gap_s"], given["dns_gap_s"], given["lateness_s"], 1.0 if given["strict"] else TOLERANCE
    )
    plan = None if given["plan"] is None else _plan(given["plan"])
    return Order(scenarios, given["servers"] or [DEFAULT_SERVER], given["token"], plan, limits, scale)


def _plan(file: Path) -> Plan:
    from discovery.drill.plan import BadPlan, parse

    try:
        return parse(file.read_text("utf-8"))
    except (OSError, BadPlan, UnicodeDecodeError) as problem:
        raise click.UsageError(f"{file}: {problem}") from problem


def _run(order: Order, yes: bool) -> Report:
    """Play it; from when it may break something, Ctrl-C and SIGTERM end it in order."""
    from discovery.drill.rehearsal import rehearse

    async def main() -> Report:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def call_off() -> None:
            again = stop.is_set()
            click.echo("still bringing the nodes back" if again else "called off: bringing the nodes back", err=True)
            stop.set()

        def leave(chosen: Chosen) -> None:
            _leave(chosen, yes)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, call_off)

        return await rehearse(order, leave, lambda line: click.echo(line, err=True), stop)

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        output.fail("called off before anything was done")


def _leave(chosen: Chosen, yes: bool) -> None:
    """Say what will be done, and ask when something will be broken."""
    nodes = ", ".join(f"{place.node} ({place.url})" for place in chosen.target.places.values())
    click.echo(f"The cluster of {nodes} is healthy.", err=True)
    for result in chosen.skipped:
        click.echo(f"Not rehearsed: {result.name}: {result.skipped}", err=True)
    if not chosen.acts or yes:
        return
    assert chosen.actor is not None
    names = ", ".join(scenario.name for scenario in chosen.scenarios)
    click.echo(f"Its nodes will be killed, frozen or restarted ({names}) by {chosen.actor.about}.", err=True)
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked whether to go on: say --yes")
    click.confirm("Go on?", abort=True, err=True)


def _write(report: Report, json_file: Path | None, html_file: Path | None) -> None:
    from discovery.drill.page import page
    from discovery.drill.report import to_json

    for file, render in ((json_file, to_json), (html_file, page)):
        if file is not None:
            try:
                file.write_text(render(report), "utf-8")
            except OSError as problem:
                output.fail(f"{file}: {problem.strerror}")
            click.echo(f"written: {file}", err=True)
