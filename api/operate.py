"""Operating: events, cluster, health, readiness, metrics, and DNS answers over HTTP."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp import web

from discovery.api import codec, spec, view
from discovery.api.call import JSON, Call
from discovery.errors import FieldError, Unavailable
from discovery.raft.types import MemberStatus

EVENTS_QUERY: Final = frozenset({"namespace", "service", "since"})
RESOLVE_QUERY: Final = frozenset({"name", "type"})
READY_FOR: Final = ("dns", "reads", "writes")
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ROLES: Final = ("leader", "follower", "learner")
_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,9}")
_NAME_CHARS_MAX: Final = 1024  # presentation form with escapes; the resolver holds it to 255 octets


async def events(call: Call) -> web.Response:
    """``GET /api/v1/events``: what happened to instances; with ``since`` only what came after it."""
    namespace, service, since = call.option("namespace"), call.option("service"), call.number("since")
    namespace = None if namespace is None else spec.label("namespace", namespace)
    service = None if service is None else spec.label("service", service)
    store = call.store
    if since is not None and since > store.revision:
        raise Unavailable(f"this node is at revision {store.revision}, before {since}; try again")
    happened = [view.event(event) for event in store.events(since, namespace, service)]
    return call.read({"events": happened}, store.index_of_catalog(), store.revision)


async def cluster(call: Call) -> web.Response:
    """``GET /api/v1/cluster``: the members as this node sees them."""
    status, store = call.registry.status(), call.store
    shown = {
        "node": call.registry.node_id,
        "leader": status.leader,
        "term": status.term,
        "revision": store.revision,
        "history": store.history,
        "level": status.level,
        "braked": len(store.braked_leases()),
        "processes": [
            {"name": name, "starts": starts, "held": held} for name, starts, held in call.registry.hub.children
        ],
        "members": [_member(member) for member in status.members],
    }
    return call.read(shown, store.revision, store.revision)


def _member(member: MemberStatus) -> dict[str, Any]:
    return {
        "id": member.id,
        "raft": member.raft,
        "http": member.http,
        "role": member.role if member.role in _ROLES else "follower",  # a candidate leads nobody yet
        "alive": member.alive,
        "last_contact_ms": member.last_contact_ms,
        "applied": member.applied,
        "problem": member.problem or None,
        "level": member.level,
        "version": member.version,
    }


async def healthz(call: Call) -> web.Response:
    """``GET /healthz``: the process lives and its loop turns."""
    return call.app.respond(200, b'{"status":"ok"}', JSON)


async def readyz(call: Call) -> web.Response:
    """``GET /readyz``: 200, or 503 that names what is missing; ``?for=dns|reads|writes`` narrows it."""
    wanted = dict(part.partition("=")[::2] for part in call.raw_query.split("&")).get("for")
    if wanted is not None and wanted not in READY_FOR:
        codec.refuse("for", f"must be one of {', '.join(READY_FOR)}", wanted)
    missing = [one for one in call.registry.readiness() if wanted is None or wanted in one.areas]
    if missing:
        faults = tuple(FieldError(one.name, one.detail) for one in missing)
        raise Unavailable("not ready: " + "; ".join(one.detail for one in missing), faults)
    return call.app.respond(200, b'{"status":"ready"}', JSON)


async def metrics(call: Call) -> web.Response:
    """``GET /metrics``: Prometheus exposition."""
    return call.app.respond(200, call.app.metrics(), METRICS_TYPE)


async def resolve(call: Call) -> web.Response:
    """``GET /api/v1/resolve``: what the DNS answer code says, from this node's own view."""
    name, kind = call.option("name"), call.option("type") or "A"
    if not name:
        codec.refuse("name", "is required", name)
    if len(name) > _NAME_CHARS_MAX:
        codec.refuse("name", f"must be at most {_NAME_CHARS_MAX} characters", name)
    if not _TYPE.fullmatch(kind):
        codec.refuse("type", "must be the name of a record type, as A or SRV", kind)
    store = call.store
    revision, index = store.revision, store.index_of_catalog()
    return call.read(call.app.resolver.query(name, kind.upper()), index, revision)
