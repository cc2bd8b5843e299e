"""What ``discovery serve`` can be told: one table of options, and the shape of the configuration.

:data:`OPTIONS` names every option once; file keys, flags and variables follow from it.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NoReturn

import msgspec

from discovery import limits
from discovery.errors import ConfigError, FieldError

Kind = Literal["text", "integer", "boolean", "list", "table"]


class Option(msgspec.Struct, frozen=True):
    """One option: its key in the file and, derived from it, its flag and its variables.

    ``short`` replaces the key in the flag where the contract has a shorter name (``--http`` for ``http.listen``).
    """

    key: str
    kind: Kind
    help: str
    short: str = ""

    @property
    def name(self) -> str:
        """The name of the flag as a parameter: ``dns_workers``."""
        return (self.short or self.key).replace(".", "_").replace("-", "_")

    @property
    def flag(self) -> str:
        """The flag: ``--dns-workers``."""
        return "--" + self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All that the flag is called on the line: its name, and the key's where that is longer (``--http-listen``)."""
        return tuple(dict.fromkeys((self.flag, "--" + self.key.replace(".", "-").replace("_", "-"))))

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, the one that follows the flag first: ``DISCOVERY_DNS_WORKERS``."""
        names = (self.name, self.key.replace(".", "_"))
        return tuple(dict.fromkeys("DISCOVERY_" + name.upper() for name in names))


OPTIONS: Final[tuple[Option, ...]] = (
    Option("id", "text", "Node id, a DNS label; required with peers  [n1]"),
    Option("data_dir", "text", "Data directory  [$STATE_DIRECTORY or ./discovery-data]"),
    Option("zone", "text", "DNS zone served  [cluster.local]"),
    Option("peers", "table", "A member of the cluster to found, ID=HOST:PORT (repeat)", short="peer"),
    Option("http.listen", "list", "HTTP address (repeat)  [127.0.0.1:8500]", short="http"),
    Option("http.advertise", "text", "URL under which others reach this node's HTTP"),
    Option("http.insecure", "boolean", "Serve HTTP beyond loopback without tokens"),
    Option("dns.listen", "list", "DNS address, UDP and TCP (repeat)  [127.0.0.1:8600]", short="dns"),
    Option("dns.advertise", "text", "Address of this name server in its zone"),
    Option("dns.workers", "integer", "DNS worker processes  [one per core]"),
    Option("dns.ttl", "integer", "Default and cap of record TTLs, seconds  [5]"),
    Option("dns.udp_max", "integer", "Largest UDP answer, bytes  [1232]"),
    Option("dns.max_answers", "integer", "Most records of one type in an answer  [100]"),
    Option("dns.rate_limit", "integer", "UDP answers a second to a network of clients, 0 = no limit  [200]"),
    Option("dns.rate_slip", "integer", "Beyond the limit, every how manieth is answered with TC  [2]"),
    Option("dns.rate_exempt", "list", "Networks of clients without that limit (repeat)  [private ones]"),
    Option("dns.forward", "list", "Server for names outside the zone: ADDRESS, ZONE=ADDRESS or a resolv.conf (repeat)"),
    Option("dns.forward_clients", "list", "Networks whose questions are sent on (repeat)  [loopback and private ones]"),
    Option("dns.reverse_zones", "list", "Networks whose PTR names are ours (repeat)"),
    Option("dns.consul_zone", "text", "Second zone, in Consul's form"),
    Option("raft.listen", "text", "Raft address  [127.0.0.1:8300]", short="raft"),
    Option("raft.advertise", "text", "Raft address that peers dial, HOST:PORT"),
    Option("raft.secret_file", "text", "File with the cluster secret"),
    Option("tls.cert", "text", "Certificate of this node, shown to peers; its id is a DNS name in it"),
    Option("tls.key", "text", "Key of that certificate"),
    Option("tls.ca", "text", "Authorities that peers' certificates must be of"),
    Option("log.format", "text", "text or json  [text]"),
    Option("log.level", "text", "debug, info, warning or error  [info]"),
)
BY_KEY: Final = {option.key: option for option in OPTIONS}
SECTIONS: Final = ("http", "dns", "raft", "tls", "log")
FORWARD_CLIENTS: Final = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


RATE_EXEMPT: Final = FORWARD_CLIENTS
"""Networks of clients that are not limited: NAT puts whole hosts behind one address, and musl 1.2.3 has no TCP."""


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[http]``."""

    listen: tuple[str, ...] = ("127.0.0.1:8500",)
    advertise: str = ""
    insecure: bool = False


class Dns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[dns]``. ``ttl`` in seconds, ``udp_max`` in bytes."""

    listen: tuple[str, ...] = ("127.0.0.1:8600",)
    advertise: str = ""
    workers: int = 1
    ttl: int = 5
    udp_max: int = 1232
    max_answers: int = limits.DNS_ANSWERS_MAX
    rate_limit: int = 200
    rate_slip: int = 2
    rate_exempt: tuple[str, ...] = RATE_EXEMPT
    forward: tuple[str, ...] = ()
    forward_clients: tuple[str, ...] = FORWARD_CLIENTS
    reverse_zones: tuple[str, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    consul_zone: str = ""


class Raft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[raft]``."""

    listen: str = "127.0.0.1:8300"
    advertise: str = ""
    secret_file: str = ""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[tls]``."""

    cert: str = ""
    key: str = ""
    ca: str = ""


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[log]``."""

    format: str = "text"
    level: str = "info"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a node is told, checked and complete.

    ``peers`` maps the id of every configured *other* member to its Raft address ``HOST:PORT``.
    """

    id: str = "n1"
    data_dir: str = "discovery-data"
    zone: str = "cluster.local"
    peers: dict[str, str] = {}
    http: Http = Http()
    dns: Dns = Dns()
    raft: Raft = Raft()
    tls: Tls = Tls()
    log: Log = Log()


class Settings:
    """The values given, by key, each with where it came from (so that an error can say it)."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set ``key``; a later layer replaces the value of an earlier one whole."""
        self.values[key] = value
        self.origins[key] = origin

    def refuse(self, key: str, rule: str, value: Any = None) -> NoReturn:
        """Raise the :class:`ConfigError` for ``key``, naming file or option, key and rule."""
        option = BY_KEY.get(key)
        origin = self.origins.get(key) or (f"{option.flag} (key {key})" if option else key)
        raise error(origin, rule, key, value)

    def nested(self) -> dict[str, Any]:
        """The values in the shape of the file."""
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            section, _, name = key.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[name] = value
        return tree


def error(origin: str, rule: str, key: str = "", value: Any = None) -> ConfigError:
    """A configuration error as a sentence: where, which rule, and what was found instead."""
    found = "" if value is None else f" (got {value!r})"
    return ConfigError(f"{origin}: {rule}{found}", (FieldError(key or origin, rule, value),))
