"""How fresh a node is and what it lacks, from Raft's status. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from discovery.raft.types import RaftStatus

CACHE_S: Final = 0.05

ALL: Final = frozenset({"dns", "reads", "writes"})


class Problem(msgspec.Struct, frozen=True):
    """One thing that is missing.

    Args:
        name: what, for programs.
        detail: a sentence for people.
        areas: what it keeps from working: ``dns``, ``reads``, ``writes``.
    """

    name: str
    detail: str
    areas: frozenset[str]


def problems(status: RaftStatus, founded: bool, workers_behind: Sequence[str]) -> list[Problem]:
    """Everything that keeps a node from being ready (CONTRACT section 2, Operating)."""
    found = []
    if status.standing == "removed":
        how = "stop it; to use it again, empty its data directory, start it and add it (discovery members add)"
        found.append(Problem("member", f"this node was removed from the cluster: {how}", ALL))
    if status.disk.stalled:
        found.append(Problem("disk", status.disk.stalled, frozenset({"reads", "writes"})))
    elif status.leader is None:
        found.append(Problem("leader", "no leader is known", frozenset({"reads", "writes"})))
    elif status.leader == status.node and not status.ready:
        found.append(Problem("leader", "this node was elected and has not begun to lead", frozenset({"writes"})))
    if not founded:
        found.append(Problem("history", "the cluster is not founded yet, or this node knows nothing of it", ALL))
    if status.disk.full:
        found.append(Problem("disk", status.disk.full, frozenset({"writes"})))
    if status.applied < status.commit:
        behind = f"entry {status.applied} of {status.commit} that are known committed is applied"
        found.append(Problem("applied", behind, ALL))
    found += [Problem("dns_workers", detail, frozenset({"dns"})) for detail in workers_behind]
    return found


class Freshness:
    """Answers "how stale" for every read without asking Raft each time.

    Args:
        status: Raft's status.
        clock: monotonic seconds.
    """

    def __init__(self, status: Callable[[], RaftStatus], clock: Callable[[], float]) -> None:
        self._status = status
        self._clock = clock
        self._asked_at = float("-inf")
        self._stale_s = 0.0
        self._leaderless_s: float | None = None

    def forget(self) -> None:
        """Leadership changed: ask again."""
        self._asked_at = float("-inf")

    def staleness_ms(self) -> int:
        """Milliseconds since this node heard from a leader (a leader: from a majority); 0 in a cluster of one."""
        now = self._look()
        return round((self._stale_s + self._passed_s(now)) * 1000)

    def leaderless_ms(self) -> int:
        """Milliseconds since a leader was last known, 0 while one is."""
        now = self._look()
        return 0 if self._leaderless_s is None else round((self._leaderless_s + now - self._asked_at) * 1000)

    def _look(self) -> float:
        now = self._clock()
        if now - self._asked_at >= CACHE_S:
            status = self._status()
            self._asked_at = now
            self._leaderless_s = status.leaderless_s if status.leader is None else None
            self._stale_s = _stale_s(status)
        return now

    def _passed_s(self, now: float) -> float:
        """What went by since Raft was asked; nothing can have been missed by a node that decides alone."""
        return now - self._asked_at if self._stale_s else 0.0


def _stale_s(status: RaftStatus) -> float:
    if status.leader is None:
        return status.leaderless_s
    voters = [member for member in status.members if member.role != "learner"]
    contacts = {member.id: member.last_contact_ms for member in voters if member.id != status.node}
    if status.leader != status.node:
        return (contacts.get(status.leader) or 0) / 1000
    heard = sorted(float("inf") if contact is None else contact for contact in contacts.values())
    needed = len(voters) // 2  # peers that make a majority with this node
    oldest = heard[needed - 1] if needed else 0.0
    return 0.0 if oldest == float("inf") else oldest / 1000
