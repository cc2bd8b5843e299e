"""The rules of the configuration that need more than a type: addresses, ids, and what protects what.

Each rule is a function of the whole configuration that refuses through :class:`~discovery.config_schema.Settings`,
which knows where the value came from. Advertised addresses are filled in here (CONTRACT section 1).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from discovery import config_forward, limits, model
from discovery.config_schema import Config, Settings

SECRET_BYTES_MIN: Final = 16  # a shorter one could be guessed from one recorded handshake
HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.I
)
WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 -- recognised, not bound
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
LISTEN_RULE: Final = "must be an IP address and a port, such as 127.0.0.1:8500 or [::1]:8500"
PEER_RULE: Final = "must be HOST:PORT"
NOT_YET: Final = "is not available in this version"


def split_address(text: str) -> tuple[str, int] | None:
    """Host and port of ``HOST:PORT`` or ``[IPv6]:PORT``; ``None`` when it is neither, or the port is no port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        return None
    if host.startswith("[") and host.endswith("]"):
        return (host[1:-1], int(port)) if ":" in host else None
    return (host, int(port)) if host and ":" not in host else None


def join_address(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_address(text: str) -> tuple[str, int] | None:
    """IP address (canonical text) and port of an address to listen on, or ``None``."""
    parts = split_address(text)
    ip = _ip(parts[0]) if parts else None
    return (str(ip), parts[1]) if parts and ip else None


def is_loopback(text: str) -> bool:
    """Whether the listening address ``text`` is reachable from this host only."""
    parts = listen_address(text)
    return parts is not None and ipaddress.ip_address(parts[0]).is_loopback


def is_wildcard(text: str) -> bool:
    """Whether ``text`` means every address of the host."""
    parts = listen_address(text)
    return parts is not None and parts[0] in WILDCARDS


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def check(config: Config, settings: Settings) -> Config:
    """The configuration with defaults filled in, or a refusal.

    Raises:
        ConfigError: naming where the value came from, and the rule.
    """
    for rule in _RULES:
        rule(config, settings)
    return _complete(config)


def _identity(config: Config, settings: Settings) -> None:
    if not model.is_label(config.id):
        settings.refuse("id", "must be a DNS label: a-z, 0-9 and hyphens, at most 63", config.id)
    if config.peers and "id" not in settings.origins:
        settings.refuse("id", "is required with peers")
    if not config.data_dir:
        settings.refuse("data_dir", "must not be empty")


def _zone(config: Config, settings: Settings) -> None:
    zone = config.zone.removesuffix(".").lower()
    if not zone or len(zone) > limits.ZONE_CHARS_MAX:
        settings.refuse("zone", f"must have 1..{limits.ZONE_CHARS_MAX} characters", config.zone)
    if not all(model.is_label(label) for label in zone.split(".")):
        settings.refuse("zone", "must be DNS labels joined by dots", config.zone)


def _peers(config: Config, settings: Settings) -> None:
    for peer, address in config.peers.items():
        if not model.is_label(peer):
            settings.refuse("peers", "must name each peer by its id, a DNS label", peer)
        _host_port("peers", f"{PEER_RULE} ({peer})", address, settings)
    if len(set(config.peers) | {config.id}) > limits.PEERS_MAX:
        settings.refuse("peers", f"must make a cluster of at most {limits.PEERS_MAX} nodes")
    others = [address for peer, address in config.peers.items() if peer != config.id]
    if len(set(others)) != len(others):
        settings.refuse("peers", "must give each peer its own address")


def _host_port(key: str, rule: str, text: str, settings: Settings) -> None:
    parts = split_address(text)
    if parts is None or parts[1] == 0 or not (_ip(parts[0]) or HOST_NAME.fullmatch(parts[0])):
        settings.refuse(key, rule, text)
    if parts[0] in WILDCARDS:
        settings.refuse(key, "must be an address that others can dial", text)


def _listeners(config: Config, settings: Settings) -> None:
    for key, addresses in (
        ("http.listen", config.http.listen),
        ("dns.listen", config.dns.listen),
        ("raft.listen", (config.raft.listen,)),
    ):
        if not addresses:
            settings.refuse(key, "must name at least one address")
        for address in addresses:
            if listen_address(address) is None:
                settings.refuse(key, LISTEN_RULE, address)
        if len(set(addresses)) != len(addresses):
            settings.refuse(key, "names an address twice")


def _advertised(config: Config, settings: Settings) -> None:
    if config.http.advertise:
        url = urlsplit(config.http.advertise)
        if (
            url.scheme != "http"
            or not url.netloc
            or url.path.rstrip("/")
            or url.query
            or url.fragment
            or "@" in url.netloc
        ):
            settings.refuse("http.advertise", "must be a URL such as http://10.0.0.1:8500", config.http.advertise)
        _host_port("http.advertise", "must be http://HOST:PORT", _with_port(url.netloc), settings)
    if config.dns.advertise and (_ip(config.dns.advertise) is None or config.dns.advertise in WILDCARDS):
        settings.refuse("dns.advertise", "must be an IP address that others can reach", config.dns.advertise)
    if config.raft.advertise:
        _host_port("raft.advertise", PEER_RULE, config.raft.advertise, settings)
    if set(config.peers) - {config.id}:
        _advertise_required(config, settings)


def _with_port(netloc: str) -> str:
    return netloc if split_address(netloc) else f"{netloc}:80"


def _advertise_required(config: Config, settings: Settings) -> None:
    raft = config.raft.advertise or config.peers.get(config.id, "")
    for key, given, addresses in (
        ("http.advertise", config.http.advertise, config.http.listen),
        ("dns.advertise", config.dns.advertise, config.dns.listen),
        ("raft.advertise", raft, (config.raft.listen,)),
    ):
        if not given and all(is_wildcard(address) for address in addresses):
            settings.refuse(key, f"is required with peers when the listening address is a wildcard ({addresses[0]})")


def _protection(config: Config, settings: Settings) -> None:
    """Nothing listens beyond loopback unprotected by mistake (DESIGN section 8)."""
    if not is_loopback(config.raft.listen) and not config.raft.secret_file and not config.tls.cert:
        settings.refuse(
            "raft.listen",
            "beyond loopback needs certificates (--tls-cert, --tls-key, --tls-ca) or a cluster secret "
            "(--raft-secret-file)",
            config.raft.listen,
        )
    for address in config.http.listen:
        if not is_loopback(address) and not config.http.insecure:
            settings.refuse("http.listen", "beyond loopback has no tokens yet and needs --http-insecure", address)


def _secret(config: Config, settings: Settings) -> None:
    if not config.raft.secret_file:
        return
    try:
        read_secret(config)
    except OSError as problem:
        settings.refuse("raft.secret_file", f"cannot be read: {problem.strerror}", config.raft.secret_file)
    except ValueError as problem:
        settings.refuse("raft.secret_file", str(problem), config.raft.secret_file)


def read_secret(config: Config) -> bytes | None:
    """The cluster secret without the line end, or ``None`` when no file is configured.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds too little.
    """
    if not config.raft.secret_file:
        return None
    secret = Path(config.raft.secret_file).read_bytes().strip()
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(f"must hold at least {SECRET_BYTES_MIN} bytes")
    return secret


def _certificate(config: Config, settings: Settings) -> None:
    """Files that make no identity are refused; one that has expired is not: the node still serves what it knows."""
    paths = msgspec.structs.asdict(config.tls)
    if not any(paths.values()):
        return
    for part, path in paths.items():
        if not path:
            settings.refuse(f"tls.{part}", "is required with the other two of --tls-cert, --tls-key and --tls-ca")
    from discovery import credentials  # not at the head: only who has a certificate pays for OpenSSL

    try:
        credentials.load(credentials.Files(config.tls.cert, config.tls.key, config.tls.ca), config.id)
    except credentials.Unfit as problem:
        settings.refuse(f"tls.{problem.part}", str(problem))


def _numbers(config: Config, settings: Settings) -> None:
    for key, value, least, most in (
        ("dns.workers", config.dns.workers, 1, limits.DNS_WORKERS_MAX),
        ("dns.ttl", config.dns.ttl, 0, limits.DNS_TTL_S_MAX),
        ("dns.udp_max", config.dns.udp_max, 512, limits.DNS_UDP_BYTES_MAX),
        ("dns.max_answers", config.dns.max_answers, 1, limits.DNS_ANSWERS_MAX),
        ("dns.rate_limit", config.dns.rate_limit, 0, limits.DNS_RATE_MAX),
        ("dns.rate_slip", config.dns.rate_slip, 0, limits.DNS_RATE_MAX),
    ):
        if not least <= value <= most:
            settings.refuse(key, f"must be {least}..{most}", value)


def _networks(config: Config, settings: Settings) -> None:
    for key, texts in (
        ("dns.reverse_zones", config.dns.reverse_zones),
        ("dns.forward_clients", config.dns.forward_clients),
        ("dns.rate_exempt", config.dns.rate_exempt),
    ):
        for text in texts:
            try:
                ipaddress.ip_network(text)
            except ValueError as problem:
                settings.refuse(key, f"must be networks such as 10.0.0.0/8 ({problem})", text)


def _forward(config: Config, settings: Settings) -> None:
    """Servers that are there to be asked, none of them ourselves."""
    own = [address for text in config.dns.listen if (address := listen_address(text))]
    targets = []
    for entry in config.dns.forward:
        try:
            targets += config_forward.others(entry, own)
        except config_forward.BadTarget as problem:
            settings.refuse("dns.forward", str(problem), entry)
    zone = config.zone.removesuffix(".").lower()
    for target in targets:
        if f".{target.zone}".endswith(f".{zone}"):
            settings.refuse("dns.forward", "must not name our own zone, or one in it", target.zone)
        if target.zone and (len(target.zone) > 253 or not HOST_NAME.fullmatch(target.zone)):
            settings.refuse("dns.forward", "must name a zone before =, such as corp.example=10.0.0.1", target.zone)
    if len({(target.host, target.port) for target in targets}) > limits.DNS_FORWARD_UPSTREAMS_MAX:
        settings.refuse("dns.forward", f"must name at most {limits.DNS_FORWARD_UPSTREAMS_MAX} servers")


def _words(config: Config, settings: Settings) -> None:
    for key, value, words in (
        ("log.format", config.log.format, FORMATS),
        ("log.level", config.log.level, LEVELS),
    ):
        if value not in words:
            settings.refuse(key, f"must be {' or '.join(words)}", value)


def _not_yet(config: Config, settings: Settings) -> None:
    """An option whose feature does not exist yet must not look as if it worked."""
    for key, value in (("dns.consul_zone", config.dns.consul_zone),):
        if value:
            settings.refuse(key, NOT_YET)


_RULES: Final[tuple[Callable[[Config, Settings], None], ...]] = (
    _not_yet,
    _identity,
    _zone,
    _peers,
    _listeners,
    _advertised,
    _protection,
    _secret,
    _certificate,
    _numbers,
    _networks,
    _forward,
    _words,
)


def _complete(config: Config) -> Config:
    """Canonical zone and reverse zones, peers without ourselves, our own entry as the address we advertise."""
    others = {peer: address for peer, address in config.peers.items() if peer != config.id}
    own = config.peers.get(config.id, "") if is_wildcard(config.raft.listen) else ""
    return msgspec.structs.replace(
        config,
        zone=config.zone.removesuffix(".").lower(),
        peers=others,
        raft=msgspec.structs.replace(config.raft, advertise=config.raft.advertise or own),
        http=msgspec.structs.replace(config.http, advertise=config.http.advertise.rstrip("/")),
        data_dir=str(Path(config.data_dir).absolute()),
    )
