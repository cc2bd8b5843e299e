"""The zone that benchmarks serve, and the questions they ask: services of five instances with SRV records and names."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from discovery.model import InstanceRecord
from discovery.testing.dns_case import instance, instance_record, question

SERVICES: Final = 1000
INSTANCES: Final = 5
QUESTIONS: Final = 30_000
SUFFIX: Final = "default.svc.cluster.local"
ZONE_HEAD: Final = """$ORIGIN cluster.local.
$TTL 5
@ SOA ns.dns hostmaster 1 7200 1800 86400 1
@ NS ns.dns
ns.dns A 127.0.0.1
"""


def record(service: int, number: int, moved: int = 0) -> InstanceRecord:
    """The instance so numbered; ``moved``: how often its address has changed."""
    address = f"10.{service >> 8}.{service & 255}.{number + 1 + 8 * (moved % 30)}"
    return instance_record(instance(f"svc{service}", f"i{number}", address, ports={"http": 8080}))


def records(services: int = SERVICES) -> list[InstanceRecord]:
    """Every instance of so many services."""
    return [record(service, number) for service in range(services) for number in range(INSTANCES)]


def zone_file(services: int = SERVICES) -> str:
    """The same for other name servers, as the text of a zone file."""
    lines = [ZONE_HEAD]
    for service in range(services):
        for number in range(INSTANCES):
            host = f"i{number}.svc{service}.default.svc"
            address = record(service, number).spec.addresses[0]
            lines.append(f"svc{service}.default.svc A {address}\n{host} A {address}\n")
            lines.append(f"_http._tcp.svc{service}.default.svc SRV 0 1 8080 {host}\n")
    return "".join(lines)


def loads(services: int = SERVICES, seed: int = 1) -> dict[str, list[bytes]]:
    """Questions are drawn in advance, with a seed: every run and every contender is asked the same."""
    draw = random.Random(seed)  # noqa: S311 -- questions, no secrets

    def name() -> str:
        return f"svc{draw.randrange(services)}.{SUFFIX}"

    kinds: dict[str, Callable[[], bytes]] = {
        "A": lambda: question(name()),
        "AAAA": lambda: question(name(), "AAAA"),
        "SRV": lambda: question(f"_http._tcp.{name()}", "SRV"),
        "instance": lambda: question(f"i{draw.randrange(INSTANCES)}.{name()}"),
        "nxdomain": lambda: question(f"x{draw.getrandbits(40):x}.{SUFFIX}"),
    }
    a = [kinds["A"]() for _ in range(QUESTIONS)]
    shares = [("A", 60), ("AAAA", 20), ("SRV", 10), ("instance", 5), ("nxdomain", 5)]
    drawn = draw.choices([kind for kind, _ in shares], [share for _, share in shares], k=QUESTIONS)
    return {
        "A": a,
        "mixed": [kinds[kind]() for kind in drawn],
        "random case": [random_case(packet, draw) for packet in a],
        "NXDOMAIN flood": [kinds["nxdomain"]() for _ in range(QUESTIONS)],
    }


def random_case(packet: bytes, draw: random.Random) -> bytes:
    """A question whose name has letters of either case, as resolvers send them that look for forged answers (0x20)."""
    name = bytes(byte ^ 0x20 if 97 <= byte <= 122 and draw.random() < 0.5 else byte for byte in packet[12:-4])
    return packet[:12] + name + packet[-4:]
