"""The node's end of the control channel."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from discovery.control import Control

Pair = tuple[socket.socket, Control]


@pytest.fixture
def pair() -> Iterator[Pair]:
    supervisor, node = socket.socketpair()
    supervisor.settimeout(5)
    with supervisor, node:
        yield supervisor, Control(node)


def said(supervisor: socket.socket) -> list[object]:
    return [json.loads(line) for line in supervisor.recv(65536).splitlines()]


async def test_each_list_of_workers_is_passed_on(pair: Pair) -> None:
    supervisor, control = pair
    lists: asyncio.Queue[object] = asyncio.Queue()
    supervisor.sendall(b'{"workers": []}\n{"workers": [[0, ')  # before anybody listens, and cut in the middle
    control.listen(lists.put_nowait)
    assert await asyncio.wait_for(lists.get(), 5) == []
    supervisor.sendall(b"77], [1, 78]]}\n")
    assert await asyncio.wait_for(lists.get(), 5) == [(0, 77), (1, 78)]
    control.close()


async def test_the_end_of_the_supervisor_ends_the_listening(pair: Pair) -> None:
    supervisor, control = pair
    control.listen(lambda workers: None)
    supervisor.shutdown(socket.SHUT_RDWR)
    for _ in range(3):
        await asyncio.sleep(0)
    control.waiting("nobody")  # is no error


def test_what_is_waited_for_is_said_once_while_it_stays_the_same(pair: Pair) -> None:
    supervisor, control = pair
    control.waiting("a leader")
    control.waiting("a leader")
    control.waiting("DNS workers")
    control.ready()
    assert said(supervisor) == [{"waiting": "a leader"}, {"waiting": "DNS workers"}, {"ready": True}]


def test_the_reason_of_a_fatal_end_can_be_said_without_a_loop(pair: Pair) -> None:
    supervisor, control = pair
    control.fatal(2, "another node's directory")
    assert said(supervisor) == [{"fatal": {"exit": 2, "text": "another node's directory"}}]
