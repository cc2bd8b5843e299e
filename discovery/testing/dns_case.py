"""DNS answers as rows of zone-file text, and a small catalogue to ask: the language of the DNS tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dnslib

from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.dns.zone import Origin, Zone
from discovery.model import Instance, InstanceRecord, Port, Service, ServiceRecord

ZONE = "cluster.local"


def instance(service: str, id: str, *addresses: str, ports: Mapping[str, int] | None = None, **fields: Any) -> Instance:
    """An instance in namespace ``default`` unless said otherwise; ports by name, ``dns/udp`` for another protocol."""
    made = []
    for name, number in (ports or {}).items():
        text, _, protocol = name.partition("/")
        made.append(Port(text or None, number, protocol or "tcp"))  # type: ignore[arg-type]
    namespace = fields.pop("namespace", "default")
    return Instance(namespace, service, id, addresses, tuple(made), **fields)


@dataclass
class Registry:
    """A naive catalogue: dictionaries, nothing incremental. Stands in for the store."""

    specs: dict[tuple[str, str, str], Instance] = field(default_factory=dict)
    settings: dict[tuple[str, str], Service] = field(default_factory=dict)
    serial: int = 1

    def put(self, *things: Instance | Service) -> Registry:
        """Put instances and settings of services."""
        for thing in things:
            if isinstance(thing, Instance):
                self.specs[thing.namespace, thing.service, thing.id] = thing
            else:
                self.settings[thing.namespace, thing.name] = thing
        return self

    def zone(self, settings: Settings | None = None, zone: str = ZONE) -> Zone:
        """A worker's view of it, built anew."""
        made = Zone(Origin(zone, settings or Settings()))
        made.serial = self.serial
        for service in self.settings.values():
            made.put_service(service)
        for spec in self.specs.values():
            made.put_instance(spec)
        return made

    # What a resolver reads

    def instances(self, namespace: str, service: str) -> Mapping[str, InstanceRecord]:
        """The service's instances by id."""
        return {
            r.spec.id: r for r in self.all_instances() if (r.spec.namespace, r.spec.service) == (namespace, service)
        }

    def service(self, namespace: str, service: str) -> ServiceRecord | None:
        """The service's settings."""
        found = self.settings.get((namespace, service))
        return None if found is None else record_of(found)

    def services(self, namespace: str) -> Sequence[str]:
        """The namespace's services."""
        return sorted({key[1] for key in (*self.specs, *self.settings) if key[0] == namespace})

    def all_instances(self) -> Iterator[InstanceRecord]:
        """Every instance."""
        return map(instance_record, self.specs.values())

    def all_services(self) -> Iterator[ServiceRecord]:
        """The settings of every service that has some."""
        return map(record_of, self.settings.values())


def instance_record(spec: Instance) -> InstanceRecord:
    """The record of an instance, with revisions that do not matter."""
    return InstanceRecord(spec, 0, 1, 1, 1)


def record_of(spec: Service) -> ServiceRecord:
    """The record of settings, with revisions that do not matter."""
    return ServiceRecord(spec, 1, 1, 1)


def question(name: str, rtype: str = "A", *, edns: int | None = None, rd: bool = False, ident: int = 4711) -> bytes:
    """A question's bytes; ``edns``: the UDP size of its OPT record."""
    packet = dnslib.DNSRecord.question(name, rtype)
    packet.header.id = ident
    packet.header.rd = rd
    if edns is not None:
        packet.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(packet.pack())


class Case(NamedTuple):
    """A question, and the answer's response code and sections in zone-file text, a record a line, in any order."""

    question: str
    answer: str = ""
    rcode: str = "NOERROR"
    extra: str = ""
    authority: str = ""
    authoritative: bool = True


def check(responder: Responder, case: Case) -> None:
    """Ask and compare."""
    name, rtype = case.question.split()
    reply = responder.message(question(name, rtype))
    assert reply is not None, "no answer"
    message = dnslib.DNSRecord.parse(reply)
    found = {
        "rcode": dnslib.RCODE.get(message.header.rcode),
        "aa": bool(message.header.aa),
        "answer": lines(message.rr),
        "authority": lines(message.auth),
        "extra": lines(message.ar),
    }
    expected = {
        "rcode": case.rcode,
        "aa": case.authoritative,
        "answer": rows(case.answer),
        "authority": rows(case.authority),
        "extra": rows(case.extra),
    }
    assert found == expected, f"{case.question}\n  found    {found}\n  expected {expected}"


def content(reply: bytes | None) -> tuple[int, list[str], list[str], list[str]]:
    """A reply without the order of its records and what was left out of ADDITIONAL."""
    assert reply is not None
    message = dnslib.DNSRecord.parse(reply)
    return (
        message.header.rcode,
        sorted(map(str, message.rr)),
        sorted(map(str, message.auth)),
        sorted(map(str, message.ar)),
    )


def lines(records: Iterable[Any]) -> list[str]:
    """Records as sorted lines of zone-file text, one blank between fields."""
    return sorted(_line(record) for record in records)


def _line(record: Any) -> str:
    data = " ".join(str(record.rdata).replace("(", " ").replace(")", " ").split())
    return f"{record.rname} {record.ttl} {dnslib.CLASS.get(record.rclass)} {dnslib.QTYPE.get(record.rtype)} {data}"


def rows(text: str) -> list[str]:
    """Lines of zone-file text in the same form."""
    return sorted(" ".join(line.split()) for line in text.strip().splitlines() if line.strip())


def responder(registry: Registry, settings: Settings | None = None, zone: str = ZONE) -> Responder:
    """A server of a worker's view of ``registry``."""
    made = Responder(settings or Settings(), "0.1.0")
    made.install(registry.zone(settings, zone))
    return made
