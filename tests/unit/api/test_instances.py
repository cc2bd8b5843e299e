"""Instances over HTTP: registering, renewing, draining, removing, listing."""

from __future__ import annotations

from typing import Any

import pytest

from discovery import limits
from discovery.errors import NotApplied, OutcomeUnknown

WEB = "/api/v1/namespaces/default/services/web"
FIRST = f"{WEB}/instances/web-0"
BODY = {
    "address": "10.0.0.7",
    "ports": [{"name": "http", "port": 8080, "protocol": "tcp"}],
    "ttl": 10,
    "hostname": "web-0",
    "weight": 10,
    "priority": 0,
    "dns_ttl": 5,
    "tags": ["v2"],
    "meta": {"version": "2.1"},
    "status": "ready",
}


async def test_a_registration_answers_201_with_all_that_was_registered(client: Any) -> None:
    answer = await client.ask("PUT", FIRST, BODY)
    lease = answer.json["lease"]
    assert answer.status == 201
    assert len(lease["id"]) == 16
    assert answer.json == {
        "namespace": "default",
        "service": "web",
        "id": "web-0",
        "addresses": ["10.0.0.7"],
        "ports": [{"name": "http", "port": 8080, "protocol": "tcp"}],
        "hostname": "web-0",
        "weight": 10,
        "priority": 0,
        "dns_ttl": 5,
        "tags": ["v2"],
        "meta": {"version": "2.1"},
        "status": "ready",
        "lease": {"id": lease["id"], "ttl": 10, "remaining": 10},
        "created_revision": 1,
        "revision": 1,
        "dns": ["web.default.svc.cluster.local", "web-0.web.default.svc.cluster.local"],
    }


async def test_every_answer_says_revision_history_and_node_and_guards_the_browser(client: Any) -> None:
    written = await client.ask("PUT", FIRST, BODY)
    read = await client.ask("GET", FIRST)
    for answer in (written, read, await client.ask("GET", "/nowhere")):
        assert answer.headers["X-Registry-Revision"] == "1"
        assert answer.headers["X-Registry-History"] == "h1"
        assert answer.headers["X-Registry-Node"] == "n1"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Content-Type" in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert written.headers["X-Registry-Visible"] == "true"
    assert "X-Registry-Staleness-Ms" not in written.headers
    assert read.headers["X-Registry-Staleness-Ms"] == "0"
    assert read.headers["X-Registry-Index"] == "1"
    assert "X-Registry-Visible" not in read.headers


async def test_the_same_body_from_the_same_holder_only_renews(client: Any) -> None:
    first = await client.ask("PUT", FIRST, BODY)
    again = await client.ask("PUT", f"{FIRST}?lease={first.json['lease']['id']}", BODY)
    assert (again.status, again.revision) == (200, first.revision)
    assert again.json["lease"] == first.json["lease"]


async def test_another_holder_replaces_and_gets_a_new_lease(client: Any) -> None:
    first = await client.ask("PUT", FIRST, BODY)
    other = await client.ask("PUT", FIRST, {**BODY, "address": "10.0.0.8"})
    assert (other.status, other.revision) == (200, 2)
    assert other.json["lease"]["id"] != first.json["lease"]["id"]
    assert other.json["created_revision"] == 1


async def test_names_are_lower_cased_on_entry_but_ids_are_not(client: Any) -> None:
    answer = await client.ask("PUT", "/api/v1/namespaces/Default/services/WEB/instances/Web-0", {"address": "10.0.0.7"})
    assert answer.status == 201
    assert (answer.json["namespace"], answer.json["service"], answer.json["id"]) == ("default", "web", "Web-0")
    assert (await client.ask("GET", f"{WEB}/instances/Web-0")).status == 200
    assert (await client.ask("GET", f"{WEB}/instances/web-0")).status == 404


