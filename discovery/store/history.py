"""What happened: the change log that followers resume from, and the events that people read. Both are bounded."""

from __future__ import annotations

from collections import deque

from discovery import limits
from discovery.errors import Compacted, Unavailable
from discovery.model import Change, Event, Group, InstanceRecord, KeyRecord

_CHANGE_BYTES = 256
_KEPT_PART = 7 / 8  # the floor moves in steps, so that those who wait on it do not wake at every write


def _weight(change: Change) -> int:
    """About the bytes that the change keeps alive; the same number on every node."""
    record = change.record
    if isinstance(record, KeyRecord):
        return _CHANGE_BYTES + len(change.name) + len(record.value)
    if isinstance(record, InstanceRecord):
        spec = record.spec
        size = _CHANGE_BYTES + sum(map(len, spec.tags))
        for pair in spec.meta:
            size += len(pair[0]) + len(pair[1])
        return size
    return _CHANGE_BYTES


class ChangeLog:
    """The last groups of changes, one for each revision after ``floor``.

    It holds at most ``limits.CHANGE_LOG_CHANGES_MAX`` changes of ``limits.CHANGE_LOG_BYTES_MAX`` bytes, or the newest
    group alone.
    """

    __slots__ = ("bytes", "changes", "floor", "groups")

    def __init__(self, floor: int = 0) -> None:
        self.groups: list[Group] = []
        self.floor = floor
        self.changes = 0
        self.bytes = 0

    def append(self, group: Group) -> list[Group]:
        """Add the next revision's group; return the groups that had to leave, oldest first."""
        self.restore(group)
        if self.changes <= limits.CHANGE_LOG_CHANGES_MAX and self.bytes <= limits.CHANGE_LOG_BYTES_MAX:
            return []
        return self._compact()

    def restore(self, group: Group) -> None:
        """Add a group of a snapshot: it was within the bounds when it was saved."""
        self.groups.append(group)
        self.changes += len(group.changes)
        self.bytes += sum(map(_weight, group.changes))

    def _compact(self) -> list[Group]:
        most_changes = limits.CHANGE_LOG_CHANGES_MAX * _KEPT_PART
        most_bytes = limits.CHANGE_LOG_BYTES_MAX * _KEPT_PART
        count = 0
        while count < len(self.groups) - 1 and (self.changes > most_changes or self.bytes > most_bytes):
            group = self.groups[count]
            self.changes -= len(group.changes)
            self.bytes -= sum(map(_weight, group.changes))
            count += 1
        gone = self.groups[:count]
        del self.groups[:count]
        self.floor = gone[-1].revision if gone else self.floor
        return gone

    def since(self, revision: int) -> list[Group]:
        """The groups after ``revision``, oldest first.

        Raises:
            Compacted: changes after ``revision`` have left the log.
            Unavailable: ``revision`` has not been reached here.
        """
        last = self.floor + len(self.groups)
        if revision < self.floor:
            raise Compacted(
                f"revision {revision} was compacted, the log begins after {self.floor}: read the state anew"
            )
        if revision > last:
            raise Unavailable(f"revision {revision} is ahead of this node, which stands at {last}")
        return self.groups[revision - self.floor :]


class EventLog:
    """The last ``limits.EVENTS_MAX`` events; all after revision ``floor`` are here."""

    __slots__ = ("events", "floor")

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.floor = 0

    def extend(self, events: list[Event]) -> None:
        """Add events, oldest first."""
        self.events.extend(events)
        while len(self.events) > limits.EVENTS_MAX:
            self.floor = self.events.popleft().revision

    def find(self, since: int | None, namespace: str | None, service: str | None) -> list[Event]:
        """Events after revision ``since`` (all when ``None``) of a namespace and service (all when ``None``).

        Raises:
            Compacted: events after ``since`` have been dropped.
        """
        if since is not None and since < self.floor:
            raise Compacted(f"events after revision {since} were dropped: ask from {self.floor} on, or without since")
        return [
            event
            for event in self.events
            if (since is None or event.revision > since)
            and (namespace is None or event.namespace == namespace)
            and (service is None or event.service == service)
        ]
