"""What a process of ours asks of the operating system: Linux only, standard library only.

Parent-death signals, limits on open files, the private directory of the feed socket, word to the service manager.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from discovery.errors import ConfigError

KERNEL_MIN: Final = (5, 4)
PYTHON_MIN: Final = (3, 11)
OPEN_FILES_WANTED: Final = 65_536
DIRECTORY_PREFIX: Final = "discovery-feed-"
BASE_BYTES_MAX: Final = 107 - len("/discovery-feed-xxxxxxxx/feed")
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_libc: Final = ctypes.CDLL(None, use_errno=True)


def check_platform(
    system: str = sys.platform, release: str = "", python: tuple[int, ...] = sys.version_info[:2]
) -> None:
    """Refuse to start where the daemon cannot work: it needs Linux >= 5.4 and Python >= 3.11.

    Args:
        system: as :data:`sys.platform`.
        release: of the kernel, as ``uname -r``; the running one when empty.
        python: major and minor version.

    Raises:
        ConfigError: naming what was found.
    """
    if system != "linux":
        raise ConfigError(f"discovery serve runs on Linux {_dotted(KERNEL_MIN)} or newer, not on {system}")
    release = release or platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < KERNEL_MIN:
        raise ConfigError(f"discovery serve needs Linux {_dotted(KERNEL_MIN)} or newer; this kernel is {release}")
    if python < PYTHON_MIN:
        raise ConfigError(f"discovery serve needs Python {_dotted(PYTHON_MIN)} or newer; this is {_dotted(python)}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def die_with_parent(parent: int) -> None:
    """In a new child, before exec: be killed by the kernel when ``parent`` dies, however it dies (prctl(2)).

    A parent that died before the call no longer is ours; then there is nothing to live for.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def open_standard_files() -> None:
    """Put ``/dev/null`` where stdin, stdout or stderr was closed.

    Otherwise the next socket gets that number, and loses it again to the redirections of a child's start.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


@contextlib.contextmanager
def signal_pipe(numbers: Collection[signal.Signals]) -> Iterator[socket.socket]:
    """A socket that receives the number of each signal that arrives, as a byte (signalfd in portable clothes).

    Such as were blocked, over a re-execution, are let through once it can take them.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, lambda *_: None) for number in numbers}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield reader
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        reader.close()
        writer.close()


def raise_file_limit() -> int:
    """Lift the soft limit on open files to what 8,192 HTTP connections need, as far as the hard one allows.

    Returns:
        The soft limit that now holds.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def notify(state: str, env: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager (sd_notify(3)): ``READY=1``, ``STOPPING=1``, ``STATUS=…``. Never fails."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)


class PrivateDirectory:
    """A directory of mode 0700 for a Unix socket, removed at the end, or by the next start after a kill -9.

    The owner holds a lock on it for life; a directory of the same user that nobody locks is a leftover.
    Its path must stay short: a Unix socket's has room for 107 bytes (unix(7)), which a data directory, or the folder of
    temporary files, may exceed.
    """

    def __init__(self, base: str | None = None) -> None:
        base = base or os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or tempfile.gettempdir()
        base = base if len(os.fsencode(base)) <= BASE_BYTES_MAX else "/tmp"  # noqa: S108 -- mkdtemp in it is safe
        _remove_leftovers(Path(base))
        self.path = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX, dir=base))
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def adopt(cls, fd: int, path: str) -> PrivateDirectory:
        """That of this process before it re-executed itself, lock and all."""
        directory = cls.__new__(cls)
        directory.path, directory._fd = Path(path), fd
        os.set_inheritable(fd, False)
        return directory

    @property
    def fd(self) -> int:
        """Descriptor that carries the lock."""
        return self._fd

    def remove(self) -> None:
        """Delete it with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def _remove_leftovers(base: Path) -> None:
    for path in base.glob(f"{DIRECTORY_PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_unlocked(path)


def _remove_if_unlocked(path: Path) -> None:
    """Remove a leftover. A directory made but not locked yet by another start is younger than a minute."""
    found = path.lstat()
    if found.st_uid != os.getuid() or time.time() - found.st_mtime < 60:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)
