"""Questions between nodes: placed in the stream at once, bounded, answered once."""

from __future__ import annotations

import asyncio

import pytest

from discovery import limits
from discovery.errors import NotFound, OutcomeUnknown, Overloaded, Unavailable
from discovery.raft.codec import AppRequest, AppResponse
from discovery.raft.rpc import Rpc


def linked():
    """Two nodes whose messages arrive at once; and what travelled."""
    travelled = []
    nodes = {}

    def sender(name, other):
        def send(peer, message):
            travelled.append((name, message))
            if peer != other:
                return False
            nodes[other].message(name, message)
            return True

        return send

    nodes["a"], nodes["b"] = Rpc("a", sender("a", "b")), Rpc("b", sender("b", "a"))
    return nodes["a"], nodes["b"], travelled


async def test_a_question_stands_in_the_stream_when_request_returns():
    one, _, travelled = linked()
    future = one.request("b", "k", b"x", 1.0)
    assert travelled[0] == ("a", AppRequest(travelled[0][1].id, "k", b"x"))
    with pytest.raises(NotFound, match="no question of kind 'k'"):
        await future


async def test_what_a_handler_does_before_it_waits_happens_in_the_streams_order():
    one, other, _ = linked()
    seen = []

    def handler(peer, payload):
        seen.append(payload)
        return later(payload)

    async def later(payload):
        await asyncio.sleep(0)
        return payload * 2

    other.on_request("k", handler)
    first, second = one.request("b", "k", b"1", 1.0), one.request("b", "k", b"2", 1.0)
    assert seen == [b"1", b"2"]
    assert await second == b"22"
    assert await first == b"11"


async def test_too_many_unanswered_questions_of_one_peer_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "PEER_REQUESTS_MAX", 3)
    one, other, _ = linked()
    gate = asyncio.Event()

    async def slow(peer, payload):
        await gate.wait()
        return b"done"

    other.on_request("k", slow)
    waiting = [one.request("b", "k", b"", 5.0) for _ in range(3)]
    with pytest.raises(Overloaded):
        await one.request("b", "k", b"", 5.0)
    gate.set()
    assert await asyncio.gather(*waiting) == [b"done"] * 3
    assert await one.request("b", "k", b"", 5.0) == b"done"


async def test_a_lost_stream_leaves_the_outcome_open_and_no_memory_behind():
    one, other, _ = linked()

    async def never(peer, payload):
        await asyncio.Event().wait()
        return b""

    other.on_request("k", never)
    future = one.request("b", "k", b"", 5.0)
    one.disconnected("b")
    with pytest.raises(OutcomeUnknown, match="the connection to b ended"):
        await future
    assert one._asked == {}
    await asyncio.sleep(0)
    other.close()
    await asyncio.sleep(0.01)
    assert other._answering == {}


async def test_an_answer_from_another_peer_or_out_of_the_blue_changes_nothing():
    one = Rpc("a", lambda peer, message: True)
    future = one.request("b", "k", b"", 5.0)
    (number,) = one._asked
    one.message("c", AppResponse(number, "", b"forged"))
    one.message("b", AppResponse(number + 98, "", b"unasked"))
    assert not future.done()
    one.message("b", AppResponse(number, "", b"true"))
    assert await future == b"true"


async def test_an_answer_to_a_former_process_fits_no_question_of_its_successor():
    """Heartbeats would be acknowledged that nobody noted."""
    sent = []
    for _ in range(2):  # the second one is a new process on the same node
        one = Rpc("a", lambda peer, message: sent.append(message) or True)
        future = one.request("b", "heartbeat", b"", 5.0)
    one.message("b", AppResponse(sent[0].id, "", b"of a batch long gone"))
    assert not future.done()
    one.close()
    with pytest.raises(OutcomeUnknown):
        await future


async def test_a_broken_handler_is_an_error_for_the_asker_and_not_for_the_stream(caplog):
    one, other, _ = linked()
    other.on_request("k", lambda peer, payload: 1 // 0)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        await one.request("b", "k", b"", 1.0)
    assert "answering b" in caplog.text or "answering a" in caplog.text


async def test_a_question_to_oneself_needs_no_stream():
    one, _, travelled = linked()
    one.on_request("k", lambda peer, payload: payload + peer.encode())
    assert await one.request("a", "k", b"x", 1.0) == b"xa"
    with pytest.raises(NotFound):
        await one.request("a", "other", b"", 1.0)
    assert travelled == []


async def test_without_a_stream_it_was_surely_not_asked():
    one, _, _ = linked()
    with pytest.raises(Unavailable):
        await one.request("z", "k", b"", 1.0)
