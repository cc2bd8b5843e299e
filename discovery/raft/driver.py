"""The one task that drives the engine: receive, step, send, sync, send the rest, answer; then sleep until woken.

The order within a pass is the heart of durability and belongs to the engine's contract (:mod:`.types`). Blocking
work is done by threads: one writes the log, others write and load snapshots. An exception in a pass or a failed sync
ends the process at once, by ``os._exit``: what is in memory may not be what is on the disk any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn, Protocol

from discovery.errors import CorruptData, DiskFull, InvalidInput
from discovery.raft import codec
from discovery.raft.types import EngineAPI, Job, Machine, Output, SnapshotStore, run_job

_log: Final = logging.getLogger(__name__)
_CLOSE_S: Final = 5.0
_LOG_S: Final = 1.0
_SWITCH_S: Final = 0.001


class Writable(Protocol):
    """The log, as far as the writing thread needs it."""

    def write(self, batch: bytes) -> None:
        """Append and sync; blocks."""


class Stream(Protocol):
    """The transport, as far as the driver needs it."""

    def send(self, peer: str, frames: list[bytes]) -> bool:
        """Hand frames to the stream of the peer."""

    def worked_off(self) -> None:
        """All that was received is done."""


def end_process(what: str, error: BaseException) -> NoReturn:
    """Log and exit with code 1, now: no handler, no flush of half-true state."""
    # Whatever blocks the log (a full pipe, a lock that another thread holds) must not keep this process alive.
    last = threading.Timer(_LOG_S, os._exit, (1,))
    last.daemon = True
    last.start()
    _log.critical("%s: the node stops at once", what, exc_info=error)
    for handler in (*logging.getLogger().handlers, *logging.getLogger("discovery").handlers):
        handler.flush()
    os._exit(1)


class LogWriter:
    """A thread that writes batches in order; cheaper and steadier than a pool for something that never overlaps."""

    def __init__(self, wal: Writable, fatal: Callable[[str, BaseException], object]) -> None:
        self._wal = wal
        self._fatal = fatal
        self._batches: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, batch: bytes) -> asyncio.Future[None]:
        """Done when the batch is on the disk; raises DiskFull. Any other failure ends the process instead."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._batches.put((batch, done))
        return done

    def close(self) -> None:
        """Finish what was given and end the thread."""
        self._batches.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (work := self._batches.get()) is not None:
            batch, done = work
            full: DiskFull | None = None
            try:
                self._wal.write(batch)
            except DiskFull as error:
                full = error
            except BaseException as error:
                self._fatal("the log cannot be written", error)
                return
            self._loop.call_soon_threadsafe(_resolve, done, full)


