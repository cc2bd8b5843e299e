"""The certificate in use: follows its files, keeps the old one when the new do not fit, and says when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgspec
import pytest

from discovery import credentials
from discovery.raft import certificate
from discovery.raft.certificate import Keeper
from discovery.testing.certificates import Authority

DAY_S = 24 * 3600


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "discovery.raft.certificate")


class Wall:
    """A clock that the test moves."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


def test_a_change_is_taken_up_when_it_has_stayed_for_a_look(authority):
    files = authority.files("n1", days=10)
    keeper = Keeper(files, "n1")
    first = keeper.current
    keeper.look()
    assert keeper.current is first
    authority.put(files, authority.make("n1", days=200))
    keeper.look()
    assert keeper.current is first  # the key may be there and the certificate not yet
    keeper.look()
    assert keeper.current.expires - first.expires > 100 * DAY_S
    taken = keeper.current
    keeper.look()
    assert keeper.current is taken


def test_a_change_half_made_is_never_seen(authority):
    files = authority.files("n1")
    keeper = Keeper(files, "n1")
    pair = authority.make("n1", days=200)
    keeper.look()
    Path(files.key).write_bytes(pair.key)
    keeper.look()
    Path(files.cert).write_bytes(pair.cert)
    keeper.look()
    keeper.look()
    assert keeper.unfit == ""
    assert keeper.current.expires - time.time() > 100 * DAY_S


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda made, files: Path(files.key).write_text("junk"), "in PEM"),
        (lambda made, files: Path(files.key).write_bytes(made.make("n1").key), "is not the key of"),
        (lambda made, files: Path(files.cert).unlink(), "cannot be read: No such file or directory"),
        (lambda made, files: made.put(files, made.make("n2")), "is not for node n1"),
        (lambda made, files: Path(files.ca).write_text(""), "holds no certificate of an authority"),
    ],
    ids=["junk", "another key", "gone", "another node's", "empty authority"],
)
def test_files_that_do_not_fit_are_named_once_and_the_old_stay_in_use(authority, caplog, spoil, word):
    files = authority.files("n1")
    keeper = Keeper(files, "n1")
    first = keeper.current
    spoil(authority, files)
    for _ in range(5):
        keeper.look()
    assert keeper.current is first
    assert word in keeper.unfit
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert word in errors[0]
    assert errors[0].endswith("the one before stays in use")
    authority.ca.write_bytes(authority.pair.cert)
    authority.put(files, authority.make("n1"))
    keeper.look()
    keeper.look()
    assert keeper.unfit == ""
    assert keeper.current is not first


def test_a_node_without_files_that_fit_waits_for_them(authority, caplog):
    files = authority.files("n1")
    gone = msgspec.structs.replace(files, cert=files.cert + ".later")
    keeper = Keeper(gone, "n1")
    assert keeper.current is None
    assert "no peer can be spoken to until it is mended" in caplog.text
    Path(files.cert).rename(gone.cert)
    keeper.look()
    keeper.look()
    assert keeper.current is not None
    assert "is in use, valid until" in caplog.text


def test_the_end_is_reminded_of_daily_and_is_an_error_once_it_has_come(authority, caplog):
    wall = Wall()
    keeper = Keeper(authority.files("n1", days=40), "n1", wall=wall)

    def reminded():
        found = [r.levelname for r in caplog.records if "expires on" in r.getMessage() or "expired" in r.getMessage()]
        caplog.clear()
        return found

    assert reminded() == []
    wall.now += 11 * DAY_S
    keeper.look()
    keeper.look()
    assert reminded() == ["WARNING"]
    wall.now += DAY_S + 1
    keeper.look()
    assert reminded() == ["WARNING"]
    wall.now += 30 * DAY_S
    keeper.look()
    assert reminded() == ["ERROR"]
    assert keeper.current is not None


async def until(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_run_looks_by_itself_and_at_once_when_asked(authority, monkeypatch):
    files = authority.files("n1", days=10)
    keeper = Keeper(files, "n1")
    first = keeper.current
    keeper.ask()  # before it runs: nothing is lost, the files have just been read
    monkeypatch.setattr(certificate, "LOOK_EVERY_S", 1000.0)
    task = asyncio.create_task(keeper.run())
    await until(lambda: keeper._asked is not None)
    authority.put(files, authority.make("n1", days=20))
    keeper.ask()
    await until(lambda: keeper.current is not first)
    second = keeper.current
    monkeypatch.setattr(certificate, "LOOK_EVERY_S", 0.01)
    keeper.ask()
    authority.put(files, authority.make("n1", days=40))
    await until(lambda: keeper.current.expires - second.expires > 10 * DAY_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_old_contexts_go_on_for_what_stands(authority):
    """Nothing of a former certificate is changed by the next: connections under way keep theirs."""
    files = authority.files("n1")
    keeper = Keeper(files, "n1")
    first = keeper.current
    authority.put(files, authority.make("n1"))
    keeper.reload()
    assert isinstance(keeper.current, credentials.Credentials)
    assert keeper.current.server is not first.server
