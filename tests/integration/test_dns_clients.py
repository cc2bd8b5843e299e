"""A worker and the clients that people have: dig with every option, and what dig says of the answers."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.testing.dns_case import instance, instance_record, question
from discovery.testing.dns_worker import DnsWorker, FeedNode

WEB = "web.default.svc.cluster.local"
COMPLAINTS = ("malformed", "extra bytes", "mismatch", "bad packet")


@pytest.fixture(name="worker", scope="module")
def _worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsWorker]:
    node = FeedNode(Path(tmp_path_factory.mktemp("feed")) / "feed")
    with DnsWorker(node.path, settings={"node": "n1", "log_level": "warning"}) as worker:
        node.accept()
        meta = (("alpn", "h2"), ("path", "/index"))
        specs = [
            instance("web", f"web-{n}", f"10.0.0.{n}", ports={"https": 443, "http": 80}, meta=meta) for n in range(3)
        ]
        node.sync([instance_record(spec) for spec in specs])
        yield worker
    node.close()


@pytest.fixture(name="dig")
def _dig(worker: DnsWorker, require_tool: Callable[[str, str], str]) -> Callable[..., str]:
    require_tool("dig", "bind9-dnsutils")

    def ask(*arguments: str) -> str:
        command = ["dig", f"@{worker.host}", "-p", str(worker.port), "+tries=3", "+time=10", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said = ran.stdout + ran.stderr
        assert not [word for word in COMPLAINTS if word in said.lower()], said
        return said

    return ask


def test_dig_gets_our_name(dig: Callable[..., str]) -> None:
    assert '("n1")' in dig("+nsid", WEB)
    assert dig("+short", "CH", "TXT", "id.server") == '"n1"\n'


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_believes_our_cookie_and_we_believe_dig(dig: Callable[..., str], transport: str) -> None:
    """It says "(good)" of a cookie that holds the one it sent."""
    first = dig(transport, "+cookie=0123456789abcdef", WEB)
    found = re.search(r"COOKIE: ([0-9a-f]{48}) \(good\)", first)
    assert found, first
    assert f"COOKIE: {found[1]} (good)" in dig(transport, f"+cookie={found[1]}", WEB)


def test_dig_gets_a_cookie_without_a_question(dig: Callable[..., str]) -> None:
    said = dig("+header-only", "+cookie=0123456789abcdef")
    assert "status: NOERROR" in said
    assert "QUERY: 0" in said
    assert re.search(r"COOKIE: [0-9a-f]{48} \(good\)", said)


def test_dig_is_told_how_long_a_connection_may_be_idle(dig: Callable[..., str]) -> None:
    assert "TCP KEEPALIVE: 10.0 secs" in dig("+tcp", "+keepalive", WEB) or "TCP-KEEPALIVE: 10.0 secs" in dig(
        "+tcp", "+keepalive", WEB
    )
    assert "KEEPALIVE" not in dig("+notcp", "+keepalive", WEB)


def test_dig_reads_service_bindings(dig: Callable[..., str]) -> None:
    said = sorted(dig("+short", WEB, "HTTPS").splitlines())
    assert said == [f'1 web-{n}.{WEB}. alpn="h2" port=443 ipv4hint=10.0.0.{n}' for n in range(3)]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("+edns=1", "+noednsneg"), "BADVERS"),
        (("+edns=1", "+noednsneg", "+ednsopt=100"), "BADVERS"),
        (("+ednsopt=100:00",), "NOERROR"),
        (("+ednsflags=0x40",), "NOERROR"),
        (("+dnssec", "+ednsflags=0x40"), "NOERROR"),
        (("+opcode=15",), "NOTIMP"),
        (("+tcp", "+dnssec"), "NOERROR"),
        (("+bufsize=512", "+dnssec", "+ignore"), "NOERROR"),
    ],
)
def test_dig_finds_edns_as_it_should_be(dig: Callable[..., str], arguments: tuple[str, ...], status: str) -> None:
    said = dig(*arguments, WEB)
    assert f"status: {status}" in said
    assert re.search(r"EDNS: version: 0, flags:( do)?; udp: 1232", said), said
    assert ("flags: do" in said) == ("+dnssec" in arguments)


def test_who_asks_too_much_is_told_to_use_tcp_or_a_cookie_and_then_answered(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("dig", "bind9-dnsutils")
    node = FeedNode(tmp_path / "feed")
    limited = {"rate_limit": 20, "rate_slip": 1, "rate_exempt": ["10.0.0.0/8"], "log_level": "warning"}
    with DnsWorker(node.path, host="0.0.0.0", settings=limited) as worker:
        node.accept()
        node.sync([instance_record(instance("web", "web-0", "10.0.0.1"))])
        asked = question(WEB, edns=1232)
        flags: set[int] = set()
        end = time.monotonic() + 30
        with worker.udp() as sock:
            sock.settimeout(30)
            while flags != {0, 2} and time.monotonic() < end:  # bursts: within one second also on a slow machine
                for _ in range(60):
                    sock.send(asked)
                flags |= {sock.recv(65535)[2] & 2 for _ in range(60)}
        assert flags == {0, 2}, "whole answers first, then those with TC"
        command = ["dig", "@127.0.0.1", "-p", str(worker.port), "+short", "+tries=3", "+time=10", WEB]
        for way in ("+nocookie", "+cookie"):
            ran = subprocess.run([*command, way], capture_output=True, text=True, timeout=60, check=False)
            assert ran.stdout == "10.0.0.1\n", ran.stdout + ran.stderr
    node.close()
