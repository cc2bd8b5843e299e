"""What a name server of ours is told besides its zone: the JSON object behind ``--settings``."""

from __future__ import annotations

from typing import Final

import msgspec

from discovery import limits

REVERSE_ZONES: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
FORWARD_CLIENTS: Final = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip
RATE_EXEMPT: Final = FORWARD_CLIENTS


class Settings(msgspec.Struct, frozen=True):
    """Options of the DNS server; unknown keys are ignored, so that one side can be upgraded first.

    Args:
        ttl: seconds, default and cap of every TTL.
        udp_max: largest UDP answer in bytes, for clients with EDNS that take as much.
        max_answers: most records of one type in an answer.
        rate_limit: answers a second over UDP to one network of clients (/24, /56); 0: as many as it likes.
        rate_slip: of the questions beyond, each how manieth is answered briefly; 0: none.
        rate_exempt: networks of clients that are not limited, in CIDR text.
        reverse_zones: networks whose PTR names are ours, in CIDR text.
        ns_addresses: addresses of this server, those of the name server in the zone's apex.
        forward: where names outside the zone go, see :mod:`discovery.config_forward`; none: they are not ours.
        forward_clients: networks whose questions are sent on, in CIDR text.
        node: node id, shown to ``id.server CH TXT``.
        cookie_fd: a descriptor of our own to read the secret of DNS cookies from; ``None``: make one up.
        udp_batches: whether UDP uses recvmmsg and sendmmsg, where they work.
        log_format, log_level: see :func:`discovery.log.setup`.
    """

    ttl: int = 5
    udp_max: int = 1232
    max_answers: int = limits.DNS_ANSWERS_MAX
    rate_limit: int = 200
    rate_slip: int = 2
    rate_exempt: tuple[str, ...] = RATE_EXEMPT
    reverse_zones: tuple[str, ...] = REVERSE_ZONES
    ns_addresses: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    forward_clients: tuple[str, ...] = FORWARD_CLIENTS
    node: str = ""
    cookie_fd: int | None = None
    udp_batches: bool = True
    log_format: str = "text"
    log_level: str = "info"
