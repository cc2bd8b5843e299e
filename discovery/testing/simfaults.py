"""What goes wrong in a simulated run: a list drawn from the seed before it begins, each item with chance of its own.

An item decides whom it hits, how and for how long from its own seed, and ends what it began by itself. So one can be
left out without changing the others: that is what shrinking does (:mod:`.simshrink`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from discovery.testing.simnet import FINE, Weather

if TYPE_CHECKING:
    from discovery.testing.simnode import SimNode
    from discovery.testing.simulation import Simulation

Weights = tuple[tuple[str, int], ...]

_ALONE: Final = ("kill", "power", "pause", "stall", "slow_disk", "full_disk", "bad_sync", "busy", "clock")
"""Faults that need no second node."""

_WEATHERS: Final = (
    Weather(usual=(0.001, 0.015), tail=(0.02, 0.2), late=0.1),
    Weather(usual=(0.01, 0.05), tail=(0.05, 0.1), late=0.2),
    Weather(usual=(0.0001, 0.001), tail=(0.1, 0.4), late=0.02),
)

USUAL: Final[Weights] = (
    ("kill", 5),
    ("power", 4),
    ("power_all", 2),
    ("absence", 2),
    ("partition", 4),
    ("one_way", 4),
    ("cut", 3),
    ("storm", 2),
    ("weather", 2),
    ("pause", 4),
    ("stall", 2),
    ("pause_all", 1),
    ("busy", 2),
    ("slow_disk", 2),
    ("full_disk", 2),
    ("bad_sync", 2),
    ("clock", 3),
    ("transfer", 2),
    ("heal", 2),
)


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong. ``at``: virtual seconds since the beginning."""

    number: int
    at: float
    kind: str
    seed: int


def draw(seed: int, every_s: tuple[float, float], length_s: float, weights: Weights, nodes: int) -> list[Fault]:
    """The faults of a run."""
    source = random.Random(f"faults {seed}")  # noqa: S311 - a simulation must be repeatable
    kinds = [(kind, weight) for kind, weight in weights if nodes > 1 or kind in _ALONE]
    faults: list[Fault] = []
    pace = source.choice((1, 1, 1, 4))  # what needs seconds of peace to go wrong is not disturbed in some runs
    at = pace * source.uniform(*every_s)
    while kinds and at < length_s:
        kind = source.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        faults.append(Fault(len(faults) + 1, at, kind, source.getrandbits(32)))
        at += pace * source.uniform(*every_s)
    return faults


