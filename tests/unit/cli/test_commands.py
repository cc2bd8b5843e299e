"""Every client command: the request it sends and what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from discovery.cli.instance import default_id
from discovery.cli.root import group

INSTANCE: dict[str, Any] = {
    "namespace": "default", "service": "web", "id": "web-0", "addresses": ["10.0.0.7"],
    "ports": [{"name": "http", "port": 8080, "protocol": "tcp"}], "hostname": "web-0", "weight": 1, "priority": 0,
    "dns_ttl": None, "tags": [], "meta": {}, "status": "ready",
    "lease": {"id": "00aa", "ttl": 10, "remaining": 9.98}, "created_revision": 41, "revision": 41,
    "dns": ["web.default.svc.cluster.local"],
}  # fmt: skip
EVENT = {
    "kind": "expired", "namespace": "default", "service": "web", "id": "web-0", "revision": 43,
    "time": "2026-11-24T12:00:00Z", "actor": "n1", "last_heartbeat": None, "detail": "",
}  # fmt: skip
CLUSTER: dict[str, Any] = {
    "node": "n1", "leader": "n2", "term": 7, "revision": 44, "history": "abc",
    "members": [
        {"id": "n1", "raft": "127.0.0.1:8300", "http": "http://127.0.0.1:8500", "role": "follower", "alive": True,
         "last_contact_ms": None, "applied": 9},
        {"id": "n2", "raft": "127.0.0.1:8301", "http": None, "role": "leader", "alive": False,
         "last_contact_ms": 12, "applied": 8},
    ],
}  # fmt: skip
MIXED = CLUSTER | {
    "level": 1,
    "members": [member | more for member, more in zip(CLUSTER["members"], (
        {"level": None, "version": ""}, {"level": 2, "version": "0.2"}), strict=True)],
}  # fmt: skip
KEY = {"key": "config/a", "value_base64": "MQ==", "revision": 9, "create_revision": 3, "version": 2, "lease": None}
WEB_0 = "/api/v1/namespaces/default/services/web/instances/web-0"

# command line | request it sends | the server's answer | what it prints
ROWS: list[tuple[str, str, object, str]] = [
    ("register web -a 10.0.0.7 --id web-0", f"PUT {WEB_0}", INSTANCE, "instance   default/web/web-0"),
    ("register web -a 10.0.0.7 --id web-0 --lease 00aa --if-revision 3 --visible cluster",
     f"PUT {WEB_0}?lease=00aa&if_revision=3&visible=cluster", INSTANCE, "lease      00aa (10 s)"),
    ("register web -a 10.0.0.7 --id web-0 --ttl none", f"PUT {WEB_0}", INSTANCE | {"lease": None}, "none, permanent"),
    ("deregister web web-0", f"DELETE {WEB_0}", {}, ""),
    ("deregister web web-0 --lease 00aa", f"DELETE {WEB_0}?lease=00aa", {}, ""),
    ("heartbeat web web-0 --lease 00aa", f"PUT {WEB_0}/heartbeat?lease=00aa", {"ttl": 10, "remaining": 10},
     "renewed for 10 s"),
    ("heartbeat web web-0", f"PUT {WEB_0}/heartbeat", {"ttl": None, "remaining": None}, "permanent"),
    ("services -n prod", "GET /api/v1/namespaces/prod/services",
     {"services": [{"name": "web", "instances": 3, "ready": 2}], "revision": 4}, "web      3          2"),
    ("services", "GET /api/v1/namespaces/default/services",
     {"services": [{"name": "web", "instances": 9, "ready": 9, "braked": 4}], "revision": 4},
     "web      9          9      4"),
    ("services --strong --limit 1", "GET /api/v1/namespaces/default/services?limit=1&consistency=strong",
     {"services": [{"name": "web", "instances": 3, "ready": 2}], "revision": 4, "next": "web"},
     "there is more: --after web"),
    ("instances web --status ready --tag v2",
     "GET /api/v1/namespaces/default/services/web/instances?status=ready&tag=v2",
     {"instances": [INSTANCE], "revision": 4}, "default/web/web-0  10.0.0.7   http=8080  ready   00aa   10.0 s"),
    ("instances", "GET /api/v1/instances", {"instances": [], "revision": 4}, "INSTANCE"),
    ("resolve web.default.svc.cluster.local", "GET /api/v1/resolve?name=web.default.svc.cluster.local&type=A",
     {"rcode": "NOERROR", "answers": [{"name": "web.", "type": "A", "ttl": 5, "data": "10.0.0.7"}], "stale": False},
     "web. 5 IN A 10.0.0.7"),
    ("resolve web.default.svc.cluster.local", "GET /api/v1/resolve?name=web.default.svc.cluster.local&type=A",
     {"rcode": "NOERROR", "answers": [{"name": "web", "type": "A", "ttl": 5, "data": "10.0.0.7"}], "stale": True},
     "warning: stale"),
    ("events --service web --since 41", "GET /api/v1/events?service=web&since=41", {"events": [EVENT]},
     "43        2026-11-24T12:00:00Z  expired  default/web/web-0  -               n1     -"),
    ("kv get a/b", "GET /api/v1/kv/a/b", b"the value", "the value"),
    ("kv get --strong a%?b", "GET /api/v1/kv/a%25%3Fb?consistency=strong", b"", ""),
    ("kv put a/b blue", "PUT /api/v1/kv/a/b", {"revision": 9}, "revision 9"),
    ("kv put a//+ü x --lease 00aa --if-revision 0", "PUT /api/v1/kv/a//%2B%C3%BC?lease=00aa&if_revision=0",
     {"revision": 9}, "revision 9"),
    ("kv delete a", "DELETE /api/v1/kv/a", {"deleted": 1, "revision": 10}, "deleted 1, revision 10"),
    ("kv delete a --prefix", "DELETE /api/v1/kv/a?prefix=true",
     {"deleted": 4, "revision": 10}, "deleted 4"),
    ("kv list", "GET /api/v1/kv/?prefix=true", {"items": [KEY], "revision": 9}, "config/a  1      9         2"),
    ("members", "GET /api/v1/cluster", CLUSTER, "n2      leader    no     127.0.0.1:8301  -"),
    ("members add n1 --raft 10.0.0.1:8300", "POST /api/v1/cluster/members", CLUSTER, "n1 is a member and votes"),
    ("members add n4 --raft 10.0.0.1:8300 --wait 0", "POST /api/v1/cluster/members", CLUSTER, "n4 is added; it votes"),
    ("members remove n1", "DELETE /api/v1/cluster/members/n1", {}, "n1 is no member any more"),
    ("leader", "GET /api/v1/cluster", CLUSTER, "n2"),
    ("leader --to n2", "POST /api/v1/cluster/leader", CLUSTER, "n2"),
    ("status", "GET /api/v1/cluster", CLUSTER, "members   2, 1 alive"),
    ("status", "GET /api/v1/cluster", MIXED, "level     1; 2 once all know it, not yet: n1"),
    ("status", "GET /api/v1/cluster", MIXED | {"level": 2}, "level     2\n"),
    ("status", "GET /api/v1/cluster", CLUSTER | {"braked": 3}, "held back  3 expired leases"),
    ("members", "GET /api/v1/cluster", MIXED, "0.2      2"),
    ("status", "GET /api/v1/cluster", CLUSTER | {"processes": [{"name": "dns-0", "starts": 7, "held": 1.6}]},
     "dns-0     started 7 times; it ends again and again: next start held back for 1.6 s"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "request_line", "answer", "printed"), ROWS, ids=[row[0] for row in ROWS])
def test_a_command_asks_and_prints(cli, server, line: str, request_line: str, answer: object, printed: str) -> None:
    server.will_answer((200, answer))
    result = cli(*line.split())
    assert result.exit_code == 0, result.output
    assert f"{server.asked[-1].method} {server.asked[-1].path}" == request_line
    assert printed in result.output


def test_very_many_keys_are_deleted_in_steps(cli, server) -> None:
    server.will_answer(
        (413, {"title": "Too large"}),
        (200, {"deleted": 10_000, "revision": 10, "more": True}),
        (200, {"deleted": 7, "revision": 11, "more": False}),
    )
    assert cli("kv", "delete", "a", "--prefix").stdout == "deleted 10007, revision 11\n"
    assert len(server.asked) == 3


JSON_ROWS = [
    ("register web -a 10.0.0.7 --id web-0", INSTANCE),
    ("heartbeat web web-0", {"ttl": 10, "remaining": 10}),
    ("services", {"services": [], "revision": 4}),
    ("instances web", {"instances": [INSTANCE], "revision": 4}),
    ("resolve web", {"rcode": "NOERROR", "answers": [{}], "stale": False}),
    ("events", {"events": [EVENT]}),
    ("kv put a 1", {"revision": 9}),
    ("kv delete a", {"deleted": 0, "revision": 9}),
    ("kv list", {"items": [KEY], "revision": 9}),
]


@pytest.mark.parametrize(("line", "answer"), JSON_ROWS, ids=[row[0] for row in JSON_ROWS])
def test_json_is_the_servers_answer_on_one_line(cli, server, line: str, answer: object) -> None:
    server.will_answer((200, answer))
    result = cli(*line.split(), "--json")
    assert json.loads(result.stdout) == answer
    assert result.stdout.count("\n") == 1


def test_json_of_a_key_has_what_the_headers_say(cli, server) -> None:
    headers = {"X-Key-Revision": "9", "X-Key-Create-Revision": "3", "X-Key-Version": "2"}
    server.will_answer((200, b"1", headers))
    assert json.loads(cli("kv", "get", "config/a", "--json").stdout) == KEY


def test_json_of_the_cluster(cli, server) -> None:
    server.will_answer((200, CLUSTER))
    assert json.loads(cli("members", "--json").stdout) == {"members": CLUSTER["members"]}
    assert json.loads(cli("leader", "--json").stdout) == {"leader": "n2", "term": 7}
    assert json.loads(cli("status", "--json").stdout) == {"ready": True, "missing": [], **CLUSTER}


def test_a_registration_carries_all_that_was_given(cli, server) -> None:
    server.will_answer((201, INSTANCE))
    line = (
        "register web -a 10.0.0.7 -a fd00::7 -p http=8080 -p dns=53/udp -p 9 --ttl 1500ms --hostname h --weight 0 "
        "--priority 2 --dns-ttl 5 --tag v2 --tag blue --meta version=2.1 --meta x=a=b --status not_ready --id web-0"
    )
    assert cli(*line.split()).exit_code == 0
    assert server.asked[0].json() == {
        "addresses": ["10.0.0.7", "fd00::7"],
        "ports": [
            {"name": "http", "port": 8080, "protocol": "tcp"},
            {"name": "dns", "port": 53, "protocol": "udp"},
            {"port": 9, "protocol": "tcp"},
        ],
        "ttl": 1.5, "hostname": "h", "weight": 0, "priority": 2, "dns_ttl": 5, "tags": ["v2", "blue"],
        "meta": {"version": "2.1", "x": "a=b"}, "status": "not_ready",
    }  # fmt: skip


def test_a_permanent_registration_says_null_and_a_joining_one_names_the_lease(cli, server) -> None:
    server.will_answer((201, INSTANCE))
    cli("register", "web", "-a", "10.0.0.7", "--ttl", "none")
    cli("register", "web", "-a", "10.0.0.7", "--join", "00aa")
    assert server.asked[0].json()["ttl"] is None
    assert "ttl" not in server.asked[1].json()
    assert server.asked[1].json()["lease"] == "00aa"


def test_an_id_that_was_not_given_is_the_host_and_the_first_port() -> None:
    assert default_id([{"port": 8080}], "Web_1.example.org") == "web-1-8080"
    assert default_id([], "web-1") == "web-1"
    assert len(default_id([{"port": 8080}], "h" * 64)) == 63
    assert default_id([{"port": 8080}], "___") == "host-8080"


def test_a_value_may_come_from_stdin(cli, server) -> None:
    server.will_answer((200, {"revision": 9}))
    assert cli("kv", "put", "a", "--file", "-", input=b"\x00\xff").exit_code == 0
    assert server.asked[0].body == b"\x00\xff"


def test_a_value_that_is_no_text_is_told_by_its_size(cli, server) -> None:
    server.will_answer((200, {"items": [KEY | {"value_base64": "/w=="}], "revision": 9}))
    assert "(1 bytes)" in cli("kv", "list").stdout


def test_a_refusal_names_the_fields_on_stderr_and_ends_with_1(cli, server) -> None:
    fault = {"field": "ports[0].port", "rule": "must be 1..65535", "value": 70000}
    server.will_answer((400, {"detail": "a field breaks a rule", "errors": [fault]}))
    result = cli("register", "web", "-a", "10.0.0.7", "-p", "http=70000")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "ports[0].port: must be 1..65535 (got 70000)" in result.stderr


def test_no_server_ends_with_1_and_names_it() -> None:
    result = CliRunner().invoke(group, ["services", "--server", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "http://127.0.0.1:1: Connection refused" in result.stderr


def test_a_write_that_dns_does_not_show_yet_is_a_warning(cli, server) -> None:
    server.will_answer((204, {}, {"X-Registry-Visible": "false", "X-Registry-Missing": "n3"}))
    result = cli("deregister", "web", "web-0")
    assert result.exit_code == 0
    assert "a DNS worker does not show it yet" in result.stderr
    assert "not shown yet by n3" in result.stderr


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "NOERROR"])
def test_a_name_without_an_answer_ends_with_1(cli, server, rcode: str) -> None:
    server.will_answer((200, {"rcode": rcode, "answers": [], "stale": False}))
    result = cli("resolve", "nothing")
    assert result.exit_code == 1
    assert rcode in result.stderr


def test_no_leader_ends_with_1(cli, server) -> None:
    server.will_answer((200, CLUSTER | {"leader": None}))
    result = cli("leader")
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_node_that_is_not_ready_ends_with_1_and_says_what_is_missing(cli, server) -> None:
    faults = [{"field": "dns", "rule": "worker 1 is behind"}]
    server.will_answer((503, {"detail": "not ready", "errors": faults}), (200, CLUSTER))
    result = cli("status")
    assert result.exit_code == 1
    assert "dns: worker 1 is behind" in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("register web", "--address"),
        ("register web -a 10.0.0.7 -p http", "write NAME=N"),
        ("register web -a 10.0.0.7 --ttl soon", "no duration"),
        ("register web -a 10.0.0.7 --meta x", "KEY=VALUE"),
        ("services --server ftp://x", "HOST:PORT"),
        ("services --token-file /nonexistent", "cannot be read"),
        ("kv put a", "give a VALUE or --file"),
        ("kv put a b --file -", "give a VALUE or --file"),
        ("nothing", "No such command"),
        ("run web -a 10.0.0.7", "CMD"),
        ("run Web_1 -a 10.0.0.7 -- true", "RFC 1123"),
        ("run web -a 10.0.0 -- true", "must be an IPv4 or IPv6 address"),
        ("run web -a 10.0.0.7 --ttl 0.5 -- true", "must be 1 s to 24 h"),
        ("run web -a 10.0.0.7 -p http=70000 -- true", "must be 1..65535"),
    ],
)
def test_a_mistake_on_the_line_ends_with_2_and_is_explained(cli, server, line: str, said: str) -> None:
    result = cli(*line.split())
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert server.asked == []


def test_several_servers_come_by_flag_or_by_comma(server) -> None:
    server.will_answer((200, CLUSTER))
    by_flag = CliRunner().invoke(group, ["leader", "--server", "http://127.0.0.1:1", "--server", server.url])
    by_comma = CliRunner().invoke(group, ["leader"], env={"DISCOVERY_SERVER": f"http://127.0.0.1:1,{server.url}"})
    assert (by_flag.stdout, by_comma.stdout) == ("n2\n", "n2\n")


def test_the_token_file_is_read(cli, server, tmp_path) -> None:
    (tmp_path / "token").write_text("secret\n")
    server.will_answer((200, CLUSTER))
    cli("leader", "--token-file", str(tmp_path / "token"))
    assert server.asked[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("name", sorted(group.commands))
def test_every_command_teaches(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    assert group.commands[name].help
