from __future__ import annotations

import json

from discovery.cli import output
from discovery.cli.client import Answer


def answer(status: int, body: object) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {}, data, "http://n1")


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert output.table(("A", "LONGER"), [("xyz", 1), ("", None)]) == "A    LONGER\nxyz  1\n-    -"


def test_a_name_cannot_steer_the_terminal() -> None:
    assert output.table(("A",), [("\x1b[31mred\n",)]) == "A\n\\x1b[31mred\\n"


def test_ports_read_as_they_are_written() -> None:
    ports = [{"name": "http", "port": 80, "protocol": "tcp"}, {"port": 53, "protocol": "udp"}]
    assert output.ports(ports) == "http=80,53/udp"


def test_a_problem_names_every_field_with_its_rule() -> None:
    body = {
        "detail": "2 fields break a rule",
        "errors": [{"field": "ports[0].port", "rule": "must be 1..65535", "value": 70000}, {"field": "x", "rule": "y"}],
    }
    assert output.problem(answer(400, body)) == (
        "2 fields break a rule (400 from http://n1)\n  ports[0].port: must be 1..65535 (got 70000)\n  x: y"
    )


def test_an_answer_that_is_no_problem_document_is_told_by_its_status() -> None:
    for body in (b"<html>", [], {"errors": 3}, {"errors": [{}]}):
        assert output.problem(answer(502, body)).endswith("502") or "502" in output.problem(answer(502, body))


def test_a_problem_cannot_steer_the_terminal() -> None:
    body = {"detail": "\x1b]0;x\x07", "errors": [{"field": "a\nb", "rule": "r"}]}
    assert "\x1b" not in output.problem(answer(400, body))
    assert "\n  a\\nb: r" in output.problem(answer(400, body))
