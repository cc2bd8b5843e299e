"""Operations of a history as requests of the HTTP API, and its answers as theirs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from discovery.testing.cluster import Answer
from discovery.testing.models import Decided, Delete, Deleted, Found, Get, Input, Output, Put, Txn, Wrote

INSTANCES: Final = "instance:"


@dataclass(frozen=True)
class Request:
    """One HTTP request, the statuses of good answers, and how to read those."""

    method: str
    path: str
    body: bytes
    good: tuple[int, ...]
    read: Callable[[Answer], Output]


def request_of(call: Input) -> Request:
    """The request that carries out an operation; a key that begins with ``instance:`` names an instance."""
    if isinstance(call, Txn):
        return Request("POST", "txn", _txn_body(call), (200,), _decided)
    if call.key.startswith(INSTANCES):
        return _instance(call, f"namespaces/default/services/contended/instances/{call.key.removeprefix(INSTANCES)}")
    path = f"kv/{call.key}"
    match call:
        case Get():
            return Request("GET", f"{path}?consistency=strong", b"", (200, 404), _found_key)
        case Put():
            return Request("PUT", path + _condition(call), call.value.encode(), (200,), _wrote)
        case Delete():
            return Request("DELETE", path + _condition(call), b"", (200,), _deleted)


def _instance(call: Get | Put | Delete, path: str) -> Request:
    match call:
        case Get():
            return Request("GET", f"{path}?consistency=strong", b"", (200, 404), _found_instance)
        case Put():
            body = {"address": "10.9.9.9", "ttl": None, "meta": {"value": call.value}}
            return Request("PUT", path + _condition(call), json.dumps(body).encode(), (200, 201), _registered)
        case Delete():
            return Request("DELETE", path + _condition(call), b"", (204,), lambda _: Deleted())


def _condition(call: Put | Delete) -> str:
    return "" if call.if_revision is None else f"?if_revision={call.if_revision}"


def _found_key(told: Answer) -> Output:
    as_of = int(told.headers["x-registry-revision"])
    if told.status == 404:
        return Found(None, 0, as_of)
    return Found(told.body.decode(), int(told.headers["x-key-revision"]), as_of)


def _found_instance(told: Answer) -> Output:
    as_of = int(told.headers["x-registry-revision"])
    if told.status == 404:
        return Found(None, 0, as_of)
    return Found(told.json()["meta"]["value"], told.json()["revision"], as_of)


def _wrote(told: Answer) -> Output:
    return Wrote(told.json()["revision"])


def _registered(told: Answer) -> Output:
    return Wrote(told.json()["revision"], told.status == 201)


def _deleted(told: Answer) -> Output:
    return Deleted(told.json()["deleted"], told.json()["revision"])


def _txn_body(call: Txn) -> bytes:
    compare = [{"key": key, "target": "revision", "op": "==", "value": revision} for key, revision in call.compare]
    body = {"compare": compare, "then": list(map(_txn_op, call.then)), "else": list(map(_txn_op, call.orelse))}
    return json.dumps(body).encode()


def _txn_op(op: Get | Put | Delete) -> dict[str, Any]:
    match op:
        case Put():
            return {"put": {"key": op.key, "value_base64": base64.b64encode(op.value.encode()).decode()}}
        case Delete():
            return {"delete": {"key": op.key}}
        case Get():
            return {"get": {"key": op.key}}


def _decided(told: Answer) -> Output:
    body = told.json()
    return Decided(body["succeeded"], body["revision"], tuple(map(_txn_result, body["results"])))


def _txn_result(result: Mapping[str, Any]) -> Found | Wrote | Deleted:
    [(kind, told)] = result.items()
    if kind == "put":
        return Wrote(told["revision"])
    if kind == "delete":
        return Deleted(told["deleted"])
    for item in told["items"]:
        return Found(base64.b64decode(item["value_base64"]).decode(), item["revision"])
    return Found(None)
