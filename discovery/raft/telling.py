"""The status of a member for people, put together from engine, members, driver and disk."""

from __future__ import annotations

from discovery.raft.driver import Driver
from discovery.raft.engine import Engine
from discovery.raft.membership import Membership
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.status import DiskStatus, MemberStatus, PeerStatus, RaftStatus
from discovery.raft.wal import Wal


def before_founding(members: Membership, leaderless_s: float) -> RaftStatus:
    """While there is no engine: whom this node looks for."""
    peers = (PeerStatus(peer, peer in members.announced, None, None, None) for peer in sorted(members.configured))
    shown = tuple(_member(members, peer, None) for peer in peers)
    return RaftStatus(members.node, "follower", 0, None, False, 0, 0, 0, shown, leaderless_s, standing="unknown")


def status(engine: Engine, members: Membership, disk: DiskStatus) -> RaftStatus:
    """Role, term, indices and all members as this node sees them."""
    told = engine.status()
    peers = list(told.peers)
    if members.node in members.active.members:
        peers.append(PeerStatus(members.node, True, 0.0, told.applied, told.last_index))
    shown = tuple(_member(members, peer, told.leader) for peer in sorted(peers, key=lambda peer: peer.id))
    return RaftStatus(
        node=told.node,
        role=told.role,
        term=told.term,
        leader=told.leader,
        ready=told.ready,
        commit=told.commit,
        applied=told.applied,
        last_index=told.last_index,
        members=shown,
        leaderless_s=told.leaderless_s,
        disk=disk,
        standing="removed" if members.removed else told.standing,
    )


def disk_status(full: str, wal: Wal, snapshots: SnapshotStore, driver: Driver | None) -> DiskStatus:
    """The data directory in figures."""
    sizes = (wal.bytes_retained, snapshots.latest_bytes)
    if driver is None:
        return DiskStatus(full, *sizes)
    return DiskStatus(full, *sizes, driver.syncs, driver.sync_s, driver.fulls)


def _member(members: Membership, peer: PeerStatus, leader: str | None) -> MemberStatus:
    role = "leader" if peer.id == leader else "follower"
    return MemberStatus(
        id=peer.id,
        raft=members.raft_of(peer.id),
        http=members.http_of(peer.id),
        role="learner" if members.role_of(peer.id) == "learner" else role,
        alive=peer.connected or peer.id == members.node,
        last_contact_ms=None if peer.last_contact_s is None else int(peer.last_contact_s * 1000),
        applied=peer.applied,
    )
