"""A command that runs under ours: started, signalled, waited for, and its exit code passed on.

The main thread blocks the signals it passes on and waits for them with sigtimedwait(2), which tells who sent one: what
the terminal sends (Ctrl-C) reaches the whole foreground group, so the command has it already.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PASSED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
WAITED: Final = frozenset({*ENDING, *PASSED, signal.SIGCHLD})
NOT_FOUND: Final = 127  # as a shell says it
NOT_EXECUTABLE: Final = 126
_SI_KERNEL: Final = 0x80  # siginfo_t.si_code: sent by the kernel, here by the terminal
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class CannotStart(Exception):
    """The command cannot be started; ``code`` is the exit code that says why."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Child:
    """The running command. Make it before any thread: signals stay blocked in threads begun afterwards.

    Raises:
        CannotStart: the program is not there, or not executable.
    """

    def __init__(self, command: Sequence[str]) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
        parent = os.getpid()

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # it must not live on unregistered
            if os.getppid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        try:
            self._popen = subprocess.Popen(list(command), preexec_fn=prepare)  # noqa: S603 -- what the user asked for
        except FileNotFoundError as problem:
            raise CannotStart(f"{command[0]}: no such program", NOT_FOUND) from problem
        except OSError as problem:
            raise CannotStart(f"{command[0]}: {problem.strerror}", NOT_EXECUTABLE) from problem
        self.exit_code: int | None = None

    def wait(self, timeout_s: float) -> tuple[int, bool] | None:
        """The next signal that is for the command: its number, and whether the command has had it already.

        ``None`` after ``timeout_s`` seconds without one, and when a child has ended: see :attr:`exit_code`.
        """
        info = signal.sigtimedwait(WAITED, timeout_s)
        if info is None:
            return None
        if info.si_signo == signal.SIGCHLD:
            self._reap()
            return None
        return info.si_signo, info.si_code == _SI_KERNEL

    def _reap(self) -> None:
        """Collect what has ended: the command, and as PID 1 of a container whatever was left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._popen.pid:
                code = self._popen.returncode = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Pass a signal on."""
        if self.exit_code is None:
            os.kill(self._popen.pid, number)
