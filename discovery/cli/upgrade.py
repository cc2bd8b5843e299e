"""``discovery upgrade``: have the daemon on this host become the version that is installed now, and watch it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from discovery import progress
from discovery.cli import options, output
from discovery.config import load
from discovery.errors import ConfigError, NotFound, RegistryError, Unavailable
from discovery.progress import Found, Progress

LOOK_S: Final = 0.05
FIND_S: Final = 3.0  # a node process that just ended is started again in this time
EPILOG: Final = """\b
After installing another version (pip install …), on each node, one after the other:
  discovery upgrade --data-dir /var/lib/discovery && discovery status

\b
What happens: the installed version tries itself (modules, configuration); the supervisor
re-executes itself, under the same process id; the node process hands leadership over and
is replaced; the DNS workers follow one by one, each joining the port before its
predecessor leaves. No question stays unanswered. The same as SIGUSR2 to the supervisor.
If the trial fails, nothing has changed, and the daemon's log says why.

\b
Exit codes: 0 all processes are new, 1 refused, failed or not done in time (it may still
go on then: look at the log), 2 usage or configuration."""


@click.command(epilog=EPILOG)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The daemon's TOML file of options")
@click.option("--data-dir", metavar="DIR", help="Its data directory  [$STATE_DIRECTORY or ./discovery-data]")
@click.option(
    "--wait", "wait_s", type=options.Duration(), default=120.0, show_default=True, metavar="S",
    help="Longest time until all is done",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON")
def upgrade(config: Path | None, data_dir: str | None, wait_s: float, as_json: bool) -> None:
    """Change the daemon on this host to the version that is installed now, without losing an answer.

    It is found by its data directory, and must run as the same user (or be asked by root).
    """
    try:
        place = Path(data_dir or load(config, os.environ, {}).data_dir)
    except ConfigError as problem:
        click.echo(f"discovery upgrade: {problem.detail}", err=True)
        sys.exit(2)
    say: Callable[[str], None] = (lambda text: None) if as_json else click.echo
    begun = time.monotonic()
    try:
        before, after = _upgrade(place, begun + wait_s, say)
    except RegistryError as problem:
        output.fail(problem.detail)
    took_s = time.monotonic() - begun
    if as_json:
        output.show_json(_told(before, after, took_s))
    else:
        click.echo(f"done in {took_s:.1f} s: version {before.version}, now {after.version}")


def _upgrade(place: Path, deadline: float, say: Callable[[str], None]) -> tuple[Progress, Progress]:
    """What was and what is; raises RegistryError when it was refused or failed."""
    found = _find(place)
    before = progress.read(found)
    try:
        os.kill(found.supervisor, signal.SIGUSR2)
    except PermissionError as error:
        why = f"the supervisor (process {found.supervisor}) belongs to another user: run this as that one, or as root"
        raise RegistryError(why) from error
    except ProcessLookupError as error:
        raise NotFound(f"the supervisor (process {found.supervisor}) has just ended") from error
    last = before
    while time.monotonic() < deadline:
        now = _look(found, last)
        _say_changes(last, now, say)
        last = now
        if now.refused > before.refused or now.failed > before.failed:
            raise Unavailable(f"{now.said}; nothing has changed")
        if now.asked > before.asked and now.step == "steady":
            if now.node == before.node:
                raise Unavailable("the daemon was told to end meanwhile; nothing has changed")
            return before, now
        time.sleep(LOOK_S)
    raise Unavailable(f"not done in time, it is at: {last.step}; its log says more")


def _find(place: Path) -> Found:
    deadline = time.monotonic() + FIND_S
    while True:
        try:
            return progress.find(place)
        except NotFound:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_S)


def _look(found: Found, last: Progress) -> Progress:
    try:
        os.kill(found.supervisor, 0)
        return progress.read(found)
    except ProcessLookupError as error:
        raise Unavailable(f"the supervisor (process {found.supervisor}) has ended; its log says why") from error


def _say_changes(last: Progress, now: Progress, say: Callable[[str], None]) -> None:
    """A line for each thing that is another one than at the last look."""
    if now.step == "trying" != last.step:
        say("the installed version tries itself")
    if now.step == "replacing" != last.step:
        say(f"the supervisor is of version {now.version}; node process and DNS workers follow")
    if now.node and now.node != last.node:
        say(f"node process {now.node} is started")
    for index, (old, new) in enumerate(zip(last.workers, now.workers, strict=False)):
        if new and new != old:
            say(f"DNS worker {index}, process {new}, is started")


def _told(before: Progress, after: Progress, took_s: float) -> dict[str, Any]:
    return {
        "from": before.version,
        "to": after.version,
        "node": [before.node, after.node],
        "workers": [list(before.workers), list(after.workers)],
        "seconds": round(took_s, 3),
    }
