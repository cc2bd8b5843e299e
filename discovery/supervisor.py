"""The parent process of ``discovery serve``: holds the sockets, starts node and DNS workers, and restarts them.

It must be the part that never fails, so it does little: one thread, one ``select`` loop over a signal pipe and the
control channel to the node; no asyncio, HTTP, Raft or registry. It works as PID 1 of a container: whatever process is
handed to it is reaped. Children are killed by the kernel when it dies (:func:`discovery.process.die_with_parent`).

Control channel, one JSON object a line over a socket pair, made anew for each node process:

* to the node: ``{"workers": [[index, pid], …]}`` whenever that list changes;
* from the node: ``{"ready": true}`` once; until then ``{"waiting": "…"}``; ``{"fatal": {"exit": 1 | 2, "text": "…"}}``
  before it ends for a reason that a restart cannot mend.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from discovery import launch, listen, log, process
from discovery.child import Child
from discovery.config_schema import Config
from discovery.errors import ConfigError

logger: Final = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
REPORT_EVERY_S: Final = 3.0
DRAIN_S_MAX: Final = 20.0  # handing over leadership and finishing requests in flight
STOP_S_MAX: Final = 3.0  # for workers, and after a second signal
HASTEN_AFTER_S: Final = 0.3  # a terminal and a process manager may both pass on one Ctrl-C
CONTROL_LINE_BYTES_MAX: Final = 64 * 1024


def serve(config: Config) -> int:
    """Run a node until it is told to stop.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT, 1 when the node cannot go on, 2 for a configuration error.
    """
    process.open_standard_files()
    log.setup(config.log.format, config.log.level, process="supervisor")
    try:
        process.check_platform()
        sockets = listen.open_sockets(config)
    except ConfigError as problem:
        logger.error("%s", problem.detail)
        return 2
    process.raise_file_limit()
    with _signal_pipe() as signals:
        directory = process.PrivateDirectory()
        try:
            return Supervisor(launch.Launch(config, sockets, directory.path), signals).run()
        finally:
            directory.remove()
            sockets.close()


@contextlib.contextmanager
def _signal_pipe() -> Iterator[socket.socket]:
    """A socket that receives the number of each signal that arrives, as a byte (signalfd in portable clothes)."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        reader.close()
        writer.close()


