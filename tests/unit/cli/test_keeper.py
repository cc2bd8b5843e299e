"""A registration against servers that come, go and forget."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Any

import pytest

from discovery.cli.client import Answer, Unreachable
from discovery.cli.keeper import Keeper, Registration

PATH = "/api/v1/namespaces/default/services/web/instances/web-0"
TTL_S = 9.0


class Cluster:
    """Gives the answers it was told, in turn, the last for ever; ``None``: no server answers."""

    def __init__(self, *answers: tuple[int, object] | None) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes | None] = []
        self.timeouts: list[float | None] = []

    def send(self, method: str, path: str, body: bytes | None = None, headers: Any = None, *,
             timeout_s: float | None = None) -> Answer:  # fmt: skip
        self.asked.append((method, path.removeprefix(PATH)))
        self.bodies.append(body)
        self.timeouts.append(timeout_s)
        answer = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise Unreachable("no server answered")
        return Answer(answer[0], {}, json.dumps(answer[1]).encode(), "http://n1")


CREATED = (201, {"lease": {"id": "00aa", "ttl": TTL_S, "remaining": TTL_S}})
RENEWED = (200, {"ttl": TTL_S, "remaining": TTL_S})
GONE = (404, {"detail": "no such instance"})
TAKEN = (409, {"detail": "held by another lease"})
NO_LEADER = (503, {"detail": "no leader"})
REFUSED = (400, {"detail": "bad"})


def registration(cluster: Cluster, said: list[str] | None = None) -> Registration:
    return Registration(cluster, PATH, {"addresses": ["10.0.0.7"]}, TTL_S, (said if said is not None else []).append)


def test_the_first_step_registers_with_the_ttl() -> None:
    cluster = Cluster(CREATED)
    assert registration(cluster).step() == TTL_S / 3
    assert cluster.asked == [("PUT", "")]
    assert json.loads(cluster.bodies[0] or b"") == {"addresses": ["10.0.0.7"], "ttl": TTL_S}


def test_heartbeats_follow_at_a_third_of_the_ttl_and_name_the_lease() -> None:
    cluster = Cluster(CREATED, RENEWED)
    ours = registration(cluster)
    assert [ours.step() for _ in range(3)] == [TTL_S / 3] * 3
    assert cluster.asked[1:] == [("PUT", "/heartbeat?lease=00aa")] * 2


def test_without_a_ttl_the_server_chooses_it() -> None:
    cluster = Cluster((201, {"lease": {"id": "00aa", "ttl": 30}}))
    assert Registration(cluster, PATH, {"a": 1}, None, print).step() == 10
    assert json.loads(cluster.bodies[0] or b"") == {"a": 1}


def test_a_404_registers_again_at_once() -> None:
    cluster = Cluster(CREATED, GONE, CREATED)
    ours = registration(cluster)
    ours.step()
    assert ours.step() == 0
    assert ours.step() == TTL_S / 3
    assert cluster.asked == [("PUT", ""), ("PUT", "/heartbeat?lease=00aa"), ("PUT", "")]


def test_a_successor_is_not_fought_but_replaced_once_it_has_gone() -> None:
    cluster = Cluster(CREATED, TAKEN, TAKEN, GONE, CREATED)
    ours = registration(cluster)
    delays = [ours.step() for _ in range(5)]
    assert delays == [3, 3, 3, 0, 3]
    assert [path for _, path in cluster.asked] == ["", *["/heartbeat?lease=00aa"] * 3, ""]


@pytest.mark.parametrize("trouble", [None, NO_LEADER])
def test_without_an_answer_it_tries_again_soon_and_ever_less_often(trouble: tuple[int, object] | None) -> None:
    ours = registration(Cluster(trouble))
    assert [ours.step() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_failed_heartbeat_keeps_the_lease() -> None:
    cluster = Cluster(CREATED, None, RENEWED)
    ours = registration(cluster)
    assert [ours.step() for _ in range(3)] == [3, 0.1, 3]
    assert cluster.asked[2] == ("PUT", "/heartbeat?lease=00aa")


def test_a_heartbeat_waits_for_one_server_no_longer_than_half_its_interval() -> None:
    cluster = Cluster(CREATED, RENEWED)
    ours = registration(cluster)
    ours.step()
    ours.step()
    assert cluster.timeouts[1] == TTL_S / 6


def test_what_the_server_would_not_take_is_said_once_and_tried_at_the_usual_pace() -> None:
    said: list[str] = []
    ours = registration(Cluster(REFUSED), said)
    assert [ours.step(), ours.step()] == [3, 3]
    assert said == ["cannot register: bad (400 from http://n1)"]


def test_trouble_is_said_when_it_begins_and_not_again() -> None:
    said: list[str] = []
    ours = registration(Cluster(CREATED, None, None, RENEWED, None), said)
    for _ in range(5):
        ours.step()
    assert said == [
        "registered as web-0 by http://n1, lease 00aa",
        "no server answered",
        "no server answered",
    ]


def test_leaving_drains_and_deregisters_under_the_lease() -> None:
    cluster = Cluster(CREATED, RENEWED)
    ours = registration(cluster)
    ours.step()
    ours.drain()
    ours.deregister()
    assert cluster.asked[1:] == [("PUT", "/status?lease=00aa"), ("DELETE", "?lease=00aa")]
    assert cluster.bodies[1] == b'{"status":"draining"}'


def test_what_never_was_registered_needs_no_leaving() -> None:
    cluster = Cluster(None)
    ours = registration(cluster)
    ours.step()
    ours.drain()
    ours.deregister()
    assert len(cluster.asked) == 1


def test_leaving_survives_servers_that_do_not_answer() -> None:
    said: list[str] = []
    ours = registration(Cluster(CREATED, None), said)
    ours.step()
    ours.drain()
    ours.deregister()
    assert said[1:] == ["no server answered\nthe registration ends with its lease"]


def test_the_keeper_steps_until_it_is_told_to_leave() -> None:
    registered = threading.Event()
    cluster = Cluster(CREATED, RENEWED)
    ours = Registration(cluster, PATH, {}, TTL_S, lambda _: registered.set())
    keeper = Keeper(ours)
    keeper.start()
    assert registered.wait(5)
    keeper.leave()
    assert keeper.left.wait(5)
    assert cluster.asked == [("PUT", ""), ("PUT", "/status?lease=00aa"), ("DELETE", "?lease=00aa")]


def test_a_draining_instance_stays_registered_for_the_pause() -> None:
    drained = threading.Event()
    cluster = Cluster(CREATED, RENEWED)
    ours = registration(cluster)
    ours.step()
    ours.drain = drained.set  # type: ignore[method-assign]
    keeper = Keeper(ours, drain_s=60)
    keeper.start()
    keeper.leave()
    assert drained.wait(5)
    assert not keeper.left.is_set()
    keeper.leave(hurry=True)
    assert keeper.left.wait(5)
    assert cluster.asked[-1] == ("DELETE", "?lease=00aa")
