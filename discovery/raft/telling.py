"""The status of a member for people, put together from engine, members, driver and disk."""

from __future__ import annotations

from pathlib import Path

import msgspec

from discovery import limits
from discovery.raft.certificate import Keeper
from discovery.raft.driver import Driver
from discovery.raft.membership import Membership
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.status import CertificateStatus, DiskStatus, EngineStatus, MemberStatus, PeerStatus, RaftStatus
from discovery.raft.wal import Wal


def before_founding(members: Membership, leaderless_s: float, certificate: CertificateStatus | None) -> RaftStatus:
    """While there is no engine: whom this node looks for."""
    peers = (PeerStatus(peer, peer in members.announced, None, None, None) for peer in sorted(members.configured))
    shown = tuple(_member(members, peer, None) for peer in peers)
    nothing = ("follower", 0, None, False, 0, 0, 0)
    told = RaftStatus(members.node, *nothing, shown, leaderless_s, standing="unknown", certificate=certificate)
    return msgspec.structs.replace(told, level=members.identity.level)


def status(
    told: EngineStatus, members: Membership, disk: DiskStatus, certificate: CertificateStatus | None
) -> RaftStatus:
    """Role, term, indices and all members as this node sees them; ``told``: by its engine."""
    leader, leaderless_s = told.leader, told.leaderless_s
    if disk.stalled:  # nothing was heard or done since: whoever led then, this node itself included, may not any more
        leader, leaderless_s = None, max(leaderless_s, disk.stalled_s)
    peers = list(told.peers)
    if members.node in members.active.members:
        peers.append(PeerStatus(members.node, True, 0.0, told.applied, told.last_index))
    shown = tuple(_member(members, peer, leader) for peer in sorted(peers, key=lambda peer: peer.id))
    return RaftStatus(
        node=told.node,
        role=told.role,
        term=told.term,
        leader=leader,
        ready=told.ready and not disk.stalled,
        commit=told.commit,
        applied=told.applied,
        last_index=told.last_index,
        members=shown,
        leaderless_s=leaderless_s,
        disk=disk,
        standing="removed" if members.removed else told.standing,
        certificate=certificate,
        level=members.identity.level,
    )


def certificate_status(keeper: Keeper | None) -> CertificateStatus | None:
    """The certificate, when this node should have one."""
    if keeper is None:
        return None
    return CertificateStatus(keeper.current.expires if keeper.current else 0.0, keeper.unfit)


def disk_status(full: str, place: Path, wal: Wal, snapshots: SnapshotStore, driver: Driver | None) -> DiskStatus:
    """The data directory in figures; ``place`` is where the log is."""
    sizes = (wal.bytes_retained, snapshots.latest_bytes)
    if driver is None:
        return DiskStatus(full, *sizes)
    seconds = driver.waiting_s
    stalled = _stalled(place, seconds) if seconds >= limits.DISK_STALL_S else ""
    return DiskStatus(full, *sizes, driver.syncs, driver.sync_s, driver.fulls, stalled, seconds)


def _stalled(place: Path, seconds: float) -> str:
    return (
        f"the disk does not answer: a write to the log in {place} has been under way for {seconds:.0f} s. Way out: "
        f"look after the disk (dmesg, iostat); this node goes on by itself when it answers, the others go on meanwhile"
    )


def _member(members: Membership, peer: PeerStatus, leader: str | None) -> MemberStatus:
    role = "leader" if peer.id == leader else "follower"
    level, version = members.known.get(peer.id, (None, ""))
    return MemberStatus(
        id=peer.id,
        raft=members.raft_of(peer.id),
        http=members.http_of(peer.id),
        role="learner" if members.role_of(peer.id) == "learner" else role,
        alive=peer.connected or peer.id == members.node,
        last_contact_ms=None if peer.last_contact_s is None else int(peer.last_contact_s * 1000),
        applied=peer.applied,
        level=members.level if peer.id == members.node else level,
        version=members.version if peer.id == members.node else version,
    )
