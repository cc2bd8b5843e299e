"""The replicated part of leases: their TTL, version and what hangs on them. Deadlines are the leader's alone."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from discovery.model import Instance, Lease

Thing = tuple[str, str, str] | str  # an instance by its three names, or a key


class Held(msgspec.Struct, gc=False):
    """A lease. A snapshot shares it with the running state: all but ``attached`` is replaced, never changed in place.

    Args:
        own: granted by a registration: it goes when nothing hangs on it any more. Others stay until they expire.
        attached: nothing, one instance, one key, or several of both. Most leases hold one instance, and its
            specification is there anyway; a dictionary for each would weigh as much as the record.
    """

    ttl_ms: int
    version: int
    remaining_ms: int | None
    own: bool
    attached: Instance | str | dict[Thing, None] | None = None


def _thing(attached: Instance | str) -> Thing:
    return attached if isinstance(attached, str) else (attached.namespace, attached.service, attached.id)


class Leases:
    """All leases by id."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[int, Held] = {}

    def replace(self, lease_id: int, ttl_ms: int, *, own: bool) -> Held:
        """Grant the lease, or move its version and begin its TTL anew, keeping what hangs on it."""
        old = self.held.get(lease_id)
        held = Held(ttl_ms, 1, None, own) if old is None else Held(ttl_ms, old.version + 1, None, old.own, old.attached)
        self.held[lease_id] = held
        return held

    def checkpoint(self, lease_id: int, remaining_ms: int) -> None:
        """Note the remaining TTL of a lease that is there; its version stays."""
        old = self.held[lease_id]
        self.held[lease_id] = Held(old.ttl_ms, old.version, remaining_ms, old.own, old.attached)

    def attach(self, lease_id: int, what: Instance | str) -> None:
        """Hang an instance or a key on a lease; again is no harm."""
        held = self.held[lease_id]
        attached = held.attached
        thing = _thing(what)
        if isinstance(attached, dict):
            attached[thing] = None
        elif attached is None or _thing(attached) == thing:
            held.attached = what
        else:
            held.attached = {_thing(attached): None, thing: None}

    def detach(self, lease_id: int, what: Instance | str) -> None:
        """Take an instance or a key off a lease, if it hangs there."""
        held = self.held[lease_id]
        attached = held.attached
        if isinstance(attached, dict):
            attached.pop(_thing(what), None)
            held.attached = attached or None
        elif attached is not None and _thing(attached) == _thing(what):
            held.attached = None

    def carries(self, lease_id: int, what: Instance | str) -> bool:
        """Whether the instance or key hangs on the lease."""
        attached = self.held[lease_id].attached
        if isinstance(attached, dict):
            return _thing(what) in attached
        return attached is not None and _thing(attached) == _thing(what)

    def count(self, lease_id: int) -> int:
        """How many things hang on the lease."""
        attached = self.held[lease_id].attached
        return len(attached) if isinstance(attached, dict) else int(attached is not None)

    def brief(self, lease_id: int) -> Lease:
        """The lease without what hangs on it: O(1), for results and clocks."""
        held = self.held[lease_id]
        return Lease(lease_id, held.ttl_ms, held.version, held.remaining_ms)

    def full(self, lease_id: int) -> Lease:
        """The lease with what hangs on it, sorted."""
        lease = self.brief(lease_id)
        instances, keys = sorted_things(self.held[lease_id])
        lease.instances, lease.keys = tuple(instances), tuple(keys)
        return lease

    def all(self) -> Iterator[Lease]:
        """Every lease, without what hangs on it."""
        for lease_id in self.held:
            yield self.brief(lease_id)


def sorted_things(held: Held) -> tuple[list[tuple[str, str, str]], list[str]]:
    """What hangs on a lease: instances and keys, each sorted, since the order of arrival is no part of the state."""
    attached = held.attached
    if attached is None:
        return [], []
    things = attached if isinstance(attached, dict) else (_thing(attached),)
    instances = sorted(thing for thing in things if isinstance(thing, tuple))
    return instances, sorted(thing for thing in things if isinstance(thing, str))
