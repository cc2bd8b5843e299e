"""``snapshot save | restore | inspect``: a file is whole and right, or it is not there and the text says why."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from discovery.command import Found, Meta, Put, encode
from discovery.store import Store, backup

Cli = Any


@pytest.fixture(scope="module")
def data() -> bytes:
    """A backup of a few keys."""
    store = Store()
    commands = [Found("h1"), *(Put(f"k{number}", b"x" * 50_000) for number in range(10))]
    for index, command in enumerate(commands):
        store.apply(encode(command), Meta(index, 1, 1_700_000_000_000))
    snapshot = store.snapshot()
    head = backup.header(snapshot, version="1.0", node="n1", zone="cluster.local", time_ms=1_700_000_000_000)
    return b"".join(backup.write(snapshot, head))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.snapshot"


def test_save_asks_strongly_and_leaves_one_whole_private_file(cli: Cli, server: Any, data: bytes, file: Path) -> None:
    server.will_answer((200, data))
    result = cli("snapshot", "save", str(file))
    assert result.exit_code == 0, result.output
    assert server.asked[0].path == "/api/v1/snapshot?consistency=strong"
    assert file.read_bytes() == data
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [file.name]
    assert "revision    10" in result.output
    assert "checksum right" in result.output


def test_save_without_a_leader_takes_what_the_node_has(cli: Cli, server: Any, data: bytes, file: Path) -> None:
    server.will_answer((200, data))
    assert cli("snapshot", "save", str(file), "--stale").exit_code == 0
    assert server.asked[0].path == "/api/v1/snapshot"


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(cli: Cli, server: Any, data: bytes, file: Path) -> None:
    file.write_bytes(b"the last good one")
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"<html>"):
        server.will_answer((200, damaged))
        result = cli("snapshot", "save", str(file))
        assert result.exit_code == 1
        assert "snapshot" in result.output
        assert file.read_bytes() == b"the last good one"
        assert os.listdir(file.parent) == [file.name]
    server.will_answer((200, data))
    assert cli("snapshot", "save", str(file)).exit_code == 0
    assert file.read_bytes() == data


def test_what_the_server_refuses_is_said_and_leaves_no_file(cli: Cli, server: Any, file: Path) -> None:
    server.will_answer((503, {"detail": "no leader is known"}))
    result = cli("snapshot", "save", str(file))
    assert (result.exit_code, os.listdir(file.parent)) == (1, [])
    assert "no leader is known (503" in result.output


def test_the_next_server_is_asked_when_one_cannot(
    cli: Cli, server: Any, second_server: Any, data: bytes, file: Path
) -> None:
    server.will_answer((503, {"detail": "starting"}))
    second_server.will_answer((200, data))
    servers = ("--server", server.url, "--server", second_server.url)
    assert cli("snapshot", "save", str(file), *servers).exit_code == 0
    assert file.read_bytes() == data


def test_a_full_disk_here_is_not_taken_for_a_broken_server(
    cli: Cli, server: Any, data: bytes, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    server.will_answer((200, data))
    result = cli("snapshot", "save", str(file))
    assert result.exit_code == 1
    assert "all.snapshot.part: No space left on device" in result.output
    assert os.listdir(file.parent) == []


def test_a_folder_that_is_not_there_is_named(cli: Cli, server: Any, data: bytes, tmp_path: Path) -> None:
    server.will_answer((200, data))
    result = cli("snapshot", "save", str(tmp_path / "none" / "x"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.output


def test_inspect_shows_what_is_in_the_file_and_asks_nobody(cli: Cli, server: Any, data: bytes, file: Path) -> None:
    file.write_bytes(data)
    shown = cli("snapshot", "inspect", str(file))
    assert shown.exit_code == 0
    for text in ("history     h1", "zone        cluster.local", "keys        10", "taken       2023-11-14T22:13:20Z"):
        assert text in shown.output
    body = json.loads(cli("snapshot", "inspect", str(file), "--json").output)
    assert (body["format"], body["bytes"], body["revision"], body["counts"]["keys"]) == (1, len(data), 10, 10)
    assert server.asked == []


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda data: b"", "ends after 0 bytes"),
        (lambda data: data[:-40], "ends after"),
        (lambda data: data[:1000] + b"?" + data[1001:], "is damaged"),
        (lambda data: b"\x7fELF" + data, "no snapshot of discovery"),
        (lambda data: data.replace(b"snapshot 1", b"snapshot 2", 1), "format 2, this version reads 1"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "restore"])
def test_a_file_that_is_not_right_is_refused_before_any_server_is_asked(
    cli: Cli, server: Any, data: bytes, file: Path, command: str, spoil: Any, text: str
) -> None:
    file.write_bytes(spoil(data))
    result = cli("snapshot", command, str(file))
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {file}: ")
    assert text in result.output
    assert server.asked == []


@pytest.mark.parametrize("command", ["inspect", "restore"])
def test_a_file_that_is_not_there_is_named(cli: Cli, file: Path, command: str) -> None:
    result = cli("snapshot", command, str(file))
    assert (result.exit_code, result.output) == (1, f"error: {file}: No such file or directory\n")


def test_restore_sends_the_file_as_it_is(cli: Cli, server: Any, data: bytes, file: Path) -> None:
    file.write_bytes(data)
    server.will_answer((200, {"revision": 10 + 2**30, "history": "h2", "from": {}}))
    result = cli("snapshot", "restore", str(file))
    assert result.exit_code == 0, result.output
    asked = server.asked[0]
    assert (asked.method, asked.path, asked.body) == ("PUT", "/api/v1/snapshot", data)
    assert asked.headers["Content-Type"] == "application/octet-stream"
    assert asked.headers["Idempotency-Key"]
    assert "revision 1073741834 of history h2" in result.output


def test_a_restore_that_one_server_could_not_take_is_repeated_whole_under_its_key(
    cli: Cli, server: Any, second_server: Any, data: bytes, file: Path
) -> None:
    file.write_bytes(data)
    server.will_answer((504, {"detail": "outcome unknown"}))
    second_server.will_answer((200, {"revision": 1, "history": "h2", "from": {}}))
    servers = ("--server", server.url, "--server", second_server.url)
    result = cli("snapshot", "restore", str(file), "--json", *servers)
    assert json.loads(result.output)["history"] == "h2"
    assert second_server.asked[0].body == data
    assert second_server.asked[0].headers["Idempotency-Key"] == server.asked[0].headers["Idempotency-Key"]


def test_a_cluster_that_is_not_empty_is_told_as_the_server_says_it(
    cli: Cli, server: Any, data: bytes, file: Path
) -> None:
    file.write_bytes(data)
    server.will_answer((409, {"detail": "the cluster is not empty, it holds 1 key(s)"}))
    result = cli("snapshot", "restore", str(file))
    assert result.exit_code == 1
    assert "not empty, it holds 1 key(s) (409" in result.output
