"""The routes of the API as data: path, methods, what each takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from discovery import limits
from discovery.api import instance, kv, lease, members, operate, service, snapshot
from discovery.api.paging import PAGE_QUERY
from discovery.api.route import Endpoint, Route

_JSON: Final = limits.HTTP_BODY_BYTES_MAX
_HOLDER: Final = frozenset({"lease"})
_IF_REVISION: Final = frozenset({"if_revision"})
_SERVICE: Final = "/api/v1/namespaces/{namespace}/services/{service}"
_INSTANCE: Final = _SERVICE + "/instances/{id}"

_LATER: Final = "is reserved: blocking queries are not available yet; ask again without it"
LATER: Final[Mapping[str, str]] = {"index": _LATER, "wait": _LATER}

ROUTES: Final = (
    Route("namespaces", "/api/v1/namespaces", {"GET": Endpoint(service.list_namespaces, "read", PAGE_QUERY)}),
    Route(
        "services",
        "/api/v1/namespaces/{namespace}/services",
        {"GET": Endpoint(service.list_services, "read", PAGE_QUERY)},
    ),
    Route(
        "service",
        _SERVICE,
        {
            "GET": Endpoint(service.get, "read"),
            "PUT": Endpoint(service.put, "write", _IF_REVISION, _JSON),
            "DELETE": Endpoint(service.delete, "write"),
        },
    ),
    Route(
        "service_instances",
        _SERVICE + "/instances",
        {"GET": Endpoint(instance.list_of_service, "read", PAGE_QUERY | instance.LIST_QUERY)},
    ),
    Route(
        "instance",
        _INSTANCE,
        {
            "GET": Endpoint(instance.get, "read"),
            "PUT": Endpoint(instance.put, "write", _HOLDER | _IF_REVISION, _JSON),
            "DELETE": Endpoint(instance.delete, "write", _HOLDER | _IF_REVISION),
        },
    ),
    Route("heartbeat", _INSTANCE + "/heartbeat", {"PUT": Endpoint(instance.heartbeat, "write", _HOLDER)}),
    Route("status", _INSTANCE + "/status", {"PUT": Endpoint(instance.put_status, "write", _HOLDER, _JSON)}),
    Route(
        "heartbeats",
        "/api/v1/heartbeats",
        {"POST": Endpoint(instance.heartbeats, "write", body_max=limits.HTTP_BATCH_BYTES_MAX)},
    ),
    Route(
        "instances",
        "/api/v1/instances",
        {"GET": Endpoint(instance.list_all, "read", PAGE_QUERY | instance.LIST_QUERY)},
    ),
    Route("leases", "/api/v1/leases", {"POST": Endpoint(lease.grant, "write", body_max=_JSON)}),
    Route(
        "lease",
        "/api/v1/leases/{lease}",
        {
            "GET": Endpoint(lease.get, "read"),
            "PUT": Endpoint(lease.renew, "write"),
            "DELETE": Endpoint(lease.revoke, "write"),
        },
    ),
    Route(
        "kv",
        "/api/v1/kv/{key*}",
        {
            "GET": Endpoint(kv.get, "read", kv.GET_QUERY),
            "PUT": Endpoint(kv.put, "write", kv.PUT_QUERY, limits.VALUE_BYTES_MAX),
            "DELETE": Endpoint(kv.delete, "write", kv.DELETE_QUERY),
        },
    ),
    Route("txn", "/api/v1/txn", {"POST": Endpoint(kv.transact, "write", body_max=limits.HTTP_BATCH_BYTES_MAX)}),
    Route("events", "/api/v1/events", {"GET": Endpoint(operate.events, "read", operate.EVENTS_QUERY)}),
    Route("cluster", "/api/v1/cluster", {"GET": Endpoint(operate.cluster, "read")}),
    Route("members", "/api/v1/cluster/members", {"POST": Endpoint(members.add, "write", body_max=_JSON)}),
    Route("member", "/api/v1/cluster/members/{id}", {"DELETE": Endpoint(members.remove, "write")}),
    Route("leader", "/api/v1/cluster/leader", {"POST": Endpoint(members.lead, "write", body_max=_JSON)}),
    Route(
        "snapshot",
        "/api/v1/snapshot",
        {"GET": Endpoint(snapshot.get, "read"), "PUT": Endpoint(snapshot.put, "write", streams=True)},
    ),
    Route("resolve", "/api/v1/resolve", {"GET": Endpoint(operate.resolve, "read", operate.RESOLVE_QUERY)}),
    Route("healthz", "/healthz", {"GET": Endpoint(operate.healthz, "plain")}),
    Route("readyz", "/readyz", {"GET": Endpoint(operate.readyz, "plain")}),
    Route("metrics", "/metrics", {"GET": Endpoint(operate.metrics, "plain")}),
)
