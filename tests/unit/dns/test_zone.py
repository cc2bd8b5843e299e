"""The view kept up change by change, held against one built anew and against a naive reading of the catalogue."""

from __future__ import annotations

import ipaddress

import dnslib
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import codes, name, text
from discovery.dns.answer import resolve
from discovery.dns.resolver import StoreCatalogue
from discovery.dns.sections import RRSet
from discovery.dns.settings import Settings
from discovery.dns.zone import Catalogue, Origin, Zone
from discovery.model import Instance, Port, Service
from discovery.testing.dns_case import Registry, instance

NAMESPACES = st.sampled_from(["default", "prod"])
NAMES = st.sampled_from(["web", "api", "db"])
ADDRESS = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.1.1", "198.51.100.1", "fd00::1", "fd00::2", "2001:db8::1"])
ADDRESSES = st.lists(ADDRESS, min_size=1, max_size=3, unique=True).map(tuple)
TTL = st.none() | st.integers(0, 9)
PORT = st.builds(
    Port, st.sampled_from([None, "http", "dns"]), st.sampled_from([53, 80]), st.sampled_from(["tcp", "udp"])
)
PORTS = st.lists(PORT, max_size=3, unique_by=lambda port: (port.name, port.protocol)).map(tuple)
INSTANCES = st.builds(
    Instance,
    namespace=NAMESPACES,
    service=NAMES,
    id=st.sampled_from(["a", "b", "c:1", "D"]),
    addresses=ADDRESSES,
    ports=PORTS,
    hostname=st.sampled_from([None, None, "blue", "a", "i-ca978112"]),
    weight=st.integers(0, 2),
    dns_ttl=TTL,
    status=st.sampled_from(["ready", "ready", "ready", "not_ready", "draining"]),
)
TARGETS = ["web.default.svc.cluster.local", "api.prod.svc.cluster.local", "db.prod.svc.cluster.local", "example.com"]
SERVICES = st.one_of(
    st.builds(Service, NAMESPACES, NAMES, dns_ttl=TTL, publish_not_ready=st.booleans()),
    st.builds(Service, NAMESPACES, NAMES, st.just("virtual"), virtual_ips=ADDRESSES, ports=PORTS, dns_ttl=TTL),
    st.builds(Service, NAMESPACES, NAMES, st.just("external"), external_name=st.sampled_from(TARGETS), dns_ttl=TTL),
)
DROP = st.tuples(NAMESPACES, NAMES, st.sampled_from(["a", "b", "c:1", "D", ""]))
STEPS = st.lists(INSTANCES | INSTANCES | SERVICES | DROP, max_size=25)

SERVICE_NAMES = [f"{service}.{ns}.svc.cluster.local" for service in ("web", "api", "db") for ns in ("default", "prod")]
PREFIXES = [
    "",
    "a.",
    "blue.",
    "c-1.",
    "10-0-0-1.",
    "i-ca978112.",
    "i-3e23e816.",
    "_tcp.",
    "_udp.",
    "_http._tcp.",
    "_dns._udp.",
    "x.",
]
REVERSE_TREE = {
    ".".join(labels[at:])
    for address in ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.9.9.9", "198.51.100.1", "fd00::1", "fd00::2", "2001:db8::1")
    for labels in [ipaddress.ip_address(address).reverse_pointer.split(".")]
    for at in range(len(labels) - 1)
}
QUESTIONS = [
    *(f"{prefix}{service}" for prefix in PREFIXES for service in SERVICE_NAMES),
    *("cluster.local", "svc.cluster.local", "default.svc.cluster.local", "prod.svc.cluster.local", "dns.cluster.local"),
    *(f"a._http._tcp.{service}" for service in SERVICE_NAMES),
    *(f"api._http._tcp.{service}" for service in SERVICE_NAMES),
    *(
        f"{prefix}.{ns}.svc.cluster.local"
        for ns in ("default", "prod")
        for prefix in ("_http._tcp", "_dns._udp", "_tcp", "_udp", "_sctp", "_services._dns-sd._udp", "_dns-sd._udp")
    ),
    *sorted(REVERSE_TREE),
]
TYPES = [dnslib.QTYPE.A, dnslib.QTYPE.AAAA, dnslib.QTYPE.SRV, dnslib.QTYPE.PTR, dnslib.QTYPE.ANY, codes.TXT, codes.SVCB]
ORIGIN = Origin("cluster.local", Settings())


def apply(zone: Zone, registry: Registry, step: Instance | Service | tuple[str, str, str]) -> None:
    if isinstance(step, Instance):
        zone.put_instance(step)
        registry.put(step)
    elif isinstance(step, Service):
        zone.put_service(step)
        registry.put(step)
    elif step[2]:
        zone.drop_instance(*step)
        registry.specs.pop(step, None)
    else:
        zone.drop_service(step[0], step[1])
        registry.settings.pop(step[:2], None)


def told(catalogue: Catalogue, question: str, rtype: int) -> tuple[object, ...]:
    """An answer, without the order of its records."""
    answer = resolve(catalogue, name.from_text(question), rtype)
    sections = [[_plain(rrset) for rrset in part if rrset.data] for part in (answer.answer, answer.authority)]
    extra = sorted(_plain(rrset) for rrset in answer.additional)
    return answer.rcode, answer.authoritative, answer.ede, sections, extra


