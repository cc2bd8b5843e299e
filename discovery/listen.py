"""The sockets that the supervisor holds for life, and the errors an operator can act on when it cannot.

HTTP, Raft and DNS-TCP listeners are bound here and inherited by the children. UDP sockets belong to the workers, who
share their port with SO_REUSEPORT; that option hides a foreign daemon on the port, which would get half of the
questions, so each UDP address is probed once *without* it. The TCP listener, bound without it too, is the guard for
the rest of the supervisor's life (DESIGN section 4).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from discovery.config_rules import WILDCARDS, join_address, listen_address
from discovery.config_schema import BY_KEY, Config
from discovery.errors import ConfigError

log: Final = logging.getLogger(__name__)

BACKLOG: Final = 1024
RETRY_S: Final = 2.0  # how long the children of a supervisor killed a moment ago may take to die
RETRY_EVERY_S: Final = 0.05
PORT_SEARCHES_MAX: Final = 16
_T = TypeVar("_T")


@dataclass
class Sockets:
    """The listeners of a node, bound and listening."""

    http: list[socket.socket] = field(default_factory=list)
    dns: list[socket.socket] = field(default_factory=list)
    raft: list[socket.socket] = field(default_factory=list)

    def every(self) -> Iterator[socket.socket]:
        """All of them."""
        yield from (*self.http, *self.dns, *self.raft)

    def descriptors(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of HTTP, DNS and Raft; what :func:`adopt` takes."""
        http, dns, raft = (tuple(sock.fileno() for sock in group) for group in (self.http, self.dns, self.raft))
        return http, dns, raft

    def close(self) -> None:
        """Close all of them."""
        for sock in self.every():
            sock.close()


def adopt(http: Sequence[int], dns: Sequence[int], raft: Sequence[int]) -> Sockets:
    """The listeners of this process before it re-executed itself, by descriptor."""
    sockets = Sockets(*([socket.socket(fileno=fd) for fd in fds] for fds in (http, dns, raft)))
    for sock in sockets.every():
        sock.set_inheritable(False)
        sock.setblocking(False)
    return sockets


def open_sockets(config: Config) -> Sockets:
    """Bind all listeners and probe the DNS ports.

    Raises:
        ConfigError: a port is in use, needs a right, or the address is not ours; names the option.
    """
    sockets = Sockets()
    with contextlib.ExitStack() as undo:
        undo.callback(sockets.close)
        sockets.http += [_tcp("http.listen", address) for address in config.http.listen]
        sockets.dns += [_dns(address) for address in config.dns.listen]
        sockets.raft += [_tcp("raft.listen", config.raft.listen)]
        undo.pop_all()
    return sockets


def bound(sock: socket.socket) -> str:
    """The address a listener has, ``HOST:PORT`` (differs from the option's when that says port 0)."""
    host, port = sock.getsockname()[:2]
    return join_address(host, port)


def dialable(address: str) -> str:
    """``address`` as someone on this host can dial it: loopback in place of a wildcard."""
    host, port = listen_address(address) or ("", 0)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 -- recognised


def preferred(sockets: list[socket.socket]) -> str:
    """The first address that is no wildcard, else the first, as one can dial it."""
    addresses = [bound(sock) for sock in sockets]
    fixed = [address for address in addresses if (listen_address(address) or ("",))[0] not in WILDCARDS]
    return dialable((fixed or addresses)[0])


def _dns(address: str) -> socket.socket:
    """The TCP listener of a DNS address whose UDP port is free as well."""
    host, port = _parsed(address)
    for _ in range(1 if port else PORT_SEARCHES_MAX):
        listener = _tcp("dns.listen", address)
        try:
            _probe_udp(host, listener.getsockname()[1], RETRY_S if port else 0.0)
        except ConfigError:
            listener.close()
            if port:
                raise
        else:
            return listener
    raise ConfigError(f"{_option('dns.listen')}: no port is free for both UDP and TCP on {host}")


def _probe_udp(host: str, port: int, retry_s: float) -> None:
    """Bind the UDP port without SO_REUSEPORT and let go of it: nobody else may be on it."""

    def probe() -> None:
        with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))

    _bind("dns.listen", "UDP", join_address(host, port), probe, retry_s)


def _tcp(key: str, address: str) -> socket.socket:
    host, port = _parsed(address)

    def listen() -> socket.socket:
        sock = socket.socket(_family(host), socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT; refuses a second listener
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    return _bind(key, "TCP", address, listen, RETRY_S)


def _bind(key: str, transport: str, address: str, attempt: Callable[[], _T], retry_s: float) -> _T:
    """Try ``attempt`` until it succeeds; a port in use is waited for a little while."""
    deadline = time.monotonic() + retry_s
    waited = False
    while True:
        try:
            return attempt()
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise ConfigError(_explained(key, transport, address, problem)) from problem
        if not waited:
            log.info("%s port %s is in use; an earlier node may be going away", transport, address)
            waited = True
        time.sleep(RETRY_EVERY_S)


def _explained(key: str, transport: str, address: str, problem: OSError) -> str:
    """What was wrong with a listening address, the option that sets it, and the way out."""
    port = _parsed(address)[1]
    reasons = {
        errno.EADDRINUSE: f"{transport} port {port} is in use by another process"
        f" (ss -lnp 'sport = :{port}' shows which)",
        errno.EACCES: f"{transport} port {port} needs a right this process does not have: give it"
        " CAP_NET_BIND_SERVICE, or lower net.ipv4.ip_unprivileged_port_start"
        f" ({_unprivileged_start()}), or choose a higher port",
        errno.EADDRNOTAVAIL: "no interface of this host has that address",
    }
    reason = reasons.get(problem.errno or 0, f"cannot listen: {problem.strerror}")
    return f"{_option(key)}: {address}: {reason}"


def _option(key: str) -> str:
    return f"{BY_KEY[key].flag} (key {key})"


def _unprivileged_start() -> str:
    try:
        return "now " + Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    except OSError:
        return "1024 unless set"


def _parsed(address: str) -> tuple[str, int]:
    parts = listen_address(address)
    assert parts is not None, address  # the configuration was checked
    return parts


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
