"""Events, cluster, health, readiness, metrics and DNS answers over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

WEB = "/api/v1/namespaces/default/services/web"


async def fill(client: Any) -> None:
    await client.ask("PUT", f"{WEB}/instances/0", {"address": "10.0.0.1"})
    await client.ask("PUT", "/api/v1/namespaces/default/services/api/instances/1", {"address": "10.0.0.2"})
    await client.ask("PUT", "/api/v1/namespaces/zoo/services/web/instances/2", {"address": "10.0.0.3"})
    await client.ask("DELETE", f"{WEB}/instances/0")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [("registered", "0"), ("registered", "1"), ("registered", "2"), ("deregistered", "0")]),
        ("?namespace=Default", [("registered", "0"), ("registered", "1"), ("deregistered", "0")]),
        ("?namespace=default&service=web", [("registered", "0"), ("deregistered", "0")]),
        ("?since=2", [("registered", "2"), ("deregistered", "0")]),
        ("?since=4", []),
    ],
)
async def test_events_tell_what_happened(client: Any, query: str, found: list[tuple[str, str]]) -> None:
    await fill(client)
    answer = await client.ask("GET", f"/api/v1/events{query}")
    assert answer.status == 200
    assert [(event["kind"], event["id"]) for event in answer.json["events"]] == found


async def test_an_event_has_the_fields_of_the_contract(client: Any) -> None:
    await fill(client)
    event = (await client.ask("GET", "/api/v1/events")).json["events"][0]
    assert event == {
        "kind": "registered",
        "namespace": "default",
        "service": "web",
        "id": "0",
        "revision": 1,
        "time": "2023-11-14T22:13:20.000Z",
        "actor": "127.0.0.1",
        "last_heartbeat": None,
        "detail": "",
    }


async def test_events_after_a_revision_not_reached_are_503(client: Any) -> None:
    answer = await client.ask("GET", "/api/v1/events?since=9")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_the_cluster_is_shown_as_this_node_sees_it(client: Any) -> None:
    answer = await client.ask("GET", "/api/v1/cluster")
    assert answer.json == {
        "node": "n1",
        "leader": "n1",
        "term": 1,
        "revision": 0,
        "history": "h1",
        "level": 2,
        "braked": 0,
        "processes": [{"name": "node", "starts": 1, "held": 0.0}],
        "members": [
            {
                "id": "n1",
                "raft": "127.0.0.1:8300",
                "http": "http://127.0.0.1:8500",
                "role": "leader",
                "alive": True,
                "last_contact_ms": 0,
                "applied": 7,
                "problem": None,
                "level": 2,
                "version": "0.1",
            }
        ],
    }


async def test_dns_answers_come_from_the_resolver(client: Any) -> None:
    answer = await client.ask("GET", "/api/v1/resolve?name=web.default.svc.cluster.local&type=srv")
    found = {"name": "web.default.svc.cluster.local", "type": "SRV"}
    assert answer.json == {"rcode": "NOERROR", "answers": [found], "stale": False}
    assert (await client.ask("GET", "/api/v1/resolve?name=x")).json["answers"][0]["type"] == "A"
    for query, field in (("", "name"), ("?name=x&type=%20", "type"), (f"?name={'x' * 1025}", "name")):
        refused = await client.ask("GET", f"/api/v1/resolve{query}")
        assert (refused.status, refused.faults[0][0]) == (400, field)


async def test_health_is_that_the_process_answers(client: Any, registry: Any, missing: Any) -> None:
    registry.unready = [missing("leader", "no leader is known", ("writes",))]
    answer = await client.ask("GET", "/healthz?from=docker")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(("query", "status"), [("", 503), ("?for=writes", 503), ("?for=dns", 200), ("?for=reads", 200)])
async def test_readiness_names_what_is_missing(
    client: Any, registry: Any, missing: Any, query: str, status: int
) -> None:
    assert (await client.ask("GET", f"/readyz{query}")).status == 200
    registry.unready = [missing("leader", "no leader is known", ("writes",))]
    answer = await client.ask("GET", f"/readyz{query}")
    assert answer.status == status
    if status == 503:
        assert answer.faults == [("leader", "no leader is known")]
        assert "no leader is known" in answer.json["detail"]


async def test_readiness_for_something_else_is_refused(client: Any) -> None:
    answer = await client.ask("GET", "/readyz?for=tea")
    assert (answer.status, answer.faults) == (400, [("for", "must be one of dns, reads, writes")])


async def test_metrics_are_prometheus_text_with_bounded_labels(client: Any) -> None:
    await fill(client)
    await client.ask("GET", "/evil/name")
    await client.ask("PROPFIND", "/healthz")
    answer = await client.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert families["discovery_registry_revision"].samples[0].value == 4
    assert all(name.startswith(("discovery_", "process_", "python_")) for name in families)
    requests = {
        (sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value
        for sample in families["discovery_http_requests"].samples
    }
    assert requests[("instance", "PUT", "201")] == 3
    assert requests[("unmatched", "GET", "404")] == 1
    assert requests[("healthz", "other", "405")] == 1
    durations = families["discovery_http_request_duration_seconds"].samples
    assert {sample.labels["route"] for sample in durations} >= {"instance", "unmatched"}
    assert b"evil" not in answer.body
