"""Questions between nodes (batches of heartbeats, remaining TTLs) on the same ordered streams as Raft's messages.

A question stands in the stream where :meth:`Rpc.request` was called, and its handler's first part runs where it
stands in the receiver's order: before any Raft message that was sent after it. The rule "a follower hands its
heartbeats over before it answers a round" rests on this.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from discovery import limits
from discovery.errors import InvalidInput, NotFound, OutcomeUnknown, Overloaded, RegistryError, Unavailable, from_code
from discovery.raft.codec import AppRequest, AppResponse

_log: Final = logging.getLogger(__name__)

Handler = Callable[[str, bytes], bytes | Awaitable[bytes]]
"""(peer, payload) -> answer. What must keep its place in the stream happens before the first ``await``."""


class Rpc:
    """Questions asked and answered by one node.

    Args:
        node: own id; a question to oneself is answered without a stream.
        send: hands a message to a peer's stream, False when there is none.
    """

    def __init__(self, node: str, send: Callable[[str, AppRequest | AppResponse], bool]) -> None:
        self._node = node
        self._send = send
        self._handlers: dict[str, Handler] = {}
        self._asked: dict[int, tuple[str, asyncio.Future[bytes]]] = {}
        # A peer may still answer what a former process of this node asked: that must not fit a question of ours.
        self._number = secrets.randbits(48)
        self._answering: dict[asyncio.Task[None], str] = {}
        self._load: Counter[str] = Counter()

    def on_request(self, kind: str, handler: Handler) -> None:
        """Answer questions of this kind with ``handler``; its :class:`RegistryError` goes to the one who asked."""
        self._handlers[kind] = handler

    def request(self, peer: str, kind: str, payload: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Ask now (the question is in the stream when this returns); await the answer.

        Raises (from the future):
            Unavailable: no stream to the peer; surely not asked.
            OutcomeUnknown: no answer in time, or the stream ended before it.
            RegistryError: what the handler raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        if peer == self._node:
            self._answer_here(future, kind, payload)
            return future
        self._number += 1
        number = self._number
        self._asked[number] = (peer, future)
        timer = loop.call_later(timeout_s, self._give_up, number, f"{peer} did not answer within {timeout_s:g} s")
        future.add_done_callback(lambda _: self._forget(number, timer))
        if not self._send(peer, AppRequest(number, kind, payload)):
            future.set_exception(Unavailable(f"there is no connection to {peer}"))
        return future

    def message(self, peer: str, message: AppRequest | AppResponse) -> None:
        """A question or an answer came."""
        if isinstance(message, AppResponse):
            self._answered(peer, message)
        elif self._load[peer] >= limits.PEER_REQUESTS_MAX:
            self._refuse(peer, message.id, Overloaded("too many unanswered questions"))
        else:
            self._answer(peer, message)

    def disconnected(self, peer: str) -> None:
        """The stream ended: what was asked there has no answer any more."""
        for number in [number for number, (asked, _) in self._asked.items() if asked == peer]:
            self._give_up(number, f"the connection to {peer} ended before its answer")

    def close(self) -> None:
        """Drop everything."""
        for task in tuple(self._answering):
            task.cancel()
        for number in tuple(self._asked):
            self._give_up(number, "this node stops")

    def _give_up(self, number: int, why: str) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None and not asked[1].done():
            asked[1].set_exception(OutcomeUnknown(why))

    def _forget(self, number: int, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._asked.pop(number, None)

    def _answered(self, peer: str, message: AppResponse) -> None:
        asked = self._asked.get(message.id)
        if asked is None or asked[0] != peer or asked[1].done():
            return
        if message.error:
            asked[1].set_exception(from_code(message.error, message.payload.decode("utf-8", "replace")))
        else:
            asked[1].set_result(message.payload)

    def _call(self, peer: str, kind: str, payload: bytes) -> bytes | Awaitable[bytes]:
        handler = self._handlers.get(kind)
        if handler is None:
            raise NotFound(f"this node answers no question of kind {kind!r}")
        return handler(peer, payload)

    def _answer(self, peer: str, message: AppRequest) -> None:
        try:
            answer = self._call(peer, message.kind, message.payload)
        except Exception as error:
            self._refuse(peer, message.id, error)
            return
        if isinstance(answer, bytes):
            self._send(peer, AppResponse(message.id, "", answer))
            return
        task = asyncio.get_running_loop().create_task(self._answer_later(peer, message.id, answer))
        self._answering[task] = peer
        self._load[peer] += 1
        task.add_done_callback(self._finished)

    async def _answer_later(self, peer: str, number: int, answer: Awaitable[bytes]) -> None:
        try:
            self._send(peer, AppResponse(number, "", await answer))
        except Exception as error:
            self._refuse(peer, number, error)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._load[self._answering.pop(task)] -= 1

    def _refuse(self, peer: str, number: int, error: Exception) -> None:
        if not isinstance(error, RegistryError):
            _log.error("answering %s failed", peer, exc_info=error)
            error = InvalidInput(f"the question could not be answered: {type(error).__name__}")
        self._send(peer, AppResponse(number, error.code, error.detail.encode()))

    def _answer_here(self, future: asyncio.Future[bytes], kind: str, payload: bytes) -> None:
        try:
            answer = self._call(self._node, kind, payload)
        except RegistryError as error:
            future.set_exception(error)
            return
        if isinstance(answer, bytes):
            future.set_result(answer)
            return
        task = asyncio.ensure_future(answer)
        task.add_done_callback(lambda done: _copy(done, future))


def _copy(done: asyncio.Future[bytes], future: asyncio.Future[bytes]) -> None:
    if future.done():
        done.cancelled() or done.exception()
    elif done.cancelled():
        future.cancel()
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
