"""Raw paths find their endpoint; parameters are decoded after the path was split, the rest of a path never."""

from __future__ import annotations

import pytest

from discovery.api.route import Endpoint, Route, Router
from discovery.api.routes import ROUTES
from discovery.errors import InvalidInput

ROUTER = Router(ROUTES)


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/healthz", "healthz", {}),
        ("/api/v1/namespaces", "namespaces", {}),
        ("/api/v1/namespaces/default/services", "services", {"namespace": "default"}),
        ("/api/v1/namespaces/a/services/b", "service", {"namespace": "a", "service": "b"}),
        ("/api/v1/namespaces/a/services/b/instances", "service_instances", {"namespace": "a", "service": "b"}),
        ("/api/v1/namespaces/a/services/b/instances/c", "instance", {"namespace": "a", "service": "b", "id": "c"}),
        (
            "/api/v1/namespaces/a/services/b/instances/c%2Fd/heartbeat",
            "heartbeat",
            {"namespace": "a", "service": "b", "id": "c/d"},
        ),
        ("/api/v1/kv/", "kv", {"key": ""}),
        ("/api/v1/kv/a//b/%2F+", "kv", {"key": "a//b/%2F+"}),
        ("/api/v1/kv/instances", "kv", {"key": "instances"}),
    ],
)
def test_paths_find_their_route(path: str, name: str, parameters: dict[str, str]) -> None:
    found = ROUTER.match(path)
    assert found is not None
    assert (found[0].name, found[1]) == (name, parameters)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "/",
        "//healthz",
        "/healthz/",
        "/%68ealthz",
        "/api/v1",
        "/api/v1/",
        "/api/v1/kv",
        "/api/v2/namespaces",
        "/api/v1/namespaces/",
        "/api/v1/namespaces//services",
        "/api/v1/namespaces/a/services/b/instances/c/status/d",
        "/api/v1/../../healthz",
        "/api/v1%2Fnamespaces",
    ],
)
def test_other_paths_find_none(path: str) -> None:
    assert ROUTER.match(path) is None


def test_a_parameter_must_be_well_encoded() -> None:
    with pytest.raises(InvalidInput, match="namespace must be"):
        ROUTER.match("/api/v1/namespaces/%zz/services")


def test_allow_names_head_with_get_and_always_options() -> None:
    endpoint = Endpoint(None, "plain")
    assert Route("x", "/x", {"GET": endpoint, "PUT": endpoint}).allow == "GET, HEAD, OPTIONS, PUT"
    assert Route("x", "/x", {"POST": endpoint}).allow == "OPTIONS, POST"


def test_route_names_label_metrics_and_are_unique() -> None:
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)
    assert "unmatched" not in names
