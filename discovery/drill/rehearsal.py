"""A whole drill: look, ask for leave, let the load loose, play one scenario after the other, clean up, report.

Whatever happens on the way — a failed command, a lost cluster, Ctrl-C — the nodes that it broke are brought back. Who
calls it off gets the report of what was measured until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from discovery import __version__
from discovery.drill.actor import Actor, CannotAct, CommandActor
from discovery.drill.judge import Limits, is_answer, judge
from discovery.drill.load import session
from discovery.drill.local import LocalActor
from discovery.drill.plan import BadPlan, Plan
from discovery.drill.report import Report, Result, timeline
from discovery.drill.scenarios import ALL, Scenario
from discovery.drill.stage import WRITTEN, Scale, Stage
from discovery.drill.target import Target, Unfit, find
from discovery.limits import DELETIONS_PER_COMMAND_MAX

LOCK: Final = "drill/lock"
LOCK_TTL_S: Final = 60
LOCK_RENEW_S: Final = 10.0
CLEAN_S_MAX: Final = 30.0
CALLED_OFF: Final = "called off before its end"


class CalledOff(Exception):
    """Somebody wants the drill to end."""


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Args:
        names: of scenarios; ``all`` stands for every one that is possible here.
        plan: the operator's file; ``None``: the drill acts by itself on a Procfile cluster.
    """

    names: Sequence[str]
    servers: Sequence[str]
    token: str = ""
    plan: Plan | None = None
    limits: Limits = field(default_factory=Limits)
    scale: Scale = field(default_factory=Scale)


@dataclass(frozen=True)
class Chosen:
    """What will be played, and what not and why."""

    target: Target
    actor: Actor | None
    scenarios: Sequence[Scenario]
    skipped: Sequence[Result]

    @property
    def acts(self) -> bool:
        """Whether anything is done to a node."""
        return any(scenario.acts for scenario in self.scenarios)


async def rehearse(
    order: Order, leave: Callable[[Chosen], None], say: Callable[[str], None], stop: asyncio.Event
) -> Report:
    """The whole drill.

    Args:
        leave: asked before anything is written or broken; raises to call it off.
        say: takes each line of progress.
        stop: once set, the scenario under way is broken off, and what was measured is reported.

    Raises:
        Unfit: the cluster is not healthy, or another drill runs on it.
        BadPlan: a scenario was named that cannot be played here.
    """
    async with session(order.token) as http:
        target = await find(http, order.servers, order.plan or Plan())
        if problems := await target.problems():
            raise Unfit("it is not healthy: " + "; ".join(problems))
        chosen = choose(order, target)
        leave(chosen)
        run = secrets.token_hex(3)
        async with _alone(target, run, say):
            stage = Stage(target, chosen.actor, order.scale, run, say)
            return await _perform(order, chosen, stage, stop)


def choose(order: Order, target: Target) -> Chosen:
    """Which scenarios can be played, and who acts. Raises :class:`BadPlan` when a named one, or none, can."""
    wanted = list(ALL) if "all" in order.names else list(dict.fromkeys(order.names))
    actor, why = _actor(order, target) if any(ALL[name].acts for name in wanted) else (None, "")
    reasons = {name: _obstacle(ALL[name], target, actor, why) for name in wanted}
    if refused := [f"{name}: {reason}" for name, reason in reasons.items() if reason and name in order.names]:
        raise BadPlan("; ".join(refused))
    if actor is None and why:
        raise BadPlan(why)
    scenarios = [ALL[name] for name, reason in reasons.items() if not reason]
    skipped = [Result(n, ALL[n].title, ALL[n].story, skipped=reason) for n, reason in reasons.items() if reason]
    return Chosen(target, actor, scenarios, skipped)


def _actor(order: Order, target: Target) -> tuple[Actor | None, str]:
    if order.plan is not None:
        return CommandActor(order.plan), ""
    try:
        return LocalActor({place.node: place.url for place in target.places.values()}), ""
    except (CannotAct, OSError) as problem:
        return None, f"this is not the cluster of `make run` ({problem}): say with --config how to kill its nodes"


def _obstacle(scenario: Scenario, target: Target, actor: Actor | None, why: str) -> str:
    """Why a scenario cannot be played here, or nothing."""
    if len(target.places) < scenario.nodes:
        return f"needs {scenario.nodes} nodes, the cluster has {len(target.places)}"
    if scenario.acts and actor is None:
        return why
    for node in target.places:
        if missing := sorted(scenario.acts - (actor.acts(node) if actor else frozenset())):
            return f"there is no command to {' or '.join(missing)} {node}"
    return ""


async def _perform(order: Order, chosen: Chosen, stage: Stage, stop: asyncio.Event) -> Report:
    started, began = datetime.now(UTC), time.monotonic()
    results: list[Result] = []
    try:
        async with stage.load():
            for scenario in chosen.scenarios:
                if stop.is_set():
                    break
                results.append(await _play(scenario, stage, order.limits, stop))
                if results[-1].failure:
                    break
    finally:
        await asyncio.shield(asyncio.ensure_future(_finish(stage)))
    why = "called off" if stop.is_set() else "the one before did not end well"
    results += [Result(one.name, one.title, one.story, skipped=why) for one in chosen.scenarios[len(results) :]]
    replies = [reply for probe in stage.probes.values() for found in probe.replies.values() for reply in found]
    return Report(
        __version__,
        started.isoformat(timespec="seconds"),
        time.monotonic() - began,
        {place.node: place.url for place in chosen.target.places.values()},
        chosen.target.zone,
        chosen.actor.about if chosen.actor else "nothing is done to a node",
        len(stage.writers.acknowledged()),
        sum(map(is_answer, replies)),
        [*results, *chosen.skipped],
        called_off=stop.is_set(),
    )


