"""Bad input changes nothing and gets a 4xx problem that names field and rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discovery import limits
from discovery.api import spec

WEB = "/api/v1/namespaces/default/services/web"
FIRST = f"{WEB}/instances/web-0"
GOOD = {"address": "10.0.0.7"}
PROBLEM = "application/problem+json"


def assert_problem(answer: Any, status: int) -> None:
    assert answer.status == status
    assert answer.headers["Content-Type"] == PROBLEM
    assert {"type", "title", "status", "detail"} <= answer.json.keys()
    assert answer.json["status"] == status
    assert answer.headers["X-Registry-Node"] == "n1"


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"", "body", "must be JSON"),
        (b"{", "body", "must be JSON"),
        (b"address=10.0.0.7", "body", "must be JSON"),
        (b"\xff", "body", "must be UTF-8"),
        (b"[]", "body", "must be a JSON object"),
        (b"null", "body", "must be a JSON object"),
        (b'{"address": "10.0.0.7", "weight": NaN}', "body", "NaN is no JSON number"),
        (b'{"address": "10.0.0.7", "weight": 1e999}', "weight", "must be a whole number"),
        (b'{"address": "10.0.0.7", "address": "10.0.0.8"}', "address", "stands twice"),
        (b'{"address": "10.0.0.7", "meta": {"a": "1", "a": "2"}}', "a", "stands twice"),
        ({}, "address", "is required"),
        ({**GOOD, "adress": "10.0.0.8"}, "adress", "is not known here"),
        ({**GOOD, "": 1}, "", "is not known here"),
        ({**GOOD, "checks": []}, "checks", "not available yet"),
        ({**GOOD, "addresses": []}, "addresses", "must not stand beside address"),
        ({"addresses": []}, "addresses", "must name at least one address"),
        ({"addresses": "10.0.0.7"}, "addresses", "must be an array"),
        ({"addresses": [{"address": "10.0.0.7", "network": "x"}]}, "addresses[0]", "not available yet"),
        ({"addresses": ["10.0.0.7", 5]}, "addresses[1]", "must be a string"),
        ({"addresses": ["10.0.0.7", "10.0.0.7"]}, "addresses", "twice"),
        ({"addresses": [f"10.0.0.{number}" for number in range(1, 18)]}, "addresses", "at most 16"),
        ({"address": "web.example.org"}, "address", "must be an IPv4 or IPv6 address"),
        ({"address": "10.0.0.07"}, "address", "must be an IPv4 or IPv6 address"),
        ({"address": "0.0.0.0"}, "address", "unspecified"),
        ({"address": "::"}, "address", "unspecified"),
        ({"address": "224.0.0.1"}, "address", "multicast"),
        ({"address": "ff02::1"}, "address", "multicast"),
        ({"address": "fe80::1%eth0"}, "address", "zone id"),
        ({"address": 167772167}, "address", "must be a string"),
        ({**GOOD, "ports": 8080}, "ports", "must be an array"),
        ({**GOOD, "ports": [8080]}, "ports[0]", "must be a JSON object"),
        ({**GOOD, "ports": [{}]}, "ports[0].port", "is required"),
        ({**GOOD, "ports": [{"port": 70000}]}, "ports[0].port", "must be 1..65535"),
        ({**GOOD, "ports": [{"port": 0}]}, "ports[0].port", "must be 1..65535"),
        ({**GOOD, "ports": [{"port": -1}]}, "ports[0].port", "must be 1..65535"),
        ({**GOOD, "ports": [{"port": "80"}]}, "ports[0].port", "must be a whole number"),
        ({**GOOD, "ports": [{"port": True}]}, "ports[0].port", "must be a whole number"),
        ({**GOOD, "ports": {"http": 65536}}, "ports.http", "must be 1..65535"),
        ({**GOOD, "ports": [{"port": 1, "protocol": "icmp"}]}, "ports[0].protocol", "must be one of tcp, udp, sctp"),
        ({**GOOD, "ports": [{"port": 1, "name": "a" * 16}]}, "ports[0].name", "RFC 6335"),
        ({**GOOD, "ports": [{"port": 1, "name": "80"}]}, "ports[0].name", "RFC 6335"),
        ({**GOOD, "ports": [{"port": 1, "name": "_http"}]}, "ports[0].name", "RFC 6335"),
        ({**GOOD, "ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}, "ports[1].name", "unique for tcp"),
        ({**GOOD, "ports": [{"port": 1, "tls": True}]}, "ports[0].tls", "is not known here"),
        ({**GOOD, "ports": [{"port": 1}] * 65}, "ports", "at most 64"),
        ({**GOOD, "ttl": 0}, "ttl", "must be 1s..24h"),
        ({**GOOD, "ttl": "0s"}, "ttl", "must be 1s..24h"),
        ({**GOOD, "ttl": 365 * 86_400}, "ttl", "must be 1s..24h"),
        ({**GOOD, "ttl": "soon"}, "ttl", "must be a duration"),
        ({**GOOD, "ttl": True}, "ttl", "must be a duration"),
        ({**GOOD, "ttl": 10**400}, "ttl", "must be 1s..24h"),
        (b'{"address": "10.0.0.7", "ttl": 1e306}', "ttl", "must be a duration"),
        (b'{"address": "10.0.0.7", "ttl": 1e999}', "ttl", "must be a duration"),
        ({**GOOD, "ttl": 10, "lease": "ff"}, "lease", "must not stand beside ttl"),
        ({**GOOD, "lease": 255}, "lease", "must be a lease id"),
        ({**GOOD, "hostname": "a.b"}, "hostname", "label"),
        ({**GOOD, "hostname": "-a"}, "hostname", "label"),
        ({**GOOD, "hostname": ""}, "hostname", "label"),
        ({**GOOD, "hostname": "\N{KELVIN SIGN}ube"}, "hostname", "label"),
        ({**GOOD, "ports": {"\N{KELVIN SIGN}": 80}}, "ports[0].name", "RFC 6335"),
        ({**GOOD, "hostname": "a\r\nb"}, "hostname", "label"),
        ({**GOOD, "weight": 65536}, "weight", "must be 0..65535"),
        ({**GOOD, "weight": 1.5}, "weight", "must be a whole number"),
        ({**GOOD, "weight": 10**30}, "weight", "must be 0..65535"),
        ({**GOOD, "weight": None}, "weight", "must be a whole number"),
        ({**GOOD, "priority": -1}, "priority", "must be 0..65535"),
        ({**GOOD, "dns_ttl": 2**31}, "dns_ttl", "must be whole seconds"),
        ({**GOOD, "tags": "v2"}, "tags", "must be an array"),
        ({**GOOD, "tags": [1]}, "tags[0]", "must be a string"),
        ({**GOOD, "tags": [""]}, "tags[0]", "must be 1..255 characters"),
        ({**GOOD, "tags": ["x"] * 65}, "tags", "at most 64"),
        ({**GOOD, "meta": []}, "meta", "must be an object"),
        ({**GOOD, "meta": {"a": 1}}, "meta.a", "must be a string"),
        ({**GOOD, "meta": {"": "1"}}, "meta", "keys must be"),
        ({**GOOD, "meta": {"a": "x" * 1025}}, "meta.a", "at most 1024"),
        ({**GOOD, "status": "up"}, "status", "must be one of"),
        ({**GOOD, "status": None}, "status", "must be one of"),
    ],
)
async def test_a_bad_registration_names_the_field_and_moves_nothing(
    client: Any, body: Any, field: str, rule: str
) -> None:
    before = await client.ask("PUT", FIRST, GOOD)
    answer = await client.ask("PUT", FIRST, body)
    assert_problem(answer, 400)
    assert answer.faults[0][0] == field
    assert rule in answer.faults[0][1]
    assert answer.revision == before.revision
    assert (await client.ask("GET", FIRST)).json["revision"] == before.revision


async def test_a_fault_repeats_the_value(client: Any) -> None:
    answer = await client.ask("PUT", FIRST, {**GOOD, "ports": [{"port": 70000}]})
    assert answer.json["errors"] == [{"field": "ports[0].port", "rule": "must be 1..65535", "value": 70000}]


async def test_all_faults_of_the_rules_are_named_at_once(client: Any) -> None:
    answer = await client.ask("PUT", FIRST, {"address": "::", "tags": [""], "hostname": "-"})
    assert {field for field, _ in answer.faults} == {"address", "hostname", "tags[0]"}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/namespaces/de_fault/services/web/instances/0", "namespace"),
        ("/api/v1/namespaces/default/services/-web/instances/0", "service"),
        (f"/api/v1/namespaces/default/services/{'a' * 64}/instances/0", "service"),
        ("/api/v1/namespaces/default/services/w%C3%A9b/instances/0", "service"),
        ("/api/v1/namespaces/default/services/%E2%84%AAube/instances/0", "service"),
        ("/api/v1/namespaces/%E2%84%AAube/services/web/instances/0", "namespace"),
        ("/api/v1/namespaces/default/services/web%0D%0A/instances/0", "service"),
        ("/api/v1/namespaces/default/services/web/instances/a%20b", "id"),
        ("/api/v1/namespaces/default/services/web/instances/a%2Fb", "id"),
        ("/api/v1/namespaces/default/services/web/instances/a%00", "id"),
        (f"/api/v1/namespaces/default/services/web/instances/{'x' * 129}", "id"),
    ],
)
async def test_a_name_that_is_no_label_is_refused(client: Any, path: str, field: str) -> None:
    for method, target in (("PUT", path), ("GET", path), ("DELETE", path), ("PUT", f"{path}/heartbeat")):
        answer = await client.ask(method, target, GOOD if method == "PUT" and target == path else None)
        assert_problem(answer, 400)
        assert (answer.faults[0][0], answer.revision) == (field, 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "instances"),
        ({"instances": {}}, "instances"),
        ({"instances": ["web"]}, "instances[0]"),
        ({"instances": [["default", "web"]]}, "instances[0]"),
        ({"instances": [["default", "web", 5]]}, "instances[0]"),
        ({"instances": [["default", "web", "0", "x"]]}, "instances[0][3]"),
        ({"instances": [["default", "web", "0"], ["de_fault", "web", "0"]]}, "instances[1][0]"),
        ({"instances": [["default", "", "0"]]}, "instances[0][1]"),
        ({"instances": [["default", "\N{KELVIN SIGN}", "0"]]}, "instances[0][1]"),
        ({"instances": [["default", "web", "a b"]]}, "instances[0][2]"),
        ({"instances": [], "force": True}, "force"),
        (b'{"instances": [], "instances": []}', "instances"),
        (b'{"instances": [], "instance\\u0073": []}', "instances"),
        (b'{"instances": [["\xff", "b", "c"]]}', "body"),
    ],
)
async def test_a_bad_batch_of_heartbeats_names_the_item(client: Any, body: Any, field: str) -> None:
    answer = await client.ask("POST", "/api/v1/heartbeats", body)
    assert_problem(answer, 400)
    assert answer.faults[0][0] == field


@pytest.mark.parametrize(
    ("method", "path", "field", "rule"),
    [
        ("GET", f"{WEB}/instances?index=5", "index", "not available yet"),
        ("GET", f"{WEB}/instances?wait=30s", "wait", "not available yet"),
        ("GET", "/api/v1/kv/a?index=5", "index", "not available yet"),
        ("GET", f"{WEB}/instances?consistency=eventual", "consistency", "must be stale or strong"),
        ("GET", f"{WEB}/instances?limit=0", "limit", "1..10000"),
        ("GET", f"{WEB}/instances?limit=10001", "limit", "1..10000"),
        ("GET", f"{WEB}/instances?limit=ten", "limit", "1..10000"),
        ("GET", f"{WEB}/instances?status=up", "status", "must be one of"),
        ("GET", f"{WEB}/instances?limt=5", "limt", "is not known here"),
        ("GET", f"{WEB}/instances?limit=1&limit=2", "limit", "stands twice"),
        ("GET", f"{FIRST}?visible=cluster", "visible", "is not known here"),
        ("PUT", f"{FIRST}?visible=all", "visible", "must be cluster"),
        ("PUT", f"{FIRST}?consistency=strong", "consistency", "is not known here"),
        ("PUT", f"{FIRST}?if_revision=-1", "if_revision", "must be a whole number"),
        ("PUT", f"{FIRST}?if_revision=x", "if_revision", "must be a whole number"),
        ("PUT", f"{FIRST}?lease=", "lease", "must be a lease id"),
        ("PUT", f"{FIRST}/heartbeat?lease=xyz", "lease", "must be a lease id"),
        ("DELETE", f"{FIRST}?lease=0", "lease", "must be a lease id"),
        ("DELETE", f"{FIRST}?%ff=1", "query", "must be UTF-8"),
        ("GET", "/api/v1/leases/zz", "lease", "must be a lease id"),
        ("GET", "/api/v1/kv/a?prefix=yes", "prefix", "must be true or false"),
        ("GET", "/api/v1/kv/a?limit=5", "limit", "is only for ?prefix=true"),
        ("GET", "/api/v1/events?since=x", "since", "must be a whole number"),
        ("GET", "/api/v1/events?namespace=_", "namespace", "label"),
    ],
)
async def test_a_bad_query_names_the_parameter(client: Any, method: str, path: str, field: str, rule: str) -> None:
    answer = await client.ask(method, path, GOOD if method == "PUT" and "heartbeat" not in path else None)
    assert_problem(answer, 400)
    assert answer.faults[0][0] == field
    assert rule in answer.faults[0][1]
    assert answer.revision == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
async def test_headers_that_no_honest_client_sends_are_refused(
    client: Any, headers: dict[str, str], status: int
) -> None:
    answer = await client.ask("PUT", FIRST, GOOD, headers)
    assert_problem(answer, status)
    assert answer.revision == 0


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "application/json", "?"]
)
async def test_the_content_type_of_a_body_is_ignored(client: Any, kind: str) -> None:
    assert (await client.ask("PUT", FIRST, GOOD, {"Content-Type": kind})).status == 201


async def test_a_body_where_none_belongs_is_refused(client: Any) -> None:
    await client.ask("PUT", FIRST, GOOD)
    answer = await client.ask("PUT", f"{FIRST}/heartbeat", {"ttl": 5})
    assert_problem(answer, 400)
    assert answer.faults == [("body", "must be empty here")]
    assert (await client.ask("PUT", f"{FIRST}/heartbeat", {})).status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_405_and_say_which_are_allowed(client: Any, method: str) -> None:
    answer = await client.ask(method, FIRST)
    assert_problem(answer, 405)
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"


async def test_options_says_what_is_allowed_and_nothing_of_other_origins(client: Any) -> None:
    answer = await client.ask("OPTIONS", FIRST)
    assert (answer.status, answer.headers["Allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PUT")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    whole = await client.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert whole.startswith(b"HTTP/1.1 204 ")


async def test_head_is_get_without_its_body(client: Any) -> None:
    await client.ask("PUT", FIRST, GOOD)
    for path in (FIRST, "/healthz", f"{WEB}/instances", "/api/v1/namespaces/default/services/none"):
        got, head = await client.ask("GET", path), await client.ask("HEAD", path)
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers["Content-Length"] == got.headers["Content-Length"]
        assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_a_body_of_100_megabytes_is_refused_before_it_is_read(client: Any) -> None:
    head = b"PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n" % FIRST.encode()
    answer = await client.raw_until_answer(head + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert PROBLEM.encode() in answer
    assert (await client.ask("GET", "/healthz")).revision == 0


async def test_a_chunked_body_is_refused_while_it_streams_in(client: Any) -> None:
    async def endless() -> Any:
        for _ in range(limits.COMMAND_BYTES_MAX // 65_536 + 2):
            yield b" " * 65_536

    url = f"http://127.0.0.1:{client.port}{FIRST}"
    async with client.session.put(url, data=endless()) as answer:
        assert (answer.status, answer.content_type) == (413, PROBLEM)
    assert client.server.pages.bodies_bytes == 0


async def test_the_limit_itself_is_accepted(client: Any) -> None:
    padded = json.dumps(GOOD).encode().ljust(limits.COMMAND_BYTES_MAX)
    assert (await client.ask("PUT", FIRST, padded)).status == 201
    assert_problem(await client.ask("PUT", FIRST, padded + b" "), 413)


async def test_a_defect_is_a_500_problem_that_tells_no_secret(client: Any, registry: Any, caplog: Any) -> None:
    def broken() -> int:
        raise RuntimeError("secret path")

    registry.staleness_ms = broken
    answer = await client.ask("GET", f"{WEB}/instances")
    assert_problem(answer, 500)
    assert b"secret" not in answer.body
    assert "defect in a handler" in caplog.text


# Properties

NAMES = st.sampled_from(sorted(spec.INSTANCE_FIELDS | spec.SERVICE_FIELDS)) | st.sampled_from(
    ["checks", "min_healthy", "instances", "compare", "then", "else", "put", "get", "delete", "key", "value_base64"]
)
TEXTS = st.sampled_from(["10.0.0.7", "ready", "tcp", "web", "==", "version", "10s", "", "virtual"]) | st.text(
    max_size=8
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
BODIES = st.dictionaries(NAMES, JSON, max_size=6) | JSON
TARGETS = st.sampled_from(
    [
        ("PUT", FIRST),
        ("PUT", f"{FIRST}/status"),
        ("PUT", f"{FIRST}/heartbeat"),
        ("PUT", WEB),
        ("POST", "/api/v1/heartbeats"),
        ("POST", "/api/v1/leases"),
        ("POST", "/api/v1/txn"),
        ("DELETE", FIRST),
    ]
)
Ask = Callable[..., Any]


@pytest.fixture
def ask(registry: Any, node: Any) -> Iterator[Ask]:
    """Asks a node from a test that is not a coroutine."""
    with asyncio.Runner() as runner:
        context = node(registry)
        made = runner.run(context.__aenter__())
        yield lambda *request: runner.run(made.ask(*request))
        runner.run(context.__aexit__(None, None, None))


PATIENT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PATIENT
@given(target=TARGETS, body=BODIES)
def test_any_json_gives_2xx_or_a_4xx_problem(ask: Ask, registry: Any, target: tuple[str, str], body: Any) -> None:
    before = registry.store.revision
    answer = ask(*target, json.dumps(body).encode())
    if answer.status >= 300:
        assert 400 <= answer.status < 500
        assert_problem(answer, answer.status)
        assert answer.revision == before
    else:
        assert answer.status in (200, 201, 204)


@PATIENT
@given(target=TARGETS, body=st.binary(max_size=60))
def test_any_bytes_give_2xx_or_a_4xx_problem(ask: Ask, target: tuple[str, str], body: bytes) -> None:
    answer = ask(*target, body)
    assert answer.status < 500
    if answer.status >= 300:
        assert_problem(answer, answer.status)


RAW = st.text(st.sampled_from("abAZ09-_.~%/?&=+:@!$'()*,;"), max_size=40)


@PATIENT
@given(method=st.sampled_from(["GET", "PUT", "DELETE", "HEAD"]), rest=RAW)
def test_any_path_gives_an_answer_that_is_no_defect(ask: Ask, method: str, rest: str) -> None:
    for path in (f"/{rest}", f"/api/v1/kv/{rest}", f"{WEB}/instances/{rest}", f"{WEB}/instances?{rest}"):
        answer = ask(method, path)
        assert answer.status < 500 or answer.status == 503
        if answer.status >= 400 and method != "HEAD":
            assert_problem(answer, answer.status)