@pytest.mark.parametrize(
    ("body", "field", "shown"),
    [
        ({"address": "2001:DB8:0::1"}, "addresses", ["2001:db8::1"]),
        ({"addresses": ["10.0.0.7", "fd00::7"]}, "addresses", ["10.0.0.7", "fd00::7"]),
        ({"ports": {"http": 8080, "Grpc": 9090}}, "ports", [("http", 8080), ("grpc", 9090)]),
        ({"ports": [{"port": 53, "protocol": "udp"}]}, "ports", [(None, 53)]),
        ({"ports": [{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "udp"}]}, "ports", None),
        ({"weight": 65534.0}, "weight", 65534),
        ({"dns_ttl": "5s"}, "dns_ttl", 5),
        ({"dns_ttl": None, "hostname": None}, "hostname", None),
        ({"ttl": "1500ms"}, "lease", 1.5),
        ({"ttl": None}, "lease", None),
        ({}, "lease", 15),
        ({"meta": {"b": "2", "a": ""}}, "meta", {"a": "", "b": "2"}),
        ({"status": "not_ready"}, "status", "not_ready"),
    ],
)
async def test_bodies_may_be_written_in_several_ways(client: Any, body: dict[str, Any], field: str, shown: Any) -> None:
    given = body if "addresses" in body else {"address": "10.0.0.7", **body}
    answer = await client.ask("PUT", FIRST, given)
    assert answer.status == 201
    found = answer.json[field]
    if field == "ports" and shown is not None:
        found = [(port["name"], port["port"]) for port in found]
    if field == "lease" and found is not None:
        found = found["ttl"]
    if shown is not None or field != "ports":
        assert found == shown


async def test_the_services_default_ttl_holds_for_registrations_without_one(client: Any) -> None:
    await client.ask("PUT", WEB, {"default_ttl": "40s"})
    assert (await client.ask("PUT", FIRST, {"address": "10.0.0.7"})).json["lease"]["ttl"] == 40


async def test_instances_can_share_a_lease(client: Any) -> None:
    lease = (await client.ask("POST", "/api/v1/leases", {"ttl": 10})).json["id"]
    for number in range(2):
        answer = await client.ask("PUT", f"{WEB}/instances/{number}", {"address": "10.0.0.7", "lease": lease})
        assert answer.json["lease"] == {"id": lease, "ttl": 10, "remaining": 9.98}
    assert (await client.ask("DELETE", f"/api/v1/leases/{lease}")).status == 204
    assert (await client.ask("GET", f"{WEB}/instances")).json["instances"] == []


async def test_status_stays_on_a_replace_that_names_none(client: Any) -> None:
    first = await client.ask("PUT", FIRST, BODY)
    holder = first.json["lease"]["id"]
    drained = await client.ask("PUT", f"{FIRST}/status?lease={holder}", {"status": "draining"})
    assert (drained.status, drained.json["status"]) == (200, "draining")
    absent = await client.ask("PUT", f"{WEB}/instances/none/status", {"status": "draining"})
    assert (absent.status, absent.faults) == (404, [("id", "must exist")])
    body = {name: value for name, value in BODY.items() if name != "status"} | {"weight": 11}
    assert (await client.ask("PUT", f"{FIRST}?lease={holder}", body)).json["status"] == "draining"


async def test_heartbeats_say_how_long_they_last(client: Any) -> None:
    await client.ask("PUT", FIRST, BODY)
    await client.ask("PUT", f"{WEB}/instances/fixed", {"address": "10.0.0.8", "ttl": None})
    beat = await client.ask("PUT", f"{FIRST}/heartbeat")
    assert (beat.status, beat.json, beat.revision) == (200, {"ttl": 10, "remaining": 10}, 2)
    assert (await client.ask("PUT", f"{WEB}/instances/fixed/heartbeat")).json == {"ttl": None, "remaining": None}
    gone = await client.ask("PUT", f"{WEB}/instances/none/heartbeat")
    assert gone.status == 404
    assert "register again" in gone.json["detail"]


async def test_an_old_process_cannot_renew_or_remove_its_successor(client: Any) -> None:
    old = (await client.ask("PUT", FIRST, BODY)).json["lease"]["id"]
    await client.ask("PUT", FIRST, BODY)
    for method, path in (("PUT", f"{FIRST}/heartbeat"), ("DELETE", FIRST)):
        answer = await client.ask(method, f"{path}?lease={old}")
        assert answer.status == 409
        assert answer.json["type"] == "/problems/holder-conflict"
    assert (await client.ask("GET", FIRST)).status == 200


