"""Names outside the zone in a worker: who asks, who is asked for them, and the answer on its way back.

Stands between the sockets and the responder. What the responder leaves unanswered because it is not the last word
(:class:`discovery.dns.forward_policy.Policy`) is asked for elsewhere without keeping anything waiting: the answer is
sent when it comes. Questions about the zone pass untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from discovery import config_forward, feed
from discovery.dns import codes, forward_message, forward_policy, name, wire
from discovery.dns.forward_cache import ForwardCache, Key
from discovery.dns.forward_core import Forwarder
from discovery.dns.forward_health import Pool, Upstream
from discovery.dns.forward_net import Sockets
from discovery.dns.forward_policy import Policy, Routes
from discovery.dns.loop import Loop
from discovery.dns.mmsg import Slots
from discovery.dns.name import Labels
from discovery.dns.options import client_of
from discovery.dns.responder import Responder
from discovery.dns.sections import Answer, RRSet
from discovery.dns.sender import sender
from discovery.dns.tcp import Connection
from discovery.dns.wire import Query
from discovery.dns.zone import Origin

log: Final = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Send = Callable[[bytes], None]


class Forwarding:
    """The whole of it, for one worker.

    Args:
        loop: to be registered with.
        responder: answers about the zone.
        origin: of the zone.
        listen: host and port of each address that we answer on.
        clock: monotonic seconds.

    Attributes:
        refused: questions of clients that may not ask.
    """

    def __init__(
        self,
        loop: Loop,
        responder: Responder,
        origin: Origin,
        listen: Sequence[tuple[str, int]],
        clock: Callable[[], float],
    ) -> None:
        settings = responder.settings
        self.responder = responder
        self.refused = 0
        self._clock = clock
        random = secrets.SystemRandom().getrandbits
        self._listen = listen
        self._files = _versions(settings.forward)
        pools = _pools(settings.forward, listen, ())
        self._routes = Routes(pools)
        self._policy = Policy(origin, self._routes, settings.forward_clients)
        sockets = Sockets(loop, clock, random)
        self.forwarder = Forwarder(pools, ForwardCache(), sockets, random, _own_id(listen))
        sockets.receiver = self.forwarder
        responder.forwards, responder.offered = self._takes, wire.RA

    def _takes(self, query: Query, answer: Answer) -> bool:
        """Whether a question is to come to :meth:`ask`."""
        return self._target(query, answer) is not None

    def _target(self, query: Query, answer: Answer) -> Labels | None:
        """The name to ask others for; only for clients that want that (RD), and of our class."""
        if not query.flags & wire.RD or query.rclass != codes.IN:
            return None
        return self._policy.target(query.labels, query.rtype, answer)

    def ask(self, packet: bytes, host: str, send: Send, idle_s: float | None) -> bytes | None:
        """The reply to a message that the responder left unanswered, or ``None``.

        Args:
            packet: the message, id included.
            host: address of the client.
            send: is called with the reply when it comes later.
            idle_s: how long its TCP connection may be idle; ``None``: it came by UDP.

        Returns:
            The reply; ``b""`` when it comes later; ``None`` when the message deserves none.
        """
        try:
            return self._reply(packet, host, send, idle_s)
        except wire.Refused:
            return None
        except Exception:
            log.exception("a question could not be sent on", extra={"packet": packet[:512].hex()})
            return wire.refusal(packet, codes.SERVFAIL)

    def _reply(self, packet: bytes, host: str, send: Send, idle_s: float | None) -> bytes | None:
        query = wire.read(packet)
        if query is None:
            return None
        query.client, query.idle_s, query.offered = client_of((host,)), idle_s, self.responder.offered
        answer = self.responder.own(query)
        target = self._target(query, answer)
        if target is None:
            return None
        if not self._policy.allows(host):
            self.refused += 1
            return self.responder.finish(query, _denied(answer, query))
        return self._ask(query, packet, answer, target, host, send)

    def _ask(self, query: Query, packet: bytes, own: Answer, target: Labels, host: str, send: Send) -> bytes | None:
        def finish(answer: Answer) -> bytes:
            return self.responder.finish(query, _joined(own, target, answer))

        zone = self._routes.zone(target)
        if zone is None:
            return finish(forward_policy.special(target, query.rtype))
        dnssec_ok = query.edns is not None and query.edns.dnssec_ok
        key = Key(target, query.rtype, dnssec_ok, bool(query.flags & wire.CD), zone)
        path = forward_message.path(packet) if query.edns is not None and query.edns.has_options else []
        share = forward_policy.share(host)
        now = self._clock()
        known = self.forwarder.ask(key, path, query.question, share, now, lambda answer: send(finish(answer)))
        return b"" if known is None else finish(known)

    def front(self) -> Front:
        """What a UDP socket hands its datagrams to."""
        return Front(self)

    def later(self, message: bytes, connection: Connection) -> bool:
        """Take a message of a TCP connection; false: it deserves no answer."""
        reply = self.ask(message, connection.client, connection.reply, connection.idle_s)
        if reply is None:
            return False
        self.responder.dropped -= 1
        if reply:
            connection.give(reply)
        return True

    def tick(self) -> float:
        """Do what is due; seconds until there is something to do again."""
        return self.forwarder.tick(self._clock())

    def reload(self) -> None:
        """Read a resolv.conf again that has changed; one that names nobody any more changes nothing."""
        entries = self.responder.settings.forward
        files = _versions(entries)
        if files != self._files:
            self._files = files
            pools = _pools(entries, self._listen, self.forwarder.upstreams)
            if pools.keys() == self.forwarder.pools.keys():
                self.forwarder.use(pools)

    def close(self) -> None:
        """Answer everybody who waits."""
        self.forwarder.close(self._clock())

    def samples(self) -> tuple[feed.Sample, ...]:
        """What ``/metrics`` shows, counted since the start."""
        core = self.forwarder
        plain = {
            "dns_forward_questions_total": core.asked,
            "dns_forward_cache_hits_total": core.cached,
            "dns_forward_stale_total": core.stale,
            "dns_forward_refused_total": self.refused,
            "dns_forward_overloaded_total": core.overloaded,
            "dns_forward_loops_total": core.loops,
            "dns_forward_waiting": core.waiting,
            "dns_forward_cache_entries": len(core.cache),
            "dns_forward_cache_bytes": core.cache.bytes,
        }
        each = [
            feed.Sample(f"dns_upstream_{what}", (("upstream", upstream.text),), value)
            for upstream in core.upstreams
            for what, value in (
                ("questions_total", upstream.asked),
                ("answers_total", upstream.answered),
                ("failures_total", upstream.failed),
                ("mismatches_total", upstream.mismatched),
                ("up", int(not upstream.is_down)),
            )
        ]
        return (*(feed.Sample(what, (), value) for what, value in plain.items()), *each)


class Front:
    """A :class:`discovery.dns.udp.Server`: the responder, and for what it leaves unanswered the other servers."""

    def __init__(self, forwarding: Forwarding) -> None:
        self.sock: socket.socket | None = None  # to be set once the socket is there
        self._forwarding = forwarding
        self._responder = forwarding.responder

    def serve(self, batch: list[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
        """Replies that are there now; others are sent when they come."""
        replies = []
        for packet, place in batch:
            now = self._responder.serve(((packet, place),))
            reply = now[0][0] if now else self._later(packet, place)
            if reply:
                replies.append((reply, place))
        return replies

    def serve_slots(self, slots: Slots, count: int) -> int:
        """The same where datagrams lie in slots."""
        silent = self._responder.serve_slots(slots, count)
        if not silent:
            return 0
        for slot in range(count):
            if slots.lengths[slot] or slots.is_cut(slot):
                continue
            start = slots.starts[slot]
            packet = slots.memory[start - 2 : start - 2 + slots.sizes[slot]]
            reply = self._later(packet, sender(*slots.sender(slot)))
            if reply:
                slots.memory[start - 2 : start - 2 + len(reply)] = reply
                slots.lengths[slot] = len(reply)
                silent -= 1
        return silent

    def _later(self, packet: bytes, place: Any) -> bytes | None:
        address = place if isinstance(place[0], str) else place[1]
        reply = self._forwarding.ask(packet, address[0], lambda late: self._send(late, place), None)
        if reply is not None:
            self._responder.dropped -= 1
        return reply

    def _send(self, reply: bytes, place: Any) -> None:
        """Send a reply, from the address that was asked where that is known."""
        if self.sock is None or self.sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):  # as datagrams may be lost
            if isinstance(place[0], str):
                self.sock.sendto(reply, place)
            else:
                self.sock.sendmsg([reply], place[0], 0, place[1])


def _denied(own: Answer, query: Query) -> Answer:
    """What a client is told that may not have questions sent on: the alias that we know, or that it may not."""
    if own.answer:
        return own
    rcode = codes.NXDOMAIN if len(query.labels) == 1 else codes.REFUSED
    return Answer(rcode=rcode, authoritative=False, ede=codes.EDE_PROHIBITED)


def _joined(own: Answer, target: Labels, found: Answer) -> Answer:
    """An alias of ours and what it leads to."""
    if not own.answer or own.answer[-1].rtype != codes.CNAME:
        return found
    owner = name.wire(target)

    def placed(sets: list[RRSet]) -> list[RRSet]:
        return [RRSet(one.rtype, one.ttl, one.data, owner if one.owner is None else one.owner) for one in sets]

    return Answer(
        found.rcode, [*own.answer, *placed(found.answer)], placed(found.authority), placed(found.additional),
        authoritative=found.rcode != codes.SERVFAIL, ede=found.ede, truncated=found.truncated,
    )  # fmt: skip


def _pools(entries: Sequence[str], listen: Sequence[tuple[str, int]], before: Sequence[Upstream]) -> dict[Labels, Pool]:
    """Servers by zone, as the entries name them; one that is in two zones, or was there before, is one server."""
    known = {(upstream.host, upstream.port): upstream for upstream in before}
    zones: dict[Labels, dict[Upstream, None]] = {}
    for entry in entries:
        try:
            targets = config_forward.others(entry, listen)
        except config_forward.BadTarget as problem:  # a file that was good when the node started
            log.error("%s %s", entry, problem)
            continue
        for target in targets:
            place = (target.host, target.port)
            upstream = known.setdefault(place, Upstream(*place))
            zones.setdefault(name.from_text(target.zone), {})[upstream] = None
    return {zone: Pool(list(upstreams)) for zone, upstreams in zones.items()}


def _versions(entries: Sequence[str]) -> list[tuple[int, int]]:
    """What changes when a file among the entries does."""
    found = []
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.startswith("/"):
                stat = Path(entry).stat()
                found.append((stat.st_ino, stat.st_mtime_ns))
    return found


def _own_id(listen: Sequence[tuple[str, int]]) -> bytes:
    """Eight bytes that all workers of one server have and no other server has: this network, these addresses."""
    parts = [repr(sorted(listen))]
    with contextlib.suppress(OSError):
        parts.append(_BOOT_ID.read_text())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/net").stat().st_ino))
    return hashlib.sha256("\0".join(parts).encode()).digest()[: forward_message.PATH_ID_BYTES]