class Chaos:
    """Does the faults of a list to a simulation. ``story`` says what was done, for people."""

    def __init__(self, simulation: Simulation, faults: Sequence[Fault], only: Container[int] | None = None) -> None:
        """``only``: numbers of the faults to do; ``None``: all."""
        self._simulation, self._world, self._network = simulation, simulation.world, simulation.network
        self._nodes = simulation.nodes
        self.faults = [fault for fault in faults if only is None or fault.number in only]
        self.story: list[str] = []
        self._source = random.Random(0)  # noqa: S311
        self._fault = Fault(0, 0.0, "", 0)

    def begin(self) -> None:
        """Plan all of them, from now on."""
        for fault in self.faults:
            self._world.after(fault.at, lambda fault=fault: self._do(fault))  # type: ignore[misc]

    def _do(self, fault: Fault) -> None:
        self._fault, self._source = fault, random.Random(fault.seed)  # noqa: S311
        what = _KINDS[fault.kind](self)
        self.story.append(f"{fault.number}: {fault.at:.3f} s {fault.kind} {what}".rstrip())

    # -- whom, how long -------------------------------------------------------------------------------------------

    def _some(self, leads: float = 0.4) -> SimNode:
        """A node; the leader more often than its share."""
        leaders = [node for node in self._nodes if node.alive and node.engine.status().role == "leader"]
        if leaders and self._source.random() < leads:
            return self._source.choice(leaders)
        return self._source.choice(self._nodes)

    def _pair(self) -> tuple[str, str]:
        first, second = self._source.sample([node.name for node in self._nodes], 2)
        return first, second

    def _for(self, low: float, high: float, end: Callable[[], None]) -> str:
        seconds = self._source.uniform(low, high)
        self._world.after(seconds, end)
        return f"for {seconds:.3f} s"

    # -- processes ------------------------------------------------------------------------------------------------

    def _kill(self) -> str:
        return self._down(self._some(), 0.02, 2.0, power=False)

    def _power(self) -> str:
        return self._down(self._some(), 0.02, 2.0, power=True)

    def _absence(self) -> str:
        """Longer than an election may take."""
        return self._down(self._some(0.8), 5.3, 7.5, power=self._source.random() < 0.5)

    def _power_all(self) -> str:
        return ", ".join(self._down(node, 0.02, 1.0, power=True) for node in self._nodes)

    def _down(self, node: SimNode, low: float, high: float, *, power: bool) -> str:
        if not node.alive:
            return f"{node.name} (is down)"
        self._simulation.kill(node, power=power)
        return f"{node.name} " + self._for(low, high, lambda: None if node.alive else node.start())

    def _pause(self) -> str:
        return self._freeze(self._some(), 0.05, 4.0)

    def _stall(self) -> str:
        """About as long as what the timers still call normal."""
        return self._freeze(self._some(), 0.1, 0.6)

    def _pause_all(self) -> str:
        return ", ".join(self._freeze(node, 0.1, 1.5) for node in self._nodes)

    def _freeze(self, node: SimNode, low: float, high: float) -> str:
        if node.running:
            node.pause()
        return f"{node.name} " + self._for(low, high, node.resume)

    def _busy(self) -> str:
        node, most = self._some(), self._source.choice((0.003, 0.01, 0.04))
        node.busy_s = most
        node.note_health()

        def end() -> None:
            node.busy_s = node.usual_s
            node.note_health()

        return f"{node.name} up to {most} s late " + self._for(0.5, 3.0, end)

    # -- machines -------------------------------------------------------------------------------------------------

    def _slow_disk(self) -> str:
        node = self._some()
        node.slow_disk = True
        node.note_health()

        def end() -> None:
            node.slow_disk = False
            node.note_health()

        return f"{node.name} " + self._for(0.5, 2.0, end)

    def _full_disk(self) -> str:
        node = self._some()
        node.disk.full = True
        node.note_health()

        def end() -> None:
            node.disk.full = False
            node.note_health()

        return f"{node.name} " + self._for(0.1, 3.0, end)

    def _bad_sync(self) -> str:
        """The next sync fails, once."""
        node = self._some()
        node.disk.failing = True
        return node.name

    def _clock(self) -> str:
        """The wall clock jumps, and later maybe back."""
        node = self._some()
        jump = int(self._source.choice((-1, 1)) * 10 ** self._source.uniform(2, 7))
        node.skew_ms += jump
        if self._source.random() < 0.5:
            return f"{node.name} {jump} ms"

        def back() -> None:
            node.skew_ms -= jump

        return f"{node.name} {jump} ms " + self._for(0.1, 3.0, back)

    # -- the network ----------------------------------------------------------------------------------------------

    def _partition(self) -> str:
        cut_off = self._source.sample(self._nodes, self._source.randint(1, len(self._nodes) // 2))
        for node in cut_off:
            for other in self._nodes:
                if other not in cut_off:
                    self._block(node.name, other.name)
                    self._block(other.name, node.name)
        return f"{sorted(node.name for node in cut_off)} " + self._unblock_later()

    def _one_way(self) -> str:
        node = self._some()
        outwards = self._source.random() < 0.5
        others = [other for other in self._nodes if other is not node and self._source.random() < 0.7]
        for other in others:
            self._block(*((node.name, other.name) if outwards else (other.name, node.name)))
        arrow = "to" if outwards else "from"
        return f"{node.name} {arrow} {[other.name for other in others]} " + self._unblock_later()

    def _block(self, source: str, target: str) -> None:
        self._network.block(source, target, self._fault.number)
        if self._source.random() < 0.3:
            self._network.cut(source, target)

    def _unblock_later(self) -> str:
        number = self._fault.number
        return self._for(0.2, self._source.choice((3.0, 3.0, 7.0)), lambda: self._network.unblock(number))

    def _cut(self) -> str:
        first, second = self._pair()
        self._network.cut(first, second)
        return f"{first}-{second}"

    def _storm(self) -> str:
        """Streams break again and again."""
        count, gap = self._source.randint(5, 25), self._source.uniform(0.02, 0.15)
        pairs = [self._pair() for _ in range(count)]
        for number, (first, second) in enumerate(pairs):
            self._world.after(number * gap, lambda first=first, second=second: self._network.cut(first, second))  # type: ignore[misc]
        return f"{count} cuts in {count * gap:.3f} s"

    def _bad_weather(self) -> str:
        weather = self._network.weather = self._source.choice(_WEATHERS)

        def end() -> None:
            if self._network.weather is weather:
                self._network.weather = FINE

        return f"{weather} " + self._for(0.5, 3.0, end)

    def _heal(self) -> str:
        self._network.heal()
        return ""

    # -- the protocol ---------------------------------------------------------------------------------------------

    def _transfer(self) -> str:
        """Somebody asks the leader to hand over."""
        asked = []
        for node in self._nodes:
            if node.running and node.engine.status().ready:
                peer = self._source.choice(node.peers)
                node.engine.transfer(peer)
                node.wake()
                asked.append(f"{node.name} to {peer}")
        return ", ".join(asked)


_KINDS: Final[dict[str, Callable[[Chaos], str]]] = {
    "kill": Chaos._kill,
    "power": Chaos._power,
    "power_all": Chaos._power_all,
    "absence": Chaos._absence,
    "partition": Chaos._partition,
    "one_way": Chaos._one_way,
    "cut": Chaos._cut,
    "storm": Chaos._storm,
    "weather": Chaos._bad_weather,
    "pause": Chaos._pause,
    "stall": Chaos._stall,
    "pause_all": Chaos._pause_all,
    "busy": Chaos._busy,
    "slow_disk": Chaos._slow_disk,
    "full_disk": Chaos._full_disk,
    "bad_sync": Chaos._bad_sync,
    "clock": Chaos._clock,
    "transfer": Chaos._transfer,
    "heal": Chaos._heal,
}
