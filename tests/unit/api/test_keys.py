"""Leases, keys and transactions over HTTP."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from discovery import limits

KV = "/api/v1/kv"
TXN = "/api/v1/txn"


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


async def test_a_lease_is_granted_renewed_looked_at_and_revoked(client: Any) -> None:
    granted = await client.ask("POST", "/api/v1/leases", {"ttl": "10s"})
    assert (granted.status, granted.json["ttl"], len(granted.json["id"])) == (201, 10, 16)
    path = f"/api/v1/leases/{granted.json['id']}"
    renewed = await client.ask("PUT", path)
    assert (renewed.status, renewed.json) == (200, {"id": granted.json["id"], "ttl": 10, "remaining": 10})
    await client.ask("PUT", f"{KV}/a?lease={granted.json['id']}", b"1")
    looked = await client.ask("GET", path)
    assert looked.json == granted.json | {"remaining": 9.98, "instances": [], "keys": ["a"]}
    assert (await client.ask("DELETE", path)).status == 204
    assert (await client.ask("GET", f"{KV}/a")).status == 404
    for method in ("GET", "PUT"):
        assert (await client.ask(method, path)).status == 404


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "ttl", "is required"),
        ({"ttl": 0}, "ttl", "must be 1s..24h"),
        ({"ttl": 31_536_000}, "ttl", "must be 1s..24h"),
        ({"ttl": None}, "ttl", "must be a duration"),
        ({"ttl": 10, "id": "x"}, "id", "is not known here"),
    ],
)
async def test_bad_leases_are_refused(client: Any, body: Any, field: str, rule: str) -> None:
    answer = await client.ask("POST", "/api/v1/leases", body)
    assert answer.status == 400
    assert answer.faults[0][0] == field
    assert rule in answer.faults[0][1]


async def test_a_value_comes_back_as_the_bytes_it_was(client: Any) -> None:
    value = bytes(range(256))
    put = await client.ask("PUT", f"{KV}/config/a", value)
    assert (put.status, put.json) == (200, {"revision": 1})
    await client.ask("PUT", f"{KV}/config/a", value)
    got = await client.ask("GET", f"{KV}/config/a")
    assert (got.status, got.body) == (200, value)
    assert got.headers["Content-Type"] == "application/octet-stream"
    names = ("X-Key-Revision", "X-Key-Create-Revision", "X-Key-Version", "X-Registry-Index")
    assert [got.headers[name] for name in names] == ["2", "1", "2", "2"]
    assert "X-Key-Lease" not in got.headers
    missing = await client.ask("GET", f"{KV}/config/b")
    assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")
    assert "X-Registry-Index" in missing.headers


async def test_an_empty_value_is_a_value(client: Any) -> None:
    await client.ask("PUT", f"{KV}/empty", b"")
    got = await client.ask("GET", f"{KV}/empty")
    assert (got.status, got.body) == (200, b"")


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("a", "a"),
        ("a/b", "a/b"),
        ("a//b", "a//b"),
        ("/a", "/a"),
        ("a/", "a/"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%C3%A9", "é"),
        ("a%20b", "a b"),
        ("...", "..."),
        ("a.b/..c", "a.b/..c"),
        ("a%0D%0Ab", "a\r\nb"),
        ("%3Fprefix=true", "?prefix=true"),
        ("<script>", "<script>"),
        ("x" * 512, "x" * 512),
    ],
)
async def test_the_key_is_the_rest_of_the_raw_path_decoded_once(client: Any, raw: str, key: str) -> None:
    assert (await client.ask("PUT", f"{KV}/{raw}", b"1")).status == 200
    listed = (await client.ask("GET", f"{KV}/?prefix=true")).json["items"]
    assert [item["key"] for item in listed] == [key]
    assert (await client.ask("GET", f"{KV}/{quote(key, safe='')}")).body == b"1"


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("", "must be 1..512 bytes"),
        ("a%00b", "NUL"),
        (".", "segment"),
        ("a/../b", "segment"),
        ("a/%2E%2E/b", "segment"),
        ("..%2Fa", "segment"),
        ("./a", "segment"),
        ("%ff", "must be UTF-8"),
        ("a%zz", "percent-encoded"),
        ("x" * 513, "must be 1..512 bytes"),
        ("%C3%A9" * 257, "must be 1..512 bytes"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
async def test_bad_keys_are_refused(client: Any, method: str, raw: str, rule: str) -> None:
    answer = await client.ask(method, f"{KV}/{raw}", b"1" if method == "PUT" else None)
    assert (answer.status, answer.revision) == (400, 0)
    assert answer.faults[0][0] == "key"
    assert rule in answer.faults[0][1]


async def test_conditions_guard_keys(client: Any) -> None:
    assert (await client.ask("PUT", f"{KV}/a?if_revision=0", b"1")).status == 200
    assert (await client.ask("PUT", f"{KV}/a?if_revision=0", b"2")).status == 412
    assert (await client.ask("PUT", f"{KV}/a?if_revision=1", b"2")).json == {"revision": 2}
    late = await client.ask("DELETE", f"{KV}/a?if_revision=1")
    assert (late.status, late.revision) == (412, 2)
    assert (await client.ask("DELETE", f"{KV}/a?if_revision=2")).json == {"deleted": 1, "revision": 3}
    absent = await client.ask("DELETE", f"{KV}/a")
    assert (absent.status, absent.json) == (200, {"deleted": 0, "revision": 3})


async def test_keys_hang_on_leases(client: Any) -> None:
    lease = (await client.ask("POST", "/api/v1/leases", {"ttl": 10})).json["id"]
    await client.ask("PUT", f"{KV}/a?lease={lease}", b"1")
    assert (await client.ask("GET", f"{KV}/a")).headers["X-Key-Lease"] == lease
    assert (await client.ask("PUT", f"{KV}/b?lease=ff", b"1")).status == 404


async def test_prefixes_are_listed_in_pages_and_deleted_at_once(client: Any) -> None:
    for number in range(5):
        await client.ask("PUT", f"{KV}/p/{number}", b"%d" % number)
    await client.ask("PUT", f"{KV}/q", b"q")
    page = (await client.ask("GET", f"{KV}/p/?prefix=true&limit=2&after=p/1")).json
    assert [item["key"] for item in page["items"]] == ["p/2", "p/3"]
    assert (page["next"], page["revision"]) == ("p/3", 6)
    assert page["items"][0] == {
        "key": "p/2",
        "value_base64": "Mg==",
        "revision": 3,
        "create_revision": 3,
        "version": 1,
        "lease": None,
    }
    assert (await client.ask("DELETE", f"{KV}/p/?prefix=true")).json == {"deleted": 5, "revision": 7}
    assert [item["key"] for item in (await client.ask("GET", f"{KV}/?prefix=true")).json["items"]] == ["q"]


async def test_a_prefix_of_very_many_keys_is_deleted_in_steps(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DELETIONS_PER_COMMAND_MAX", 3)
    for number in range(5):
        await client.ask("PUT", f"{KV}/p/{number}", b"")
    refused = await client.ask("DELETE", f"{KV}/p/?prefix=true")
    assert refused.status == 413
    assert "repeat DELETE with ?prefix=true&limit=3" in refused.json["detail"]
    path = f"{KV}/p/?prefix=true&limit=3"
    assert (await client.ask("DELETE", path)).json == {"deleted": 3, "revision": 6, "more": True}
    assert (await client.ask("DELETE", path)).json == {"deleted": 2, "revision": 7, "more": False}
    for query, rule in (("prefix=true&limit=4", "must be 1..3"), ("limit=1", "is only for ?prefix=true")):
        answer = await client.ask("DELETE", f"{KV}/p/?{query}")
        assert (answer.status, answer.json["errors"][0]["rule"]) == (400, rule)


async def test_a_page_of_large_values_ends_early(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIST_BYTES_MAX", 250_000)
    for number in range(5):
        await client.ask("PUT", f"{KV}/{number}", b"x" * 100_000)
    found, after = [], ""
    while after is not None:
        page = (await client.ask("GET", f"{KV}/?prefix=true{after}")).json
        assert 1 <= len(page["items"]) <= 2
        found += [item["key"] for item in page["items"]]
        after = f"&after={page['next']}" if "next" in page else None
    assert found == ["0", "1", "2", "3", "4"]


async def test_a_value_above_its_limit_is_413(client: Any) -> None:
    whole = await client.ask("PUT", f"{KV}/a", b"x" * limits.VALUE_BYTES_MAX)
    assert whole.status == 200
    answer = await client.ask("PUT", f"{KV}/a", b"x" * (limits.VALUE_BYTES_MAX + 1))
    assert (answer.status, answer.revision) == (413, 1)


async def test_a_transaction_compares_and_swaps(client: Any) -> None:
    lock = {
        "compare": [{"key": "lock", "target": "version", "op": "==", "value": 0}],
        "then": [{"put": {"key": "lock", "value_base64": b64(b"me")}}],
        "else": [{"get": {"key": "lock"}}],
    }
    first, second = await client.ask("POST", TXN, lock), await client.ask("POST", TXN, lock)
    assert (first.status, first.json) == (
        200,
        {"succeeded": True, "results": [{"put": {"revision": 1}}], "revision": 1},
    )
    assert (second.json["succeeded"], second.revision) == (False, 1)
    assert second.json["results"][0]["get"]["items"][0]["value_base64"] == b64(b"me")


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        ({"target": "revision", "op": "==", "value": 2}, True),
        ({"target": "revision", "op": "<", "value": 2}, False),
        ({"target": "create_revision", "op": "==", "value": 1}, True),
        ({"target": "version", "op": ">", "value": 1}, True),
        ({"target": "version", "op": "!=", "value": 2}, False),
        ({"target": "value_base64", "op": "==", "value": b64(b"2")}, True),
        ({"target": "value_base64", "op": "<", "value": b64(b"1")}, False),
        ({"target": "lease", "op": "==", "value": None}, True),
        ({"target": "lease", "op": "==", "value": "00000000000000ff"}, False),
    ],
)
async def test_every_target_and_operator_compares(client: Any, compare: dict[str, Any], holds: bool) -> None:
    await client.ask("PUT", f"{KV}/a", b"1")
    await client.ask("PUT", f"{KV}/a", b"2")
    answer = await client.ask("POST", TXN, {"compare": [{"key": "a", **compare}]})
    assert (answer.status, answer.json["succeeded"], answer.revision) == (200, holds, 2)


async def test_a_transaction_is_one_revision(client: Any) -> None:
    await client.ask("PUT", f"{KV}/old/1", b"")
    await client.ask("PUT", f"{KV}/old/2", b"")
    operations = [
        {"put": {"key": "a", "value_base64": ""}},
        {"put": {"key": "b", "value_base64": ""}},
        {"delete": {"key": "old/", "prefix": True}},
        {"get": {"key": "old/", "prefix": True}},
    ]
    answer = await client.ask("POST", TXN, {"then": operations})
    assert answer.json == {
        "succeeded": True,
        "results": [
            {"put": {"revision": 3}},
            {"put": {"revision": 3}},
            {"delete": {"deleted": 2}},
            {"get": {"items": []}},
        ],
        "revision": 3,
    }


PUT = {"put": {"key": "a", "value_base64": ""}}
COMPARE = {"key": "a", "target": "version", "op": "==", "value": 0}


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "body", "at least one"),
        ({"when": []}, "when", "is not known here"),
        ({"then": {}}, "then", "must be an array"),
        ({"then": [PUT] * 129}, "then", "at most 128"),
        ({"then": [PUT, PUT]}, "then", "must not put a key twice"),
        ({"else": [PUT, {"delete": {"key": "", "prefix": True}}]}, "else", "must not put and delete"),
        ({"then": [[]]}, "then[0]", "must be a JSON object"),
        ({"then": [{}]}, "then[0]", "must be one of put, delete, get"),
        ({"then": [{**PUT, "get": {"key": "a"}}]}, "then[0]", "must be one of"),
        ({"then": [{"post": {}}]}, "then[0].post", "is not known here"),
        ({"then": [{"put": {"key": "a"}}]}, "then[0].put.value_base64", "is required"),
        ({"then": [{"put": {"key": "a", "value_base64": "?"}}]}, "then[0].put.value_base64", "must be base64"),
        ({"then": [{"put": {"key": "../a", "value_base64": ""}}]}, "then[0].put.key", "segment"),
        ({"then": [{"put": {**PUT["put"], "lease": "x"}}]}, "then[0].put.lease", "must be a lease id"),
        ({"else": [{"get": {"key": ""}}]}, "else[0].get.key", "must be 1..512"),
        ({"else": [{"get": {"key": "a", "prefix": 1}}]}, "else[0].get.prefix", "must be true or false"),
        ({"compare": [{**COMPARE, "op": "="}]}, "compare[0].op", "must be one of"),
        ({"compare": [{**COMPARE, "target": "value"}]}, "compare[0].target", "must be one of"),
        ({"compare": [{**COMPARE, "value": "0"}]}, "compare[0].value", "must be a whole number"),
        ({"compare": [{**COMPARE, "target": "value_base64"}]}, "compare[0].value", "must be a string"),
        ({"compare": [{"key": "a"}]}, "compare[0].target", "is required"),
    ],
)
async def test_bad_transactions_are_refused(client: Any, body: Any, field: str, rule: str) -> None:
    answer = await client.ask("POST", TXN, body)
    assert (answer.status, answer.revision) == (400, 0)
    assert answer.faults[0][0] == field
    assert rule in answer.faults[0][1]


async def test_a_transaction_above_its_limit_is_413(client: Any) -> None:
    half = {"put": {"key": "a", "value_base64": b64(b"x" * limits.VALUE_BYTES_MAX)}}
    assert (await client.ask("POST", TXN, {"then": [half]})).status == 200
    answer = await client.ask("POST", TXN, {"then": [half, half]})
    assert (answer.status, answer.revision) == (413, 1)
    above = {"put": {"key": "a", "value_base64": b64(b"x" * (limits.VALUE_BYTES_MAX + 1))}}
    assert (await client.ask("POST", TXN, {"then": [above]})).status == 413
