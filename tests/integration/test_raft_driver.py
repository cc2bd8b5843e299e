"""The driver's pass: what leaves before the sync, what only after it, and that nothing steps in between."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from discovery.errors import CorruptData
from discovery.raft import codec
from discovery.raft.codec import AppendEntries, NextIndex
from discovery.raft.driver import Driver
from discovery.raft.types import InstallSnapshot, Output, SaveSnapshot

APPEND = AppendEntries(1, 1, 0, 1, 0)
ACK = NextIndex(1, 2, reset=False, success=True)


class Scene:
    """A fake engine, log and stream in one, that writes down the order of things."""

    def __init__(self):
        self.order = []
        self.outputs = []
        self.disk = threading.Event()
        self.disk.set()
        self.jobs = []
        self.deaths = []
        self.broken_log = None

    # the engine
    def step(self):
        assert "sync begins" not in self.order or self.order.count("sync begins") == self.order.count("sync ends")
        self.order.append("step")
        return self.outputs.pop(0) if self.outputs else Output()

    def synced(self):
        self.order.append("synced")

    def next_deadline(self):
        return float("inf")

    def receive(self, peer, message):
        self.order.append("receive")

    def connected(self, peer, incarnation=""):
        self.order.append("connected")

    def disconnected(self, peer, hint):
        self.order.append("disconnected")

    def job_done(self, job, result):
        self.jobs.append((job, result))

    # the machine
    def load(self, chunks):
        return list(chunks)

    # the log
    def write(self, batch):
        self.order.append("sync begins")
        self.disk.wait(5.0)
        if self.broken_log is not None:
            raise self.broken_log
        self.order.append("sync ends")

    # the stream
    def send(self, peer, frames):
        kinds = codec.Frames().feed(b"".join(frames))
        self.order += [f"{type(codec.decode(payload)).__name__} to {peer}" for payload in kinds]
        return True

    def worked_off(self):
        pass


@pytest.fixture
async def scene():
    made = Scene()
    made.driver = Driver(made, made, made, made, made, fatal=lambda *death: made.deaths.append(death))
    made.driver.connected("n2")
    made.driver.connected("n3")
    made.driver.start()
    await made.driver.next_pass()
    made.order.clear()
    yield made
    made.disk.set()
    if made.broken_log is not None:
        made.driver._task.cancel()
    await made.driver.stop()


async def run(scene, *outputs):
    scene.outputs += outputs
    scene.driver.wake()
    while scene.outputs:
        scene.driver.wake()
        await scene.driver.next_pass()


async def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def test_appends_leave_before_the_sync_and_everything_else_after_it(scene):
    scene.disk.clear()
    answer = asyncio.get_running_loop().create_future()
    scene.outputs.append(
        Output(early=[("n2", APPEND), ("n3", APPEND)], batch=b"x", late=[("n2", ACK)], resolved=[(answer, 7)])
    )
    scene.driver.wake()
    await until(lambda: "sync begins" in scene.order)
    scene.driver.receive("n2", ACK)
    await asyncio.sleep(0.02)
    assert not answer.done()
    assert scene.order == ["step", "AppendEntries to n2", "AppendEntries to n3", "sync begins", "receive"]
    scene.disk.set()
    assert await answer == 7
    assert scene.order[5:8] == ["sync ends", "synced", "NextIndex to n2"]


async def test_a_pass_with_a_batch_is_followed_by_another_so_that_the_own_disk_counts(scene):
    await run(scene, Output(batch=b"x"))
    await until(lambda: scene.order.count("step") == 2)


async def test_a_pass_without_a_batch_syncs_nothing_and_the_driver_rests(scene):
    await run(scene, Output(late=[("n2", ACK)]))
    await asyncio.sleep(0.02)
    assert scene.order == ["step", "synced", "NextIndex to n2"]


async def test_what_was_meant_for_a_stream_that_ended_meanwhile_is_not_sent_on_the_next_one(scene):
    scene.disk.clear()
    scene.outputs.append(Output(batch=b"x", late=[("n2", ACK), ("n3", ACK)]))
    scene.driver.wake()
    await until(lambda: "sync begins" in scene.order)
    scene.driver.disconnected("n2", hint=True)
    scene.driver.connected("n2")
    scene.disk.set()
    await until(lambda: "NextIndex to n3" in scene.order)
    assert "NextIndex to n2" not in scene.order


async def test_a_failed_sync_ends_the_process_before_anything_is_told(scene):
    scene.broken_log = OSError(28, "No space left on device")
    answer = asyncio.get_running_loop().create_future()
    scene.outputs.append(Output(batch=b"x", late=[("n2", ACK)], resolved=[(answer, 7)]))
    scene.driver.wake()
    await until(lambda: scene.deaths)
    assert scene.deaths[0] == ("the log cannot be written", scene.broken_log)
    assert not answer.done()
    assert "NextIndex to n2" not in scene.order


async def test_an_answer_nobody_waits_for_any_more_is_no_error(scene):
    answer = asyncio.get_running_loop().create_future()
    answer.cancel()
    await run(scene, Output(resolved=[(answer, 7)]))
    await asyncio.sleep(0.01)
    assert scene.deaths == []


async def test_a_job_runs_beside_the_passes_and_its_end_is_told(scene):
    gate = threading.Event()

    def chunks():
        gate.wait(5.0)
        yield b"x"

    class Writer:
        def append(self, chunk):
            pass

        def commit_sync(self):
            pass

    scene.writer = lambda index, term: Writer()
    job = SaveSnapshot(5, 1, chunks)
    await run(scene, Output(jobs=[job]), Output(late=[("n2", ACK)]))
    assert scene.jobs == []
    gate.set()
    await until(lambda: scene.jobs == [(job, None)])


async def test_a_damaged_transfer_is_told_and_a_failing_disk_ends_the_process(scene):
    class Receiver:
        def __init__(self, error):
            self.error = error

        def commit_sync(self):
            raise self.error

    damaged = InstallSnapshot(5, 1, Receiver(CorruptData("damaged")))
    await run(scene, Output(jobs=[damaged]))
    await until(lambda: scene.jobs)
    assert isinstance(scene.jobs[0][1], CorruptData)
    await run(scene, Output(jobs=[InstallSnapshot(6, 1, Receiver(OSError(5, "I/O error")))]))
    await until(lambda: scene.deaths)
    assert scene.deaths[0][0] == "a snapshot cannot be written or loaded"


async def test_how_long_a_write_has_been_under_way_is_known_while_it_is(scene):
    assert scene.driver.waiting_s == 0
    scene.disk.clear()
    scene.outputs.append(Output(batch=b"batch"))
    scene.driver.wake()
    await until(lambda: scene.driver.waiting_s > 0.01)
    scene.disk.set()
    await until(lambda: scene.order[-1] == "synced")
    assert scene.driver.waiting_s == 0
