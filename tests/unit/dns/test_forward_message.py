"""Questions to other servers and their answers: nothing that comes back is believed unless it must be ours."""

from __future__ import annotations

import random

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.dns import codes, forward_message, name, wire
from discovery.dns.forward_message import Malformed, Sent
from discovery.dns.name import Labels
from discovery.testing.upstream import reply_to

NAME = name.from_text("www.example.com")
LABELS = st.lists(st.binary(min_size=1, max_size=20).map(bytes.lower), max_size=8).map(tuple)
PATH = [b"12345678", b"abcdefgh"]


def sent(labels: Labels = NAME, rtype: int = codes.A, bits: int = 0x5A5A_1234, **options: object) -> Sent:
    fields = {"dnssec_ok": False, "checking_off": False, "edns": True, "path": PATH, **options}
    return forward_message.question(labels, rtype, bits=bits, **fields)  # type: ignore[arg-type]


def reply(question: Sent, *records: str, **fields: object) -> bytes:
    return bytes(reply_to(question.packet, *records, **fields).pack())  # type: ignore[arg-type]


@given(LABELS, st.integers(0, 2**288 - 1), st.booleans(), st.booleans(), st.booleans())
def test_a_question_is_one_that_we_would_answer_ourselves(
    labels: Labels, bits: int, dnssec_ok: bool, checking_off: bool, edns: bool
) -> None:
    asked = sent(labels, bits=bits, dnssec_ok=dnssec_ok, checking_off=checking_off, edns=edns)
    query = wire.read(asked.packet)
    assert query is not None
    assert (query.labels, query.rtype, query.question) == (labels, codes.A, asked.question)
    assert query.flags & wire.RD
    assert bool(query.flags & wire.CD) == checking_off
    assert (query.edns is not None) == edns
    assert forward_message.path(asked.packet) == (PATH if edns else [])
    if query.edns is not None:
        assert (query.edns.size, query.edns.dnssec_ok) == (forward_message.SIZE, dnssec_ok)


@given(st.binary(max_size=60), st.integers(0, 2**300))
def test_letters_change_their_case_and_nothing_else(text: bytes, bits: int) -> None:
    assert forward_message.mixed_case(text.lower(), bits).lower() == text.lower()


def test_what_is_drawn_is_the_id_and_the_case_of_every_letter() -> None:
    drawn = [sent(bits=random.Random(seed).getrandbits(288)) for seed in range(64)]
    assert len({one.ident for one in drawn}) > 60
    assert len({one.question for one in drawn}) > 60
    for at, byte in enumerate(name.wire(NAME)):
        assert len({one.question[at] for one in drawn}) == (2 if bytes((byte,)).isalpha() else 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda packet: bytes((packet[0] ^ 1,)) + packet[1:],  # id
        lambda packet: packet[:2] + bytes((packet[2] & 0x7F,)) + packet[3:],  # a question
        lambda packet: packet[:2] + bytes((packet[2] | 0x28,)) + packet[3:],  # another opcode
        lambda packet: packet[:5] + b"\0" + packet[6:],  # no question
        lambda packet: packet[:5] + b"\2" + packet[6:],  # two
        lambda packet: packet[:13] + b"x" + packet[14:],  # another name
        lambda packet: packet[:30] + b"\x1c" + packet[31:],  # another type
        lambda packet: packet[:32] + b"\3" + packet[33:],  # another class
        lambda packet: packet[:11],
        lambda packet: b"",
    ],
)
def test_an_answer_to_anything_else_does_not_match(change: object) -> None:
    question = sent()
    good = reply(question, "www.example.com. 9 IN A 192.0.2.1")
    assert forward_message.matches(question, good)
    assert forward_message.has_our_case(question, good)
    assert not forward_message.matches(question, change(good))  # type: ignore[operator]


def test_an_answer_in_other_letters_matches_but_for_the_case() -> None:
    question = sent()
    good = reply(question)
    other = good[:12] + good[12:28].swapcase() + good[28:]
    assert forward_message.matches(question, other)
    assert not forward_message.has_our_case(question, other)


def test_names_in_record_data_are_written_out_and_in_lower_case_where_only_we_had_other_letters() -> None:
    question = sent(name.from_text("example.com"), codes.ANY, bits=-1 % 2**288)
    records = (
        "example.com. 60 IN CNAME x.example.com.",
        "example.com. 60 IN MX 5 mail.example.com.",
        "example.com. 60 IN SOA ns.example.com. root.example.com. 1 2 3 4 5",
        "example.com. 60 IN SRV 1 2 3 host.example.com.",
        'example.com. 60 IN TXT "text"',
    )
    read = forward_message.read(question, reply(question, *records))
    data = {rrset.rtype: rrset.data[0][2:] for rrset in read.sections[0]}
    assert data[codes.CNAME] == name.wire(name.from_text("x.example.com"))
    assert data[15] == b"\0\5" + name.wire(name.from_text("mail.example.com"))
    assert data[codes.SRV] == b"\0\1\0\2\0\3" + name.wire(name.from_text("host.example.com"))
    assert data[codes.SOA].startswith(name.wire(name.from_text("ns.example.com")))
    assert data[codes.TXT] == b"\4text"
    assert {rrset.owner for rrset in read.sections[0]} == {None}


