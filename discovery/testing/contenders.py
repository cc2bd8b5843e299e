"""Clients that contend for a few keys and instances, and record what they were told: the makers of a history.

They differ as clients do (:data:`ROLES`). Some wait long and send each request once, without a key, so that nothing but
the daemon keeps it from being applied twice. Some give up soon and, after an unknown outcome, repeat the write at
another node under the same ``Idempotency-Key``: still the same operation, however many requests it took. Some only
read, and stay at their node whatever it is cut off from. Now and then one hangs up before its answer can have come.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from discovery.testing.calls import INSTANCES, Request, request_of
from discovery.testing.history import History
from discovery.testing.models import Decided, Delete, Deleted, Found, Get, Input, Output, Put, Refused, Txn, Wrote
from discovery.testing.once import NotSent, Once

REST_S: Final = 0.01
HANG_UP_S: Final = 0.01
REFUSED_STATUS: Final = 503
UNKNOWN_STATUS: Final = 504
CONDITION_STATUS: Final = 412


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
        async with asyncio.TaskGroup() as tasks:
            for client in range(self.clients):
                tasks.create_task(self._client(client))

    async def _client(self, client: int) -> None:
        """Operations one after the other; a new one elsewhere when the last was not answered, but for readers."""
        chance = random.Random(f"{self.seed} {client}")  # noqa: S311 -- no secret
        nodes = len(self.urls)
        role, node = ROLES[client // nodes % len(ROLES)], client % nodes
        while True:
            call = self._choose(chance, role)
            number = self.history.invoke(client, call)
            hangs_up_s = chance.random() * HANG_UP_S if chance.random() < role.hangs_up else None
            if not await self._carry_out(number, call, node, role, hangs_up_s) and not role.reads_only:
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
                output = await _send(url, request, key, patience_s)
            except NotSent:
                output = REFUSED_STATUS
            except (OSError, TimeoutError):
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

    def _learn(self, call: Input, output: Output) -> None:
        if isinstance(call, Txn) and isinstance(output, Decided):
            branch = call.then if output.succeeded else call.orelse
            for op, result in zip(branch, output.results, strict=True):
                self._learn(op, result)
        elif isinstance(call, Get | Put) and isinstance(output, Found | Wrote) and output.revision is not None:
            self.revisions[call.key] = output.revision
        elif isinstance(call, Delete) and isinstance(output, Deleted):
            self.revisions[call.key] = 0


class Unexpected(Exception):
    """An answer that no client should ever get."""


async def _send(url: str, request: Request, idempotency: str, patience_s: float) -> Output | int:
    """What was answered, or the status when it says that there is no answer (503, 504)."""
    headers = {"Idempotency-Key": idempotency} if idempotency else {}
    told = await Once(url).send(request.method, f"/api/v1/{request.path}", request.body, headers, patience_s)
    if told.status in (REFUSED_STATUS, UNKNOWN_STATUS):
        return told.status
    if told.status == CONDITION_STATUS:
        return Refused()
    ours = "x-registry-index" in told.headers or told.status != 404  # not: no such route
    if told.status not in request.good or not ours:
        raise Unexpected(f"{request.method} {url} {request.path}: {told.status} {told.body!r}")
    return request.read(told)
