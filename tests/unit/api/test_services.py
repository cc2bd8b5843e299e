"""Namespaces and services over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

SERVICES = "/api/v1/namespaces/default/services"
WEB = f"{SERVICES}/web"
DEFAULTS = {
    "namespace": "default",
    "name": "web",
    "type": "headless",
    "virtual_ips": [],
    "ports": [],
    "external_name": None,
    "dns_ttl": None,
    "default_ttl": None,
    "publish_not_ready": False,
    "min_healthy": None,
    "brake_timeout": None,
    "instances": 0,
    "ready": 0,
    "braked": 0,
    "created_revision": 1,
    "revision": 1,
    "dns": ["web.default.svc.cluster.local"],
}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({}, {}),
        ({"type": "headless", "dns_ttl": "3s", "default_ttl": "1m"}, {"dns_ttl": 3, "default_ttl": 60}),
        ({"publish_not_ready": True}, {"publish_not_ready": True}),
        ({"min_healthy": 0.7, "brake_timeout": "2m"}, {"min_healthy": 0.7, "brake_timeout": 120}),
        ({"min_healthy": 1}, {"min_healthy": 1}),
        (
            {"type": "virtual", "virtual_ips": ["10.96.0.10", "FD00::1"], "ports": {"http": 80}},
            {
                "type": "virtual",
                "virtual_ips": ["10.96.0.10", "fd00::1"],
                "ports": [{"name": "http", "port": 80, "protocol": "tcp"}],
            },
        ),
        (
            {"type": "external", "external_name": "DB.Example.Org."},
            {"type": "external", "external_name": "db.example.org"},
        ),
    ],
)
async def test_settings_are_put_and_shown(client: Any, body: dict[str, Any], changed: dict[str, Any]) -> None:
    put = await client.ask("PUT", WEB, body)
    assert (put.status, put.json) == (201, DEFAULTS | changed)
    got = await client.ask("GET", WEB)
    assert (got.status, got.json) == (200, DEFAULTS | changed)
    again = await client.ask("PUT", WEB, body)
    assert again.status == 200


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"type": "magic"}, "type", "must be one of headless, virtual, external"),
        ({"type": "virtual"}, "virtual_ips", "must name at least one address"),
        ({"virtual_ips": ["10.0.0.1"]}, "virtual_ips", "is only for type virtual"),
        ({"type": "virtual", "virtual_ips": ["224.0.0.1"]}, "virtual_ips[0]", "multicast"),
        ({"type": "virtual", "virtual_ips": ["10.0.0.1"], "ports": {"http": 0}}, "ports.http", "must be 1..65535"),
        ({"type": "external"}, "external_name", "must be given"),
        ({"type": "external", "external_name": "10.0.0.1"}, "external_name", "not an address"),
        ({"type": "external", "external_name": "a..b"}, "external_name", "host name"),
        ({"external_name": "db.example.org"}, "external_name", "is only for type external"),
        ({"dns_ttl": 1.5}, "dns_ttl", "whole seconds"),
        ({"dns_ttl": -1}, "dns_ttl", "whole seconds"),
        ({"default_ttl": 0}, "default_ttl", "must be 1s..24h"),
        ({"publish_not_ready": 1}, "publish_not_ready", "must be true or false"),
        ({"min_healthy": 1.1}, "min_healthy", "must be a fraction 0..1"),
        ({"min_healthy": True}, "min_healthy", "must be a fraction 0..1"),
        ({"min_healthy": "0.5"}, "min_healthy", "must be a fraction 0..1"),
        ({"brake_timeout": 0.5}, "brake_timeout", "must be 1 s to 1 h"),
        ({"brake_timeout": "61m"}, "brake_timeout", "must be 1 s to 1 h"),
        ({"brake_timeout": []}, "brake_timeout", "must be a duration"),
        ({"typ": "virtual"}, "typ", "is not known here"),
        ([], "body", "must be a JSON object"),
    ],
)
async def test_bad_settings_are_refused_by_field_and_rule(client: Any, body: Any, field: str, rule: str) -> None:
    answer = await client.ask("PUT", WEB, body)
    assert (answer.status, answer.revision) == (400, 0)
    assert answer.faults[0][0] == field
    assert rule in answer.faults[0][1]


async def test_an_external_name_must_not_lead_back_to_itself(client: Any) -> None:
    external = {"type": "external"}
    own = await client.ask("PUT", WEB, {**external, "external_name": "web.default.svc.cluster.local"})
    assert own.faults == [("external_name", "must not lead back to the service itself")]
    await client.ask("PUT", f"{SERVICES}/b", {**external, "external_name": "web.default.svc.cluster.local"})
    await client.ask("PUT", f"{SERVICES}/a", {**external, "external_name": "b.default.svc.cluster.local"})
    loop = await client.ask("PUT", WEB, {**external, "external_name": "A.default.svc.cluster.local."})
    assert (loop.status, loop.faults[0][0], loop.revision) == (400, "external_name", 2)
    outside = await client.ask("PUT", WEB, {**external, "external_name": "b.default.svc.example.org"})
    assert outside.status == 201


async def test_external_services_and_instances_exclude_each_other(client: Any) -> None:
    await client.ask("PUT", f"{SERVICES}/db", {"type": "external", "external_name": "db.example.org"})
    into = await client.ask("PUT", f"{SERVICES}/db/instances/db-0", {"address": "10.0.0.7"})
    assert (into.status, into.json["type"]) == (409, "/problems/conflict")
    await client.ask("PUT", f"{WEB}/instances/web-0", {"address": "10.0.0.7"})
    over = await client.ask("PUT", WEB, {"type": "external", "external_name": "db.example.org"})
    assert (over.status, over.revision) == (409, 2)


async def test_a_service_is_deleted_only_without_instances(client: Any) -> None:
    await client.ask("PUT", f"{WEB}/instances/web-0", {"address": "10.0.0.7"})
    await client.ask("PUT", WEB, {})
    assert (await client.ask("DELETE", WEB)).status == 409
    await client.ask("DELETE", f"{WEB}/instances/web-0")
    assert (await client.ask("DELETE", WEB)).status == 204
    assert (await client.ask("GET", WEB)).status == 404


async def test_a_service_needs_no_settings_to_be_shown(client: Any) -> None:
    await client.ask("PUT", f"{WEB}/instances/web-0", {"address": "10.0.0.7"})
    await client.ask("PUT", f"{WEB}/instances/web-1", {"address": "10.0.0.8", "status": "draining"})
    answer = await client.ask("GET", WEB)
    assert (answer.json["instances"], answer.json["ready"], answer.json["type"]) == (2, 1, "headless")
    assert answer.headers["X-Registry-Index"] == "2"


async def test_namespaces_and_services_are_listed(client: Any) -> None:
    for namespace, service in (("default", "web"), ("default", "api"), ("zoo", "cat")):
        path = f"/api/v1/namespaces/{namespace}/services/{service}/instances/0"
        await client.ask("PUT", path, {"address": "10.0.0.7"})
    assert (await client.ask("GET", "/api/v1/namespaces")).json == {"namespaces": ["default", "zoo"]}
    assert (await client.ask("GET", "/api/v1/namespaces?limit=1")).json == {
        "namespaces": ["default"],
        "next": "default",
    }
    assert (await client.ask("GET", "/api/v1/namespaces/default/services")).json == {
        "services": [
            {"name": "api", "instances": 1, "ready": 1, "braked": 0},
            {"name": "web", "instances": 1, "ready": 1, "braked": 0},
        ],
        "revision": 3,
    }
    page = (await client.ask("GET", f"{SERVICES}?after=api&limit=1")).json
    assert [service["name"] for service in page["services"]] == ["web"]
    assert (await client.ask("GET", "/api/v1/namespaces/none/services")).json["services"] == []
