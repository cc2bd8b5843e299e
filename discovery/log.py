"""Logging for every process of a node: lines for people or JSON objects for machines, to stderr.

Only the standard library: the supervisor and the DNS workers use it too. Fields go in ``extra``:
``logger.info("peer connected", extra={"peer": "n2"})``. Values are never secrets; nothing here could tell.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/[]@+%")


def setup(format: str = "text", level: str = "info", *, process: str, stream: TextIO | None = None) -> None:
    """Send all logging of this process to ``stream`` (stderr), replacing what was set up before.

    Args:
        format: ``text`` or ``json``.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        process: who speaks: ``supervisor``, ``node``, ``dns-1``.
        stream: where lines go, stderr when ``None``.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if format == "json" else TextFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"  # RFC 3339, UTC


def _source(record: logging.LogRecord) -> str:
    return record.name.removeprefix("discovery.")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, message, the fields, error."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": _source(record),
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in _fields(record).items() if name not in line)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``2026-11-24T12:00:00.123Z INFO node raft: message key=value``; control characters are escaped."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``, with a traceback below it when there is one."""
        source = _source(record)
        speaker = self.process if source == self.process else f"{self.process} {source}"
        parts = [_time(record), record.levelname, f"{speaker}:", _escaped(record.getMessage())]
        parts += [f"{name}={_value(value)}" for name, value in _fields(record).items()]
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return " ".join(parts) + trace


def _value(value: Any) -> str:
    text = str(value)
    return text if text and _PLAIN_CHARS.issuperset(text) else json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """``text`` on one line: whoever can choose a name must not be able to forge a log line with it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