async def _play(scenario: Scenario, stage: Stage, limits: Limits, stop: asyncio.Event) -> Result:
    """One scenario from a healthy cluster to a healthy cluster."""
    stage.say(f"{scenario.name}: {scenario.title.lower()}")
    await stage.begin()
    failure = ""
    try:
        await _unless(stop, scenario.play(stage))
        await stage.target.wait_healthy(CLEAN_S_MAX)
    except (CalledOff, CannotAct, Unfit, RuntimeError, aiohttp.ClientError, OSError, TimeoutError) as problem:
        failure = f"{problem or type(problem).__name__}"
        stage.say(f"  it did not come to its end: {failure}")
        await stage.restore(CLEAN_S_MAX)
    try:
        evidence = await stage.evidence()
    except Unfit as problem:
        return Result(scenario.name, scenario.title, scenario.story, failure=failure or str(problem))
    result = Result(
        scenario.name,
        scenario.title,
        scenario.story,
        judge(scenario.name, evidence, limits),
        timeline(evidence, stage.notes.marks, stage.reigns),
        failure=failure,
    )
    stage.say(f"  {result.verdict}")
    return result


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until ``stop`` is set. Raises :class:`CalledOff` then, and whatever the work raises."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CalledOff(CALLED_OFF)
        await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _finish(stage: Stage) -> None:
    """Bring back what is broken, and remove what was created; what cannot be removed goes with its leases."""
    await stage.restore()
    with contextlib.suppress(TimeoutError, Unfit):
        async with asyncio.timeout(CLEAN_S_MAX):
            await stage.living.deregister(stage.target.http)


@asynccontextmanager
async def _alone(target: Target, run: str, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lock of all drills on this cluster; remove the keys of this one, and of any that was killed before.

    Raises:
        Unfit: another drill holds it.
    """
    lease = (await _send(target, "POST", "/api/v1/leases", json={"ttl": LOCK_TTL_S})).get("id")
    taken = await _send(target, "PUT", f"/api/v1/kv/{LOCK}?lease={lease}&if_revision=0", data=run.encode())
    if "revision" not in taken:
        await _send(target, "DELETE", f"/api/v1/leases/{lease}")
        raise Unfit(f"another drill runs on this cluster; if none does, its lock goes within {LOCK_TTL_S} s")
    keeping = asyncio.create_task(_keep(target, f"/api/v1/leases/{lease}"))
    try:
        await _remove_writes(target, say)
        yield
    finally:
        keeping.cancel()
        await asyncio.shield(asyncio.ensure_future(_unlock(target, f"/api/v1/leases/{lease}", say)))


async def _keep(target: Target, path: str) -> None:
    while True:
        await asyncio.sleep(LOCK_RENEW_S)
        with contextlib.suppress(Unfit):
            await _send(target, "PUT", path)


async def _unlock(target: Target, path: str, say: Callable[[str], None]) -> None:
    with contextlib.suppress(Unfit):
        await _remove_writes(target, say)
        await _send(target, "DELETE", path)


async def _remove_writes(target: Target, say: Callable[[str], None]) -> None:
    """In steps, as very many are not removed at once; a cluster of feature level 1 knows neither bound nor steps."""
    path, more = f"/api/v1/kv/{WRITTEN}/?prefix=true", True
    while more:
        status, body = await _ask(target, "DELETE", f"{path}&limit={DELETIONS_PER_COMMAND_MAX}")
        if status == 409:
            status, body = await _ask(target, "DELETE", path)
        if status >= 300:
            say(f"COULD NOT remove the keys below {WRITTEN}/, do it by hand: {body.get('detail') or status}")
        more = status < 300 and bool(body.get("more"))


async def _send(
    target: Target, method: str, path: str, json: object = None, data: bytes | None = None
) -> dict[str, object]:
    """A request to the first node that can serve it; an empty answer when it is refused with a 4xx.

    Raises:
        Unfit: no node could.
    """
    status, body = await _ask(target, method, path, json, data)
    return body if status < 300 else {}


async def _ask(
    target: Target, method: str, path: str, json: object = None, data: bytes | None = None
) -> tuple[int, dict[str, object]]:
    """Status and answer of the first node that does not fail.

    Raises:
        Unfit: no node could, or the token is not enough.
    """
    reason = "no node answers"
    for url in target.urls:
        try:
            async with target.http.request(method, url + path, json=json, data=data) as response:
                body = await response.json(content_type=None) if response.status != 204 else {}
                if response.status in (401, 403):
                    raise Unfit(str(body.get("detail")))
                if response.status < 500:
                    return response.status, dict(body)
                reason = str(body.get("detail"))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as problem:
            reason = f"{url}: {problem or type(problem).__name__}"
    raise Unfit(reason)
