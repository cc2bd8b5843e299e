"""How the supervisor starts its children: command lines, inherited sockets, addresses that became of the options.

:class:`NodeSettings` is what the node process is told, as JSON on its command line. It holds no secret: the file with
the cluster secret is named, not its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from discovery import listen, process
from discovery.config_rules import is_wildcard, listen_address, read_secret
from discovery.config_schema import Config

FEED_SOCKET: Final = "feed"
_COOKIE_SECRET_BYTES: Final = 32


class NodeSettings(msgspec.Struct, frozen=True):
    """What a node process needs to begin.

    Args:
        http_url: under which others reach this node, ``http://HOST:PORT``.
        raft_address: that peers dial, ``HOST:PORT``.
        dns_address: of this name server, ``HOST:PORT``.
        http_fds: listening sockets of the HTTP API.
        raft_fd: listening socket for peers.
        control_fd: socket to the supervisor.
        feed: path of the Unix socket that DNS workers connect to.
        dns: what the workers are told, see ``dns/settings.py``.
    """

    config: Config
    http_url: str
    raft_address: str
    dns_address: str
    http_fds: tuple[int, ...]
    raft_fd: int
    control_fd: int
    feed: str
    dns: dict[str, Any]


def dns_settings(config: Config, addresses: Sequence[str]) -> dict[str, Any]:
    """What a name server of ours is told besides its zone.

    Args:
        config: of the node.
        addresses: on which its DNS answers, ``HOST:PORT``; unless one is advertised, those that are no wildcard are
            the addresses of the apex name server.
    """
    own = [parts[0] for address in addresses if not is_wildcard(address) and (parts := listen_address(address))]
    return {
        "ttl": config.dns.ttl,
        "udp_max": config.dns.udp_max,
        "max_answers": config.dns.max_answers,
        "rate_limit": config.dns.rate_limit,
        "rate_slip": config.dns.rate_slip,
        "rate_exempt": list(config.dns.rate_exempt),
        "reverse_zones": list(config.dns.reverse_zones),
        "forward": list(config.dns.forward),
        "forward_clients": list(config.dns.forward_clients),
        "ns_addresses": [config.dns.advertise] if config.dns.advertise else list(dict.fromkeys(own)),
        "node": config.id,
        "log_format": config.log.format,
        "log_level": config.log.level,
    }


def cookie_secret(config: Config) -> bytes:
    """The secret of DNS cookies: that of the cluster through a hash, so that all nodes know each other's cookies.

    Without one it is made up: only the workers of this node know theirs, and only until it starts again.
    """
    secret = None
    with contextlib.suppress(OSError, ValueError):  # said by whoever needs the secret itself
        secret = read_secret(config)
    if secret is None:
        return secrets.token_bytes(_COOKIE_SECRET_BYTES)
    return hashlib.blake2b(secret, digest_size=_COOKIE_SECRET_BYTES, person=b"dns cookies").digest()


def _in_memory(data: bytes) -> int:
    """A descriptor to read ``data`` from, for children to inherit: unlike a command line nobody else can."""
    fd = os.memfd_create("dns-cookies")
    os.write(fd, data)
    return fd


def spawn(arguments: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start one of our modules. Its stdout is our stderr: ours carries the ready line and nothing else.

    A session of its own keeps a terminal's Ctrl-C from reaching it: the supervisor decides the order of the end.
    Raises OSError.
    """
    parent = os.getpid()
    return subprocess.Popen(  # noqa: S603 -- our own interpreter and module
        [sys.executable, "-P", "-m", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=fds,
        start_new_session=True,
        preexec_fn=lambda: process.die_with_parent(parent),
    )


class Launch:
    """The command lines of the children of one supervisor."""

    def __init__(self, config: Config, sockets: listen.Sockets, directory: Path) -> None:
        self.config = config
        self.sockets = sockets
        self.directory = directory
        self._feed = str(directory / FEED_SOCKET)
        self._dns = [listen.bound(sock) for sock in sockets.dns]
        self.http_url = config.http.advertise or f"http://{listen.preferred(sockets.http)}"
        self.raft_address = config.raft.advertise or listen.preferred(sockets.raft)
        self.dns_address = listen.preferred(sockets.dns)
        self._cookie_fd = _in_memory(cookie_secret(config))

    def node(self, control_fd: int) -> tuple[Sequence[str], Sequence[int]]:
        """Module and arguments of the node process, and the descriptors it inherits."""
        settings = NodeSettings(
            config=self.config,
            http_url=self.http_url,
            raft_address=self.raft_address,
            dns_address=self.dns_address,
            http_fds=tuple(sock.fileno() for sock in self.sockets.http),
            raft_fd=self.sockets.raft[0].fileno(),
            control_fd=control_fd,
            feed=self._feed,
            dns=dns_settings(self.config, self._dns),
        )
        arguments = ("discovery.node", "--settings", msgspec.json.encode(settings).decode())
        return arguments, (*settings.http_fds, settings.raft_fd, control_fd)

    def worker(self, index: int, join: str) -> tuple[Sequence[str], Sequence[int]]:
        """Module and arguments of a DNS worker, and the descriptors it inherits.

        Args:
            index: of the worker, from 0.
            join: ``now`` for the first worker of a first start (SERVFAIL until the first sync), else ``synced``.
        """
        fds = tuple(sock.fileno() for sock in self.sockets.dns)
        settings = dns_settings(self.config, self._dns) | {"cookie_fd": self._cookie_fd}
        arguments = ["discovery.dns.worker", "--index", str(index), "--feed", self._feed, "--zone", self.config.zone]
        for address, fd in zip(self._dns, fds, strict=True):
            arguments += ["--listen", address, "--tcp-fd", str(fd)]
        arguments += ["--settings", json.dumps(settings), "--join", join]
        return arguments, (*fds, self._cookie_fd)

    def ready_line(self) -> str:
        """What ``serve`` prints once it serves (CONTRACT section 1)."""
        return f"ready id={self.config.id} http={self.http_url} dns={self.dns_address} raft={self.raft_address}"
