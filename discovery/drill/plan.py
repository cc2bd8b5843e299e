"""What the operator tells a drill in its TOML file: a command for each act, and where the nodes are. Pure.

::

    [commands]                    # for every node; {id} is the node's id
    kill = "ssh {id} sudo systemctl kill -s KILL discovery"
    [nodes.n1]                    # for one node, before those for every node
    kill = ["ssh", "10.0.0.1", "…"]
    dns = "10.0.0.1:53"           # where the catalogue says something that cannot be reached from here
"""

from __future__ import annotations

import shlex
import tomllib
from typing import Final

import msgspec

ACTS: Final = ("kill", "start", "stop", "pause", "resume", "partition", "heal")
UNDO: Final = {"kill": "start", "stop": "start", "pause": "resume", "partition": "heal"}
Line = str | list[str]


class BadPlan(ValueError):
    """The file is none; the text says where."""


class Commands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command line for each act, as one string (split as a shell would, but no shell runs it) or as a list."""

    kill: Line | None = None
    start: Line | None = None
    stop: Line | None = None
    pause: Line | None = None
    resume: Line | None = None
    partition: Line | None = None
    heal: Line | None = None


class Node(Commands, frozen=True, forbid_unknown_fields=True):
    """One node: its own commands and addresses."""

    http: str = ""
    dns: str = ""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. ``timeout``: seconds that a command may take; ``zone``: if the catalogue does not show it."""

    commands: Commands = Commands()
    nodes: dict[str, Node] = {}
    timeout: float = 60.0
    zone: str = ""

    def command(self, act: str, node: str) -> list[str] | None:
        """The command line for an act on a node, or ``None``."""
        line = getattr(self.nodes.get(node), act, None) or getattr(self.commands, act)
        if line is None:
            return None
        words = shlex.split(line) if isinstance(line, str) else line
        return [word.replace("{id}", node) for word in words]

    def acts(self, node: str) -> frozenset[str]:
        """What can be done to a node."""
        return frozenset(act for act in ACTS if self.command(act, node))


def parse(text: str) -> Plan:
    """A plan from the text of its file.

    Raises:
        BadPlan: no TOML, an unknown key, a value of another kind, an act without the one that undoes it.
    """
    try:
        plan = msgspec.convert(tomllib.loads(text), Plan)
        for where in ("", *plan.nodes):
            _check(plan, where)
    except ValueError as problem:  # TOMLDecodeError, ValidationError and what shlex raises are all ValueErrors
        raise BadPlan(str(problem)) from problem
    return plan


def _check(plan: Plan, node: str) -> None:
    """Whatever breaks a node must be known to be undone."""
    acts = plan.acts(node)
    for act, undo in UNDO.items():
        if act in acts and undo not in acts:
            where = f"nodes.{node}" if node else "commands"
            raise ValueError(f"{where}: {act!r} without {undo!r}: the drill could not bring the node back")