async def test_a_deregistration_answers_204_also_when_it_was_gone(client: Any) -> None:
    await client.ask("PUT", FIRST, BODY)
    first, again = await client.ask("DELETE", FIRST), await client.ask("DELETE", FIRST)
    assert (first.status, first.body, first.revision) == (204, b"", 2)
    assert (again.status, again.revision) == (204, 2)
    assert first.headers["X-Registry-Visible"] == "true"


async def test_a_condition_on_the_revision_guards_put_and_delete(client: Any) -> None:
    assert (await client.ask("PUT", f"{FIRST}?if_revision=0", BODY)).status == 201
    for method in ("PUT", "DELETE"):
        answer = await client.ask(method, f"{FIRST}?if_revision=7", BODY if method == "PUT" else None)
        assert (answer.status, answer.revision) == (412, 1)
    assert (await client.ask("DELETE", f"{FIRST}?if_revision=1")).status == 204


async def test_a_batch_of_heartbeats_sorts_its_items(client: Any) -> None:
    await client.ask("PUT", FIRST, BODY)
    old = "00000000000000ff"
    beats = [["Default", "web", "web-0"], ["default", "web", "web-1"], ["default", "web", "web-0", old]]
    answer = await client.ask("POST", "/api/v1/heartbeats", {"instances": beats})
    assert answer.status == 200
    assert answer.json == {
        "renewed": 1,
        "missing": [["default", "web", "web-1"]],
        "conflict": [["default", "web", "web-0"]],
    }
    assert (await client.ask("POST", "/api/v1/heartbeats", {"instances": []})).json["renewed"] == 0


async def test_a_batch_holds_ten_thousand_heartbeats(client: Any) -> None:
    beats = [["n" * 63, "s" * 63, f"{number:0128d}", "0" * 15 + "1"] for number in range(10_000)]
    answer = await client.ask("POST", "/api/v1/heartbeats", {"instances": beats})
    assert (answer.status, len(answer.json["missing"])) == (200, 10_000)
    more = await client.ask("POST", "/api/v1/heartbeats", {"instances": [["a", "b", "c"]] * 10_001})
    assert (more.status, more.faults) == (400, [("instances", "must hold at most 10000 items")])


async def fill(client: Any) -> None:
    for number, status, tags in ((0, "ready", ["v1"]), (1, "draining", ["v2"]), (2, "ready", ["v1", "v2"])):
        body = {"address": f"10.0.0.{number + 1}", "status": status, "tags": tags}
        await client.ask("PUT", f"{WEB}/instances/web-{number}", body)
    await client.ask("PUT", "/api/v1/namespaces/other/services/db/instances/db-0", {"address": "10.0.1.1"})
    await client.ask("PUT", "/api/v1/namespaces/default/services/api/instances/api-0", {"address": "10.0.2.1"})


@pytest.mark.parametrize(
    ("query", "ids", "following"),
    [
        ("", ["web-0", "web-1", "web-2"], None),
        ("?status=ready", ["web-0", "web-2"], None),
        ("?tag=v2", ["web-1", "web-2"], None),
        ("?tag=v2&tag=v1", ["web-2"], None),
        ("?status=ready&tag=v2", ["web-2"], None),
        ("?status=maintenance", [], None),
        ("?limit=2", ["web-0", "web-1"], "web-1"),
        ("?limit=2&after=web-1", ["web-2"], None),
        ("?limit=3", ["web-0", "web-1", "web-2"], None),
        ("?limit=1&status=ready", ["web-0"], "web-0"),
        ("?after=web-00", ["web-1", "web-2"], None),
    ],
)
async def test_lists_are_filtered_and_paged(client: Any, query: str, ids: list[str], following: str | None) -> None:
    await fill(client)
    answer = await client.ask("GET", f"{WEB}/instances{query}")
    assert [instance["id"] for instance in answer.json["instances"]] == ids
    assert answer.json.get("next") == following
    assert answer.json["revision"] == 5
    assert answer.headers["X-Registry-Index"] == "3"


async def test_all_instances_are_listed_page_by_page_in_one_order(client: Any) -> None:
    await fill(client)
    whole = (await client.ask("GET", "/api/v1/instances")).json["instances"]
    found, after = [], ""
    while True:
        page = (await client.ask("GET", f"/api/v1/instances?limit=2{after}")).json
        found += page["instances"]
        if "next" not in page:
            break
        after = f"&after={page['next']}"
    assert found == whole
    assert [one["id"] for one in whole] == ["api-0", "web-0", "web-1", "web-2", "db-0"]


