"""Who is in the cluster and who leads it, changed while it runs. Any node takes these and has the leader do them."""

from __future__ import annotations

import contextlib
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from discovery.api import codec, operate, spec
from discovery.api.call import JSON, Call
from discovery.config_rules import HOST_NAME, PEER_RULE, WILDCARDS, listen_address, split_address
from discovery.errors import NotApplied

_ADD: Final = frozenset({"id", "raft", "http"})
_LEAD: Final = frozenset({"to"})
_URL_RULE: Final = "must be a URL such as http://10.0.0.1:8500"


async def add(call: Call) -> web.Response:
    """``POST /api/v1/cluster/members``: a node more, as a learner first; again: nothing changes."""
    fields = codec.decode_object(call.body, _ADD)
    node = _label(fields.get("id"), "id")
    raft, http = _text(fields.get("raft"), "raft"), _text(fields.get("http"), "http", "")
    _check_raft(raft)
    _check_http(http)
    await call.registry.consensus().admin.add(node, raft, http)
    return await _shown(call)


async def remove(call: Call) -> web.Response:
    """``DELETE /api/v1/cluster/members/{id}``: one that leads hands over first."""
    await call.registry.consensus().admin.remove(spec.label("id", call.parameters["id"]))
    return call.app.respond(204, None, JSON)


async def lead(call: Call) -> web.Response:
    """``POST /api/v1/cluster/leader``: hand leadership to a voter."""
    fields = codec.decode_object(call.body, _LEAD)
    await call.registry.consensus().admin.lead(_label(fields.get("to"), "to"))
    return await _shown(call)


async def _shown(call: Call) -> web.Response:
    """The cluster, with what was just done, if this node can know it in time."""
    with contextlib.suppress(NotApplied):
        await call.registry.barrier()
    return await operate.cluster(call)


def _text(value: object, field: str, default: str | None = None) -> str:
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        codec.refuse(field, "is required" if value is None else "must be a string", value)
    return value


def _label(value: object, field: str) -> str:
    return spec.label(field, _text(value, field))


def _check_raft(raft: str) -> None:
    if not _can_be_dialed(raft):
        codec.refuse("raft", f"{PEER_RULE} that the other members can dial", raft)


def _check_http(http: str) -> None:
    """Empty, or a URL without path, query and user; nodes say their own as soon as they are connected."""
    if not http:
        return
    try:
        url = urlsplit(http)
    except ValueError:
        codec.refuse("http", _URL_RULE, http)
    place = url.netloc if split_address(url.netloc) else f"{url.netloc}:80"
    plain = url.scheme in ("http", "https") and not (url.path.rstrip("/") or url.query or url.fragment)
    if not plain or not _can_be_dialed(place):
        codec.refuse("http", _URL_RULE, http)


def _can_be_dialed(address: str) -> bool:
    parts = split_address(address)
    if parts is None or parts[1] == 0 or parts[0] in WILDCARDS:
        return False
    return listen_address(address) is not None or HOST_NAME.fullmatch(parts[0]) is not None
