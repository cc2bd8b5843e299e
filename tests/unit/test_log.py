"""Log lines: text for people, JSON for machines, and no forged lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from discovery import log


@pytest.fixture
def logged() -> Iterator[Callable[[str, str], io.StringIO]]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)

    def start(format: str, level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        log.setup(format, level, process="node", stream=stream)
        return stream

    yield start
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def test_a_text_line_says_when_how_bad_who_and_what(logged: Callable[[str], io.StringIO]) -> None:
    stream = logged("text")
    logging.getLogger("discovery.raft").info("peer %s connected", "n2", extra={"peer": "n2", "why": "it dialled"})
    time, rest = stream.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert "T" in time
    assert rest == 'INFO node raft: peer n2 connected peer=n2 why="it dialled"\n'


def test_a_json_line_holds_the_same_and_the_fields(logged: Callable[[str], io.StringIO]) -> None:
    stream = logged("json")
    logging.getLogger("discovery.raft").warning("late", extra={"peer": "n2", "ms": 7, "path": io})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line.pop("path").startswith("<module")
    assert line == {"level": "warning", "process": "node", "logger": "raft", "message": "late", "peer": "n2", "ms": 7}


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_name_with_a_line_end_cannot_forge_a_line(format: str, logged: Callable[[str], io.StringIO]) -> None:
    stream = logged(format)
    logging.getLogger("x").info("name %s", "a\n2026 ERROR all is lost\x1b[2J", extra={"f": "b\nc"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_shows_its_traceback(format: str, logged: Callable[[str], io.StringIO]) -> None:
    stream = logged(format)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "ValueError: broken" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_the_level_hides_what_lies_below_it(logged: Callable[[str, str], io.StringIO]) -> None:
    stream = logged("text", "warning")
    logging.getLogger("x").info("not shown")
    logging.getLogger("x").error("shown")
    assert "not shown" not in stream.getvalue()
    assert "shown" in stream.getvalue()