SOA = "example.com. 300 IN SOA ns.example.com. root.example.com. 1 2 3 4 60"


@pytest.mark.parametrize(
    ("records", "fields", "ttl"),
    [
        (["www.example.com. 300 IN A 192.0.2.1", "www.example.com. 20 IN A 192.0.2.2"], {}, 20),
        (["www.example.com. 0 IN A 192.0.2.1"], {}, 0),
        (["www.example.com. 2147483647 IN A 192.0.2.1"], {}, 2147483647),
        (["www.example.com. 4294967295 IN A 192.0.2.1"], {}, 0),  # RFC 2181 section 8
        ([], {"rcode": "NXDOMAIN", "authority": SOA}, 60),
        ([], {"authority": SOA}, 60),
        ([], {"authority": SOA.replace(" 300 ", " 7 ")}, 7),
        ([], {"rcode": "NXDOMAIN"}, 0),
        ([], {}, 0),
        (["www.example.com. 50 IN CNAME a.example.com."], {"rcode": "NXDOMAIN", "authority": SOA}, 50),
        (["www.example.com. 50 IN A 192.0.2.1"], {"rcode": "SERVFAIL"}, 0),
    ],
)
def test_how_long_an_answer_holds(records: list[str], fields: dict[str, object], ttl: int) -> None:
    question = sent()
    assert forward_message.read(question, reply(question, *records, **fields)).ttl == ttl


def test_who_neither_answers_nor_denies_nor_resolves_is_no_help() -> None:
    question = sent()
    assert forward_message.read(question, reply(question, ra=0)).unhelpful
    assert not forward_message.read(question, reply(question, ra=0, aa=1)).unhelpful
    assert not forward_message.read(question, reply(question, "www.example.com. 1 IN A 192.0.2.1", ra=0)).unhelpful


def test_pointers_that_go_round_are_no_answer() -> None:
    question = sent()
    start = reply(question)[:6] + b"\0\1\0\0\0\0" + question.question
    for owner in (b"\xc0" + bytes((len(start),)), b"\xc0\xff", b"\1a\xc0" + bytes((len(start),)), b"\x80a", b"\x3fabc"):
        with pytest.raises(Malformed):
            forward_message.read(question, start + owner + b"\0\1\0\1\0\0\0\1\0\4\1\2\3\4")
    with pytest.raises(Malformed):
        forward_message.read(question, start + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\5\1\2\3\4\5")  # five bytes of address


def read_or_refuse(question: Sent, packet: bytes) -> None:
    if forward_message.matches(question, packet):
        try:
            read = forward_message.read(question, packet)
        except Malformed:
            return
        assert 0 <= read.ttl < 2**31


@given(st.binary(max_size=200))
def test_no_bytes_behind_a_question_are_too_much(rest: bytes) -> None:
    question = sent()
    read_or_refuse(question, question.packet[:2] + b"\x81\x80" + rest[:8] + question.question + rest[8:])
    read_or_refuse(question, rest)


@given(st.data())
def test_no_broken_answer_is_too_much(data: st.DataObject) -> None:
    question = sent(rtype=codes.ANY)
    records = [SOA, "www.example.com. 60 IN MX 5 mail.example.com.", "www.example.com. 60 IN CNAME b.example.com."]
    packet = bytearray(reply(question, *records, authority=SOA))
    for _ in range(data.draw(st.integers(1, 6))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(question, bytes(packet[: data.draw(st.integers(0, len(packet)))]))


@given(st.binary(max_size=300))
def test_no_bytes_are_too_much_to_look_for_a_path_in(packet: bytes) -> None:
    assert all(len(one) == forward_message.PATH_ID_BYTES for one in forward_message.path(packet))


@given(st.binary(max_size=60))
def test_whatever_a_client_says_its_path_is_we_ask_well_formed_questions(made_up: bytes) -> None:
    asked = dnslib.DNSRecord.question("example.com")
    asked.add_ar(dnslib.EDNS0(opts=[dnslib.EDNSOption(forward_message.PATH_OPTION, made_up)]))
    path = forward_message.path(bytes(asked.pack()))
    ours = sent(path=[*path, b"12345678"]).packet
    assert wire.read(ours) is not None
    assert forward_message.path(ours) == [*path, b"12345678"]


def test_the_path_of_a_question_with_other_options_is_found() -> None:
    asked = dnslib.DNSRecord.question("example.com")
    options = [dnslib.EDNSOption(10, b"cookie!!"), dnslib.EDNSOption(forward_message.PATH_OPTION, b"12345678")]
    asked.add_ar(dnslib.EDNS0(opts=options))
    assert forward_message.path(bytes(asked.pack())) == [b"12345678"]
