"""The supervisor's sockets: what is held, and errors an operator can act on."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from discovery import config, listen
from discovery.errors import ConfigError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "RETRY_S", 0.1)


@pytest.fixture
def held() -> Iterator[Any]:
    sockets: list[socket.socket] = []

    def hold(kind: socket.SocketKind, port: int = 0, reuse: bool = False) -> int:
        sock = socket.socket(socket.AF_INET, kind)
        sockets.append(sock)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        number: int = sock.getsockname()[1]
        return number

    yield hold
    for sock in sockets:
        sock.close()


def configured(**flags: Any) -> config.Config:
    free = {"http": ("127.0.0.1:0",), "dns": ("127.0.0.1:0",), "raft": "127.0.0.1:0"}
    return config.load(None, {}, free | flags)


def refusal(**flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        listen.open_sockets(configured(**flags))
    return caught.value.detail


def test_every_listener_is_bound_and_listens() -> None:
    sockets = listen.open_sockets(configured(http=("127.0.0.1:0", "127.0.0.2:0")))
    try:
        assert [sock.getsockname()[0] for sock in sockets.http] == ["127.0.0.1", "127.0.0.2"]
        for sock in sockets.every():
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
            assert not sock.get_inheritable()
    finally:
        sockets.close()


def test_the_dns_port_is_left_free_for_the_workers_udp_sockets(held: Any) -> None:
    sockets = listen.open_sockets(configured())
    try:
        assert held(socket.SOCK_DGRAM, sockets.dns[0].getsockname()[1], reuse=True)
    finally:
        sockets.close()


@pytest.mark.parametrize(("flag", "option"), [("http", "--http (key http.listen)"), ("dns", "--dns (key dns.listen)")])
def test_a_port_in_use_is_named_with_its_option(flag: str, option: str, held: Any) -> None:
    port = held(socket.SOCK_STREAM)
    text = refusal(**{flag: (f"127.0.0.1:{port}",)})
    assert text.startswith(f"{option}: 127.0.0.1:{port}: TCP port {port} is in use by another process")


def test_the_raft_port_in_use_is_named_too(held: Any) -> None:
    port = held(socket.SOCK_STREAM)
    assert refusal(raft=f"127.0.0.1:{port}").startswith(f"--raft (key raft.listen): 127.0.0.1:{port}: TCP port {port}")


def test_a_foreign_daemon_that_shares_the_udp_port_is_found(held: Any) -> None:
    port = held(socket.SOCK_DGRAM, reuse=True)
    assert f"UDP port {port} is in use" in refusal(dns=(f"127.0.0.1:{port}",))


def test_an_address_of_another_host_is_refused() -> None:
    assert refusal(dns=("203.0.113.254:8600",)) == (
        "--dns (key dns.listen): 203.0.113.254:8600: no interface of this host has that address"
    )


def test_a_privileged_port_says_what_would_give_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    text = refusal(http=("127.0.0.1:80",))
    assert text.startswith("--http (key http.listen): 127.0.0.1:80: TCP port 80 needs a right")
    assert "CAP_NET_BIND_SERVICE" in text
    assert "net.ipv4.ip_unprivileged_port_start" in text


def test_a_failure_leaves_no_socket_behind(held: Any) -> None:
    port = held(socket.SOCK_STREAM)
    before = len(os.listdir("/proc/self/fd"))
    refusal(raft=f"127.0.0.1:{port}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_port_that_is_given_up_in_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(listen, "RETRY_S", 5.0)
    monkeypatch.setattr(listen.time, "sleep", lambda _: leaving.close())
    sockets = listen.open_sockets(configured(raft=f"127.0.0.1:{leaving.getsockname()[1]}"))
    sockets.close()


def test_the_address_shown_is_one_that_can_be_dialled() -> None:
    sockets = listen.open_sockets(configured(http=("0.0.0.0:0", "127.0.0.2:0"), http_insecure=True))
    try:
        assert listen.preferred(sockets.http).startswith("127.0.0.2:")
        assert listen.preferred(sockets.http[:1]).startswith("127.0.0.1:")
        assert listen.dialable("[::]:80") == "[::1]:80"
    finally:
        sockets.close()