class Driver:
    """Runs an engine.

    Args:
        stream: where frames go.
        fatal: what ends the process (a test gives another).
    """

    def __init__(
        self,
        engine: EngineAPI,
        wal: Writable,
        snapshots: SnapshotStore,
        machine: Machine,
        stream: Stream,
        *,
        clock: Callable[[], float] = time.monotonic,
        fatal: Callable[[str, BaseException], object] = end_process,
    ) -> None:
        self._engine, self._snapshots, self._machine, self._stream = engine, snapshots, machine, stream
        self._clock, self._fatal = clock, fatal
        self._loop = asyncio.get_running_loop()
        # A thread that builds a snapshot must not keep the loop waiting for 5 ms whenever it wants to go on.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._writer = LogWriter(wal, fatal)
        self._workers = ThreadPoolExecutor(2, "snapshot")
        self._woken = asyncio.Event()
        self._stopping = False
        self._epochs: dict[str, int] = {}
        self._watchers: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self.after_pass: Callable[[], None] = _nothing
        """Called when a pass has ended, with what it wrote on the disk."""
        self.passes = 0
        self._full = False
        self.fulls = 0
        self.syncs = 0
        self.sync_s = 0.0
        self.pass_s_max = 0.0
        self._sync_began: float | None = None

    def start(self) -> None:
        """Begin."""
        self._task = self._loop.create_task(self._run(), name="raft driver")

    async def stop(self) -> None:
        """End after the present pass; nothing is written afterwards."""
        self._stopping = True
        self.wake()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._loop.run_in_executor(None, self._writer.close)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def next_pass(self) -> None:
        """Return when a pass has ended that is not over yet."""
        watcher: asyncio.Future[None] = self._loop.create_future()
        self._watchers.append(watcher)
        await watcher

    @property
    def waiting_s(self) -> float:
        """Seconds since the write that is under way was given to the disk; 0 when none is."""
        return 0.0 if self._sync_began is None else self._clock() - self._sync_began

    # -- events ---------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was given to the engine: run a pass soon."""
        self._woken.set()

    def receive(self, peer: str, message: codec.RaftMessage) -> None:
        """A Raft message of a member."""
        self._engine.receive(peer, message)
        self._woken.set()

    def connected(self, peer: str, incarnation: str = "") -> None:
        """A stream to a node of this cluster begins."""
        self._epochs[peer] = self._epochs.get(peer, 0) + 1
        self._engine.connected(peer, incarnation)
        self._woken.set()

    def disconnected(self, peer: str, hint: bool) -> None:
        """It ended."""
        self._epochs[peer] = self._epochs.get(peer, 0) + 1
        self._engine.disconnected(peer, hint)
        self._woken.set()

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping:
                # One turn of the loop for the others first: whoever was just answered can join this pass's batch.
                await asyncio.sleep(0)
                self._woken.clear()
                await self._pass()
                await self._rest()
        except Exception as error:
            self._fatal("the Raft driver failed", error)

    async def _pass(self) -> None:
        self._stream.worked_off()
        epochs = dict(self._epochs)
        begin = self._clock()
        output = self._engine.step()
        self._send(output.early, epochs)
        for job in output.jobs:
            self._start(job)
        self.passes += 1
        self.pass_s_max = max(self.pass_s_max, self._clock() - begin)
        if output.batch is None or await self._sync(output.batch):
            self._engine.synced()
            self._send(output.late, epochs)
        _answer(output)
        self.after_pass()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            _resolve(watcher)

    async def _sync(self, batch: bytes) -> bool:
        """Whether the batch is on the disk; without room the engine is told instead, and nothing of it is sent."""
        begin = self._sync_began = self._clock()
        try:
            await self._writer.write(batch)
        except DiskFull as error:
            self.fulls += 1
            if not self._full:
                _log.error("no writes, no votes and no leadership for now: %s", error.detail)
            self._full = True
            self._engine.unsynced(error.detail)
            return False
        finally:
            self._sync_began = None
        if self._full:
            _log.warning("the disk has room again: this node takes part as before")
        self._full = False
        self.syncs += 1
        self.sync_s += self._clock() - begin
        self._woken.set()  # the engine counts this disk in its next pass
        return True

    async def _rest(self) -> None:
        if self._woken.is_set():
            return
        delay = self._engine.next_deadline() - self._clock()
        if delay <= 0:
            return
        timer = self._loop.call_later(delay, self._woken.set) if delay < float("inf") else None
        await self._woken.wait()
        if timer is not None:
            timer.cancel()

    def _send(self, messages: Iterable[tuple[str, codec.RaftMessage]], epochs: dict[str, int]) -> None:
        """Send, a write a peer; what was meant for a stream that ended since the pass began is dropped with it."""
        if not messages:
            return
        encoded: dict[int, bytes] = {}
        frames: dict[str, list[bytes]] = {}
        for peer, message in messages:
            if self._epochs.get(peer) != epochs.get(peer):
                continue
            frame = encoded.get(id(message))
            if frame is None:
                frame = encoded[id(message)] = codec.frame(codec.encode(message))
            frames.setdefault(peer, []).append(frame)
        for peer, group in frames.items():
            self._stream.send(peer, group)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        work = self._loop.run_in_executor(self._workers, run_job, job, self._snapshots, self._machine)
        work.add_done_callback(lambda done: self._ended(job, done))

    def _ended(self, job: Job, done: asyncio.Future[object]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, DiskFull):
            _log.error("a snapshot cannot be kept for now; it is tried again: %s", error.detail)
        elif error is not None and not isinstance(error, CorruptData):
            self._fatal("a snapshot cannot be written or loaded", error)
            return
        self._engine.job_done(job, error if error is not None else done.result())
        self._woken.set()


def _nothing() -> None:
    """Nobody asked."""


def _answer(output: Output) -> None:
    for answers in (output.resolved, output.confirmed, output.readable):
        for token, result in answers:
            if not isinstance(token, asyncio.Future):
                raise InvalidInput(f"the engine answered a token that is none: {token!r}")
            _resolve(token, result)


def _resolve(future: asyncio.Future[object] | asyncio.Future[None], result: object = None) -> None:
    """Give the result to whoever still waits."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)  # type: ignore[arg-type]
