"""Who the members are, as one value: how it changes, one member at a time, and its bytes. Pure.

A configuration is whole in each log entry that changes it (``0x02 | msgpack``) and stands before the state in a
snapshot, so that log and snapshot together say who counts (Raft dissertation, section 4.1). It is in effect from the
moment its entry is *in the log*. Two that follow each other differ by one voter at most: so their majorities overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from discovery import levels, limits
from discovery.errors import Conflict, CorruptData, InvalidInput, NotFound

MEMBERSHIP: Final = b"\x02"
FORMER_MAX: Final = limits.PEERS_MAX
_MARK: Final = b"\xc1members"  # 0xC1 begins no msgpack value, hence no chunk of a state

Standing = Literal["voter", "learner", "removed", "unknown"]
"""What a node is by a configuration; ``unknown``: it says nothing of the node (of this incarnation)."""


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a member's Raft port and HTTP API are, which incarnation of its data directory counts, and as what.

    ``incarnation``: empty for a learner that was added and did not come yet; nothing is sent to it.
    """

    raft: str
    incarnation: str
    http: str = ""
    role: Literal["voter", "learner"] = "voter"


class Former(msgspec.Struct, frozen=True, array_like=True):
    """A member that was removed: the others go on looking for it, to tell it so."""

    node: str
    incarnation: str
    raft: str


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Add a node, as a learner; it becomes a voter by itself once it is caught up."""

    node: str
    raft: str
    http: str


class Remove(msgspec.Struct, frozen=True, tag="remove"):
    """Remove a member."""

    node: str


Change = Add | Remove


class Configuration(msgspec.Struct, frozen=True):
    """All members by id, those removed last, and the feature level in force.

    ``index``: of its log entry, 0 for the one that was founded.
    """

    members: dict[str, Member]
    former: tuple[Former, ...] = ()
    index: int = 0
    level: int = levels.BASE

    def voters(self) -> frozenset[str]:
        """Ids of those whose votes and acknowledgements count."""
        return frozenset(node for node, member in self.members.items() if member.role == "voter")

    def standing(self, node: str, incarnation: str) -> Standing:
        """What the node with this data directory is."""
        member = self.members.get(node)
        if member is not None and member.incarnation == incarnation:
            return member.role
        gone = any((one.node, one.incarnation) == (node, incarnation) for one in self.former)
        return "removed" if gone else "unknown"

    def added(self, change: Add, incarnation: str) -> Configuration:
        """With a learner more; the same one when it is there already.

        Raises:
            Conflict: the id is taken, or there are ``PEERS_MAX`` members.
        """
        member = self.members.get(change.node)
        if member is not None:
            if (member.raft, member.http) == (change.raft, change.http) and incarnation in ("", member.incarnation):
                return self
            lost = bool(incarnation) and incarnation != member.incarnation != ""
            why = "has lost its data directory" if lost else f"is a member already, at {member.raft}"
            raise Conflict(f"{change.node} {why}: remove it, then add it")
        if len(self.members) >= limits.PEERS_MAX:
            raise Conflict(f"the cluster has {len(self.members)} members, at most {limits.PEERS_MAX} are allowed")
        former = tuple(one for one in self.former if (one.node, one.incarnation) != (change.node, incarnation))
        return self._with(change.node, Member(change.raft, incarnation, change.http, "learner"), former)

    def bound(self, node: str, incarnation: str) -> Configuration:
        """With the data directory of a learner that came now."""
        return self._with(node, msgspec.structs.replace(self.members[node], incarnation=incarnation))

    def promoted(self, node: str) -> Configuration:
        """With a learner as a voter."""
        return self._with(node, msgspec.structs.replace(self.members[node], role="voter"))

    def removed(self, node: str) -> Configuration:
        """Without a member.

        Raises:
            NotFound: there is no such member.
            Conflict: it is the last voter.
        """
        member = self.members.get(node)
        if member is None:
            raise NotFound(f"{node} is no member")
        if self.voters() == {node}:
            raise Conflict(f"{node} is the only member with a vote: a cluster needs one")
        former = self.former
        if member.incarnation:
            former = (*former, Former(node, member.incarnation, member.raft))[-FORMER_MAX:]
        members = {other: one for other, one in self.members.items() if other != node}
        return Configuration(members, former, level=self.level)

    def raised(self, level: int) -> Configuration:
        """With the same members at a higher feature level."""
        return Configuration(self.members, self.former, level=level)

    def _with(self, node: str, member: Member, former: tuple[Former, ...] | None = None) -> Configuration:
        members = dict(sorted({**self.members, node: member}.items()))
        return Configuration(members, self.former if former is None else former, level=self.level)


def founding(members: Mapping[str, Member], level: int = levels.LEVEL) -> Configuration:
    """The one before any change."""
    return Configuration(dict(sorted(members.items())), level=level)


def one_step(before: Configuration, after: Configuration) -> bool:
    """Whether their voters, each with its incarnation, differ by one at most."""

    def votes(configuration: Configuration) -> set[tuple[str, str]]:
        members = configuration.members
        return {(node, members[node].incarnation) for node in configuration.voters()}

    return len(votes(before) ^ votes(after)) <= 1


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Configuration)


def entry(configuration: Configuration) -> bytes:
    """The bytes of its log entry; the index is where it stands."""
    return MEMBERSHIP + _encoder.encode(configuration)


def from_entry(command: bytes, index: int) -> Configuration | None:
    """The configuration of the log entry at ``index``, ``None`` when the entry holds none.

    Raises:
        CorruptData: it should hold one; whoever went on would count the wrong majorities.
    """
    if not command.startswith(MEMBERSHIP):
        return None
    try:
        return msgspec.structs.replace(_decoder.decode(memoryview(command)[1:]), index=index)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptData(f"log entry {index} should say who the members are: {error}") from error


def before_state(configuration: Configuration, state: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks of a snapshot: the configuration first, once there was a change (before it, all know the founded)."""
    if configuration.index:
        yield _MARK + _encoder.encode(configuration)
    yield from state


