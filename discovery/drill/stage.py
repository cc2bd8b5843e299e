"""What all scenarios share: the load that runs from begin to end, acts on nodes, and the evidence afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from discovery.drill.actor import Actor
from discovery.drill.doomed import Fleet, watch
from discovery.drill.judge import Evidence, Leaving, lateness_goal
from discovery.drill.load import DnsProbe, Instances, Writers, running
from discovery.drill.plan import UNDO
from discovery.drill.record import Mark, Reign, Span
from discovery.drill.target import Target, Unfit

NAMESPACE: Final = "drill"
WRITTEN: Final = "drill/writes"  # below it are the keys of every drill; nobody else's
LIVING: Final = 30
SERVICES: Final = 6
LOOK_S: Final = 0.1
STALL_LOOK_S: Final = 0.01
PROGRESS_S: Final = 5.0
RECOVER_S_MAX: Final = 60.0
PATIENCE: Final = 3.0  # times the limit of lateness: then what is dead counts as never gone


@dataclass(frozen=True)
class Scale:
    """How much and how long.

    Args:
        ttl_s: of the instances that live on.
        doomed_ttl_s: of those that are to die.
        pause_s: how long a leader is frozen or cut off: longer than ``ttl_s``, so that the others must decide.
        settle_s: how long is watched after what was done.
        mass: instances that die at once.
        rounds: how often each node is killed or frozen.
    """

    ttl_s: float = 5.0
    doomed_ttl_s: float = 5.0
    pause_s: float = 10.0
    settle_s: float = 3.0
    mass: int = 1000
    rounds: int = 1
    writes_per_second: float = 100.0
    questions_per_second: float = 100.0  # at each node


SHORT: Final = Scale(ttl_s=3.0, doomed_ttl_s=2.0, pause_s=4.0, settle_s=1.0, mass=200)


@dataclass
class Notes:
    """What one scenario notes down while it runs."""

    begin: float
    revision: int
    marks: list[Mark] = field(default_factory=list)
    outages: dict[str, list[Span]] = field(default_factory=dict)
    leavings: list[Leaving] = field(default_factory=list)
    doomed: int = 0


class Stage:
    """The cluster under load, and what may be done to it.

    Args:
        run: a word that no other drill has, for the names of what it creates.
        say: takes each line of progress.
    """

    def __init__(self, target: Target, actor: Actor | None, scale: Scale, run: str, say: Callable[[str], None]) -> None:
        self.target, self.actor, self.scale, self.run = target, actor, scale, run
        self._say = say
        self._began = time.monotonic()
        self._broken: dict[str, tuple[str, float]] = {}
        self._fleets = 0
        self._stalls: list[tuple[float, float]] = []
        self.reigns: list[Reign] = []
        self.notes = Notes(self._began, 0)
        urls = target.urls
        self.writers = Writers(urls, scale.writes_per_second, f"{WRITTEN}/{run}")
        self.living = Instances(urls, LIVING, SERVICES, scale.ttl_s, NAMESPACE, f"live-{run}-", target.zone)
        self.expected = self.living.names()
        names = list(self.expected)
        self.probes = {
            place.node: DnsProbe(*place.dns, names, scale.questions_per_second) for place in target.places.values()
        }

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the beginning."""
        self._say(f"[{time.monotonic() - self._began:6.1f} s] {text}")

    def mark(self, text: str, *, act: bool = True) -> None:
        """Something happened: it is said and stands in the timeline."""
        self.notes.marks.append(Mark(time.monotonic(), text, act))
        self.say(f"  {text}")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Register the living and let all clients loose for the length of a block."""
        http = self.target.http
        try:
            await self.living.register(http)
        except RuntimeError as problem:
            raise Unfit(str(problem)) from problem
        clients = [self.writers.run(http), self.living.run(http), *(probe.run() for probe in self.probes.values())]
        async with running(*clients, self._watch_leader(), self._watch_self(), self._tell()):
            await asyncio.sleep(LOOK_S)
            yield

    # Acts

    async def leader(self) -> str:
        """The leader now. Raises :class:`Unfit` when there is none for long."""
        deadline = time.monotonic() + RECOVER_S_MAX
        while time.monotonic() < deadline:
            if found := await self.target.leader():
                return found[0]
            await asyncio.sleep(LOOK_S)
        raise Unfit("there is no leader")

    async def follower(self) -> str:
        """A node that does not lead."""
        leader = await self.leader()
        return next(node for node in self.target.places if node != leader)

    async def act(self, act: str, node: str, words: str) -> None:
        """Do something to a node. What breaks it is remembered, so that :meth:`restore` brings it back."""
        assert self.actor is not None
        self.mark(words)
        if act in UNDO:
            self._broken[node] = UNDO[act], time.monotonic()
        await self.actor.do(act, node)

    async def mend(self, node: str) -> None:
        """Bring a broken node back, and wait until it serves and all is well."""
        assert self.actor is not None
        undo, since = self._broken[node]
        self.mark(f"{undo} {node}")
        await self.actor.do(undo, node)
        await self.target.wait_ready(node, RECOVER_S_MAX)
        del self._broken[node]
        self._note_outage(node, undo, since)
        await self.target.wait_healthy(RECOVER_S_MAX)
        self.mark(f"{node} serves again", act=False)

    async def restore(self, wait_s: float = 0.0) -> None:
        """Bring back whatever is still broken, also after a failure; says what cannot be.

        Args:
            wait_s: how long to wait for a node to serve again, so that what it missed until then counts as our doing.
        """
        for node, (undo, since) in list(self._broken.items()):
            assert self.actor is not None
            try:
                await self.actor.do(undo, node)
            except Exception as problem:
                self.say(f"COULD NOT {undo} {node}, do it by hand: {problem}")
                continue
            self.mark(f"{undo} {node}")
            del self._broken[node]
            with contextlib.suppress(Unfit):
                await self.target.wait_ready(node, wait_s)
            self._note_outage(node, undo, since)

    def _note_outage(self, node: str, undo: str, since: float) -> None:
        """Until now the node was down, and that was our doing; one that was cut off must go on answering."""
        if undo != UNDO["partition"]:
            self.notes.outages.setdefault(node, []).append(Span(since, time.monotonic()))

    # Instances that die

    async def fleet(self, count: int, ttl_s: float) -> Fleet:
        """Registered instances of their own services."""
        self._fleets += 1
        prefix = f"dead-{self.run}-{self._fleets}-"
        fleet = Fleet(self.target.urls, count, ttl_s, NAMESPACE, prefix, self.target.zone)
        await fleet.register(self.target.http)
        return fleet

    async def doom(self, fleet: Fleet) -> None:
        """Its last heartbeat."""
        await fleet.beat(self.target.http)
        self.mark(f"{fleet.count:,} instances stop heartbeating")

    async def bury(self, fleet: Fleet, scenario: str, without: str = "") -> None:
        """Watch it leave the answers of all nodes, but of one that is down."""
        patience = PATIENCE * 10 * lateness_goal(scenario, fleet.count)
        nodes = {node: place.dns for node, place in self.target.places.items() if node != without}
        found = await watch(fleet, nodes, fleet.due + patience)
        self.notes.leavings += found
        self.notes.doomed += fleet.count
        late = [one.last for one in found if one.last is not None]
        gone = (
            f"the last one left {max(late):.2f} s after its TTL" if len(late) == len(found) else "not all of them left"
        )
        self.mark(gone, act=False)

    # Evidence

    async def begin(self) -> None:
        """A scenario begins."""
        self.notes = Notes(time.monotonic(), await self.target.revision())

    async def evidence(self) -> Evidence:
        """All that is known of the scenario that ends now. Raises :class:`Unfit` when a node cannot be asked.

        A node that could not be brought back is not asked: that it failed is said already.
        """
        notes, span = self.notes, Span(self.notes.begin, time.monotonic())
        sure = self.writers.acknowledged()
        refused = {attempt.key for attempt in self.writers.attempts if attempt.refused}
        asked = [node for node in self.target.places if node not in self._broken]
        held = {node: await self.target.keys(node, f"{WRITTEN}/{self.run}") for node in asked}
        return Evidence(
            span,
            self.writers.attempts,
            {node: probe.replies for node, probe in self.probes.items()},
            self.expected,
            notes.outages,
            await self._evicted(notes),
            [f"{node}: {key}" for node, keys in held.items() for key, value in sure.items() if keys.get(key) != value],
            [f"{node}: {key}" for node, keys in held.items() for key in refused & keys.keys()],
            notes.leavings,
            notes.doomed,
            max((stall for moment, stall in self._stalls if span.holds(moment)), default=0.0),
        )

    async def _evicted(self, notes: Notes) -> list[str]:
        """Living instances that were: by the nodes' own events, or because a heartbeat was answered 404."""
        living = {"/".join(self.living.place(number)[:2]) for number in range(self.living.count)}
        told = {name for name in await self.target.expired(NAMESPACE, notes.revision) if name in living}
        missed = [
            instance
            for instance, beats in self.living.beats.items()
            if any(beat.status == 404 and beat.answered >= notes.begin for beat in beats)
        ]
        return sorted(told | {name for name in living if name.partition("/")[2] in missed})

    # Watchers in the background

    async def _watch_leader(self) -> None:
        """Each node by itself: a frozen one must not hold up what the others say."""
        views: dict[str, tuple[str | None, int]] = {}

        async def watch(node: str) -> None:
            while True:
                view = await self.target.cluster(node)
                views.pop(node, None)
                if view:
                    views[node] = view["leader"], int(view["term"])
                self._weigh(list(views.values()))
                await asyncio.sleep(LOOK_S)

        async with asyncio.TaskGroup() as tasks:
            for node in self.target.places:
                tasks.create_task(watch(node))

    def _weigh(self, views: list[tuple[str | None, int]]) -> None:
        """Note who leads when that has changed: the leader of the newest term that any node knows one in."""
        known = [view for view in views if view[0]]
        leader, term = max(known, key=lambda view: view[1]) if known else (None, 0)
        last = self.reigns[-1] if self.reigns else None
        if last is None or (last.leader != leader and (leader is None or term >= last.term)):
            self._note_leader(leader, term or (last.term if last else 0))

    def _note_leader(self, leader: str | None, term: int) -> None:
        first = not self.reigns
        self.reigns.append(Reign(time.monotonic(), leader, term))
        if not first:
            self.mark(f"{leader} leads (term {term})" if leader else "no node knows a leader", act=False)

    async def _watch_self(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(STALL_LOOK_S)
            now = time.monotonic()
            self._stalls.append((now, now - before - STALL_LOOK_S))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            now = time.monotonic()
            recent = [attempt for attempt in self.writers.attempts[-2000:] if attempt.answered > now - PROGRESS_S]
            done = sum(attempt.acknowledged for attempt in recent)
            mute = [node for node, probe in self.probes.items() if probe.silence(now - 1.0, now) >= 1.0]
            self.say(
                f"  … {done / PROGRESS_S:.0f} writes/s acknowledged, {len(recent) - done} failed; "
                + (f"no DNS answer from {', '.join(mute)}" if mute else f"DNS answers at {len(self.probes)} nodes")
            )


Play = Callable[[Stage], Coroutine[Any, Any, None]]
