"""How defaults, the TOML file, the variables and the flags become one checked :class:`Config`.

Defaults < file < environment < flag; a key of the file that is not in the table of options is refused, a
``DISCOVERY_*`` variable that is not in it is ignored (Kubernetes injects some). Types are checked by msgspec,
rules that need more than a type stand in :mod:`discovery.config_rules`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from discovery import config_rules, limits
from discovery.config_schema import BY_KEY, OPTIONS, SECTIONS, Config, Option, Settings, error

__all__ = ["OPTIONS", "Config", "Option", "load"]


def load(file: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Combine defaults, ``file``, ``env`` and ``flags`` and check the result.

    Args:
        file: the TOML file of ``--config``, or ``None``.
        env: the process environment.
        flags: by :attr:`Option.name`; ``None`` and empty tuples count as not given. Values may be text.

    Raises:
        ConfigError: naming the file and key, the variable or the flag, and the rule it breaks.
    """
    settings = Settings()
    _put_defaults(settings, env)
    if file is not None:
        _put_file(settings, file)
    _put_variables(settings, env)
    _put_flags(settings, flags)
    return config_rules.check(_convert(settings), settings)


def _put_defaults(settings: Settings, env: Mapping[str, str]) -> None:
    """The defaults that depend on where we run."""
    state = env.get("STATE_DIRECTORY", "").split(":")[0]  # systemd lists several with colons
    settings.values["data_dir"] = state or "discovery-data"
    settings.values["dns.workers"] = min(len(os.sched_getaffinity(0)), limits.DNS_WORKERS_MAX)


def _put_file(settings: Settings, file: Path) -> None:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(str(file), f"cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(str(file), "must be UTF-8") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(str(file), f"is no TOML: {problem}") from problem
    for key, value in _flat(tree, file):
        if key not in BY_KEY:
            raise error(f"{file}: {key}", f"is no known key{_suggestion(key)}", key)
        settings.put(key, value, f"{file}: {key}")


def _flat(tree: Mapping[str, Any], file: Path) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if key not in SECTIONS:
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            raise error(f"{file}: {key}", "must be a table", key, value)


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, BY_KEY, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _put_variables(settings: Settings, env: Mapping[str, str]) -> None:
    """Variables; one that is set but empty counts as not set, as container files write it."""
    for option in OPTIONS:
        given = [name for name in option.variables if env.get(name)]
        if len({env[name] for name in given}) > 1:
            raise error(" and ".join(given), "mean the same option and differ", option.key)
        for name in given[:1]:
            settings.put(option.key, _parse(option, env[name], name), name)


def _put_flags(settings: Settings, flags: Mapping[str, Any]) -> None:
    for option in OPTIONS:
        value = flags.get(option.name)
        if value is None or value == ():
            continue
        settings.put(option.key, _parse(option, value, option.flag), option.flag)


def _parse(option: Option, value: Any, origin: str) -> Any:
    """The value of a variable (text; lists by comma) or a flag (text, or a tuple when it was repeated)."""
    if option.kind in ("list", "table"):
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value)
        return items if option.kind == "list" else _table(items, origin, option.key)
    if not isinstance(value, str):
        return value
    if option.kind == "integer":
        return _integer(value, origin, option.key)
    return _boolean(value, origin, option.key) if option.kind == "boolean" else value


def _integer(text: str, origin: str, key: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise error(origin, "must be an integer", key, text) from None


def _boolean(text: str, origin: str, key: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise error(origin, "must be true or false", key, text)
    return words[text.lower()]


def _table(items: Iterable[str], origin: str, key: str) -> dict[str, str]:
    table: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise error(origin, "must be ID=HOST:PORT", key, item)
        if table.setdefault(name.strip(), value.strip()) != value.strip():
            raise error(origin, f"names {name.strip()} twice", key, item)
    return table


def _convert(settings: Settings) -> Config:
    try:
        return msgspec.convert(settings.nested(), Config)
    except msgspec.ValidationError as problem:
        text, _, path = str(problem).partition(" - at `$.")
        key = path.rstrip("`").split("[")[0] or "configuration"
        key = key if key in BY_KEY else key.split(".")[0]
        settings.refuse(key, _plain(text))


def _plain(text: str) -> str:
    """A type error of msgspec in words: "Expected `int`, got `str`" is "must be an integer, not text"."""
    words = {"str": "text", "int": "an integer", "bool": "true or false", "array": "a list", "object": "a table"}
    expected, _, got = text.removeprefix("Expected ").partition(", got ")
    wanted, found = expected.strip("`"), got.strip("`")
    return f"must be {words.get(wanted, wanted)}, not {words.get(found, found)}"
