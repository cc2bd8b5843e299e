"""The options that client commands share, and how their values become a :class:`~discovery.cli.client.Client`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from discovery.cli import output
from discovery.cli.client import TIMEOUT_S, Answer, BadServer, Client, Unreachable

Command = TypeVar("Command", bound=Callable[..., Any])

DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
PORT: Final = re.compile(r"(?:([A-Za-z0-9-]+)=)?(\d{1,5})(?:/(tcp|udp|sctp))?")


class Duration(click.ParamType[Any]):
    """Seconds, or ``10s``, ``1500ms``, ``2m``, as in the API; ``none`` where a thing may last for ever."""

    name = "duration"

    def __init__(self, none: bool = False) -> None:
        self.none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Seconds as a float, or the word ``none``."""
        if isinstance(value, int | float) or (self.none and value == "none"):
            return value
        match = DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration: write seconds, 10s, 1500ms or 2m", param, ctx)
        return float(match[1]) * UNITS_S[match[2]]


class Port(click.ParamType[Any]):
    """``NAME=N``, ``NAME=N/udp`` or ``N``, as a port of the API."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An object ``{"name", "port", "protocol"}``."""
        match = PORT.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no port: write NAME=N, NAME=N/udp or N", param, ctx)
        named = {"name": match[1]} if match[1] else {}
        return {**named, "port": int(match[2]), "protocol": match[3] or "tcp"}


class Pair(click.ParamType[Any]):
    """``KEY=VALUE``."""

    name = "pair"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The key and the value."""
        key, equals, rest = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is no pair: write KEY=VALUE", param, ctx)
        return key, rest


def _servers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Several servers by repeated flags or, as the variable has them, by comma."""
    urls = [url.strip() for text in value for url in text.split(",") if url.strip()]
    try:
        Client(urls)
    except BadServer as problem:
        raise click.BadParameter(str(problem)) from problem
    return urls


def _token(ctx: click.Context, param: click.Parameter, value: Path | None) -> str:
    if value is None:
        return ""
    try:
        token = value.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise click.BadParameter(f"{value} cannot be read: {problem}") from problem
    if not token.isprintable() or " " in token:
        raise click.BadParameter(f"{value} must hold one token and nothing else")
    return token


def servers(command: Command) -> Command:
    """``--server`` and ``--token-file``, as the parameters ``servers`` and ``token``."""
    command = click.option(
        "--token-file", "token", type=click.Path(path_type=Path), callback=_token, metavar="FILE",
        help="File with a bearer token",
    )(command)  # fmt: skip
    return click.option(
        "--server", "servers", multiple=True, callback=_servers, envvar="DISCOVERY_SERVER", metavar="URL",
        help="Server (repeat: tried in turn)  [DISCOVERY_SERVER or http://127.0.0.1:8500]",
    )(command)  # fmt: skip


def client(command: Command) -> Command:
    """The options of every one-request command: server, token, timeout, ``--json``; the client is ``ctx.obj``."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON")(command)
    command = click.option(
        "--timeout", "timeout_s", type=Duration(), default=TIMEOUT_S, show_default=True, metavar="S",
        help="Longest wait for an answer, seconds",
    )(command)  # fmt: skip
    return servers(command)


namespace = click.option("--namespace", "-n", default="default", show_default=True, metavar="NS", help="Namespace")
strong = click.option("--strong", is_flag=True, help="Read linearizably, through the leader")
lease = click.option("--lease", metavar="ID", help="Only if this lease holds it")
if_revision = click.option("--if-revision", type=int, metavar="N", help="Only if its revision is N")
visible = click.option(
    "--visible", type=click.Choice(["node", "cluster"]), default="node", show_default=True,
    help="Wait until DNS shows it on the node that answers, or on every live node",
)  # fmt: skip
limit = click.option("--limit", type=int, metavar="N", help="Most entries of one answer")
after = click.option("--after", metavar="LAST", help="Continue after this entry of the answer before")


def ask(
    method: str,
    path: str,
    body: object = None,
    *,
    servers: list[str],
    token: str,
    timeout_s: float,
    also: int | None = None,
) -> Answer:
    """Send one request and return the answer when it succeeded; else say why on stderr and end with 1.

    ``servers``, ``token`` and ``timeout_s`` are the parameters of :func:`client`, which commands pass on as
    ``**connection``; ``also``: a status that is returned too.
    """
    with Client(servers, token, timeout_s) as client:
        try:
            answer = client.get(path) if method == "GET" else client.write(method, path, body)
        except Unreachable as problem:
            output.fail(str(problem))
    return answer if answer.status == also else output.checked(answer)
