"""A DNS worker process: ``python -m discovery.dns.worker``, started and watched by the supervisor.

It joins the port at once (``--join now``: SERVFAIL until the first sync; one of a node) or only when it, and whoever is
on the port, knows what to answer (``--join synced``: all others, and replacements). It ends with its parent, and on
SIGTERM after answering what has arrived.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import Final

import msgspec

import discovery
from discovery import feed, process
from discovery import log as logs
from discovery.dns import codes
from discovery.dns.cookies import Cookies
from discovery.dns.forward import Forwarding, Front
from discovery.dns.limiter import Limited, Limiter
from discovery.dns.loop import READ, Loop
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.dns.tcp import TcpServer
from discovery.dns.udp import Server, UdpSocket
from discovery.dns.view import View
from discovery.dns.zone import Origin

log: Final = logging.getLogger("discovery.dns.worker")  # not __main__

REPORT_S: Final = 1.0
FORWARD_LINGER_S: Final = 1.0  # for answers of other servers, once this worker is to go
COOKIE_SECRET_BYTES: Final = 32
_COLLECT_AFTER: Final = (
    50_000  # allocations; what a worker holds has no cycles, so that a collection finds next to none
)


class Worker:
    """One worker: its sockets, its view, its clockwork.

    Args:
        options: of the command line, see :func:`parse`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.loop = Loop()
        self.options = options
        self._parent = os.getppid()
        settings = msgspec.json.decode(options.settings, type=Settings)
        logs.setup(settings.log_format, settings.log_level, process=f"dns-{options.index}")
        self.responder = Responder(settings, discovery.__version__, Cookies(_cookie_secret(settings.cookie_fd)))
        self._limiter = Limiter(settings.rate_limit, settings.rate_slip, settings.rate_exempt, time.monotonic)
        origin = Origin(options.zone.lower(), settings)
        self.view = View(self.loop, options.feed, options.index, origin, self.responder, time.monotonic)
        self.tcp = TcpServer(self.loop, self.responder.message, time.monotonic)
        self.forwarding: Forwarding | None = None
        if settings.forward:
            self.forwarding = Forwarding(self.loop, self.responder, origin, options.listen, time.monotonic)
            self.tcp.later = self.forwarding.later
        self.udp: list[UdpSocket] = []
        self._stopping = False
        self._report_at = time.monotonic() + REPORT_S
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve until SIGTERM, or until the parent is gone."""
        self._catch_signals()
        if self.options.join == "now":
            self._join()
        gc.set_threshold(_COLLECT_AFTER, 50, 100)
        frozen = -1
        while not self._stopping:
            if frozen != self.view.views:  # at the start, and after each whole view: no collection walks it again
                frozen = self.view.views
                gc.freeze()
            self._turn()
        self._leave()

    def _catch_signals(self) -> None:
        """SIGTERM wakes the loop through a pipe; Ctrl-C is the supervisor's affair."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.loop.add(self._wake, READ, self._on_wake)

    def _on_wake(self, events: int) -> None:
        os.read(self._wake, 4096)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._stopping = True

    def _turn(self) -> None:
        wait_s = self.view.tick()
        if self.forwarding is not None:
            wait_s = min(wait_s, self.forwarding.tick())
        self.loop.poll(0 if self.view.pending else min(wait_s, self._report_at - time.monotonic()))
        if self.view.pending:
            self.view.work()
        if not self.udp and self.view.counted:
            self._join()
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_S
            self._stopping = self._stopping or os.getppid() != self._parent
            self.tcp.tick()
            if self.forwarding is not None:
                self.forwarding.reload()
            self.view.report(self._samples())

    def _join(self) -> None:
        """Take part in the port, UDP and TCP."""
        batched = self.responder.settings.udp_batches
        for host, port in self.options.listen:
            front = self.forwarding.front() if self.forwarding is not None else None
            self.udp.append(UdpSocket(self.loop, host, port, self._server(host, front), batched=batched))
            if front is not None:
                front.sock = self.udp[-1].sock
        for fd in self.options.tcp_fd:
            self.tcp.listen(fd)
        self.view.join()
        log.info("on the port", extra={"synced": self.view.synced})

    def _server(self, host: str, front: Front | None) -> Server:
        """Who answers at an address: nobody but ourselves asks at a loopback one."""
        server = front or self.responder
        is_limited = self.responder.settings.rate_limit and not ipaddress.ip_address(host).is_loopback
        return Limited(server, self.responder, self._limiter) if is_limited else server

    def _leave(self) -> None:
        """Answer what has arrived already, then go; what waits for another server has a moment for it."""
        end = time.monotonic() + FORWARD_LINGER_S
        while self.forwarding is not None and self.forwarding.forwarder.waiting and time.monotonic() < end:
            self._turn()
        if self.forwarding is not None:
            self.forwarding.close()
        for sock in self.udp:
            sock.close()
        self.tcp.close()

    def _samples(self) -> tuple[feed.Sample, ...]:
        """What ``/metrics`` shows of this worker, counted since its start."""
        responder = self.responder
        counted = [
            feed.Sample("dns_responses_total", (("rcode", codes.RCODE_TEXT.get(rcode, str(rcode))),), count)
            for rcode, count in sorted(responder.answered().items())
        ]
        plain = {
            "dns_queries_total": responder.queries,
            "dns_cache_hits_total": responder.ready_answers,
            "dns_dropped_total": responder.dropped,
            "dns_rate_slipped_total": self._limiter.slipped,
            "dns_rate_dropped_total": self._limiter.dropped,
            "dns_truncated_total": responder.truncated,
            "dns_errors_total": responder.errors,
            "dns_send_failures_total": sum(sock.lost for sock in self.udp),
            "dns_tcp_connections": len(self.tcp),
            "dns_tcp_refused_total": self.tcp.refused,
            "dns_stale": int(responder.stale),
            "dns_revision": self.view.revision,
        }
        forwarded = self.forwarding.samples() if self.forwarding is not None else ()
        return (*counted, *forwarded, *(feed.Sample(name, (), value) for name, value in plain.items()))


def _cookie_secret(fd: int | None) -> bytes:
    """What the supervisor has written there for all workers; without a descriptor one of our own."""
    if fd is None:
        return os.urandom(COOKIE_SECRET_BYTES)
    with os.fdopen(fd, "rb") as file:
        return os.pread(file.fileno(), COOKIE_SECRET_BYTES, 0)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ``SystemExit`` with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="discovery.dns.worker", description="A DNS worker of a discovery node.")
    parser.add_argument("--index", type=int, required=True, help="number of this worker, from 0")
    parser.add_argument("--feed", required=True, help="Unix socket of the node's feed")
    parser.add_argument("--listen", type=_address, action="append", required=True, help="HOST:PORT for UDP (repeat)")
    parser.add_argument("--tcp-fd", type=int, action="append", default=[], help="inherited TCP listener (repeat)")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--settings", default="{}", help="JSON, see dns/settings.py")
    parser.add_argument("--join", choices=("now", "synced"), default="now")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker until it is told to end."""
    process.die_with_parent(os.getppid())
    Worker(parse(arguments)).run()


if __name__ == "__main__":
    main()
