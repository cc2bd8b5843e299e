"""The brake (DESIGN guarantee 9): expiry that would leave too few of a service's instances is held back for a while.

A service that sets ``min_healthy`` keeps at least that fraction of its *base*: the ready instances that it has and
those that it lost by expiry within the last ``brake_timeout``. (Without the lost ones a service whose leases end one
after the other would shrink by one each time, and never be below any fraction of what it just was.) What was held
back goes when there is room again, or after ``brake_timeout`` at the latest; then its losses are forgotten too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from discovery import limits
from discovery.model import Instance, Service
from discovery.store.catalog import Catalog, ServiceState
from discovery.store.leases import Held, sorted_things

WHOLE: Final = 1_000_000
_LOSSES_MAX: Final = 16
ServiceKey = tuple[str, str]


class Brake(msgspec.Struct, gc=False):
    """The state of one service's brake.

    Args:
        losses: (log time in ms, ready instances that expired), oldest first.
        held: log time in ms since when each lease is held back.
    """

    losses: list[tuple[int, int]]
    held: dict[int, int]


class Brakes:
    """The brakes of all services that have lost or held back something; ``leases`` says whose a lease is."""

    __slots__ = ("leases", "services")

    def __init__(self) -> None:
        self.services: dict[ServiceKey, Brake] = {}
        self.leases: dict[int, ServiceKey] = {}

    def of(self, key: ServiceKey) -> Brake:
        """The service's brake, made if need be."""
        brake = self.services.get(key)
        if brake is None:
            brake = self.services[key] = Brake([], {})
        return brake

    def hold(self, lease_id: int, key: ServiceKey, now_ms: int) -> None:
        """Hold a lease back."""
        self.of(key).held[lease_id] = now_ms
        self.leases[lease_id] = key

    def since_ms(self, lease_id: int) -> int:
        """Log time since when a lease is held back that is."""
        return self.services[self.leases[lease_id]].held[lease_id]

    def release(self, lease_id: int) -> ServiceKey | None:
        """The lease is held back no longer; the service it was held for, if any."""
        key = self.leases.pop(lease_id, None)
        if key is not None:
            del self.services[key].held[lease_id]
        return key

    def lost(self, key: ServiceKey, count: int, now_ms: int, timeout_ms: int) -> None:
        """Ready instances expired; losses that lie close together count as one."""
        losses = self.of(key).losses
        while losses and losses[0][0] <= now_ms - timeout_ms:
            losses.pop(0)
        if losses and now_ms - losses[-1][0] < timeout_ms // _LOSSES_MAX:
            losses[-1] = (losses[-1][0], losses[-1][1] + count)
        else:
            losses.append((now_ms, count))

    def room(self, state: ServiceState, now_ms: int) -> int:
        """How many ready instances may expire now without leaving too few (all, without a brake)."""
        spec = None if state.record is None else state.record.spec
        if spec is None or not spec.min_healthy_ppm:
            return state.ready
        return max(0, state.ready - self.floor(state, spec, now_ms))

    def floor(self, state: ServiceState, spec: Service, now_ms: int) -> int:
        """How many ready instances must stay."""
        base = state.ready + self._lost(spec, now_ms)
        return -(-(spec.min_healthy_ppm or 0) * base // WHOLE)

    def _lost(self, spec: Service, now_ms: int) -> int:
        brake = self.services.get((spec.namespace, spec.name))
        oldest = now_ms - timeout_ms(spec)
        return 0 if brake is None else sum(count for when, count in brake.losses if when > oldest)

    def forget(self, key: ServiceKey) -> None:
        """The settings of a service are gone."""
        brake = self.services.get(key)
        if brake is not None and not brake.held:
            del self.services[key]

    def may_go(self, catalog: Catalog, now_ms: int) -> Iterator[int]:
        """Leases held back for which there is room now."""
        for key, brake in self.services.items():
            if brake.held:
                state = catalog.find(*key)
                free = state is None or state.record is None or not state.record.spec.min_healthy_ppm
                room = len(brake.held) if free or state is None else self.room(state, now_ms)
                yield from islice(brake.held, room)


def timeout_ms(spec: Service) -> int:
    """How long a service's brake holds, milliseconds."""
    return spec.brake_timeout_ms or limits.BRAKE_TIMEOUT_MS_DEFAULT


def braked_services(held: Held, catalog: Catalog) -> dict[ServiceKey, int]:
    """Ready instances on the lease that belong to a service with a brake, counted by service."""
    if isinstance(held.attached, Instance):  # nearly all
        spec = held.attached
        key = (spec.namespace, spec.service)
        record = catalog.namespaces[spec.namespace].services[spec.service].record
        braked = record is not None and record.spec.min_healthy_ppm and spec.status == "ready"
        return {key: 1} if braked else {}
    found: dict[ServiceKey, int] = {}
    for namespace, service, instance_id in sorted_things(held)[0]:
        state = catalog.namespaces[namespace].services[service]
        ready = state.instances[instance_id].spec.status == "ready"
        if ready and state.record is not None and state.record.spec.min_healthy_ppm:
            found[namespace, service] = found.get((namespace, service), 0) + 1
    return found
