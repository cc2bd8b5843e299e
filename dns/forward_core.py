"""One question, several servers, the first good answer: what is sent when, and what is made of what comes back.

Pure: sockets and clock are the shell's, randomness is handed in. Many askers of one question share one *flight*; a
flight makes *attempts*, each a message to one server. The next server is asked when the one before has not answered
for :data:`STAGGER_S`, and at once when it failed; all of them are listened to until the first good answer.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from discovery import limits
from discovery.dns import codes, forward_message
from discovery.dns.forward_cache import ForwardCache, Key
from discovery.dns.forward_flight import STALE_S, Attempt, Course, Done, Flight, Network
from discovery.dns.forward_health import Pool, Random, Upstream
from discovery.dns.forward_message import Malformed, Reply, Sent
from discovery.dns.name import Labels
from discovery.dns.sections import Answer

log: Final = logging.getLogger(__name__)

STAGGER_S: Final = 0.25
RETRY_S: Final = 1.0
PROBE_S: Final = 2.0  # for the answer of a server that was down
LETTERS_MIN: Final = 8  # of a name, for its letter case to tell that a question is our own
FORGERIES_MAX: Final = 16  # datagrams that answer something else; then the question goes over TCP
_BITS: Final = 288  # id and letter case
_DRAWS_MAX: Final = 8  # of a letter case: 1 of 128 draws at most is no good
_FINAL: Final = frozenset({codes.NOERROR, codes.NXDOMAIN})
_NO_EDNS: Final = frozenset({codes.FORMERR, codes.NOTIMP})


class Forwarder:
    """All flights of one worker.

    Args:
        pools: servers by zone; the root's are the default.
        cache: of answers.
        network: sends.
        random: ``getrandbits`` of a generator that nobody can foresee.
        own_id: 8 bytes that no other server has, to know a question of ours again.

    Attributes:
        cached, stale, overloaded, loops: answers from the cache, such from before, refusals for want of room, questions
            that were our own.
    """

    def __init__(
        self, pools: Mapping[Labels, Pool], cache: ForwardCache, network: Network, random: Random, own_id: bytes
    ) -> None:
        self.cache = cache
        self.cached = 0
        self.stale = 0
        self.overloaded = 0
        self.loops = 0
        self.asked = 0
        self.waiting = 0
        self._network = network
        self._random = random
        self._own_id = own_id
        self._flights: dict[Course, Flight] = {}
        self._clients: Counter[str] = Counter()
        self._timers: list[tuple[float, int, Flight]] = []
        self._probes: list[Attempt] = []
        self._sequence = 0
        self._closed = False
        self.use(pools)

    def use(self, pools: Mapping[Labels, Pool]) -> None:
        """Ask these servers from now on."""
        self.pools = dict(pools)
        upstreams = {upstream.text: upstream for pool in self.pools.values() for upstream in pool.upstreams}
        self.upstreams = list(upstreams.values())

    def __len__(self) -> int:
        return len(self._flights)

    def ask(self, key: Key, path: list[bytes], asked: bytes, client: str, now: float, done: Done) -> Answer | None:
        """The answer, or ``None``: ``done`` is called with it later, within ``limits.DNS_FORWARD_S_MAX``.

        1. a question that has been here before, or through too many of us, goes round in a circle;
        2. what is known is said at once; when all servers are down, what was known, while they are asked anew;
        3. a client may wait for as many answers as there are places left: who asks much never takes the last one.

        Args:
            path: ids of our servers that the question came through.
            asked: the question's bytes, with its letter case.
            client: in whose share it is counted.
        """
        course = (key, tuple(path))
        if self._own_id in path or len(path) >= forward_message.PATH_MAX or self._is_ours(course, asked):  # 1
            self.loops += 1
            return _failure(codes.EDE_OTHER)
        known = self.cache.get(key, now)  # 2
        if known is not None:
            self.cached += 1
            return known
        old = self.cache.stale(key, now)
        pool = self.pools[key.zone]
        if self._closed or self.cache.has_failed(key, now):
            return self._say_stale(old) or self._failed(key)
        if old is not None and pool.is_down:
            if course not in self._flights and self._admits(client):
                self._start(course, now)
            return self._say_stale(old)
        if not self._admits(client):  # 3
            self.overloaded += 1
            return self._say_stale(old) or _failure(codes.EDE_OTHER)
        flight = self._flights.get(course) or self._start(course, now)
        if flight.told_stale and old is not None:
            return self._say_stale(old)
        if course not in self._flights:  # nobody could be reached at all
            return self._say_stale(old) or self._failed(key)
        flight.waiters.append((client, done))
        self.waiting += 1
        self._clients[client] += 1
        return None

    def _is_ours(self, course: Course, asked: bytes) -> bool:
        """Whether a question has the very letters that we drew for it: a server that we ask asks us."""
        if not forward_message.is_mixed(asked):  # anybody may write it so
            return False
        flight = self._flights.get(course)
        if flight is None or not any(attempt.sent.question == asked for attempt in flight.attempts):
            return False
        return _has_letters(course[0].labels)

    def _admits(self, client: str) -> bool:
        return self._clients[client] < limits.DNS_FORWARDS_MAX - max(self.waiting, len(self._flights))

    def _say_stale(self, old: Answer | None) -> Answer | None:
        self.stale += old is not None
        return old

    def _failed(self, key: Key) -> Answer:
        """A short name is unknown rather than unanswerable: search lists end in one (CONTAINERS: 5 s in musl)."""
        if len(key.labels) == 1:
            return Answer(rcode=codes.NXDOMAIN, authoritative=False, ede=codes.EDE_NOBODY_REACHED)
        return _failure(codes.EDE_NOBODY_REACHED)

    def _start(self, course: Course, now: float) -> Flight:
        """A path is part of what is asked: one that a client made up decides about nobody's answer but his own."""
        self.asked += 1
        flight = Flight(course, self.pools[course[0].zone].order(self._random), self._own_id, now)
        self._flights[course] = flight
        self._next(flight, now)
        return flight

    # Attempts

    def _next(self, flight: Flight, now: float) -> None:
        """Ask the next server; in the second round those again that have been silent so far."""
        while flight.tries < limits.DNS_FORWARD_TRIES_MAX and len(flight.given_up) < len(flight.order):
            upstream = flight.order[flight.tries % len(flight.order)]
            first_round = flight.tries < len(flight.order)
            flight.tries += 1
            if upstream in flight.given_up:
                continue
            edns = upstream.takes_edns(now) and (first_round or upstream.edns is True)
            if self._try(flight, upstream, now, edns=edns):
                break
            flight.given_up.add(upstream)
        flight.next_at = now + (STAGGER_S if flight.tries < len(flight.order) else RETRY_S)
        if flight.tries >= limits.DNS_FORWARD_TRIES_MAX:
            flight.next_at = flight.deadline
        if not flight.attempts and (len(flight.given_up) >= len(flight.order) or flight.next_at >= flight.deadline):
            self._fail(flight, now)
        else:
            self._set_timer(flight)

    def _try(self, flight: Flight, upstream: Upstream, now: float, *, edns: bool, stream: bool = False) -> bool:
        attempt = Attempt(flight, upstream, self._question(flight, edns=edns), now, stream=stream)
        if not self._network.start(attempt):
            return False
        upstream.asked += 1
        flight.attempts.append(attempt)
        return True

    def _question(self, flight: Flight, *, edns: bool) -> Sent:
        """In letters that nobody else writes it in, if it has enough of them: drawn again when all are alike."""
        key = flight.key
        for _ in range(_DRAWS_MAX):
            sent = forward_message.question(
                key.labels, key.rtype, dnssec_ok=key.dnssec_ok, checking_off=key.checking_off, edns=edns,
                path=flight.path, bits=self._random(_BITS) | self._random(_BITS) << _BITS,
            )  # fmt: skip
            if forward_message.is_mixed(sent.question) or not _has_letters(key.labels):
                break
        return sent

    def _drop(self, attempt: Attempt) -> None:
        self._network.stop(attempt)
        if attempt.flight is not None and attempt in attempt.flight.attempts:
            attempt.flight.attempts.remove(attempt)
        elif attempt in self._probes:
            self._probes.remove(attempt)
            attempt.upstream.probing = False

    def received(self, attempt: Attempt, packet: bytes, now: float) -> None:
        """A message came to the attempt's socket, from the address that was asked.

        1. what answers another question is nobody's: the answer may still come;
        2. another letter case may be a forgery or an old server: TCP cannot be forged by who does not see it;
        3. an answer cut short is asked for again over TCP.
        """
        if not forward_message.matches(attempt.sent, packet):  # 1
            attempt.upstream.mismatched += 1
            attempt.forgeries += 1
            if attempt.stream:
                self.failed(attempt, now)
            elif attempt.forgeries >= FORGERIES_MAX:
                self._over_tcp(attempt, now)
            return
        if not attempt.stream and not forward_message.has_our_case(attempt.sent, packet):  # 2
            attempt.upstream.mismatched += 1
            self._over_tcp(attempt, now)
            return
        try:
            reply = forward_message.read(attempt.sent, packet)
        except Malformed:
            self.failed(attempt, now)
            return
        attempt.upstream.answers(now - attempt.sent_at)
        if reply.edns:
            attempt.upstream.edns = True
        if attempt.flight is None:
            self._drop(attempt)
        elif reply.truncated and not attempt.stream:  # 3
            attempt.flight.fallback = reply if reply.rcode in _FINAL else attempt.flight.fallback
            self._over_tcp(attempt, now)
        else:
            self._judge(attempt, attempt.flight, reply, now)

    def _over_tcp(self, attempt: Attempt, now: float) -> None:
        flight = attempt.flight
        self._drop(attempt)
        if flight is None:
            return
        flight.next_at = now + RETRY_S  # it has answered: no hurry to ask the others
        if self._try(flight, attempt.upstream, now, edns=attempt.sent.edns, stream=True):
            self._set_timer(flight)
        else:
            self._give_up(flight, attempt.upstream, now)

    def _judge(self, attempt: Attempt, flight: Flight, reply: Reply, now: float) -> None:
        """A server answered: take it, ask it again in plainer words, or ask another.

        An OPT record in a refusal shows that EDNS is not what it refuses (RFC 6891 section 7).
        """
        upstream = attempt.upstream
        if reply.rcode in _NO_EDNS and attempt.sent.edns and not reply.edns:
            upstream.refuse_edns(now)
            self._drop(attempt)
            if not self._try(flight, upstream, now, edns=False, stream=attempt.stream):
                self._give_up(flight, upstream, now)
        elif reply.rcode in _FINAL and not reply.unhelpful:
            self._land(flight, reply, upstream, now)
        else:
            self._drop(attempt)
            self._give_up(flight, upstream, now)

    def failed(self, attempt: Attempt, now: float) -> None:
        """The attempt's server cannot be reached, or what it says makes no sense."""
        flight = attempt.flight
        attempt.upstream.fails(now, self._random(8))
        self._drop(attempt)
        if flight is not None:
            self._give_up(flight, attempt.upstream, now)

    def _give_up(self, flight: Flight, upstream: Upstream, now: float) -> None:
        flight.given_up.add(upstream)
        if len(flight.given_up) < len(flight.order) and flight.tries < len(flight.order):
            self._next(flight, now)
        elif not flight.attempts and len(flight.given_up) >= len(flight.order):
            self._fail(flight, now)

    # The end of a flight

    def _land(self, flight: Flight, reply: Reply, upstream: Upstream, now: float) -> None:
        answer = Answer(reply.rcode, *reply.sections, authoritative=False)
        self.cache.put(flight.key, answer, reply.ttl, now)
        self._finish(flight, answer, upstream, now)

    def _fail(self, flight: Flight, now: float) -> None:
        """Nobody gave an answer: half a one, one from before, or none."""
        reply = flight.fallback
        if reply is not None and reply.sections[0]:
            self._finish(flight, Answer(reply.rcode, reply.sections[0], authoritative=False, truncated=True), None, now)
            return
        if not flight.course[1]:
            self.cache.fail(flight.key, now)
        old = self.cache.stale(flight.key, now)
        self.stale += len(flight.waiters) if old is not None else 0
        self._finish(flight, old or self._failed(flight.key), None, now)

    def _finish(self, flight: Flight, answer: Answer, by: Upstream | None, now: float) -> None:
        """Tell everybody; another server that was silent for so long that the next was asked is blamed, once."""
        self._flights.pop(flight.course, None)
        silent = {attempt.upstream for attempt in flight.attempts if now - attempt.sent_at >= STAGGER_S} - {by}
        for upstream in silent:
            if upstream is not None:
                upstream.fails(now, self._random(8))
        for attempt in list(flight.attempts):
            self._drop(attempt)
        self._tell(flight, answer)

    def _tell(self, flight: Flight, answer: Answer) -> None:
        waiters, flight.waiters = flight.waiters, []
        self.waiting -= len(waiters)
        for client, done in waiters:
            self._clients[client] -= 1
            if self._clients[client] <= 0:
                del self._clients[client]
            try:
                done(answer)
            except Exception:  # one that cannot be told keeps it from nobody else
                log.exception("an answer could not be given", extra={"client": client})

    # Time

    def _set_timer(self, flight: Flight) -> None:
        """Timers that count no more stay until they are due, but not too many of them."""
        self._sequence += 1
        flight.timer = self._sequence
        heapq.heappush(self._timers, (flight.wakes_at(), self._sequence, flight))
        if len(self._timers) > 4 * limits.DNS_FORWARDS_MAX:
            self._timers = [timer for timer in self._timers if self._counts(timer)]
            heapq.heapify(self._timers)

    def _counts(self, timer: tuple[float, int, Flight]) -> bool:
        flight = timer[2]
        return timer[1] == flight.timer and self._flights.get(flight.course) is flight

    def tick(self, now: float) -> float:
        """Do what is due; seconds until there is something to do again."""
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            if self._counts(timer):
                self._look_at(timer[2], now)
        self._probe(now)
        return max(0.0, self._timers[0][0] - now) if self._timers else 1.0

    def _look_at(self, flight: Flight, now: float) -> None:
        if now >= flight.deadline:
            self._fail(flight, now)
            return
        if not flight.told_stale and now >= flight.started_at + STALE_S:
            flight.told_stale = True
            old = self.cache.stale(flight.key, now)
            if old is not None:
                self.stale += len(flight.waiters)
                self._tell(flight, old)
        if now >= flight.next_at:
            self._next(flight, now)
        else:
            self._set_timer(flight)

    def _probe(self, now: float) -> None:
        """Look after servers that are down, with a question that every server can answer."""
        for attempt in list(self._probes):
            if now - attempt.sent_at >= PROBE_S:
                self.failed(attempt, now)
        for upstream in self.upstreams:
            if upstream.wants_probe(now):
                sent = forward_message.question(
                    (), codes.NS, dnssec_ok=False, checking_off=False, edns=False, path=(), bits=self._random(_BITS)
                )
                attempt = Attempt(None, upstream, sent, now, stream=False)
                upstream.probing = self._network.start(attempt)
                if upstream.probing:
                    upstream.asked += 1
                    self._probes.append(attempt)
                else:  # later again, not in every round
                    upstream.fails(now, self._random(8))

    def close(self, now: float) -> None:
        """Answer everybody who waits, that there is no answer, and whoever asks from now on at once."""
        self._closed = True
        for flight in list(self._flights.values()):
            self._finish(flight, self.cache.stale(flight.key, now) or self._failed(flight.key), None, now)
        for attempt in list(self._probes):
            self._drop(attempt)


def _has_letters(labels: Labels) -> bool:
    return sum(bytes((byte,)).isalpha() for label in labels for byte in label) >= LETTERS_MIN


def _failure(ede: int) -> Answer:
    return Answer(rcode=codes.SERVFAIL, authoritative=False, ede=ede)
