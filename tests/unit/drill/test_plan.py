from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

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


async def test_who_is_called_off_during_an_act_waits_for_its_end(tmp_path: Path) -> None:
    begun, go, done = tmp_path / "begun", tmp_path / "go", tmp_path / "done"
    code = f"touch {begun}; until [ -e {go} ]; do sleep 0.02; done; touch {done}"
    acting = asyncio.create_task(actor(["sh", "-c", code], 60).do("kill", "n1"))
    await eventually(begun.exists)
    acting.cancel()
    await asyncio.sleep(0)
    go.touch()
    with pytest.raises(asyncio.CancelledError):
        await acting
    assert done.exists()


async def test_an_act_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """Its child holds a pipe open for writing: once the child is gone, too, there is nobody at the other end."""
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    code = f"sh -c 'exec 9> {tmp_path}/alive; sleep 600' & wait"
    with pytest.raises(CannotAct, match="did not end within"):
        await actor(["sh", "-c", code], 1.0).do("kill", "n1")
    await eventually(lambda: ended(reader))
    os.close(reader)


def ended(reader: int) -> bool:
    """Whether nobody has the other end of a pipe open."""
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_has_no_command_cannot_be_done() -> None:
    with pytest.raises(CannotAct, match="no command to pause n1"):
        await actor(["true"]).do("pause", "n1")
