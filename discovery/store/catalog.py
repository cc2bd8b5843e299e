"""The service catalogue: namespaces, services and instances, with the last change of each.

Every thing has an *index*: the revision of its last change, deletions included. What lives knows its own; what is
gone stands in ``gone`` for as long as the change log remembers it, and afterwards its index is the compaction floor.
(What came back may stand there too, until the log forgets: the living are asked first.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from discovery.model import Change, InstanceRecord, ServiceRecord


class ServiceState(msgspec.Struct, gc=False):
    """A service that has settings, instances or both.

    Args:
        record: its settings, or ``None``.
        ready: instances whose status is ``ready``.
        changed: revision of the last change of settings or of any instance.
        order: ids in order, made when first asked for, dropped when an id comes or goes.
    """

    namespace: str
    name: str
    record: ServiceRecord | None
    instances: dict[str, InstanceRecord]
    ready: int = 0
    changed: int = 0
    order: list[str] | None = None


class NamespaceState(msgspec.Struct, gc=False):
    """A namespace that has services; ``order`` are their names in order, as in :class:`ServiceState`."""

    name: str
    services: dict[str, ServiceState]
    changed: int = 0
    order: list[str] | None = None


class Catalog:
    """All services of all namespaces. Reading is O(answer), a change O(1)."""

    __slots__ = ("changed", "gone", "instances", "namespaces", "services")

    def __init__(self) -> None:
        self.namespaces: dict[str, NamespaceState] = {}
        self.gone: dict[tuple[str, ...], int] = {}
        self.changed = 0
        self.instances = 0
        self.services = 0

    def find(self, namespace: str, service: str) -> ServiceState | None:
        """The service's state, or ``None`` when it has neither settings nor instances."""
        state = self.namespaces.get(namespace)
        return None if state is None else state.services.get(service)

    def instance(self, namespace: str, service: str, instance_id: str) -> InstanceRecord | None:
        """The instance's record, or ``None``."""
        state = self.find(namespace, service)
        return None if state is None else state.instances.get(instance_id)

    def all_services(self) -> Iterator[ServiceState]:
        """Every service, in no particular order."""
        for namespace in self.namespaces.values():
            yield from namespace.services.values()

    def put_instance(self, record: InstanceRecord) -> None:
        """Add or replace an instance; the change is of ``record.mod_revision``."""
        spec = record.spec
        state = self._touch(spec.namespace, spec.service, record.mod_revision)
        old = state.instances.get(spec.id)
        if old is None:
            self.instances += 1
            state.order = None
        elif old.spec.status == "ready":
            state.ready -= 1
        if spec.status == "ready":
            state.ready += 1
        state.instances[spec.id] = record

    def remove_instance(self, record: InstanceRecord, revision: int) -> None:
        """Remove an instance that is there."""
        spec = record.spec
        state = self._touch(spec.namespace, spec.service, revision)
        del state.instances[spec.id]
        state.order = None
        self.instances -= 1
        if spec.status == "ready":
            state.ready -= 1
        self.gone[(state.namespace, state.name, spec.id)] = revision
        if not state.instances and state.record is None:
            self._bury(state, revision)

    def put_service(self, record: ServiceRecord) -> None:
        """Add or replace a service's settings."""
        self._touch(record.spec.namespace, record.spec.name, record.mod_revision).record = record

    def note_change(self, namespace: str, service: str, revision: int) -> ServiceRecord | None:
        """Something else about a service that has settings changed; those settings. Without any nothing is noted."""
        state = self.find(namespace, service)
        return None if state is None or state.record is None else self._touch(namespace, service, revision).record

    def remove_service(self, namespace: str, service: str, revision: int) -> None:
        """Remove the settings of a service that has them."""
        state = self._touch(namespace, service, revision)
        state.record = None
        if not state.instances:
            self._bury(state, revision)

    def _touch(self, namespace: str, service: str, revision: int) -> ServiceState:
        """The service's state, made if need be, with the change noted on all that it belongs to."""
        parent = self.namespaces.get(namespace)
        if parent is None:
            parent = self.namespaces[namespace] = NamespaceState(namespace, {})
        state = parent.services.get(service)
        if state is None:
            state = parent.services[service] = ServiceState(parent.name, service, None, {})
            parent.order = None
            self.services += 1
        self.changed = parent.changed = state.changed = revision
        return state

    def _bury(self, state: ServiceState, revision: int) -> None:
        parent = self.namespaces[state.namespace]
        del parent.services[state.name]
        parent.order = None
        self.services -= 1
        self.gone[(state.namespace, state.name)] = revision
        if not parent.services:
            del self.namespaces[state.namespace]
            self.gone[(state.namespace,)] = revision

    def service_names(self, namespace: str) -> list[str]:
        """Names of the namespace's services, sorted. Not to be changed by the caller."""
        state = self.namespaces.get(namespace)
        if state is None:
            return []
        if state.order is None:
            state.order = sorted(state.services)
        return state.order

    def instance_ids(self, namespace: str, service: str) -> list[str]:
        """Ids of the service's instances, sorted. Not to be changed by the caller."""
        state = self.find(namespace, service)
        if state is None:
            return []
        if state.order is None:
            state.order = sorted(state.instances)
        return state.order

    def index(self, floor: int, *thing: str) -> int:
        """Last change of a namespace, service or instance, named by one, two or three names."""
        living = self._living(*thing)
        return self.gone.get(thing, floor) if living is None else living

    def _living(self, namespace: str, service: str | None = None, instance_id: str | None = None) -> int | None:
        parent = self.namespaces.get(namespace)
        if parent is None or service is None:
            return None if parent is None else parent.changed
        state = parent.services.get(service)
        if state is None or instance_id is None:
            return None if state is None else state.changed
        record = state.instances.get(instance_id)
        return None if record is None else record.mod_revision

    def forget(self, changes: Iterable[Change], floor: int) -> None:
        """Drop what is gone since ``floor`` or before: ``changes`` have just left the change log."""
        for change in changes:
            if change.kind == "delete" and change.resource != "key":
                for thing in _things(change):
                    if self.gone.get(thing, floor + 1) <= floor:
                        del self.gone[thing]

    def remember(self, changes: Iterable[Change], revision: int) -> None:
        """Note deletions of the change log again, after a snapshot was loaded (oldest first)."""
        for change in changes:
            if change.kind == "delete" and change.resource != "key":
                for thing in _things(change):
                    self.gone[thing] = revision


def _things(change: Change) -> tuple[tuple[Any, ...], ...]:
    service = (change.namespace, change.service)
    instance = (*service, change.name)
    return ((change.namespace,), service, instance) if change.resource == "instance" else ((change.namespace,), service)
