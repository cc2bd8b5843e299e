"""Which names leave the house, whither, and for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.dns import answer as answers
from discovery.dns import codes, forward_policy, name, wire
from discovery.dns.forward_policy import Policy, Routes
from discovery.dns.name import Labels
from discovery.dns.responder import Responder
from discovery.dns.settings import FORWARD_CLIENTS, Settings
from discovery.dns.zone import Zone
from discovery.model import Service
from discovery.testing.dns_case import Registry, instance, question

LABEL = st.sampled_from(
    [b"a", b"web", b"default", b"svc", b"cluster", b"local", b"com", b"arpa", b"in-addr", b"10", b"7"]
)


def zone(suffix: str = "cluster.local") -> Zone:
    registry = Registry().put(
        instance("web", "web-0", "10.0.0.7", "203.0.113.9"),
        Service("default", "out", type="external", external_name="www.example.com"),
        Service("default", "in", type="external", external_name="web.default.svc.cluster.local"),
        Service("default", "hidden", type="external", external_name="printer.local"),
    )
    return registry.zone(zone=suffix)


def policy(*zones: str, suffix: str = "cluster.local") -> Policy:
    return Policy(zone(suffix).origin, Routes([name.from_text(one) for one in zones]), FORWARD_CLIENTS)


def target(asked: Policy, text: str, rtype: int = codes.A, suffix: str = "cluster.local") -> str | None:
    labels = name.from_text(text)
    found = asked.target(labels, rtype, answers.resolve(zone(suffix), labels, rtype))
    return None if found is None else name.to_text(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("www.example.com", "www.example.com."),
        ("short", "short."),
        (".", "."),
        ("web.default.svc.cluster.local", None),
        ("absent.default.svc.cluster.local", None),
        ("cluster.local", None),
        ("local", None),  # above our zone: to deny it would deny the zone (RFC 8020)
        ("other.local", "other.local."),
        ("out.default.svc.cluster.local", "www.example.com."),
        ("hidden.default.svc.cluster.local", "printer.local."),
        ("in.default.svc.cluster.local", None),
        ("7.0.0.10.in-addr.arpa", None),
        ("8.0.0.10.in-addr.arpa", None),
        ("9.113.0.203.in-addr.arpa", None),
        ("8.113.0.203.in-addr.arpa", "8.113.0.203.in-addr.arpa."),
        ("8.8.8.8.in-addr.arpa", "8.8.8.8.in-addr.arpa."),
    ],
)
def test_what_is_the_last_word_and_what_is_asked_for_elsewhere(text: str, wanted: str | None) -> None:
    assert target(policy("."), text) == wanted


def test_the_alias_itself_is_ours() -> None:
    assert target(policy("."), "out.default.svc.cluster.local", codes.CNAME) is None
    assert target(policy("."), "out.default.svc.cluster.local", codes.AAAA) == "www.example.com."


def test_without_a_server_for_everything_only_its_own_zones_leave() -> None:
    asked = policy("corp.example", "8.0.0.10.in-addr.arpa")
    assert target(asked, "files.corp.example") == "files.corp.example."
    assert target(asked, "www.example.com") is None
    assert target(asked, "out.default.svc.cluster.local") is None
    assert target(asked, "8.0.0.10.in-addr.arpa") == "8.0.0.10.in-addr.arpa."
    assert target(asked, "7.0.0.10.in-addr.arpa") is None
    assert target(asked, "9.0.0.10.in-addr.arpa") is None


def test_what_stands_above_our_zone_is_asked_for_elsewhere_but_not_denied() -> None:
    assert target(policy("."), "corp.example", suffix="k8s.corp.example") == "corp.example."
    assert target(policy("."), "web.corp.example", suffix="k8s.corp.example") == "web.corp.example."


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7.0.0.10.in-addr.arpa", None),
        ("9.113.0.203.in-addr.arpa", None),  # may be registered
        ("10.in-addr.arpa", None),
        ("d.f.ip6.arpa", None),
        ("1.168.192.in-addr.arpa", "1.168.192.in-addr.arpa."),  # has servers of its own
        ("www.example.com", "www.example.com."),
        ("a.invalid", "a.invalid."),
    ],
)
def test_before_the_first_sync_no_reverse_name_is_denied(text: str, wanted: str | None) -> None:
    host = Responder(Settings(), "")  # has no catalogue yet
    query = wire.read(question(text, "PTR", rd=True))
    assert query is not None
    own = host.own(query)
    assert (own.rcode, own.ede) == (codes.SERVFAIL, codes.EDE_NOT_READY)
    found = policy(".", "168.192.in-addr.arpa").target(query.labels, codes.PTR, own)
    assert (None if found is None else name.to_text(found)) == wanted


@pytest.mark.parametrize("rtype", [0, codes.OPT, codes.TSIG, codes.AXFR, codes.IXFR, 128])
def test_types_that_no_zone_holds_stay(rtype: int) -> None:
    assert target(policy("."), "www.example.com", rtype) is None


@pytest.mark.parametrize(
    "text",
    [
        "localhost", "a.localhost", "a.invalid", "x.y.onion", "a.test", "tv.local", "a.alt", "box.home.arpa",
        "_dns.resolver.arpa", "1.0.0.10.in-addr.arpa", "1.0.31.172.in-addr.arpa", "1.168.192.in-addr.arpa",
        "1.254.169.in-addr.arpa", "1.64.100.in-addr.arpa", "1.0.0.127.in-addr.arpa", "d.f.ip6.arpa", "0.8.e.f.ip6.arpa",
    ],
)  # fmt: skip
def test_special_names_have_no_servers_but_those_of_a_zone_of_their_own(text: str) -> None:
    labels = name.from_text(text)
    assert Routes([()]).zone(labels) is None
    assert Routes([(), labels]).zone(labels) == labels


@pytest.mark.parametrize("text", ["example", "onion.example", "localhost.example", "1.0.32.172.in-addr.arpa", "arpa"])
def test_names_that_only_look_special_have_them(text: str) -> None:
    assert Routes([()]).zone(name.from_text(text)) == ()


def test_localhost_is_this_host_and_other_special_names_are_nowhere() -> None:
    assert forward_policy.special(name.from_text("a.localhost"), codes.A).answer[0].data == [b"\0\4\x7f\0\0\1"]
    assert forward_policy.special((b"localhost",), codes.AAAA).answer[0].data == [b"\0\x10" + bytes(15) + b"\1"]
    assert forward_policy.special((b"localhost",), codes.TXT).answer == []
    assert forward_policy.special(name.from_text("a.onion"), codes.A).rcode == codes.NXDOMAIN


@given(st.lists(LABEL, max_size=6).map(tuple), st.sets(st.lists(LABEL, max_size=4).map(tuple)))
def test_the_longest_zone_wins(labels: Labels, zones: set[Labels]) -> None:
    holding = [one for one in zones if labels[len(labels) - len(one) :] == one and len(one) <= len(labels)]
    longest = max(holding, key=len, default=None)
    expected = None if longest == () and forward_policy.is_special(labels) else longest
    assert Routes(zones).zone(labels) == expected


@given(st.lists(LABEL, max_size=4).map(tuple), st.sampled_from([codes.A, codes.PTR, codes.CNAME, codes.ANY]))
def test_no_name_of_the_zone_ever_leaves(below: Labels, rtype: int) -> None:
    labels = (*below, b"cluster", b"local")
    answer = answers.resolve(zone(), labels, rtype)
    found = policy(".", "com", "10.in-addr.arpa").target(labels, rtype, answer)
    assert found is None or not answers.is_inside(zone().origin, found)


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("172.31.0.1", True), ("192.168.9.9", True),
        ("fd00::1", True), ("fe80::1%eth0", True), ("::ffff:10.0.0.1", True), ("169.254.1.1", True),
        ("8.8.8.8", False), ("172.32.0.1", False), ("2001:db8::1", False), ("::ffff:8.8.8.8", False),
    ],
)  # fmt: skip
def test_only_loopback_and_private_networks_may_ask(host: str, may: bool) -> None:
    asked = policy(".")
    assert asked.allows(host) is may
    assert asked.allows(host) is may


def test_what_one_host_may_ask_is_counted_together() -> None:
    assert forward_policy.share("10.0.0.1") != forward_policy.share("10.0.0.2")
    assert forward_policy.share("fd00::1") == forward_policy.share("fd00::2:3%eth0")
    assert forward_policy.share("fd00::1") != forward_policy.share("fd00:0:0:1::1")


def test_the_settings_of_a_worker_without_forwarding_name_nobody() -> None:
    assert Settings().forward == ()