async def test_a_page_of_large_instances_ends_early(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIST_BYTES_MAX", 4_000)
    for number in range(3):
        await client.ask("PUT", f"{WEB}/instances/{number}", {**BODY, "meta": {"note": "x" * 1000, "more": "y" * 1000}})
    first = (await client.ask("GET", f"{WEB}/instances")).json
    rest = (await client.ask("GET", f"{WEB}/instances?after={first['next']}")).json
    assert [one["id"] for one in first["instances"]] == ["0"]
    assert [one["id"] for one in rest["instances"]] == ["1"]


async def test_an_unknown_service_has_an_empty_list_and_an_index(client: Any) -> None:
    answer = await client.ask("GET", "/api/v1/namespaces/default/services/nothing/instances")
    assert (answer.status, answer.json) == (200, {"instances": [], "revision": 0})
    missing = await client.ask("GET", FIRST)
    assert missing.status == 404
    assert "X-Registry-Index" in missing.headers


async def test_what_remains_of_a_lease_is_the_leaders_word_or_null(client: Any, registry: Any) -> None:
    await client.ask("PUT", FIRST, BODY)
    assert (await client.ask("GET", FIRST)).json["lease"]["remaining"] == 9.98
    registry.remaining_known = False
    assert (await client.ask("GET", FIRST)).json["lease"]["remaining"] is None


async def test_a_strong_read_waits_for_the_barrier(client: Any, registry: Any) -> None:
    registry.stale_ms = 40
    stale = await client.ask("GET", f"{WEB}/instances?consistency=stale")
    assert (stale.headers["X-Registry-Staleness-Ms"], registry.barriers) == ("40", 0)
    strong = await client.ask("GET", f"{WEB}/instances?consistency=strong")
    assert (strong.headers["X-Registry-Staleness-Ms"], registry.barriers) == ("0", 1)


async def test_visibility_is_told_and_may_be_asked_of_the_cluster(client: Any, registry: Any) -> None:
    registry.shown = (False, ["n2", "n3"])
    answer = await client.ask("PUT", f"{FIRST}?visible=cluster", BODY)
    assert answer.status == 201
    assert answer.headers["X-Registry-Visible"] == "false"
    assert answer.headers["X-Registry-Missing"] == "n2, n3"
    await client.ask("PUT", FIRST, BODY)
    assert registry.clusters == [True, False]


@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [(NotApplied("no leader"), 503, "1"), (OutcomeUnknown("lost the leader"), 504, None)],
)
async def test_no_silent_maybe(client: Any, registry: Any, failure: Exception, status: int, retry: str | None) -> None:
    registry.failure = failure
    for method, path, body in (
        ("PUT", FIRST, BODY),
        ("DELETE", FIRST, None),
        ("PUT", f"{FIRST}/heartbeat", None),
        ("GET", f"{FIRST}?consistency=strong", None),
    ):
        answer = await client.ask(method, path, body)
        assert answer.status == status
        assert answer.headers.get("Retry-After") == retry
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_repeated_key_gives_the_first_answer_and_another_body_is_refused(client: Any) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await client.ask("PUT", FIRST, BODY, key)
    again = await client.ask("PUT", FIRST, BODY, key)
    assert (first.status, again.status, again.json, again.revision) == (201, 201, first.json, 1)
    assert again.json["lease"]["remaining"] == 9.98, "a repeated answer renews nothing: the leader is asked"
    for method, path, body in (
        ("PUT", FIRST, {**BODY, "weight": 1}),
        ("PUT", f"{FIRST}?if_revision=1", BODY),
        ("PUT", f"{WEB}/instances/web-1", BODY),
        ("DELETE", FIRST, None),
    ):
        other = await client.ask(method, path, body, key)
        assert (other.status, other.revision) == (422, 1)
    assert (await client.ask("PUT", FIRST, BODY, {"Idempotency-Key": "x" * 256})).status == 400
    assert (await client.ask("PUT", FIRST, BODY, {"Idempotency-Key": "x y"})).status == 400


async def test_the_callers_address_is_the_actor(client: Any, registry: Any) -> None:
    await client.ask("PUT", FIRST, BODY)
    assert registry.actors == ["127.0.0.1"]
