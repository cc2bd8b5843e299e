"""A node's own place in the catalogue: ``discovery.system.svc.<zone>`` (CONTRACT section 3).

Each node registers itself like any service, as instance ``<node id>`` of ``system/discovery`` with a lease that it
renews; so a node that died leaves DNS as every other instance does, and the list is the same on all nodes. It must
never harm the node: whatever fails is tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from discovery.command import Deregister, Register, Written
from discovery.config_rules import split_address
from discovery.errors import RegistryError
from discovery.model import OWN_SERVICE, Instance, Port
from discovery.registry import Registry

logger: Final = logging.getLogger(__name__)

NAMESPACE, SERVICE = OWN_SERVICE
TTL_MS: Final = 15_000
HEARTBEAT_S: Final = 4.0
RETRY_S: Final = 0.25
LEAVE_S_MAX: Final = 1.0


def own_instance(node: str, http_url: str, dns_address: str, raft_address: str, dns_ip: str = "") -> Instance | None:
    """What this node registers; ``None`` when no IP address of its own is known (all are host names).

    Args:
        node: its id, which is a label and so its host name.
        http_url: advertised URL.
        dns_address: where its DNS answers, ``HOST:PORT``.
        raft_address: advertised to peers, ``HOST:PORT``.
        dns_ip: the advertised address of its DNS, or empty.
    """
    http = urlsplit(http_url)
    dns, raft = split_address(dns_address), split_address(raft_address)
    address = _first_ip((dns_ip, http.hostname or "", *(parts[0] for parts in (raft, dns) if parts)))
    if address is None:
        return None
    ports = [Port("http", http.port or 80, "tcp")]
    ports += [Port("dns", dns[1], "udp"), Port("dns", dns[1], "tcp")] if dns else []
    ports += [Port("raft", raft[1], "tcp")] if raft else []
    return Instance(NAMESPACE, SERVICE, node, (address,), tuple(ports), hostname=node)


def _first_ip(texts: Iterable[str]) -> str | None:
    for text in texts:
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(text))
    return None


class Presence:
    """Keeps ``instance`` registered while :meth:`run` runs."""

    def __init__(self, registry: Registry, instance: Instance) -> None:
        self._registry = registry
        self._instance = instance
        self._lease = 0

    async def run(self) -> None:
        """Register, renew, register again after a loss; until cancelled."""
        while True:
            try:
                await (self._renew() if self._lease else self._register())
                await asyncio.sleep(HEARTBEAT_S)
            except RegistryError as error:
                logger.debug("not registered: %s", error.detail)
                await asyncio.sleep(RETRY_S)

    async def leave(self) -> None:
        """Deregister, if the cluster takes it in a moment; otherwise the lease runs out."""
        if self._lease:
            command = Deregister(*self._name(), holder=self._lease, reason="drained")
            with contextlib.suppress(RegistryError):
                await self._registry.write(command, actor=self._instance.id, timeout_s=LEAVE_S_MAX)

    def _name(self) -> tuple[str, str, str]:
        return NAMESPACE, SERVICE, self._instance.id

    async def _register(self) -> None:
        """Take the place. After a restart within the TTL the lease is ours still, and nothing changes.

        The state must be read first: after a restart it comes back only as the log is applied again.
        """
        await self._registry.barrier()
        found = self._registry.store.instance(*self._name())
        command = Register(
            instance=self._instance,
            status_given=True,
            ttl_ms=TTL_MS,
            ttl_given=True,
            join=0,
            holder=found.lease if found else 0,
            new_lease=secrets.randbits(62) + 1,
        )
        written = await self._registry.write(command, actor=self._instance.id)
        assert isinstance(written, Written)
        self._lease = written.instance.lease if written.instance else 0

    async def _renew(self) -> None:
        answer = await self._registry.heartbeat([(*self._name(), self._lease)])
        if answer.missing or answer.conflict:
            self._lease = 0
            await self._register()
