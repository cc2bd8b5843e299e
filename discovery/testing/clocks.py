"""A wall clock that a test sets while a process runs: a shim of C before the real one, and the file it reads.

libfaketime also rewrites waits on condition variables. Python's own lock is one: a program under load then stands still
for seconds, which no clock would cost it. This shim changes what the time is, and nothing else.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *ahead; /* seconds, mapped from the dial */

__attribute__((constructor)) static void begin(void)
{
    int file = open(getenv("CLOCK_DIAL"), O_RDONLY | O_CLOEXEC);
    void *found = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || found == MAP_FAILED)
        abort();
    ahead = found;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    (void)zone;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *where)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where)
        *where = exact.tv_sec;
    return exact.tv_sec;
}
"""


def build(gcc: str, folder: Path) -> Path:
    """Compile the shim; its shared library."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SOURCE)
    subprocess.run([gcc, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)  # noqa: S603
    return library


class Dial:
    """How far the wall clock of some processes is ahead of the host's."""

    def __init__(self, file: Path, library: Path) -> None:
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), 8)
        self.prefix: tuple[str, ...] = ("env", f"LD_PRELOAD={library}", f"CLOCK_DIAL={file}")
        """What stands before the command of such a process."""

    def turn(self, seconds: int) -> None:
        """From now on it is so many seconds ahead (below 0: behind)."""
        self._page[:] = struct.pack("q", seconds)
