"""The parent process of ``discovery serve``: holds the sockets, starts node and DNS workers, and restarts them.

It must be the part that never fails, so it does little: one thread, one ``select`` loop over a signal pipe and the
control channel to the node; no asyncio, HTTP, Raft or registry. It works as PID 1 of a container: whatever process is
handed to it is reaped. Children are killed by the kernel when it dies (:func:`discovery.process.die_with_parent`).

SIGTERM drains and ends, SIGUSR2 changes to the version that is installed now (:mod:`discovery.upgrade`), SIGHUP has the
certificate read again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

from discovery import __version__, launch, listen, log, process, progress, upgrade
from discovery.channel import Channel
from discovery.child import Child
from discovery.config_schema import Config
from discovery.errors import ConfigError

logger: Final = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
REPORT_EVERY_S: Final = 3.0
DRAIN_S_MAX: Final = 20.0  # handing over leadership and finishing requests in flight
STOP_S_MAX: Final = 3.0  # for workers, and after a second signal
HASTEN_AFTER_S: Final = 0.3  # a terminal and a process manager may both pass on one Ctrl-C


def serve(config: Config) -> int:
    """Run a node until it is told to stop.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT, 1 when the node cannot go on, 2 for a configuration error.
    """
    process.open_standard_files()
    log.setup(config.log.format, config.log.level, process="supervisor")
    if upgrade.trial():
        return 0
    handover = upgrade.take()
    try:
        process.check_platform()
        sockets = listen.open_sockets(config) if handover is None else listen.adopt(*handover.listeners())
    except ConfigError as problem:
        logger.error("%s", problem.detail)
        return 2
    process.raise_file_limit()
    with process.signal_pipe(SIGNALS) as signals:
        directory = (
            process.PrivateDirectory() if handover is None else process.PrivateDirectory.adopt(*handover.directory)
        )
        try:
            return Supervisor(launch.Launch(config, sockets, directory.path), signals, directory.fd, handover).run()
        finally:
            directory.remove()
            sockets.close()


class Supervisor:
    """The loop. ``phase`` goes from running over draining (the node ends) to stopping (the workers end).

    Args:
        lines: command lines of the children.
        signals: delivers the numbers of signals.
        directory_fd: holds the private directory.
        handover: what this process was before it re-executed itself; ``None`` at a first start.
    """

    def __init__(
        self, lines: launch.Launch, signals: socket.socket, directory_fd: int, handover: upgrade.Handover | None
    ) -> None:
        self._launch = lines
        self._signals = signals
        self._directory_fd = directory_fd
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, self._on_signals)
        self._node = Child("node", self._start_node)
        self._workers = [Child(f"dns-{index}", self._start_worker) for index in range(lines.config.dns.workers)]
        self._leaving: dict[Child, int] = {}  # former workers that a successor replaces, and their index
        self._progress = progress.Teller(lines.directory, __version__, handover.counts if handover else (0, 0, 0))
        self._control: Channel | None = None
        self._serving: list[int] = []
        self._node_ready = False
        self._trial: upgrade.Trial | None = None
        self._roll: upgrade.Roll | None = None
        self._phase = "running"
        self._deadline: float | None = None
        self._hasten_from = 0.0
        self._exit_code = 0
        self._ready = False
        self._waiting = "the node process to start"
        self._report_at = time.monotonic() + REPORT_EVERY_S
        if handover is not None:
            self._resume(handover)

    def run(self) -> int:
        """Supervise until everything has ended. Returns the exit code."""
        try:
            while not self._finished():
                self._upgrade()
                self._start_due()
                self._progress.tell(self._trial, self._roll, self._node, self._workers)
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
        return (*self._workers, *self._leaving, self._node)

    def _finished(self) -> bool:
        return self._phase == "stopping" and not any(child.popen for child in self._children())

    # Time

    def _timeout_s(self) -> float | None:
        moments = [child.due for child in self._children() if child.due is not None]
        moments += [] if self._deadline is None else [self._deadline]
        moments += [at for one in (self._trial, self._roll) if one is not None and (at := one.deadline()) is not None]
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
                elif number == signal.SIGUSR2:
                    self._on_upgrade()
                elif number == signal.SIGHUP:
                    logger.info("SIGHUP: certificates, if any, are read again; no option can be changed while running")
                    self._tell_workers(reload=True)

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
        for worker in (*self._workers, *self._leaving):
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
        for child in (*self._children(), *([] if self._trial is None else [self._trial])):
            if child.popen is not None:
                child.signal(signal.SIGKILL)
                child.popen.wait()

    # Changing to another version

    def _on_upgrade(self) -> None:
        """SIGUSR2: have the installed version try itself, then become it."""
        trying = self._trial is not None and self._trial.popen is not None
        if self._phase != "running" or not self._ready or trying or self._roll is not None:
            self._progress.refuse("SIGUSR2: not now, the node is starting, ending or changing to another version")
            return
        self._progress.begin("SIGUSR2: trying the installed version")
        self._trial = upgrade.Trial()
        self._trial.start(time.monotonic())
        if self._trial.popen is None:
            self._progress.fail("the trial of the installed version cannot be started; this one goes on")

    def _on_trial(self, status: int) -> None:
        self._trial = None
        if status:
            self._progress.fail("the installed version does not work (its words stand above); this one goes on")
        elif self._phase == "running":
            self._become()

    def _become(self) -> None:
        """Re-execute. Signals stay pending until the new version can take them."""
        control = self._control
        if control is None:
            self._progress.fail("the node process is just being restarted: send SIGUSR2 again")
            return
        handover = upgrade.Handover(
            *self._launch.sockets.descriptors(),
            directory=(self._directory_fd, str(self._launch.directory)),
            control=(control.sock.fileno(), control.received),
            node=self._node.pid or 0,
            workers=tuple(worker.pid or 0 for worker in self._workers),
            counts=self._progress.counts,
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            upgrade.execute(handover)
        except OSError as problem:
            self._progress.fail(f"cannot change to the installed version: {problem}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _resume(self, handover: upgrade.Handover) -> None:
        """Take over the children of the former version, and replace them one by one."""
        logger.info("re-executed as the installed version; node and workers follow one by one")
        self._ready = self._node_ready = True
        self._node.adopt(handover.node)
        fd, received = handover.control
        os.set_inheritable(fd, False)
        self._listen(Channel(socket.socket(fileno=fd), self._on_message, received))
        formers = upgrade.formers(handover.workers, self._start_worker)
        self._leaving = {former: index for index, former in formers}
        replaced = [(index, former) for index, former in formers if index < len(self._workers)]
        for index, _ in replaced:
            self._workers[index].due = None
        for _, former in formers[len(replaced) :]:
            former.signal(signal.SIGTERM)
        self._roll = upgrade.Roll(self._node, replaced, self._successor)

    def _successor(self, index: int) -> Child:
        worker = self._workers[index]
        worker.due = time.monotonic()
        return worker

    def _upgrade(self) -> None:
        if self._trial is not None:
            self._trial.enforce()
        if self._roll is None or self._phase != "running":
            return
        self._roll.step(self._node_ready, self._serving)
        if self._roll.done:
            self._roll = None
            logger.info("node and workers are of the installed version")

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
            code = os.waitstatus_to_exitcode(status)
            if self._trial is not None and self._trial.pid == pid:
                self._on_trial(code)
            for child in self._children():
                if child.pid == pid:
                    self._on_death(child, code)

    def _on_death(self, child: Child, status: int) -> None:
        now = time.monotonic()
        if child in self._leaving:
            del self._leaving[child]
            child.died(status, now, again=False)
            self._tell_workers()
            return
        if child is self._node:
            self._node_ready = False
            self._read_control()  # its last word may name the reason
            self._close_control()
            if self._phase == "running" and status == 2:
                self._fail(2, "the node process refused its configuration")
        delay = child.died(status, now, again=self._phase == "running")
        if delay is not None:
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            level = logging.ERROR if status else logging.INFO  # 0: it was told to
            logger.log(level, "%s ended (%s); starting it again in %.1f s", child.name, how, delay)
            self._tell_workers()
        if child is self._node and self._phase == "draining":
            self._stop_workers()

    def _start_node(self, child: Child) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                popen = launch.spawn(*self._launch.node(theirs.fileno()))
            except OSError:
                ours.close()
                raise
        self._listen(Channel(ours, self._on_message))
        return popen

    def _listen(self, control: Channel) -> None:
        self._control = control
        self._selector.register(control.sock, selectors.EVENT_READ, self._read_control)
        self._tell_workers()

    def _start_worker(self, child: Child) -> subprocess.Popen[bytes]:
        index = self._workers.index(child)
        # One says SERVFAIL for all until there is something to say; the others join it when all of them have that.
        # Among those named as being on the port may be one that has just died.
        on_port = any(worker.pid in self._serving for worker in self._workers)
        first = index == 0 and self._roll is None and not self._ready and not on_port
        return launch.spawn(*self._launch.worker(index, join="now" if first else "synced"))

    # Control channel

    def _tell_workers(self, *, reload: bool = False) -> None:
        running = [(index, worker.pid) for index, worker in enumerate(self._workers) if worker.pid is not None]
        running += [(index, former.pid) for former, index in self._leaving.items() if former.pid is not None]
        if self._control is not None:
            self._control.tell_workers(running, (self._node, *self._workers), reload=reload)

    def _read_control(self) -> None:
        if self._control is not None:
            self._control.read()
            if not self._control.open:
                self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._selector.unregister(self._control.sock)
            self._control.sock.close()
            self._control = None

    def _on_message(self, message: dict[str, Any]) -> None:
        if "waiting" in message:
            self._waiting = message["waiting"]
        if "serving" in message:
            self._serving = list(message["serving"])
        if message.get("ready"):
            self._node_ready = True
            if not self._ready:
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
