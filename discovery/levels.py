"""Feature levels: what all members of a cluster understand, so that versions can be mixed while they are exchanged.

A number. A version announces the highest level it knows; the level *in force* is replicated with the members
(:mod:`discovery.raft.configuration`), begins at :data:`BASE` and is raised by the leader once every member announced
more. It never falls. A new kind of command, log entry, peer message or snapshot section, and a new meaning of an old
one, gets a level and is used from that level in force on (docs/decisions/011-feature-levels.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from discovery.errors import ConfigError

BASE: Final = 1
"""What a version knows that announces nothing; where every cluster begins."""
MEMBERS: Final = 2
"""Members change at run time: log entries and snapshots say who they are."""
BOUNDED: Final = 2
"""One delete removes a bounded number of keys; results of repeated requests are kept for 750 s of log time, not 600."""
LEVEL: Final = MEMBERS
"""The highest that this version knows."""

_VARIABLE: Final = "DISCOVERY_TESTING_LEVEL"


class Beyond(ConfigError):
    """The version is too old for what the cluster uses already."""


def supported(env: Mapping[str, str] = os.environ) -> int:
    """The level that this process knows; tests have it act like an older version by ``DISCOVERY_TESTING_LEVEL``."""
    text = env.get(_VARIABLE, "")
    return max(BASE, min(LEVEL, int(text))) if text.isdecimal() else LEVEL


def check(in_force: int, known: int, where: str) -> None:
    """Refuse to work on what this version does not understand.

    Args:
        in_force: the level of what is at ``where``.
        known: the highest that this node knows.
        where: for people: whose level it is.

    Raises:
        Beyond: says both levels and the way out.
    """
    if in_force > known:
        raise Beyond(
            f"{where} at feature level {in_force}, this version knows up to {known}: it was changed to an older "
            f"version after the cluster had risen. Way out: install the version the other members run (`discovery "
            f"members` says which), and start this node again; its data stays"
        )
