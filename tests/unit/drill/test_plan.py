from __future__ import annotations

import asyncio
import sys

import pytest

from discovery.drill.actor import CannotAct, CommandActor
from discovery.drill.plan import BadPlan, parse

BOTH = '[commands]\nkill = "ssh {id} kill"\nstart = "ssh {id} start"\n'


def test_commands_are_for_every_node_and_those_of_one_node_go_before_them() -> None:
    plan = parse(BOTH + "[nodes.n2]\nkill = ['virsh', 'destroy', 'host {id}']\n")
    assert plan.command("kill", "n1") == ["ssh", "n1", "kill"]
    assert plan.command("kill", "n2") == ["virsh", "destroy", "host n2"]
    assert plan.command("pause", "n1") is None
    assert plan.acts("n2") == {"kill", "start"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill", "Expected"),
        ("[comands]\n", "comands"),
        ("[commands]\nkil = 'x'\n", "kil"),
        ("[commands]\nkill = 3\n", r"commands.kill"),
        ("[commands]\nkill = 'x'\n", "commands: 'kill' without 'start'"),
        ("[nodes.n1]\npause = 'x'\n", r"nodes.n1: 'pause' without 'resume'"),
        ("[commands]\nkill = \"ssh 'n1\"\nstart = 'x'\n", "quotation"),
    ],
)
def test_a_file_that_is_none_is_refused_and_says_where(text: str, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        parse(text)


def actor(kill: list[str], timeout: float = 10) -> CommandActor:
    return CommandActor(parse(f"timeout = {timeout}\n[commands]\nkill = {kill!r}\nstart = 'true'\n"))


async def test_a_command_is_told_the_node_and_the_act() -> None:
    code = "import os; assert os.environ['DISCOVERY_DRILL_NODE'] + os.environ['DISCOVERY_DRILL_ACT'] == 'n1kill'"
    await actor([sys.executable, "-c", code]).do("kill", "n1")


@pytest.mark.parametrize(
    ("line", "timeout", "said"),
    [
        (["sh", "-c", "echo no such host; exit 7"], 10, "ended with 7: no such host"),
        (["/nonexistent"], 10, "No such file"),
        (["sleep", "60"], 0.05, "did not end within 0.05 s"),
    ],
)
async def test_a_command_that_fails_says_how(line: list[str], timeout: float, said: str) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(CannotAct, match=said):
        await actor(line, timeout).do("kill", "n1")
    assert asyncio.get_running_loop().time() - began < 10


async def test_what_has_no_command_cannot_be_done() -> None:
    with pytest.raises(CannotAct, match="no command to pause n1"):
        await actor(["true"]).do("pause", "n1")
