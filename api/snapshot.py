"""Backups: the whole state as a file, and back into an empty cluster.

Neither is ever whole in memory. A backup is written by a thread, chunk by chunk, as fast as the client takes it; a
restore is staged part by part through Raft while it comes in, out of sight, and switched to once its checksum is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

import discovery
from discovery import limits
from discovery.api.call import BYTES, REVISION, Call, ask_for_body, new_lease_id
from discovery.api.problem import BadRequest, RequestTimeout
from discovery.command import Command, Idempotency, Stage, Switch, Unstage, Written
from discovery.errors import Conflict, CorruptData, InvalidInput, NotApplied, OutcomeUnknown, Overloaded, RegistryError
from discovery.store import backup

log: Final = logging.getLogger(__name__)

GIVE_UP_S: Final = 2.0


async def get(call: Call) -> web.StreamResponse:
    """``GET /api/v1/snapshot``: the state of this node as it is now."""
    store = call.store
    headers = {
        **call.as_of(store.revision),
        REVISION: str(store.revision),
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="discovery-{store.revision}.snapshot"',
    }
    if call.request.method == "HEAD":
        return call.app.respond(200, None, BYTES, {hdrs.CONTENT_TYPE: BYTES, **headers})
    if call.app.backups >= limits.HTTP_BACKUPS_MAX:
        raise Overloaded(f"this node writes {call.app.backups} backups already: ask again later, or another node")
    call.app.backups += 1
    try:
        return await _send(call, headers)
    finally:
        call.app.backups -= 1


async def _send(call: Call, headers: dict[str, str]) -> web.StreamResponse:
    snapshot = call.store.snapshot()
    head = backup.header(
        snapshot,
        version=discovery.__version__,
        node=call.registry.node_id,
        zone=call.app.zone,
        time_ms=time.time_ns() // 1_000_000,
    )
    chunks = backup.write(snapshot, head)
    response = call.app.stream(BYTES, headers)
    await response.prepare(call.request)
    try:
        while chunk := await asyncio.to_thread(_next, chunks):
            await response.write(chunk)
        await response.write_eof()
    except ConnectionError:
        log.info("a client left before its backup was whole")
    except BaseException:
        if call.request.transport is not None:
            call.request.transport.abort()  # what was sent must not look whole
        raise
    return response


def _next(chunks: Iterator[bytes]) -> bytes:
    return next(chunks, b"")


async def put(call: Call) -> web.StreamResponse:
    """``PUT /api/v1/snapshot``: a backup becomes the state of an empty cluster, under a new history; 409 otherwise."""
    if call.app.restoring:
        raise Overloaded("a backup is being restored through this node already")
    call.app.restoring = True
    try:
        async with asyncio.timeout(limits.HTTP_RESTORE_S_MAX):
            return await _Restore(call).run()
    except TimeoutError:
        raise RequestTimeout(f"a restore must end within {limits.HTTP_RESTORE_S_MAX:.0f} s") from None
    finally:
        call.app.restoring = False


class _Restore:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._key = call.idempotency_key()
        self._id = new_lease_id()
        self._reader = backup.Reader()
        self._request = hashlib.blake2b(b"PUT\0", digest_size=16)
        self._request.update(call.request.raw_path.encode("utf-8", "surrogateescape") + b"\0")
        self._staging = True
        self._parts = 0

    async def run(self) -> web.Response:
        """Stage, then switch. A cluster that is not empty may hold what this very request restored, by its key."""
        await self._call.registry.barrier()
        refusal = self._call.store.occupied()
        if refusal is not None and self._key is None:
            raise Conflict(refusal.detail)
        self._staging = refusal is None
        head = await self._staged()
        result = await self._switch(head)
        shown = {
            "revision": result.revision,
            "history": self._call.store.history,
            "from": {"revision": head.revision, "history": head.history, "zone": head.zone, "counts": head.counts},
        }
        return await self._call.written(result, 200, shown)

    async def _staged(self) -> backup.Header:
        try:
            pending = bytearray()
            async for data in _body(self._call):
                self._request.update(data)
                for frame in self._reader.push(data):
                    if pending and len(pending) + len(frame) > limits.RESTORE_PART_BYTES:
                        await self._stage(pending)
                    pending += frame
            head = self._reader.finish()
            await self._stage(pending)
            return head
        except BaseException as error:
            await self._give_up()
            if isinstance(error, CorruptData):
                raise InvalidInput(error.detail) from error
            if isinstance(error, OutcomeUnknown):
                raise NotApplied(f"the restore was given up and nothing was restored: {error.detail}") from error
            raise

    async def _stage(self, pending: bytearray) -> None:
        if self._staging:
            await self._write(Stage(self._id, self._parts, bytes(pending)))
        self._parts += 1
        pending.clear()

    async def _switch(self, head: backup.Header) -> Written:
        command = Switch(self._id, self._parts, secrets.token_hex(8), head.revision, head.serial)
        idempotency = None if self._key is None else Idempotency(self._key, self._request.digest())
        try:
            return await self._write(command, idempotency)
        except OutcomeUnknown:
            raise
        except RegistryError:
            await self._give_up()
            raise

    async def _write(self, command: Command, idempotency: Idempotency | None = None) -> Written:
        result = await self._call.registry.write(
            command,
            idempotency=idempotency,
            actor=self._call.request.remote or "",
            timeout_s=limits.WRITE_TIMEOUT_S,
        )
        assert isinstance(result, Written)
        return result

    async def _give_up(self) -> None:
        """Drop what was staged; where that fails it goes by its age, or when the next restore begins."""
        if not (self._staging and self._parts):
            return
        with contextlib.suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._write(Unstage(self._id))


async def _body(call: Call) -> AsyncIterator[bytes]:
    """The body as it comes, each piece within its time."""
    content = call.request.content
    try:
        await ask_for_body(call.request)
        while True:
            async with asyncio.timeout(limits.HTTP_BODY_S_MAX):
                data = await content.readany()
            if not data:
                return
            yield data
    except TimeoutError:
        raise RequestTimeout(f"the next piece of a body must arrive within {limits.HTTP_BODY_S_MAX:.0f} s") from None
    except ConnectionError:
        raise BadRequest("the client went away before its body was whole") from None
    except (RequestPayloadError, HttpProcessingError) as error:
        raise BadRequest(f"the body is not what its headers promise: {error}") from None
