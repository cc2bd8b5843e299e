"""Names outside the zone through a real worker and real sockets, from servers that behave well, ill or not at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest

from discovery import feed
from discovery.model import Service
from discovery.testing.cluster import eventually
from discovery.testing.dns_case import instance, instance_record, question, record_of
from discovery.testing.dns_worker import DnsWorker, FeedNode, framed, read_framed
from discovery.testing.upstream import Upstream, honest, reply_to, silent, upstream

WEB = "web.default.svc.cluster.local"
OUTSIDE = "www.example.com"
RECORD = f"{OUTSIDE}. 300 IN A 192.0.2.7"
SOA = "example.com. 300 IN SOA ns.example.com. root.example.com. 1 2 3 4 60"
Workers = Callable[..., tuple[DnsWorker, FeedNode]]
PATIENCE_S = 30.0


@pytest.fixture(name="workers")
def _workers(tmp_path: Path) -> Iterator[Workers]:
    with contextlib.ExitStack() as stack:

        def make(*entries: str, **settings: Any) -> tuple[DnsWorker, FeedNode]:
            node = FeedNode(tmp_path / f"feed-{time.monotonic_ns()}")
            stack.callback(node.close)
            options = {"forward": list(entries), **settings}
            worker = stack.enter_context(DnsWorker(node.path, settings=options))
            node.accept()
            alias = Service("default", "out", type="external", external_name=OUTSIDE)
            node.sync([instance_record(instance("web", "web-0", "10.0.0.7"))], [record_of(alias)])
            return worker, node

        yield make


def ask(worker: DnsWorker, name: str, rtype: str = "A", *, edns: int | None = None, rd: bool = True) -> Any:
    return dnslib.DNSRecord.parse(worker.ask(question(name, rtype, edns=edns, rd=rd), timeout_s=PATIENCE_S))


def counted(node: FeedNode) -> dict[str, float]:
    """What a worker tells of itself the next time."""
    return {sample.name: sample.value for sample in node.take(feed.Stats).samples}


def data(answer: Any) -> list[str]:
    return [str(record.rdata) for record in answer.rr]


def rcode(answer: Any) -> str:
    return str(dnslib.RCODE.get(answer.header.rcode))


def test_a_name_outside_is_answered_by_the_server_outside_and_one_inside_by_us(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address)
        outside, inside = ask(worker, OUTSIDE), ask(worker, WEB)
    assert data(outside) == ["192.0.2.7"]
    assert (outside.header.ra, outside.header.aa, outside.header.rd) == (1, 0, 1)
    assert data(inside) == ["10.0.0.7"]
    assert (inside.header.ra, inside.header.aa) == (1, 1)
    assert [name.lower() for name in server.asked] == [f"{OUTSIDE}."]


@pytest.mark.parametrize("batched", [True, False])
def test_both_ways_to_move_datagrams_bring_answers_back(workers: Workers, batched: bool) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address, udp_batches=batched)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


def test_the_second_question_is_answered_from_what_is_known(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address)
        first, second = ask(worker, OUTSIDE), ask(worker, "WWW.example.COM")
    assert data(first) == data(second)
    assert len(server.packets) == 1
    assert str(second.q.qname) == "WWW.example.COM."
    assert str(second.rr[0].rname) == "WWW.example.COM."


def test_questions_go_out_from_other_ports_with_other_ids_and_other_letters(workers: Workers) -> None:
    with upstream(honest(rcode="NXDOMAIN")) as server:
        worker, _ = workers(server.address)
        for number in range(12):
            ask(worker, f"number-{number}-of-a-dozen.example.com")
    assert len({sender[1] for sender in server.senders}) >= 11
    assert len({packet[:2] for packet in server.packets}) >= 11
    assert len({name[-len("-of-a-dozen.example.com.") :] for name in server.asked}) >= 11


def test_a_denial_comes_with_its_soa_and_is_remembered(workers: Workers) -> None:
    with upstream(honest(rcode="NXDOMAIN", authority=SOA)) as server:
        worker, _ = workers(server.address)
        first, second = ask(worker, "absent.example.com"), ask(worker, "absent.example.com")
    assert rcode(first) == rcode(second) == "NXDOMAIN"
    assert [record.rtype for record in second.auth] == [dnslib.QTYPE.SOA]
    assert len(server.packets) == 1


def forger(change: Callable[[bytes], bytes]) -> Callable[[Upstream, bytes, bool], list[bytes]]:
    """Sends a forged answer and the true one behind it."""

    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        forged = bytes(reply_to(packet, f"{OUTSIDE}. 300 IN A 203.0.113.66").pack())
        return [change(forged), bytes(reply_to(packet, RECORD).pack())]

    return behave


FORGERIES = {
    "another id": lambda reply: bytes((reply[0] ^ 1,)) + reply[1:],
    "another question": lambda reply: reply.replace(b"\x03", b"\x04", 1).replace(b"w", b"wx", 1),
    "another type": lambda reply: reply[: 12 + 17] + b"\0\x1c" + reply[12 + 19 :],
    "a question": lambda reply: reply[:2] + bytes((reply[2] & 0x7F,)) + reply[3:],
    "no question": lambda reply: reply[:4] + b"\0\0" + reply[6:12] + reply[12 + 21 :],
    "nothing": lambda reply: b"",
    "a stub": lambda reply: reply[:7],
    "noise": lambda reply: b"\xff" * 600,
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_answers_something_else_is_ignored_and_the_answer_waited_for(workers: Workers, what: str) -> None:
    with upstream(forger(FORGERIES[what])) as server:
        worker, _ = workers(server.address)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


def test_an_answer_from_another_port_is_ignored(workers: Workers) -> None:
    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        if len(server.senders) == 1:
            server.send_from_elsewhere(
                bytes(reply_to(packet, f"{OUTSIDE}. 9 IN A 203.0.113.66").pack()), server.senders[0]
            )
        return [bytes(reply_to(packet, RECORD).pack())] if len(server.senders) > 1 else []

    def after(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        return behave(server, packet, stream)

    with upstream(after) as server:
        worker, _ = workers(server.address)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


def test_an_answer_in_other_letters_is_asked_for_again_over_tcp(workers: Workers) -> None:
    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        reply = bytes(reply_to(packet, RECORD if stream else f"{OUTSIDE}. 300 IN A 203.0.113.66").pack())
        return [reply[:12] + reply[12:29].swapcase() + reply[29:]]

    with upstream(behave) as server:
        worker, _ = workers(server.address)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


def test_many_forgeries_move_the_question_to_tcp(workers: Workers) -> None:
    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        reply = bytes(reply_to(packet, RECORD).pack())
        return [reply] if stream else [bytes((reply[0] ^ 1, number)) + reply[2:] for number in range(40)]

    with upstream(behave) as server:
        worker, _ = workers(server.address)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


MANY = [f"{OUTSIDE}. 300 IN A 10.9.{number >> 8}.{number & 255}" for number in range(300)]


def large(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
    return [bytes(reply_to(packet, *MANY).pack() if stream else reply_to(packet, MANY[0], tc=1).pack())]


def test_an_answer_cut_short_is_fetched_over_tcp_and_given_as_far_as_it_fits(workers: Workers) -> None:
    with upstream(large) as server:
        worker, _ = workers(server.address)
        short, longer = ask(worker, OUTSIDE), ask(worker, OUTSIDE, edns=1232)
        with worker.tcp() as sock:
            sock.sendall(framed(question(OUTSIDE, rd=True)))
            whole = dnslib.DNSRecord.parse(read_framed(sock))
    assert (len(whole.rr), whole.header.tc) == (300, 0)
    assert (short.header.tc, longer.header.tc) == (1, 1)
    assert 25 <= len(short.rr) < len(longer.rr) < 80


def test_half_an_answer_is_better_than_none_when_tcp_fails(workers: Workers) -> None:
    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        return [] if stream else large(server, packet, stream)

    with upstream(behave) as server:
        worker, _ = workers(server.address)
        answer = ask(worker, OUTSIDE)
    assert (len(answer.rr), answer.header.tc) == (1, 1)


def test_a_server_that_knows_no_edns_is_asked_without(workers: Workers) -> None:
    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        if dnslib.DNSRecord.parse(packet).ar:
            return [packet[:2] + b"\x81\x81" + packet[4:6] + bytes(6) + packet[12 : 12 + 21]]
        return [bytes(reply_to(packet, RECORD).pack())]

    with upstream(behave) as server:
        worker, _ = workers(server.address)
        assert data(ask(worker, OUTSIDE, edns=1232)) == ["192.0.2.7"]
        ask(worker, "other.example.com")
    assert len(server.packets) == 3


def test_while_one_server_is_silent_another_answers(workers: Workers) -> None:
    with upstream(silent) as mute, upstream(honest(RECORD)) as server:
        worker, _ = workers(mute.address, server.address)
        for number in range(5):
            assert data(ask(worker, f"n{number}.example.com")) == ["192.0.2.7"]


@pytest.mark.parametrize("answered", ["SERVFAIL", "REFUSED"])
def test_a_server_that_cannot_is_passed_over_at_once(workers: Workers, answered: str) -> None:
    with upstream(honest(rcode=answered)) as unable, upstream(honest(RECORD)) as server:
        worker, _ = workers(unable.address, server.address)
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]


def test_a_server_that_is_gone_costs_nothing_and_nobody_left_is_servfail(workers: Workers) -> None:
    with upstream(honest(RECORD)) as gone, upstream(honest(RECORD)) as server:
        worker, _ = workers(gone.address, server.address)
        gone.close()
        assert data(ask(worker, OUTSIDE)) == ["192.0.2.7"]
        server.close()
        failed = ask(worker, "other.example.com", edns=1232)
    assert rcode(failed) == "SERVFAIL"
    assert extended_errors(failed) == [22]
    assert rcode(ask(worker, "short")) == "NXDOMAIN"


def extended_errors(answer: Any) -> list[int]:
    options = [option for record in answer.ar if record.rtype == dnslib.QTYPE.OPT for option in record.rdata]
    return [struct.unpack("!H", option.data[:2])[0] for option in options if option.code == 15]


def test_what_was_known_is_told_when_nobody_answers_any_more(workers: Workers) -> None:
    with upstream(honest(f"{OUTSIDE}. 1 IN A 192.0.2.7")) as server:
        worker, _ = workers(server.address)
        assert ask(worker, OUTSIDE).rr[0].ttl == 1
        server.close()

        def stale() -> bool:
            answer = ask(worker, OUTSIDE, edns=1232)
            assert data(answer) == ["192.0.2.7"]
            return extended_errors(answer) == [3]

        eventually(stale, PATIENCE_S, "an answer marked as stale")


def test_a_silent_server_keeps_no_question_about_the_zone_waiting(workers: Workers) -> None:
    with upstream(silent) as server:
        worker, _ = workers(server.address)
        with worker.udp() as waiting:
            for number in range(200):
                waiting.send(question(f"n{number}.example.com", rd=True, ident=number))
            eventually(lambda: len(server.packets) >= 50, PATIENCE_S, "the questions to arrive")
            started = time.monotonic()
            for _ in range(50):
                assert data(ask(worker, WEB)) == ["10.0.0.7"]
            assert time.monotonic() - started < 20.0  # 200 questions that wait 4 s each


def test_many_who_ask_the_same_cost_one_question(workers: Workers) -> None:
    with upstream(silent) as server:
        worker, _ = workers(server.address)
        with worker.udp() as one:
            for number in range(100):
                one.send(question(OUTSIDE, rd=True, ident=number))
            eventually(lambda: server.packets, PATIENCE_S, "the question to arrive")
            assert data(ask(worker, WEB)) == ["10.0.0.7"]  # all before it have been read
            server.behave = honest(RECORD)
            one.settimeout(PATIENCE_S)
            assert {one.recv(512)[1] for _ in range(100)} == set(range(100))
    assert len({name.lower() for name in server.asked}) == 1
    assert len(server.packets) <= 12  # sent again when the machine is slow


def test_an_alias_that_leads_out_of_the_zone_is_followed(workers: Workers) -> None:
    with upstream(honest(f"{OUTSIDE}. 9 IN CNAME cdn.example.net.", "cdn.example.net. 9 IN A 192.0.2.9")) as server:
        worker, _ = workers(server.address)
        answer = ask(worker, "out.default.svc.cluster.local")
        alias = ask(worker, "out.default.svc.cluster.local", "CNAME")
    assert data(answer) == [f"{OUTSIDE}.", "cdn.example.net.", "192.0.2.9"]
    assert [str(record.rname) for record in answer.rr][1:] == [f"{OUTSIDE}.", "cdn.example.net."]
    assert data(alias) == [f"{OUTSIDE}."]


def test_a_zone_has_servers_of_its_own_and_reverse_names_of_private_addresses_stay(workers: Workers) -> None:
    with upstream(honest(RECORD)) as world, upstream(honest("x. 9 IN A 192.0.2.1")) as office:
        worker, _ = workers(world.address, f"corp.example={office.address}", f"9.10.in-addr.arpa={office.address}")
        assert data(ask(worker, "files.corp.example")) == ["192.0.2.1"]
        assert data(ask(worker, "corp.example.com")) == ["192.0.2.7"]
        assert rcode(ask(worker, "1.1.9.10.in-addr.arpa", "PTR")) == "NOERROR"
        assert rcode(ask(worker, "1.1.8.10.in-addr.arpa", "PTR")) == "NXDOMAIN"
        for special in ("a.invalid", "a.onion", "a.test", "printer.local", "1.254.169.in-addr.arpa"):
            assert rcode(ask(worker, special)) == "NXDOMAIN", special
        assert data(ask(worker, "localhost")) == ["127.0.0.1"]
        assert rcode(ask(worker, f"absent.{WEB}")) == "NXDOMAIN"
    assert {name.lower() for name in world.asked} == {"corp.example.com."}
    assert {name.lower() for name in office.asked} == {"files.corp.example.", "1.1.9.10.in-addr.arpa."}


def test_who_may_not_ask_is_refused_even_what_is_known(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address, forward_clients=["10.0.0.0/8"])
        refused = ask(worker, OUTSIDE, edns=1232)
        assert (rcode(refused), extended_errors(refused)) == ("REFUSED", [18])
        assert rcode(ask(worker, "short")) == "NXDOMAIN"
        assert data(ask(worker, WEB)) == ["10.0.0.7"]
        assert data(ask(worker, "out.default.svc.cluster.local")) == [f"{OUTSIDE}."]
    assert server.packets == []


def test_who_does_not_want_us_to_ask_is_not_served(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address)
        assert rcode(ask(worker, OUTSIDE, rd=False)) == "REFUSED"
    assert server.packets == []


def test_two_servers_that_send_questions_to_each_other_notice(workers: Workers) -> None:
    with upstream(silent) as place:
        first, node = workers(place.address)
        second, _ = workers(f"127.0.0.1:{first.port}")
        place.behave = passing_on(second)
        assert rcode(ask(first, OUTSIDE)) == "SERVFAIL"
        eventually(lambda: counted(node)["dns_forward_loops_total"] >= 1, PATIENCE_S, "the loop to be counted")
    assert len(place.packets) <= 6


def passing_on(worker: DnsWorker) -> Callable[[Upstream, bytes, bool], list[bytes]]:
    """Stands for a network: what it is asked another is asked, and what that answers it answers."""

    def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
        with contextlib.suppress(TimeoutError):
            return [worker.ask(packet, timeout_s=3.0)]
        return []

    return behave


def test_a_loop_through_a_server_that_passes_on_nothing_but_the_question_is_noticed_by_its_letters(
    workers: Workers,
) -> None:
    with upstream(silent) as foreign:
        worker, node = workers(foreign.address)

        def behave(server: Upstream, packet: bytes, stream: bool) -> list[bytes]:
            asked = dnslib.DNSRecord.parse(packet)
            asked.ar = []
            return [worker.ask(bytes(asked.pack()), timeout_s=3.0)]

        foreign.behave = behave
        assert rcode(ask(worker, OUTSIDE)) == "SERVFAIL"
        eventually(lambda: counted(node)["dns_forward_loops_total"] >= 1, PATIENCE_S, "the loop to be counted")
    assert len(foreign.packets) <= 6


def test_tcp_clients_are_answered_as_answers_come_and_may_close_their_side(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, _ = workers(server.address)
        with worker.tcp() as sock:
            asked = [
                question(OUTSIDE, rd=True, ident=1),
                question(WEB, ident=2),
                question("n.example.com", rd=True, ident=3),
            ]
            sock.sendall(b"".join(map(framed, asked)))
            sock.shutdown(socket.SHUT_WR)
            assert {int.from_bytes(read_framed(sock)[:2], "big") for _ in range(3)} == {1, 2, 3}
            assert sock.recv(1) == b""


def test_more_open_questions_of_a_tcp_client_than_are_owed_wait_their_turn(workers: Workers) -> None:
    with upstream(silent) as server:
        worker, _ = workers(server.address)
        with worker.tcp() as sock:
            names = [f"n{number}.example.com" for number in range(150)]
            sock.sendall(b"".join(framed(question(name, rd=True, ident=at)) for at, name in enumerate(names)))
            eventually(lambda: len(server.packets) >= 64, PATIENCE_S, "the first questions to arrive")
            server.behave = honest(RECORD)
            assert {int.from_bytes(read_framed(sock)[:2], "big") for _ in names} == set(range(150))


def test_one_client_never_takes_the_last_place_of_another(workers: Workers) -> None:
    with upstream(silent) as server:
        worker, _ = workers(server.address)
        with worker.udp() as greedy, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as modest:
            greedy.settimeout(PATIENCE_S)
            for number in range(600):
                greedy.send(question(f"n{number}.example.com", rd=True, ident=number))
                if number % 50 == 49:
                    assert data(ask(worker, WEB)) == ["10.0.0.7"]  # the batch has been read
            modest.bind(("127.0.0.2", 0))
            modest.connect((worker.host, worker.port))
            modest.send(question("modest.example.com", rd=True))
            eventually(lambda: "modest.example.com." in [name.lower() for name in server.asked], PATIENCE_S, "his turn")


def test_a_worker_that_is_told_to_go_leaves_no_question_unanswered(workers: Workers) -> None:
    with upstream(silent) as server:
        worker, _ = workers(server.address)
        with worker.udp() as sock:
            sock.settimeout(PATIENCE_S)
            sock.send(question(OUTSIDE, rd=True))
            eventually(lambda: server.packets, PATIENCE_S, "the question to arrive")
            assert worker.stop() == 0
            assert rcode(dnslib.DNSRecord.parse(sock.recv(512))) == "SERVFAIL"


def test_counters_tell_what_became_of_the_questions(workers: Workers) -> None:
    with upstream(honest(RECORD)) as server:
        worker, node = workers(server.address)
        ask(worker, OUTSIDE)
        ask(worker, OUTSIDE)

        eventually(lambda: counted(node)["dns_forward_cache_hits_total"] == 1, PATIENCE_S, "the counters")
        found = counted(node)
    assert found["dns_forward_questions_total"] == 1
    assert found["dns_upstream_answers_total"] == 1
    assert found["dns_upstream_up"] == 1
    assert found["dns_dropped_total"] == 0


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("wildcard", "asked"), [("0.0.0.0", "127.0.0.9"), ("::", "::1")])
def test_a_late_answer_comes_from_the_address_that_was_asked(
    tmp_path: Path, wildcard: str, asked: str, batched: bool
) -> None:
    node = FeedNode(tmp_path / "feed")
    with upstream(honest(RECORD)) as server:
        options = {"forward": [server.address], "udp_batches": batched}
        with DnsWorker(node.path, host=wildcard, settings=options) as worker:
            node.accept()
            node.sync()
            with socket.socket(worker.listener.family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect((asked, worker.port))  # takes nothing from another address
                sock.send(question(OUTSIDE, rd=True))
                assert data(dnslib.DNSRecord.parse(sock.recv(512))) == ["192.0.2.7"]
    node.close()
