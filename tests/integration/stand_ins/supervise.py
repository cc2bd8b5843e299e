"""Runs the real supervisor over stand-ins for node and workers. Arguments: HTTP address, folder of the feed."""

from __future__ import annotations

import ctypes
import os
import sys

from discovery import config, launch, supervisor


class StandIns(launch.Launch):
    def node(self, control_fd: int) -> tuple[list[str], list[int]]:
        return ["stand_in_node", str(control_fd)], [control_fd]

    def worker(self, index: int, join: str) -> tuple[list[str], list[int]]:
        return ["stand_in_worker", str(index), join], []


launch.Launch = StandIns  # type: ignore[misc]
supervisor.REPORT_EVERY_S = 0.05  # type: ignore[misc]
if os.environ["MODE"] == "orphans":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us, as to PID 1
flags = {"http": (sys.argv[1],), "dns": ("127.0.0.1:0",), "raft": "127.0.0.1:0", "dns_workers": 2}
sys.exit(supervisor.serve(config.load(None, {}, flags)))
