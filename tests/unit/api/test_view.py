"""Records as JSON: the shapes of the contract."""

from __future__ import annotations

import json

import pytest

from discovery.api import view
from discovery.api.codec import encode
from discovery.dns import name
from discovery.model import Event, Instance, InstanceRecord, KeyRecord, Lease, Port

SPEC = Instance(
    "default",
    "web",
    "web-0",
    ("10.0.0.7",),
    (Port("http", 8080),),
    hostname="web-0",
    weight=10,
    dns_ttl=5,
    tags=("v2",),
    meta=(("version", "2.1"),),
)


def test_an_instance_looks_as_the_contract_says() -> None:
    shown = view.instance(InstanceRecord(SPEC, 7, 41, 41, 1), Lease(7, 10_000), 9_980, "cluster.local")
    assert json.loads(encode(shown)) == {
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
        "lease": {"id": "0000000000000007", "ttl": 10, "remaining": 9.98},
        "created_revision": 41,
        "revision": 41,
        "dns": ["web.default.svc.cluster.local", "web-0.web.default.svc.cluster.local"],
    }


def test_a_permanent_instance_has_no_lease() -> None:
    assert view.instance(InstanceRecord(SPEC, 0, 1, 1, 1), None, None, "x").lease is None


@pytest.mark.parametrize(
    ("hostname", "id", "address", "label"),
    [
        ("given", "web-0", "10.0.0.7", "given"),
        (None, "web-0", "10.0.0.7", "web-0"),
        (None, "Web-0", "10.0.0.7", "web-0"),
        (None, "web.0", "10.0.0.7", "10-0-0-7"),
        (None, "web:0", "2001:db8::1", "2001-0db8-0000-0000-0000-0000-0000-0001"),
        (None, "-", "10.0.0.7", "10-0-0-7"),
    ],
)
def test_an_instance_has_a_label_below_its_service(hostname: str | None, id: str, address: str, label: str) -> None:
    spec = Instance("default", "web", id, (address,), hostname=hostname)
    assert view.host_label(spec) == label
    assert name.hostname(spec) == label, "the API and DNS must derive the same name"


def test_a_key_shows_its_value_in_base64_and_its_lease_as_text() -> None:
    assert view.key("a", KeyRecord(b"1", 0, 1, 2, 3)) == {
        "key": "a",
        "value_base64": "MQ==",
        "revision": 2,
        "create_revision": 1,
        "version": 3,
        "lease": None,
    }
    assert view.key("a", KeyRecord(b"", 255, 1, 2, 3))["lease"] == "00000000000000ff"


def test_an_event_shows_moments_in_utc() -> None:
    shown = view.event(Event("expired", "default", "web", "web-0", 9, 1_700_000_000_123, "n1", 1_699_999_990_000, "x"))
    assert shown["time"] == "2023-11-14T22:13:20.123Z"
    assert shown["last_heartbeat"] == "2023-11-14T22:13:10.000Z"
    assert view.moment(None) is None


def test_a_page_says_next_only_while_there_is_more() -> None:
    assert view.page("items", [1], None, 5) == {"items": [1], "revision": 5}
    assert view.page("items", [1], "a", 5) == {"items": [1], "revision": 5, "next": "a"}