def _plain(rrset: RRSet) -> tuple[bytes, int, int, list[str]]:
    assert len(set(rrset.data)) == len(rrset.data), "a record twice"
    return rrset.owner or b"", rrset.rtype, rrset.ttl, sorted(text.rdata(rrset.rtype, data[2:]) for data in rrset.data)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_view_kept_up_answers_as_one_built_anew_and_as_the_store(
    steps: list[Instance | Service | tuple[str, str, str]],
) -> None:
    zone, registry = Zone(ORIGIN), Registry(serial=0)
    for step in steps:
        apply(zone, registry, step)
    anew, store = registry.zone(), StoreCatalogue(ORIGIN, registry)
    for question in QUESTIONS:
        for rtype in TYPES:
            kept = told(zone, question, rtype)
            assert kept == told(anew, question, rtype), question
            assert kept == told(store, question, rtype), question


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_addresses_of_a_service_are_those_of_its_ready_instances(
    steps: list[Instance | Service | tuple[str, str, str]],
) -> None:
    zone, registry = Zone(ORIGIN), Registry()
    for step in steps:
        apply(zone, registry, step)
    for service in SERVICE_NAMES:
        short, namespace = service.split(".")[:2]
        known = registry.settings.get((namespace, short))
        if known is not None and known.type == "external":
            continue
        shown = {"ready", "not_ready"} if known is not None and known.publish_not_ready else {"ready"}
        own = [spec for spec in registry.specs.values() if (spec.namespace, spec.service) == (namespace, short)]
        published = [spec for spec in own if spec.status in shown]
        virtual = known is not None and known.type == "virtual"
        expected = (
            set(known.virtual_ips) if known is not None and virtual else {a for s in published for a in s.addresses}
        )
        found = {data for rtype in (1, 28) for rrset in told(zone, service, rtype)[3][0] for data in rrset[3]}  # type: ignore[index]
        assert found == expected
        assert (told(zone, service, 1)[0] == 3) == (not published and not virtual)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_view_is_empty_again_when_everything_went(steps: list[Instance | Service | tuple[str, str, str]]) -> None:
    zone, registry = Zone(ORIGIN), Registry()
    for step in steps:
        apply(zone, registry, step)
    for key in list(registry.specs):
        apply(zone, registry, key)
    for namespace, service in list(registry.settings):
        apply(zone, registry, (namespace, service, ""))
    empty = Zone(ORIGIN)
    for attribute in ("_services", "_names", "_pointers", "_types"):
        assert getattr(zone, attribute) == getattr(empty, attribute) == {}
    assert not any(addresses.any_between(0, 1 << 128) for addresses in zone._addresses.values())


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_srv_target_resolves_to_its_instance_alone(
    steps: list[Instance | Service | tuple[str, str, str]],
) -> None:
    zone, registry = Zone(ORIGIN), Registry()
    for step in steps:
        apply(zone, registry, step)
    for service in SERVICE_NAMES:
        answer = resolve(zone, name.from_text(service), dnslib.QTYPE.SRV)
        for rrset in answer.answer:
            if rrset.rtype != dnslib.QTYPE.SRV:
                continue
            for data in rrset.data:
                target = name.from_wire(data[8:])
                direct = [resolve(zone, target, rtype) for rtype in (1, 28)]
                given = {(r.rtype, d) for r in answer.additional if r.owner == data[8:] for d in r.data}
                assert given
                assert given == {(r.rtype, d) for reply in direct for r in reply.answer for d in r.data}


def test_a_target_falls_back_to_the_unique_label_when_a_hostname_is_shared_and_returns() -> None:
    zone = Zone(ORIGIN)
    service = name.from_text("web.default.svc.cluster.local")

    def targets() -> set[bytes]:
        return {name.from_wire(data[8:])[0] for data in resolve(zone, service, dnslib.QTYPE.SRV).answer[0].data}

    zone.put_instance(instance("web", "a", "10.0.0.1", hostname="blue", ports={"http": 80}))
    assert targets() == {b"blue"}
    zone.put_instance(instance("web", "b", "10.0.0.2", hostname="blue", ports={"http": 80}))
    assert targets() == {b"i-ca978112", b"i-3e23e816"}
    zone.drop_instance("default", "web", "a")
    assert targets() == {b"blue"}


def test_a_unique_label_is_its_owners_alone_also_when_another_chose_it_as_hostname() -> None:
    """In whichever order they come and go: nobody can be made to answer for another."""
    own = "i-ca978112"  # of the instance "a"
    question = f"{own}.web.default.svc.cluster.local"

    def found(zone: Zone) -> set[bytes]:
        answer = resolve(zone, name.from_text(question), 1)
        return {data[2:] for rrset in answer.answer for data in rrset.data}

    owner = instance("web", "a", "10.0.0.1", hostname=own, ports={"http": 80})
    guests = [
        instance("web", "b", "10.0.0.2", hostname=own),
        instance("web", "c", "10.0.0.3", "10.0.0.4", hostname=own),
    ]
    all_guests = {b"\x0a\0\0\2", b"\x0a\0\0\3", b"\x0a\0\0\4"}
    for order in ([owner, *guests], [*guests, owner], [guests[0], owner, guests[1]]):
        zone = Zone(ORIGIN)
        for spec in order:
            zone.put_instance(spec)
        assert found(zone) == {b"\x0a\0\0\1"}
        zone.drop_instance("default", "web", "a")
        assert found(zone) == all_guests
        zone.put_instance(owner)
        zone.drop_instance("default", "web", "c")
        assert found(zone) == {b"\x0a\0\0\1"}
