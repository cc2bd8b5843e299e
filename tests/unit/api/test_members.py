"""Members and leader changed over HTTP: what is asked of Raft, and what is refused before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from discovery.errors import Conflict, NotFound, OutcomeUnknown, Unavailable

MEMBERS = "/api/v1/cluster/members"
N4 = {"id": "n4", "raft": "10.0.0.4:8300", "http": "http://10.0.0.4:8500"}


class Admin:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.failure: Exception | None = None

    async def _ask(self, *what: str) -> None:
        self.asked.append(what)
        if self.failure is not None:
            raise self.failure

    async def add(self, node: str, raft: str, http: str) -> None:
        await self._ask("add", node, raft, http)

    async def remove(self, node: str) -> None:
        await self._ask("remove", node)

    async def lead(self, node: str) -> None:
        await self._ask("lead", node)


@pytest.fixture
def admin(registry: Any) -> Admin:
    made = Admin()
    registry.consensus = lambda: SimpleNamespace(admin=made)
    return made


async def test_a_member_is_added_and_the_cluster_shown(client: Any, admin: Admin) -> None:
    answer = await client.ask("POST", MEMBERS, N4)
    assert (answer.status, answer.json["leader"]) == (200, "n1")
    assert (await client.ask("POST", MEMBERS, {"id": "N5", "raft": "[fd00::5]:1"})).status == 200
    assert admin.asked == [("add", "n4", N4["raft"], N4["http"]), ("add", "n5", "[fd00::5]:1", "")]


async def test_a_member_is_removed(client: Any, admin: Admin) -> None:
    answer = await client.ask("DELETE", f"{MEMBERS}/n4")
    assert (answer.status, answer.body) == (204, b"")
    assert admin.asked == [("remove", "n4")]


async def test_leadership_is_handed_over(client: Any, admin: Admin) -> None:
    assert (await client.ask("POST", "/api/v1/cluster/leader", {"to": "n2"})).status == 200
    assert admin.asked == [("lead", "n2")]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", MEMBERS, {**N4, "id": "-"}, "id"),
        ("POST", MEMBERS, {**N4, "id": 7}, "id"),
        ("POST", MEMBERS, {"raft": N4["raft"]}, "id"),
        ("POST", MEMBERS, {"id": "n4"}, "raft"),
        ("POST", MEMBERS, {**N4, "raft": "10.0.0.4"}, "raft"),
        ("POST", MEMBERS, {**N4, "raft": "0.0.0.0:8300"}, "raft"),
        ("POST", MEMBERS, {**N4, "raft": "10.0.0.4:0"}, "raft"),
        ("POST", MEMBERS, {**N4, "raft": "a b:1"}, "raft"),
        ("POST", MEMBERS, {**N4, "http": "10.0.0.4:8500"}, "http"),
        ("POST", MEMBERS, {**N4, "http": "http://x/path"}, "http"),
        ("POST", MEMBERS, {**N4, "http": "http://[::1"}, "http"),
        ("POST", MEMBERS, {**N4, "http": "http://u:p@h:1"}, "http"),
        ("POST", MEMBERS, {**N4, "more": 1}, "more"),
        ("DELETE", f"{MEMBERS}/a.b", None, "id"),
        ("POST", "/api/v1/cluster/leader", {}, "to"),
    ],
)
async def test_bad_input_is_named_and_asks_nothing(
    client: Any, admin: Admin, method: str, path: str, body: Any, field: str
) -> None:
    answer = await client.ask(method, path, body)
    assert answer.status == 400
    assert [name for name, _ in answer.faults] == [field]
    assert admin.asked == []


@pytest.mark.parametrize(
    ("failure", "status"),
    [(Conflict("taken"), 409), (NotFound("none"), 404), (Unavailable("no leader"), 503), (OutcomeUnknown("?"), 504)],
)
async def test_a_refusal_is_told(client: Any, admin: Admin, failure: Exception, status: int) -> None:
    admin.failure = failure
    assert (await client.ask("POST", MEMBERS, N4)).status == status
    assert (await client.ask("DELETE", f"{MEMBERS}/n4")).status == status