class Supervisor:
    """The loop. ``phase`` goes from running over draining (the node ends) to stopping (the workers end)."""

    def __init__(self, launch: launch.Launch, signals: socket.socket) -> None:
        self._launch = launch
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._on_signals)
        self._node = Child("node", self._start_node)
        self._workers = [Child(f"dns-{index}", self._start_worker) for index in range(launch.config.dns.workers)]
        self._control: socket.socket | None = None
        self._received = b""
        self._phase = "running"
        self._deadline: float | None = None
        self._hasten_from = 0.0
        self._exit_code = 0
        self._ready = False
        self._waiting = "the node process to start"
        self._report_at = time.monotonic() + REPORT_EVERY_S

    def run(self) -> int:
        """Supervise until everything has ended. Returns the exit code."""
        try:
            while not self._finished():
                self._start_due()
                for key, _ in self._selector.select(self._timeout_s()):
                    key.data()
                self._reap()
                self._enforce()
                self._report()
        finally:
            self._kill_all()
            self._selector.close()
        return self._exit_code

    def _children(self) -> Sequence[Child]:
        """All, in the order of their start: the node counts the workers of its first list as being on the port."""
        return (*self._workers, self._node)

    def _finished(self) -> bool:
        return self._phase == "stopping" and not any(child.popen for child in self._children())

    # Time

    def _timeout_s(self) -> float | None:
        moments = [child.due for child in self._children() if child.due is not None]
        moments += [] if self._deadline is None else [self._deadline]
        moments += [] if self._ready else [self._report_at]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [child for child in self._children() if child.due is not None and child.due <= now]
        for child in due:
            child.start(now)
        if due:
            self._tell_workers()

    def _enforce(self) -> None:
        """Kill what did not end in its time."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        self._deadline = None
        for child in (self._node,) if self._phase == "draining" else self._children():
            if child.popen is not None:
                logger.warning("%s did not end in time and is killed", child.name)
                child.signal(signal.SIGKILL)

    def _report(self) -> None:
        """Until the node is ready: say every few seconds what it waits for."""
        now = time.monotonic()
        if self._ready or self._phase != "running" or now < self._report_at:
            return
        self._report_at = now + REPORT_EVERY_S
        logger.info("not ready yet: waiting for %s", self._waiting)
        process.notify(f"STATUS=waiting for {self._waiting}")

    # Signals

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._signals.recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._on_stop(signal.Signals(number))
                elif number == signal.SIGHUP:
                    logger.info("SIGHUP: no option of this version can be changed while running")

    def _on_stop(self, number: signal.Signals) -> None:
        """The first signal drains, a second one, unless it is the echo of the first, hastens."""
        now = time.monotonic()
        if self._phase == "running":
            self._hasten_from = now + HASTEN_AFTER_S
            logger.info("%s: draining", number.name)
            process.notify("STOPPING=1")
            self._drain()
        elif now >= self._hasten_from:
            logger.info("%s again: stopping at once", number.name)
            self._node.signal(signal.SIGKILL)
            self._stop_workers()

    def _drain(self) -> None:
        """Let the node end while the workers go on answering. New connections are refused from the node's close on."""
        self._phase, self._deadline = "draining", time.monotonic() + DRAIN_S_MAX
        for child in self._children():
            child.due = None
        for sock in (*self._launch.sockets.http, *self._launch.sockets.raft):
            sock.close()
        self._node.signal(signal.SIGTERM)
        if self._node.popen is None:
            self._stop_workers()

    def _stop_workers(self) -> None:
        self._phase, self._deadline = "stopping", time.monotonic() + STOP_S_MAX
        for worker in self._workers:
            worker.due = None
            worker.signal(signal.SIGTERM)

    def _fail(self, code: int, text: str) -> None:
        """Stop everything with an exit code."""
        logger.error("%s", text)
        self._exit_code = code
        self._node.due = None
        self._stop_workers()

    def _kill_all(self) -> None:
        """After an exception in the loop: leave nothing behind."""
        for child in self._children():
            if child.popen is not None:
                child.signal(signal.SIGKILL)
                child.popen.wait()

    # Children

    def _reap(self) -> None:
        """Collect every process that has ended, ours or handed to us as PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children():
                if child.pid == pid:
                    self._on_death(child, os.waitstatus_to_exitcode(status))

    def _on_death(self, child: Child, status: int) -> None:
        now = time.monotonic()
        if child is self._node:
            self._read_control()  # its last word may name the reason
            self._close_control()
            if self._phase == "running" and status == 2:
                self._fail(2, "the node process refused its configuration")
        delay = child.died(status, now, again=self._phase == "running")
        if delay is not None:
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            logger.error("%s ended (%s); starting it again in %.1f s", child.name, how, delay)
            self._tell_workers()
        if child is self._node and self._phase == "draining":
            self._stop_workers()

    def _start_node(self, child: Child) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                popen = self._spawn(*self._launch.node(theirs.fileno()))
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._control, self._received = ours, b""
        self._selector.register(ours, selectors.EVENT_READ, self._read_control)
        self._tell_workers()
        return popen

    def _start_worker(self, child: Child) -> subprocess.Popen[bytes]:
        index = self._workers.index(child)
        return self._spawn(*self._launch.worker(index, join="now" if child.starts == 0 else "synced"))

    def _spawn(self, arguments: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start one of our modules. Its stdout is our stderr: ours carries the ready line and nothing else.

        A session of its own keeps a terminal's Ctrl-C from reaching it: the order of the end is decided here.
        """
        parent = os.getpid()
        return subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            [sys.executable, "-P", "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=fds,
            start_new_session=True,
            preexec_fn=lambda: process.die_with_parent(parent),
        )

    # Control channel

    def _tell_workers(self) -> None:
        running = [[index, worker.pid] for index, worker in enumerate(self._workers) if worker.pid is not None]
        if self._control is not None:
            with contextlib.suppress(OSError):  # a node that is dying; its death is handled on its own
                self._control.sendall(json.dumps({"workers": running}).encode() + b"\n")

    def _read_control(self) -> None:
        """Take what the node says. A closed channel is not its death: that comes as SIGCHLD."""
        while self._control is not None:
            try:
                data = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_control()
                return
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                self._on_line(line)
            if len(self._received) > CONTROL_LINE_BYTES_MAX:
                self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None

    def _on_line(self, line: bytes) -> None:
        """A line that is no message must not stop the supervisor."""
        try:
            self._on_message(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.exception("the node process said something unintelligible")

    def _on_message(self, message: dict[str, Any]) -> None:
        if "waiting" in message:
            self._waiting = message["waiting"]
        if message.get("ready") and not self._ready:
            self._ready = True
            self._announce()
        if "fatal" in message and self._phase == "running":
            self._fail(message["fatal"]["exit"], message["fatal"]["text"])

    def _announce(self) -> None:
        """The one line of stdout. A reader that has gone must not stop the node."""
        line = self._launch.ready_line()
        logger.info("%s", line)
        process.notify(f"READY=1\nSTATUS={line}")
        with contextlib.suppress(OSError):
            print(line, flush=True)
