"""Leases on their own: grant, renew, look, revoke."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from discovery.api import codec, view
from discovery.api.call import Call, new_lease_id
from discovery.command import Grant, Revoke
from discovery.errors import NotFound
from discovery.model import lease_text

_FIELDS: Final = frozenset({"ttl"})


def _id(call: Call) -> int:
    return codec.lease_id("lease", call.parameters["lease"])


async def grant(call: Call) -> web.Response:
    """``POST /api/v1/leases``."""
    fields = codec.decode_object(call.body, _FIELDS)
    if "ttl" not in fields:
        codec.refuse("ttl", "is required")
    result = await call.write(Grant(new_lease_id(), codec.lease_ttl_ms("ttl", fields["ttl"])))
    assert result.lease is not None
    shown = {"id": lease_text(result.lease.id), "ttl": codec.seconds(result.lease.ttl_ms)}
    return await call.written(result, 201, shown)


async def renew(call: Call) -> web.Response:
    """``PUT /api/v1/leases/{id}``."""
    lease = await call.registry.renew_lease(_id(call))
    return call.renewed(view.lease(lease.id, lease.ttl_ms, lease.ttl_ms))


async def get(call: Call) -> web.Response:
    """``GET /api/v1/leases/{id}``: with its attachments. Its index is the node's revision: leases keep no own one."""
    id = _id(call)
    store = call.store
    lease, revision = store.lease(id), store.revision
    if lease is None:
        return call.absent(NotFound(f"no lease {lease_text(id)}"), revision)
    remaining = codec.seconds((await call.registry.remaining([id])).get(id))
    shown = {
        "id": lease_text(id),
        "ttl": codec.seconds(lease.ttl_ms),
        "remaining": remaining,
        "instances": lease.instances,
        "keys": lease.keys,
    }
    return call.read(shown, revision, revision)


async def revoke(call: Call) -> web.Response:
    """``DELETE /api/v1/leases/{id}``: with all that hangs on it."""
    return await call.written(await call.write(Revoke(_id(call))), 204)
