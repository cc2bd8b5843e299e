"""What the commands print: tables for people, the server's JSON for programs, problems on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from discovery.cli.client import Answer


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under headings, as wide as they must be; ``None`` is shown as ``-``."""
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    """One cell. Control characters are escaped: a name or value must not steer the reader's terminal."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def fields(pairs: Iterable[tuple[str, object]]) -> str:
    """One thing, a field a line."""
    shown = [(name, _cell(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def ports(ports: Sequence[dict[str, Any]]) -> str:
    """Ports as ``http=8080`` and ``dns=53/udp``."""
    return ",".join(
        (f"{port['name']}=" if port.get("name") else "")
        + str(port["port"])
        + ("" if port.get("protocol", "tcp") == "tcp" else f"/{port['protocol']}")
        for port in ports
    )


def moment(value: object) -> str | None:
    """A time of the API (RFC 3339, or Unix seconds) for a table."""
    if isinstance(value, int | float):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%S}Z"
    return None if value is None else str(value)


def show_json(value: object) -> None:
    """One JSON document on a line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def checked(answer: Answer) -> Answer:
    """``answer`` when the request succeeded; else its problem goes to stderr and the program ends with 1."""
    if not answer.ok:
        fail(problem(answer))
    if answer.headers.get("x-registry-visible") == "false":
        click.echo("warning: written, but a DNS worker does not show it yet", err=True)
    if missing := answer.headers.get("x-registry-missing"):
        click.echo(f"warning: written, but not shown yet by {missing}", err=True)
    return answer


def problem(answer: Answer) -> str:
    """The problem of an answer (RFC 9457) as text: the detail, then each field with its rule."""
    try:
        body = answer.json()
        lines = [f"{body.get('detail') or body.get('title')} ({answer.status} from {answer.server})"]
        for error in body.get("errors", ()):
            lines.append(f"  {error['field']}: {error['rule']}{_found(error)}")
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"{answer.server} answered {answer.status}"
    return "\n".join(_line(line) for line in lines)


def _line(text: str) -> str:
    return text[: len(text) - len(text.lstrip())] + _cell(text.lstrip())


def _found(error: dict[str, Any]) -> str:
    return f" (got {json.dumps(error['value'], ensure_ascii=False)})" if error.get("value") is not None else ""


def fail(text: str) -> NoReturn:
    """End with 1 and say why."""
    click.echo(f"error: {text}", err=True)
    sys.exit(1)
