"""Who kills, freezes and brings back nodes: the operator's commands here, signals in :mod:`discovery.drill.local`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from typing import Final, Protocol

from discovery.drill.plan import Plan

OUTPUT_CHARS_MAX: Final = 300


class CannotAct(Exception):
    """An act failed; the text says which and why."""


class Actor(Protocol):
    """What a scenario may do to a node. Each act returns once it is done, as far as can be told."""

    about: str

    def acts(self, node: str) -> frozenset[str]:
        """What can be done to a node; see :data:`discovery.drill.plan.ACTS`."""

    async def do(self, act: str, node: str) -> None:
        """Do it. Raises :class:`CannotAct`."""


class CommandActor:
    """Runs the operator's commands, without a shell; node and act are in ``DISCOVERY_DRILL_NODE`` and ``…_ACT`` too."""

    about = "the operator's commands"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def acts(self, node: str) -> frozenset[str]:
        """Those that the file has a command for."""
        return self._plan.acts(node)

    async def do(self, act: str, node: str) -> None:
        """Run the command and wait for its end. Raises :class:`CannotAct` when it fails or takes too long.

        Who is cancelled meanwhile waits for that end all the same: what is only half done, or still to be done, cannot
        be undone.
        """
        line = self._plan.command(act, node)
        if line is None:
            raise CannotAct(f"there is no command to {act} {node}")
        running = asyncio.ensure_future(self._run(line, {"DISCOVERY_DRILL_NODE": node, "DISCOVERY_DRILL_ACT": act}))
        try:
            code, output = await asyncio.shield(running)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await asyncio.shield(running)
            raise
        except TimeoutError:  # an OSError, too
            raise CannotAct(f"{shlex.join(line)} did not end within {self._plan.timeout:g} s") from None
        except OSError as problem:
            raise CannotAct(f"{shlex.join(line)}: {problem.strerror}") from problem
        if code:
            raise CannotAct(f"{shlex.join(line)} ended with {code}: {output}")

    async def _run(self, line: list[str], env: dict[str, str]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *line,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,  # Ctrl-C calls the drill off; it must not reach what brings a node back
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), self._plan.timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started: that would go on cutting
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, " ".join(output.decode(errors="replace").split())[-OUTPUT_CHARS_MAX:]
