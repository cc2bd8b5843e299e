"""Clients that contend for a few keys and instances, and record what they were told: the makers of a history.

They differ as clients do (:data:`ROLES`). Some wait long and send each request once, without a key, so that nothing but
the daemon keeps it from being applied twice. Some give up soon and, after an unknown outcome, repeat the write at
another node under the same ``Idempotency-Key``: still the same operation, however many requests it took. Some only
read, and stay at their node whatever it is cut off from. Now and then one hangs up before its answer can have come.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from discovery.testing.history import History
from discovery.testing.models import Decided, Delete, Deleted, Found, Get, Input, Output, Put, Refused, Txn, Wrote

CONNECT_S: Final = 0.5
REST_S: Final = 0.01
HANG_UP_S: Final = 0.01
REFUSED_STATUS: Final = 503
UNKNOWN_STATUS: Final = 504
INSTANCES: Final = "instance:"
_NOT_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_GONE: Final = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True)
class Role:
    """A kind of client: how long it waits, how often it sends an operation, how often it hangs up before the answer."""

    patience_s: float
    requests: int = 1
    hangs_up: float = 0.0
    reads_only: bool = False


PATIENT: Final = Role(patience_s=6.0, hangs_up=0.02)
HASTY: Final = Role(patience_s=0.7, requests=8, hangs_up=0.1)
READER: Final = Role(patience_s=0.7, reads_only=True)
ROLES: Final = (PATIENT, HASTY, READER, PATIENT, HASTY)


class Unexpected(Exception):
    """An answer that no client should ever get."""


@dataclass(frozen=True)
class Request:
    """One HTTP request, and how to read its good answer (status, headers, body)."""

    method: str
    path: str
    body: Any
    read: Callable[[int, Mapping[str, str], Any], Output]
    good: frozenset[int]


def request_of(call: Input) -> Request:
    """The request that carries out an operation; a key that begins with ``instance:`` is an instance's id."""
    if isinstance(call, Txn):
        return Request("POST", "txn", _txn_body(call), lambda *got: _decided(call, got[2]), frozenset({200}))
    if call.key.startswith(INSTANCES):
        return _instance(call, f"namespaces/default/services/contended/instances/{call.key.removeprefix(INSTANCES)}")
    path = f"kv/{call.key}"
    match call:
        case Get():
            return Request("GET", f"{path}?consistency=strong", None, _found_key, frozenset({200, 404}))
        case Put():
            body = call.value.encode()
            return Request(
                "PUT", path + _condition(call), body, lambda *got: Wrote(got[2]["revision"]), frozenset({200})
            )
        case Delete():
            return Request("DELETE", path + _condition(call), None, _deleted, frozenset({200}))


def _instance(call: Get | Put | Delete, path: str) -> Request:
    match call:
        case Get():
            return Request("GET", f"{path}?consistency=strong", None, _found_instance, frozenset({200, 404}))
        case Put():
            body = {"address": "10.9.9.9", "ttl": None, "meta": {"value": call.value}}
            return Request("PUT", path + _condition(call), body, _registered, frozenset({200, 201}))
        case Delete():
            return Request("DELETE", path + _condition(call), None, lambda *_: Deleted(), frozenset({204}))


def _condition(call: Put | Delete) -> str:
    return "" if call.if_revision is None else f"?if_revision={call.if_revision}"


def _found_key(status: int, headers: Mapping[str, str], body: Any) -> Output:
    as_of = int(headers["X-Registry-Revision"])
    return Found(None, 0, as_of) if status == 404 else Found(body.decode(), int(headers["X-Key-Revision"]), as_of)


def _found_instance(status: int, headers: Mapping[str, str], body: Any) -> Output:
    as_of = int(headers["X-Registry-Revision"])
    return Found(None, 0, as_of) if status == 404 else Found(body["meta"]["value"], body["revision"], as_of)


def _registered(status: int, headers: Mapping[str, str], body: Any) -> Output:
    return Wrote(body["revision"], status == 201)


def _deleted(status: int, headers: Mapping[str, str], body: Any) -> Output:
    return Deleted(body["deleted"], body["revision"])


def _txn_body(call: Txn) -> dict[str, Any]:
    compare = [{"key": key, "target": "revision", "op": "==", "value": revision} for key, revision in call.compare]
    return {"compare": compare, "then": list(map(_txn_op, call.then)), "else": list(map(_txn_op, call.orelse))}


def _txn_op(op: Get | Put | Delete) -> dict[str, Any]:
    match op:
        case Put():
            return {"put": {"key": op.key, "value_base64": base64.b64encode(op.value.encode()).decode()}}
        case Delete():
            return {"delete": {"key": op.key}}
        case Get():
            return {"get": {"key": op.key}}


def _decided(call: Txn, body: Any) -> Decided:
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


