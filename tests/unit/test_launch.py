"""Command lines of the children: what they inherit and are told, and the ready line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from discovery import config, launch, listen


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Any]:
    opened: list[listen.Sockets] = []

    def make(**flags: Any) -> launch.Launch:
        free = {"http": ("127.0.0.1:0",), "dns": ("127.0.0.1:0",), "raft": "127.0.0.1:0", "dns_workers": 2}
        configured = config.load(None, {}, free | flags)
        opened.append(listen.open_sockets(configured))
        return launch.Launch(configured, opened[-1], tmp_path)

    yield make
    for sockets in opened:
        sockets.close()


def test_the_node_is_told_its_configuration_and_inherits_the_listeners(launched: Any, tmp_path: Path) -> None:
    start = launched()
    arguments, fds = start.node(99)
    assert arguments[:2] == ("discovery.node", "--settings")
    settings = msgspec.json.decode(arguments[2], type=launch.NodeSettings)
    assert settings.config == start.config
    assert set(fds) == {sock.fileno() for sock in (*start.sockets.http, *start.sockets.raft)} | {99}
    assert settings.feed == str(tmp_path / "feed")


def test_a_worker_gets_every_dns_address_with_its_tcp_listener(launched: Any) -> None:
    start = launched(dns=("127.0.0.1:0", "127.0.0.2:0"))
    arguments, fds = start.worker(1, "synced")
    given = list(zip(arguments[1::2], arguments[2::2], strict=True))
    listened = [value for name, value in given if name == "--listen"]
    told = json.loads(dict(given)["--settings"])
    assert [*(int(value) for name, value in given if name == "--tcp-fd"), told["cookie_fd"]] == list(fds)
    assert listened == [listen.bound(sock) for sock in start.sockets.dns]
    assert dict(given)["--join"] == "synced"
    assert told["ns_addresses"] == ["127.0.0.1", "127.0.0.2"]


def test_the_apex_name_server_has_the_advertised_address(launched: Any) -> None:
    arguments, _ = launched(dns_advertise="10.0.0.9").worker(0, "now")
    assert json.loads(arguments[arguments.index("--settings") + 1])["ns_addresses"] == ["10.0.0.9"]


def test_the_secret_itself_is_on_no_command_line(launched: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a very secret secret\n")
    start = launched(raft_secret_file=str(secret))
    lines = [*start.node(99)[0], *start.worker(0, "now")[0]]
    assert not any("very secret" in argument for argument in lines)


def test_the_ready_line_shows_what_others_dial(launched: Any) -> None:
    start = launched(
        http=("0.0.0.0:0",),
        http_insecure=True,
        http_advertise="http://n1.example:8500",
        raft_advertise="n1.example:8300",
    )
    assert start.ready_line() == (
        f"ready id=n1 http=http://n1.example:8500 dns={listen.bound(start.sockets.dns[0])} raft=n1.example:8300"
    )
