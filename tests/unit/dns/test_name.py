from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.dns import name
from discovery.dns.answer import is_inside
from discovery.dns.name import BadName, Kind, Place
from discovery.dns.settings import Settings
from discovery.dns.zone import Origin
from discovery.model import Instance, is_label

LABEL = st.binary(min_size=1, max_size=63).map(bytes.lower)
LABELS = st.lists(LABEL, max_size=20).map(tuple).filter(lambda labels: sum(map(len, labels)) + len(labels) < 255)


@given(LABELS, st.binary(max_size=5))
def test_a_name_survives_the_wire_with_anything_around_it(labels: tuple[bytes, ...], around: bytes) -> None:
    packet = around + name.wire(labels) + around
    assert name.read(packet, len(around)) == (labels, len(packet) - len(around))
    assert name.skip(packet, len(around)) == len(packet) - len(around)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_name_or_a_bad_name(packet: bytes) -> None:
    for read in (name.read, name.skip):
        with contextlib.suppress(BadName):
            read(packet, 0)


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"", "cut off"),
        (b"\3we", "cut off"),
        (b"\3web", "cut off"),
        (b"\xc0\x0c", "pointer"),
        (b"\3web\xc0\x0c", "pointer"),
        (b"\x40" + b"a" * 64 + b"\0", "label type"),
        (b"\x80a\0", "label type"),
        ((b"\x3f" + b"a" * 63) * 4 + b"\0", "255"),
    ],
)
def test_a_question_cannot_carry(packet: bytes, why: str) -> None:
    with pytest.raises(BadName, match=why):
        name.read(packet, 0)


def test_a_name_of_255_octets_is_the_longest() -> None:
    labels = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)
    assert name.read(name.wire(labels), 0) == (labels, 255)
    with pytest.raises(BadName, match="255"):
        name.read(name.wire((*labels[:3], b"d" * 62)), 0)


def test_only_letters_of_the_name_are_lowered_never_a_length() -> None:
    label = b"A" * 57  # its length is the digit "9"; 65 and more, letters, cannot be lengths
    assert name.read(name.wire((label,)), 0)[0] == (label.lower(),)


@pytest.mark.parametrize(
    ("labels", "inside"),
    [
        ((b"cluster", b"local"), True),
        ((b"web", b"cluster", b"local"), True),
        ((b"xcluster", b"local"), False),
        ((b"web.cluster", b"local"), False),  # one label with a dot in it
        ((b"\7cluster\5local",), False),  # one label that holds the whole encoded zone
        ((b"a\7cluster", b"local"), False),
        ((b"local",), False),
        ((), False),
    ],
)
def test_the_zone_ends_a_name_only_on_label_boundaries(labels: tuple[bytes, ...], inside: bool) -> None:
    assert is_inside(Origin("cluster.local", Settings()), labels) is inside


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("web.Default.SVC.cluster.local.", (b"web", b"default", b"svc", b"cluster", b"local")),
        ("web", (b"web",)),
        (".", ()),
        ("", ()),
    ],
)
def test_text_becomes_labels(text: str, labels: tuple[bytes, ...]) -> None:
    assert name.from_text(text) == labels


@pytest.mark.parametrize("text", ["a..b", "..", ".a", "a" * 64, "ä.b", ".".join(["a" * 63] * 4)])
def test_text_that_is_no_name(text: str) -> None:
    with pytest.raises(BadName):
        name.from_text(text)


def test_text_escapes_what_is_not_plain() -> None:
    assert name.to_text((b"a.b", b"c d", b'"')) == "a\\046b.c\\032d.\\034."
    assert name.to_text(()) == "."


PLACES = {
    "": Place(Kind.APEX),
    "dns-version": Place(Kind.VERSION),
    "ns.dns": Place(Kind.NAME_SERVER),
    "dns": Place(Kind.ALWAYS),
    "svc": Place(Kind.ALWAYS),
    "default.svc": Place(Kind.NAMESPACE, b"default"),
    "web.default.svc": Place(Kind.SERVICE, b"default", b"web"),
    "web-0.web.default.svc": Place(Kind.HOST, b"default", b"web", host=b"web-0"),
    "_tcp.web.default.svc": Place(Kind.PROTOCOL, b"default", b"web", protocol=b"tcp"),
    "_http._tcp.web.default.svc": Place(Kind.PORT, b"default", b"web", protocol=b"tcp", port=b"http"),
    "http._tcp.web.default.svc": name.NOWHERE,
    "_http.tcp.web.default.svc": name.NOWHERE,
    "a._http._tcp.web.default.svc": Place(Kind.BROWSE_INSTANCE, b"default", b"web", b"a", b"tcp", b"http"),
    "a._http._tcp._web.default.svc": name.NOWHERE,
    "a._http.tcp.web.default.svc": name.NOWHERE,
    "a.b._http._tcp.web.default.svc": name.NOWHERE,
    "_tcp.default.svc": Place(Kind.BROWSE_PROTOCOL, b"default", protocol=b"tcp"),
    "_http._tcp.default.svc": Place(Kind.BROWSE_TYPE, b"default", protocol=b"tcp", port=b"http"),
    "http._tcp.default.svc": name.NOWHERE,
    "_services._dns-sd._udp.default.svc": Place(Kind.BROWSE_META, b"default", host=b"_services"),
    "_services._dns-sd._tcp.default.svc": name.NOWHERE,
    "a.ns.dns": name.NOWHERE,
    "default.pod": name.NOWHERE,
    "web": name.NOWHERE,
}


@pytest.mark.parametrize(("below", "place"), PLACES.items())
def test_places_in_the_grammar(below: str, place: Place) -> None:
    assert name.parse(name.from_text(below)) == place


HOSTNAMES = [
    ({"id": "web-0"}, "web-0"),
    ({"id": "Web-0"}, "web-0"),
    ({"id": "web-0", "hostname": "blue"}, "blue"),
    ({"id": "web.0"}, "10-0-0-7"),
    ({"id": "web:0"}, "10-0-0-7"),
    ({"id": "-web"}, "10-0-0-7"),
    ({"id": "a" * 64}, "10-0-0-7"),
    ({"id": "a" * 63}, "a" * 63),
    ({"id": "web_0", "addresses": ("fd00::1", "10.0.0.7")}, "fd00-0000-0000-0000-0000-0000-0000-0001"),
]


@pytest.mark.parametrize(("fields", "expected"), HOSTNAMES)
def test_the_hostname_of_an_instance(fields: dict[str, object], expected: str) -> None:
    spec = Instance(**{"namespace": "default", "service": "web", "addresses": ("10.0.0.7",), **fields})  # type: ignore[arg-type]
    assert name.hostname(spec) == expected
    assert is_label(expected)


def test_the_unique_label_is_a_hash_of_the_id() -> None:
    assert name.unique_label("a") == b"i-ca978112"
    assert is_label(name.unique_label("web:0/ü").decode())