@dataclass
class Contenders:
    """Clients over all nodes, contending for ``keys``, two keys that transactions bind together, and ``instances``.

    Args:
        urls: of all nodes; a client goes on with another when its own does not answer.
        name: makes the keys of this history its own.
        seed: of what they do; what they are told, and so what follows, is not repeatable.
    """

    urls: Sequence[str]
    name: str
    seed: int
    clients: int = 15
    keys: int = 3
    instances: int = 2
    rest_s: float = REST_S
    history: History = field(default_factory=History)
    revisions: dict[str, int] = field(default_factory=dict)
    _written: int = 0

    async def run(self) -> None:
        """Contend until cancelled."""
        # A connection for each request: a client library that repeats by itself what broke on a kept one would lie
        # about what was sent.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
            for client in range(self.clients):
                tasks.create_task(self._client(session, client))

    async def _client(self, session: aiohttp.ClientSession, client: int) -> None:
        """Operations one after the other; a new one elsewhere when the last was not answered, but for readers."""
        chance = random.Random(f"{self.seed} {client}")  # noqa: S311 -- no secret
        nodes = len(self.urls)
        role, node = ROLES[client // nodes % len(ROLES)], client % nodes
        while True:
            call = self._choose(chance, role)
            number = self.history.invoke(client, call)
            hangs_up_s = chance.random() * HANG_UP_S if chance.random() < role.hangs_up else None
            if not await self._carry_out(session, number, call, node, role, hangs_up_s) and not role.reads_only:
                node = (node + 1) % nodes
            await asyncio.sleep(chance.random() * 2 * self.rest_s)

    def _choose(self, chance: random.Random, role: Role) -> Input:
        """The next operation. Conditions name the revision last seen by anybody, so that several use the same one."""
        names = [f"{self.name}/key{number}" for number in range(self.keys)]
        names += [f"{INSTANCES}{self.name}-{number}" for number in range(self.instances)]
        names += (pair := [f"{self.name}/pair{number}" for number in range(2)])
        key = chance.choice(names)
        if role.reads_only:
            return Get(key)
        self._written += 1
        value = f"v{self._written}"
        seen = self.revisions.get(key, 0)
        if key in pair and chance.random() < 0.5:
            compare = tuple((one, self.revisions.get(one, 0)) for one in pair)
            return Txn(compare, tuple(Put(one, value) for one in pair), tuple(Get(one) for one in pair))
        kinds: list[Input] = [Get(key), Put(key, value), Put(key, value, seen), Delete(key)]
        return chance.choices(kinds, (5, 3, 4, 1))[0]

    async def _carry_out(
        self,
        session: aiohttp.ClientSession,
        number: int,
        call: Input,
        node: int,
        role: Role,
        hangs_up_s: float | None,
    ) -> bool:
        """Send until the outcome is known or the client gives it up; whether it was known."""
        request = request_of(call)
        certain = True  # no request so far can have taken effect
        for attempt in range(role.requests):
            url = self.urls[(node + attempt) % len(self.urls)]
            key = f"{self.name}-{number}" if role.requests > 1 else ""
            patience_s = role.patience_s if attempt or hangs_up_s is None else hangs_up_s
            try:
                output = await self._send(session, url, request, key, patience_s)
            except _NOT_SENT:
                output = REFUSED_STATUS
            except _GONE:
                output = UNKNOWN_STATUS
            if not isinstance(output, int):
                self._learn(call, output)
                self.history.ok(number, output, url)
                return True
            certain = certain and output == REFUSED_STATUS
            if certain or isinstance(call, Get):
                self.history.failed(number)
                return False
            await asyncio.sleep(self.rest_s)
        self.history.unknown(number)
        return False

    async def _send(
        self, session: aiohttp.ClientSession, url: str, request: Request, idempotency: str, patience_s: float
    ) -> Output | int:
        """The answer, or the status when it says that there is none (503, 504)."""
        timeout = aiohttp.ClientTimeout(total=patience_s, sock_connect=min(CONNECT_S, patience_s))
        content = {"data": request.body} if isinstance(request.body, bytes) else {"json": request.body}
        headers = {"Idempotency-Key": idempotency} if idempotency else {}
        target = f"{url}/api/v1/{request.path}"
        async with session.request(request.method, target, headers=headers, timeout=timeout, **content) as response:
            raw = response.content_type == "application/octet-stream"
            body = await response.read() if raw or response.status == 204 else await response.json(content_type=None)
            if response.status in (REFUSED_STATUS, UNKNOWN_STATUS):
                return response.status
            if response.status == 412:
                return Refused()
            ours = "X-Registry-Index" in response.headers or response.status != 404  # not: no such route
            if response.status not in request.good or not ours:
                raise Unexpected(f"{request.method} {target}: {response.status} {body!r}")
            return request.read(response.status, response.headers, body)

    def _learn(self, call: Input, output: Output) -> None:
        if isinstance(call, Txn) and isinstance(output, Decided):
            branch = call.then if output.succeeded else call.orelse
            for op, result in zip(branch, output.results, strict=True):
                self._learn(op, result)
        elif isinstance(call, Get | Put) and isinstance(output, Found | Wrote) and output.revision is not None:
            self.revisions[call.key] = output.revision
        elif isinstance(call, Delete) and isinstance(output, Deleted):
            self.revisions[call.key] = 0
