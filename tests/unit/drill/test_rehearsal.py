"""What is played where, and what the command line makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from discovery.cli.drill import NAMES, drill
from discovery.drill.judge import GAP_S_GOALS
from discovery.drill.plan import BadPlan, Plan, parse
from discovery.drill.rehearsal import Order, _remove_writes, choose
from discovery.drill.scenarios import ALL
from discovery.drill.target import Place, Target

KILL_ONLY = parse("[commands]\nkill = 'true'\nstart = 'true'\n")


def target(nodes: int = 3) -> Target:
    places = [Place(f"n{n}", f"http://10.0.0.{n}:8500", (f"10.0.0.{n}", 53)) for n in range(1, nodes + 1)]
    return Target(cast(Any, None), places)


def chosen(*names: str, plan: Plan | None = KILL_ONLY, nodes: int = 3) -> tuple[list[str], dict[str, str]]:
    found = choose(Order(names, [], plan=plan), target(nodes))
    return [scenario.name for scenario in found.scenarios], {one.name: one.skipped for one in found.skipped}


def test_every_scenario_has_a_goal_and_a_name_on_the_command_line() -> None:
    assert set(ALL) == set(GAP_S_GOALS)
    assert {*ALL, "all"} == set(NAMES)


def test_all_is_what_the_commands_allow() -> None:
    played, skipped = chosen("all")
    assert played == ["leader-kill", "node-kill", "heartbeat-stop", "mass-expiry"]
    assert skipped == {
        "leader-pause": "there is no command to pause or resume n1",
        "partition": "there is no command to heal or partition n1",
        "rolling-restart": "there is no command to stop n1",
    }


def test_a_scenario_that_was_named_and_cannot_be_played_is_refused() -> None:
    with pytest.raises(BadPlan, match="partition: there is no command"):
        chosen("leader-kill", "partition")


def test_two_nodes_are_too_few_to_kill_one() -> None:
    played, skipped = chosen("all", nodes=2)
    assert played == ["heartbeat-stop", "mass-expiry"]
    assert skipped["leader-kill"] == "needs 3 nodes, the cluster has 2"


def test_without_a_file_only_the_cluster_of_make_run_can_be_killed() -> None:
    with pytest.raises(BadPlan, match=r"not the cluster of `make run`.*--config"):
        chosen("all", plan=None)
    assert chosen("heartbeat-stop", plan=None) == (["heartbeat-stop"], {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["leader-kil"], "leader-kil"),
        (["all", "--config", "{none}"], "No such file"),
        (["all", "--config", "{bad}"], "unknown field `comands`"),
        (["all", "--html", "{none}/page.html"], "no such folder"),
        (["all", "--rounds", "0"], "rounds"),
        (["all", "--write-gap", "soon"], "no duration"),
    ],
)
def test_a_mistake_ends_with_2_and_says_which(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "bad.toml").write_text("[comands]\n")
    paths = {"none": str(tmp_path / "none"), "bad": str(tmp_path / "bad.toml")}
    result = CliRunner().invoke(drill, [word.format(**paths) for word in arguments])
    assert result.exit_code == 2, result.output
    assert said in result.output.replace("\n", " ")


def test_no_cluster_no_drill() -> None:
    result = CliRunner().invoke(drill, ["all", "--yes", "--server", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no drill on this cluster: no server answered" in result.output


Refusals = dict[bool, int]
"""Status of a delete with a limit, and of one without, where it is refused."""


@pytest.mark.parametrize(
    ("refused", "asked", "said"),
    [
        ({}, ["10000", "10000", "10000"], []),
        ({True: 409}, ["10000", None], []),
        ({True: 413}, ["10000"], ["too many"]),
        ({True: 409, False: 413}, ["10000", None], ["too many"]),
    ],
)
async def test_what_was_written_is_removed_in_steps_or_it_is_said_that_it_is_not(
    refused: Refusals, asked: list[str | None], said: list[str]
) -> None:
    seen: list[str | None] = []

    async def delete(request: web.Request) -> web.Response:
        assert request.query["prefix"] == "true"
        seen.append(request.query.get("limit"))
        if status := refused.get("limit" in request.query):
            return web.json_response({"detail": "too many"}, status=status)
        more = {"more": len(seen) < 3} if "limit" in request.query else {}
        return web.json_response({"deleted": 1, "revision": 1} | more)

    app = web.Application()
    app.router.add_delete("/api/v1/kv/{key:.+}", delete)
    lines: list[str] = []
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        place = Place("n1", str(server.make_url("")).rstrip("/"), ("127.0.0.1", 53))
        await _remove_writes(Target(http, [place]), lines.append)
    assert seen == asked
    assert [line.rpartition(": ")[2] for line in lines] == said
