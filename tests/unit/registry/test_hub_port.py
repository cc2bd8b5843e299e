"""Who joins the port of a node that starts cold: nobody beside one that could only say SERVFAIL."""

from __future__ import annotations

import time

import pytest

from discovery import feed
from discovery.command import Found, Meta, encode
from discovery.hub import Hub
from discovery.store import Store


@pytest.fixture
async def hub(tmp_path):
    """Over an empty store, with two workers of a first start: the first is on the port, the second may join it."""
    made, store = Hub(lambda pid: None, time.monotonic, lambda sock: 0), Store()
    store.apply(encode(Found("h1")), Meta(1, 1, 1_000))
    await made.start(str(tmp_path / "feed"))
    made.use(store)
    made.set_workers([(0, 4711), (1, 4799)])
    yield made
    await made.stop()


def counted(worker):
    return any(isinstance(frame, feed.State) and frame.counted for frame in worker.frames)


async def test_nobody_joins_the_port_while_one_that_is_on_it_has_no_view(hub, worker, until, tmp_path):
    """Or a part of the questions would go on meeting SERVFAIL although another worker knows the answer."""
    second = await worker(str(tmp_path / "feed"), 4799)
    await until(second.in_step)
    hub.tell(True, 0)
    await until(lambda: isinstance(second.frames[-1], feed.State))
    assert not counted(second), "the first one is on the port, and did not come yet"
    await worker(str(tmp_path / "feed"), 4711)
    await until(lambda: counted(second))
    assert not hub.behind()


async def test_one_that_gets_no_view_keeps_nobody_off_the_port_once_it_is_replaced(hub, worker, until, tmp_path):
    second = await worker(str(tmp_path / "feed"), 4799)
    await until(second.in_step)
    hub.set_workers([(0, 4712), (1, 4799)])
    hub.tell(True, 0)
    await until(lambda: counted(second))
