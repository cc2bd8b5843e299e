"""What joins the pieces of forwarding: entries to servers, kernel addresses to senders, a resolv.conf that changes."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from discovery import config_forward
from discovery.config_forward import BadTarget, Target
from discovery.dns.forward import Forwarding
from discovery.dns.loop import Loop
from discovery.dns.sender import sender
from discovery.dns.settings import Settings
from discovery.testing.dns_case import Registry, responder


@pytest.mark.parametrize(
    ("entry", "targets"),
    [
        ("192.0.2.1", [Target("", "192.0.2.1", 53)]),
        ("192.0.2.1:5353", [Target("", "192.0.2.1", 5353)]),
        ("2001:DB8::1", [Target("", "2001:db8::1", 53)]),
        ("[2001:db8::1]", [Target("", "2001:db8::1", 53)]),
        ("[2001:db8::1]:54", [Target("", "2001:db8::1", 54)]),
        ("fe80::1%eth0", [Target("", "fe80::1%eth0", 53)]),
        ("::ffff:192.0.2.1", [Target("", "192.0.2.1", 53)]),
        ("Corp.Example.=192.0.2.1:54", [Target("corp.example", "192.0.2.1", 54)]),
        ("10.in-addr.arpa=[fd00::1]", [Target("10.in-addr.arpa", "fd00::1", 53)]),
    ],
)
def test_what_an_entry_names(entry: str, targets: list[Target]) -> None:
    assert config_forward.parse(entry) == targets


@pytest.mark.parametrize(
    "entry", ["", "name.example", "192.0.2.1:", "192.0.2.1:x", "[::1", "::1]", "=", "a=", "192.0.2.1:65536"]
)
def test_what_names_nobody(entry: str) -> None:
    with pytest.raises(BadTarget):
        config_forward.parse(entry)


def test_the_nameserver_lines_of_a_resolv_conf_count(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 x\nnameserver 192.0.2.1\n"
    )
    assert [target.host for target in config_forward.parse(str(file))] == ["192.0.2.1", "2001:db8::1"]
    file.write_text("nameserver 127.0.0.1\nnameserver 192.0.2.1\n")
    assert [target.host for target in config_forward.others(str(file), [("0.0.0.0", 53)])] == ["192.0.2.1"]
    file.write_text("search a\n")
    with pytest.raises(BadTarget, match="no line with a nameserver"):
        config_forward.parse(str(file))


@pytest.mark.parametrize(
    ("entry", "own", "is_own"),
    [
        ("127.0.0.1", ("127.0.0.1", 53), True),
        ("127.0.0.1", ("127.0.0.1", 8600), False),
        ("127.0.0.2", ("127.0.0.1", 53), False),
        ("127.0.0.2", ("0.0.0.0", 53), True),
        ("192.0.2.1", ("0.0.0.0", 53), False),
        ("::1", ("::", 53), True),
    ],
)
def test_ourselves_we_do_not_ask(entry: str, own: tuple[str, int], is_own: bool) -> None:
    assert config_forward.is_own(config_forward.parse(entry)[0], [own]) is is_own


def forwarding(*entries: str) -> Forwarding:
    settings = Settings(forward=entries)
    return Forwarding(
        Loop(), responder(Registry(), settings), Registry().zone().origin, [("127.0.0.1", 53)], lambda: 0.0
    )


def test_a_server_of_two_zones_is_one_server() -> None:
    found = forwarding("192.0.2.1", "corp.example=192.0.2.1", "corp.example=192.0.2.2").forwarder
    assert [upstream.text for upstream in found.upstreams] == ["192.0.2.1:53", "192.0.2.2:53"]
    assert found.pools[()].upstreams[0] is found.pools[(b"corp", b"example")].upstreams[0]


def test_a_resolv_conf_that_changes_is_read_again_and_one_without_servers_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    made = forwarding(str(file))

    def servers_after(text: str) -> list[str]:
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, file)
        made.reload()
        return [upstream.host for upstream in made.forwarder.upstreams]

    assert servers_after("nameserver 192.0.2.2\nnameserver 192.0.2.3\n") == ["192.0.2.2", "192.0.2.3"]
    assert servers_after("search example\n") == ["192.0.2.2", "192.0.2.3"]
    assert servers_after("nameserver 192.0.2.4\n") == ["192.0.2.4"]


def test_a_server_that_stays_keeps_what_is_known_of_it(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    made = forwarding(str(file))
    known = made.forwarder.upstreams[0]
    os.utime(file, ns=(1, 1))
    made.reload()
    assert made.forwarder.upstreams[0] is known


def test_a_sender_as_the_kernel_writes_it() -> None:
    four = struct.pack("=H", socket.AF_INET) + b"\x14\xe9" + bytes((10, 0, 0, 7)) + bytes(8)
    assert sender(four, b"") == ("10.0.0.7", 5353)
    six = struct.pack("=H", socket.AF_INET6) + b"\0\x35" + bytes(4) + bytes(15) + b"\1" + struct.pack("=I", 3)
    assert sender(six, b"") == ("::1", 53, 0, 3)
    control = struct.pack("@Nii", 28, socket.IPPROTO_IP, 8) + b"123456789012" + bytes(4)
    assert sender(four, control) == ([(socket.IPPROTO_IP, 8, b"123456789012")], ("10.0.0.7", 5353))
    assert sender(four, bytes(64)) == ("10.0.0.7", 5353)