def split(chunks: Iterator[bytes]) -> tuple[Configuration | None, Iterator[bytes]]:
    """(configuration, chunks of the state) of a snapshot; ``None``: nothing was changed before it.

    Raises:
        CorruptData: the configuration is damaged.
    """
    first = next(chunks, None)
    if first is None:
        return None, iter(())
    if not first.startswith(_MARK):
        return None, itertools.chain((first,), chunks)
    try:
        return _decoder.decode(memoryview(first)[len(_MARK) :]), chunks
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptData(f"the members in a snapshot are damaged: {error}") from error


def decode_change(payload: bytes) -> Change:
    """What a member asks the leader to change.

    Raises:
        InvalidInput: the bytes are no change.
    """
    try:
        change: Change = _change.decode(payload)
        return change
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not a change of members: {error}") from error


_change: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Change)


class Electorate:
    """The configurations that this node's snapshot and log hold; the newest is in effect (hazards 15 and 22).

    Nothing is concluded from what is *applied*: an entry counts from when it is in the log until it is cut.
    """

    def __init__(self, seed: Configuration, known_level: int = levels.LEVEL) -> None:
        """``seed``: holds until snapshot or log say something else. ``known_level``: highest that this node knows.

        Raises (here, and where a configuration is met):
            Beyond: its level is higher; whoever went on would apply what he does not understand.
        """
        self.known_level = known_level
        self._seed = msgspec.structs.replace(seed, index=0)
        self._known = [self._seed]
        self._check(seed)

    @property
    def active(self) -> Configuration:
        """The one in effect."""
        return self._known[-1]

    def at(self, index: int) -> Configuration:
        """The one of the log up to ``index``."""
        known = self._known
        position = len(known) - 1
        while position and known[position].index > index:
            position -= 1
        return known[position]

    def rebuild(self, base: Configuration | None, log: Any, after: int) -> None:
        """From a snapshot (``base``, ``None``: it says nothing) that ends at ``after``, and the whole log behind it."""
        self._known = [base or self._seed]
        self._check(self._known[0])
        for command, index, _ in log[:]:
            if index > after:
                self.follow(command, index)

    def follow(self, command: bytes, index: int) -> bool:
        """An entry was added to the log; whether that changed who counts."""
        configuration = from_entry(command, index)
        if configuration is None:
            return False
        self._check(configuration)
        self._known.append(configuration)
        return True

    def _check(self, configuration: Configuration) -> None:
        levels.check(configuration.level, self.known_level, "the data directory is that of a cluster")

    def cut(self, index: int) -> bool:
        """The log was cut from ``index`` on; whether that changed who counts."""
        kept = [one for one in self._known if one.index < index] or self._known[:1]
        changed = len(kept) != len(self._known)
        self._known = kept
        return changed

    def compact(self, index: int) -> None:
        """A snapshot up to ``index`` is durable: what came before its configuration is not asked for any more."""
        base = self.at(index)
        self._known = [base, *(one for one in self._known if one.index > index)]
