"""How a cluster is founded exactly once, and who counts as its member (DESIGN guarantee 11). Pure.

Every node that is configured with the same list of ids, sees every one of them connected and *empty*, computes
the same cluster id from their (id, incarnation) pairs, so no vote is needed. A crash in the middle heals: a
node that founded tells its members, and an empty node whose own (id, incarnation) stands in that list adopts it. A
node that is missing there, or there with another incarnation, waits until it is added (:mod:`.changes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from discovery import levels
from discovery.raft.identity import Identity, Member


class Announced(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of itself when it connects, and again once it has founded or adopted.

    Args:
        configured: its sorted ``--peer`` ids, itself included.
        members: (id, incarnation, Raft address), sorted; empty until founded.
        raft, http: its advertised addresses.
        version: of the program.
        at: index of the log entry by which these are the members, as it has applied; 0: they were founded.
        learners: ids of the members without a vote.
        level: the highest feature level that it knows; versions before levels do not say it.
        in_force: the one that its cluster has, as it has applied.
    """

    node: str
    incarnation: str
    cluster: str
    zone: str
    configured: tuple[str, ...]
    members: tuple[tuple[str, str, str], ...]
    raft: str
    http: str
    version: str
    at: int = 0
    learners: tuple[str, ...] = ()
    level: int = levels.BASE
    in_force: int = levels.BASE


MEMBERS_BYTES_MAX: Final = 2048
"""Of the members in an announcement, which must fit into a handshake with everything else."""

Verdict = Literal["member", "outsider", "waiting", "stranger"]
"""``member``: counts. ``outsider``: of this cluster, but no member as this node knows it; it may be this node that is
behind, so it is heard, and never counted. ``waiting``: may still become one. ``stranger``: refused, with a reason."""


def members_bytes(places: Mapping[str, str]) -> int:
    """What members of these ids and Raft addresses take at most in an announcement."""
    return sum(2 * len(node.encode()) + len(place.encode()) + 48 for node, place in places.items())


def cluster_id(pairs: Sequence[tuple[str, str]]) -> str:
    """The id that follows from the founding (id, incarnation) pairs: 32 hex digits."""
    text = "".join(f"{node}\0{incarnation}\n" for node, incarnation in sorted(pairs))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def found(identity: Identity, configured: Mapping[str, str], peers: Mapping[str, Announced]) -> Identity | None:
    """The identity after founding, or ``None`` while it must not be founded.

    Args:
        identity: of this node.
        configured: Raft address by id, this node included.
        peers: what the peers connected *now* announced, by id.
    """
    others = set(configured) - {identity.node}
    if identity.founded or not others <= set(peers):
        return None
    ids = tuple(sorted(configured))
    if any(
        peers[peer].cluster or peers[peer].configured != ids or peers[peer].zone != identity.zone for peer in others
    ):
        return None
    incarnations = {peer: peers[peer].incarnation for peer in others} | {identity.node: identity.incarnation}
    return _with(
        identity,
        cluster_id(list(incarnations.items())),
        {node: Member(configured[node], incarnations[node]) for node in ids},
    )


def adopt(identity: Identity, peer: Announced) -> Identity | None:
    """The identity after adopting a founded peer's cluster, or ``None`` when this node is not in its list as it is."""
    if identity.founded or not peer.cluster or peer.zone != identity.zone:
        return None
    members = {
        node: Member(raft, incarnation, role="learner" if node in peer.learners else "voter")
        for node, incarnation, raft in peer.members
    }
    own, its = members.get(identity.node), members.get(peer.node)
    if own is None or own.incarnation != identity.incarnation or its is None or its.incarnation != peer.incarnation:
        return None
    return msgspec.structs.replace(_with(identity, peer.cluster, members), index=peer.at, level=peer.in_force)


def judge(identity: Identity, peer: Announced) -> tuple[Verdict, str]:
    """Whether messages of this peer count, and why not (a sentence for the log)."""
    if peer.zone != identity.zone:
        return "stranger", f"{peer.node} serves zone {peer.zone}, this node {identity.zone}"
    if not identity.founded:
        return _judge_while_empty(identity, peer)
    if peer.cluster and peer.cluster != identity.cluster:
        return "stranger", f"{peer.node} belongs to cluster {peer.cluster}, this node to {identity.cluster}"
    if peer.level < identity.level:
        return "stranger", (
            f"{peer.node} knows feature level {peer.level}, the cluster is at {identity.level}: install the version of "
            f"the other members on it"
        )
    member = identity.members.get(peer.node)
    if member is None:
        why = f"{peer.node} is no member of cluster {identity.cluster}"
        return ("outsider", why) if peer.cluster else ("waiting", f"{why}; it must be added first")
    if member.incarnation and member.incarnation != peer.incarnation:
        why = f"{peer.node} lost its data directory; remove it from the cluster and add it again"
        return ("outsider" if peer.cluster else "stranger"), why
    if not peer.cluster or not member.incarnation:
        return "waiting", f"{peer.node} has not adopted cluster {identity.cluster} yet"
    return "member", ""


def _judge_while_empty(identity: Identity, peer: Announced) -> tuple[Verdict, str]:
    if peer.cluster and adopt(identity, peer) is None:
        add = f"discovery members add {identity.node} --raft HOST:PORT --http URL"
        return "stranger", f"{peer.node} belongs to a founded cluster, which must add this node first: {add}"
    return "waiting", f"{peer.node} is connected, the cluster is not founded yet"


def _with(identity: Identity, cluster: str, members: dict[str, Member]) -> Identity:
    return msgspec.structs.replace(identity, cluster=cluster, members=members)
