"""The scenarios: what each does to the cluster. What is measured meanwhile is the same for all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from discovery.drill.stage import Play, Stage

FEW: Final = 5
BEFORE_KILL_S: Final = 1.0


@dataclass(frozen=True)
class Scenario:
    """One rehearsal.

    Args:
        title: what happens, for a manager.
        story: what is done and what must hold, for a manager.
        acts: what must be possible to do to every node.
        nodes: how many the cluster needs at least.
    """

    name: str
    title: str
    story: str
    play: Play
    acts: frozenset[str] = frozenset()
    nodes: int = 3


async def _leader_kill(stage: Stage) -> None:
    """The hardest moment: what stopped heartbeating a second ago must still be noticed by the next leader."""
    for _ in range(stage.scale.rounds):
        fleet = await stage.fleet(FEW, stage.scale.doomed_ttl_s)
        leader = await stage.leader()
        await stage.doom(fleet)
        await asyncio.sleep(BEFORE_KILL_S)
        await stage.act("kill", leader, f"kill the leader {leader}")
        await stage.bury(fleet, "leader-kill", without=leader)
        await asyncio.sleep(stage.scale.settle_s)
        await stage.mend(leader)
        await asyncio.sleep(stage.scale.settle_s)


async def _leader_pause(stage: Stage) -> None:
    for _ in range(stage.scale.rounds):
        leader = await stage.leader()
        await stage.act("pause", leader, f"freeze the leader {leader}")
        await asyncio.sleep(stage.scale.pause_s)
        await stage.mend(leader)
        await asyncio.sleep(stage.scale.settle_s)


async def _partition(stage: Stage) -> None:
    for _ in range(stage.scale.rounds):
        leader = await stage.leader()
        await stage.act("partition", leader, f"cut the leader {leader} off")
        await asyncio.sleep(stage.scale.pause_s)
        await stage.mend(leader)
        await asyncio.sleep(stage.scale.settle_s)


async def _node_kill(stage: Stage) -> None:
    for _ in range(stage.scale.rounds):
        node = await stage.follower()
        await stage.act("kill", node, f"kill the follower {node}")
        await asyncio.sleep(stage.scale.settle_s)
        await stage.mend(node)
        await asyncio.sleep(stage.scale.settle_s)


async def _heartbeat_stop(stage: Stage) -> None:
    for _ in range(stage.scale.rounds):
        fleet = await stage.fleet(FEW, stage.scale.doomed_ttl_s)
        await stage.doom(fleet)
        await stage.bury(fleet, "heartbeat-stop")


async def _mass_expiry(stage: Stage) -> None:
    fleet = await stage.fleet(stage.scale.mass, stage.scale.doomed_ttl_s)
    await stage.doom(fleet)
    await stage.bury(fleet, "mass-expiry")


async def _rolling_restart(stage: Stage) -> None:
    """The leader last, so that leadership changes once."""
    leader = await stage.leader()
    for node in sorted(stage.target.places, key=lambda node: (node == leader, node)):
        await stage.act("stop", node, f"stop {node}")
        await stage.mend(node)
        await asyncio.sleep(stage.scale.settle_s)


_BROKEN: Final = "The other nodes must go on: answer every question rightly, accept writes again soon, evict nobody."
ALL: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "leader-kill",
            "The leading node dies",
            "The node that coordinates all writes was killed without warning, one second after five services had "
            f"stopped sending heartbeats; later it was started again. {_BROKEN} The dead services must be noticed.",
            _leader_kill,
            frozenset({"kill", "start"}),
        ),
        Scenario(
            "leader-pause",
            "The leading node freezes",
            "The leading node stopped running for a while without closing a connection, as a host that swaps or a "
            f"frozen virtual machine does; then it woke up. {_BROKEN} It must not act on what it remembers.",
            _leader_pause,
            frozenset({"pause", "resume"}),
        ),
        Scenario(
            "partition",
            "The leading node is cut off",
            "The network between the leading node and the others was cut; then it was mended. What the cut-off node "
            f"promises alone would be lost, so it must promise nothing. {_BROKEN}",
            _partition,
            frozenset({"partition", "heal"}),
        ),
        Scenario(
            "node-kill",
            "Another node dies",
            f"A node that does not lead was killed without warning and started again later. {_BROKEN}",
            _node_kill,
            frozenset({"kill", "start"}),
        ),
        Scenario(
            "heartbeat-stop",
            "A few services die",
            "Five services stopped sending heartbeats. They must leave every node's answers when their time is over: "
            "soon after, and never before.",
            _heartbeat_stop,
            nodes=1,
        ),
        Scenario(
            "mass-expiry",
            "A rack of services dies",
            "Many services stopped sending heartbeats at the same moment. They must all leave every node's answers "
            "together, and those that live must not suffer.",
            _mass_expiry,
            nodes=1,
        ),
        Scenario(
            "rolling-restart",
            "Every node is restarted",
            "Each node was stopped in an orderly way and started again, one after the other, the leading one last, as "
            "for an upgrade. Nobody should notice.",
            _rolling_restart,
            frozenset({"stop", "start"}),
        ),
    )
}
