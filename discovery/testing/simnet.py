"""Virtual time and a network in it: everything that may differ between two runs comes from one seed.

Streams behave like TCP: first in, first out for each direction; a message is lost only when its stream ends; a blocked
direction holds what is sent until it is healed or the stream breaks. Nothing is ever duplicated inside a stream.
What one pass sends to one peer is one write and arrives as one piece, as on a real network: the receiver's next pass
sees all of it at once.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Final, Protocol

import msgspec

from discovery.raft import codec

_DIAL_S: Final = (0.05, 0.2)


class Weather(msgspec.Struct, frozen=True):
    """How long a piece travels, seconds: mostly ``usual``, with the chance ``late`` rather ``tail``."""

    usual: tuple[float, float] = (0.0001, 0.002)
    tail: tuple[float, float] = (0.002, 0.02)
    late: float = 0.03


FINE: Final = Weather()


class World:
    """The scheduler. ``now`` is virtual monotonic seconds."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation must be repeatable
        self.now = 1000.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.events = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``when``; same times in the order of the calls."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` in ``delay`` seconds."""
        self.at(self.now + delay, action)

    def run_until(self, end: float) -> None:
        """Let everything happen that is due up to ``end``."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, action = heapq.heappop(heap)
            self.events += 1
            action()
        self.now = end

    def between(self, low: float, high: float) -> float:
        """A random number of seconds."""
        return self.random.uniform(low, high)

    def chance(self, probability: float) -> bool:
        """A coin."""
        return self.random.random() < probability


class Host(Protocol):
    """What a network delivers to."""

    name: str

    @property
    def running(self) -> bool:
        """Whether a process is there to accept a connection."""

    def knows(self, other: Host) -> bool:
        """Whether the handshake with the other succeeds (identity, DESIGN 3.11)."""

    def on_connected(self, peer: str) -> None:
        """A stream begins."""

    def on_disconnected(self, peer: str, hint: bool) -> None:
        """A stream ended."""

    def on_message(self, peer: str, message: codec.Message) -> None:
        """A message arrived."""


class Stream:
    """One connection of two hosts, while it lasts."""

    def __init__(self) -> None:
        self.open = True
        self.last: dict[str, float] = {}
        self.held: dict[str, list[list[bytes]]] = {}


class Network:
    """All streams between hosts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Host] = {}
        self._weather = FINE
        self.fine_since = world.now
        self._streams: dict[frozenset[str], Stream] = {}
        self._steady: dict[frozenset[str], float] = {}
        self._blocked: dict[tuple[str, str], set[Hashable]] = {}
        self._dialing: set[frozenset[str]] = set()

    def add(self, host: Host) -> None:
        """A host joins and dials all others."""
        for other in self.hosts:
            self._dial(host.name, other)
        self.hosts[host.name] = host

    # -- hosts ----------------------------------------------------------------------------------------------------

    def send(self, source: str, target: str, *messages: codec.Message) -> None:
        """Send on the stream as one piece, or lose it when there is no stream."""
        stream = self._streams.get(frozenset((source, target)))
        if stream is None:
            return
        piece = [codec.encode(message) for message in messages]
        if (source, target) in self._blocked:
            stream.held.setdefault(source, []).append(piece)
        else:
            self._deliver_later(stream, source, target, piece)

    def send_all(self, source: str, messages: Iterable[tuple[str, codec.Message]]) -> None:
        """Send what a pass has for its peers: one piece a peer, in order."""
        pieces: dict[str, list[codec.Message]] = {}
        for peer, message in messages:
            pieces.setdefault(peer, []).append(message)
        for peer, piece in pieces.items():
            self.send(source, peer, *piece)

    def _deliver_later(self, stream: Stream, source: str, target: str, piece: list[bytes]) -> None:
        world, weather = self.world, self._weather
        delay = world.between(*(weather.tail if world.chance(weather.late) else weather.usual))
        when = max(stream.last.get(source, 0.0), world.now + delay)
        stream.last[source] = when
        world.at(when, lambda: self._deliver(stream, source, target, piece))

    def _deliver(self, stream: Stream, source: str, target: str, piece: list[bytes]) -> None:
        if stream.open:
            for payload in piece:
                self.hosts[target].on_message(source, codec.decode(payload))

    def closed_by(self, name: str) -> None:
        """The process of a host ended: its kernel closes its streams."""
        for pair in [pair for pair in self._streams if name in pair]:
            (peer,) = pair - {name}
            self._break(pair, {peer})

    def cut(self, first: str, second: str) -> None:
        """The stream breaks in the middle; both ends notice."""
        self._break(frozenset((first, second)), {first, second})

    def _break(self, pair: frozenset[str], told: set[str]) -> None:
        self._steady.pop(pair, None)
        stream = self._streams.pop(pair, None)
        if stream is None:
            return
        first, second = sorted(pair)
        for name, peer in ((first, second), (second, first)):
            if name in told:
                # What arrived before the end is delivered before it, what did not is lost.
                self.world.after(self.world.between(0.0002, 0.002), partial(self._ended, stream, name, peer))
        self.world.after(0.0021, lambda: self._dial(first, second))

    def _ended(self, stream: Stream, name: str, peer: str) -> None:
        stream.open = False
        self.hosts[name].on_disconnected(peer, True)

    def _dial(self, first: str, second: str) -> None:
        pair = frozenset((first, second))
        if pair in self._dialing or pair in self._streams:
            return
        self._dialing.add(pair)
        self.world.after(self.world.between(*_DIAL_S), lambda: self._connect(first, second))

    def _connect(self, first: str, second: str) -> None:
        pair = frozenset((first, second))
        self._dialing.discard(pair)
        one, two = self.hosts[first], self.hosts[second]
        blocked = (first, second) in self._blocked or (second, first) in self._blocked
        if blocked or not (one.running and two.running and one.knows(two) and two.knows(one)):
            self._dial(first, second)
            return
        self._streams[pair] = Stream()
        self._steady[pair] = self.world.now
        one.on_connected(second)
        two.on_connected(first)

    def steady_since(self, first: str, second: str) -> float:
        """Since when both directions of the stream work without a break; ``inf``: they do not."""
        return self._steady.get(frozenset((first, second)), float("inf"))

    # -- faults ---------------------------------------------------------------------------------------------------

    @property
    def weather(self) -> Weather:
        """How long what is sent now travels."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self.fine_since = self.world.now if weather is FINE else float("inf")

    def block(self, source: str, target: str, by: Hashable = None) -> None:
        """Hold what goes from ``source`` to ``target``, until everybody who blocked it lets go."""
        self._blocked.setdefault((source, target), set()).add(by)
        self._steady.pop(frozenset((source, target)), None)

    def unblock(self, by: Hashable) -> None:
        """Let go what ``by`` blocked; what was held is released, late but in order."""
        for (source, target), blockers in sorted(self._blocked.items()):
            blockers.discard(by)
            if not blockers:
                self._release(source, target)

    def heal(self) -> None:
        """Let go everything."""
        for source, target in sorted(self._blocked):
            self._release(source, target)

    def _release(self, source: str, target: str) -> None:
        del self._blocked[source, target]
        pair = frozenset((source, target))
        stream = self._streams.get(pair)
        if stream is None:
            return
        if (target, source) not in self._blocked:
            self._steady[pair] = self.world.now
        for piece in stream.held.pop(source, []):
            self._deliver_later(stream, source, target, piece)
