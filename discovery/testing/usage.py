"""CPU time of the processes of a node: on a shared machine the only figure that tells a slow path from a busy host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from discovery.testing.cluster import Node, children

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process, seconds (proc(5), fields 14 and 15 of ``stat``); 0 when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return 0.0


def whole_node_s(node: Node) -> float:
    """Of a node's supervisor and all its children."""
    return sum(map(cpu_s, [node.supervisor, *children(node.supervisor)]))


class Usage:
    """CPU time that node processes and DNS workers of some nodes take from now on, seconds."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._node_of = {node.id: node.node_process() for node in nodes}
        self._workers_of = {node.id: node.worker_processes() for node in nodes}
        self._before = {pid: cpu_s(pid) for pid in self._all()}

    def _all(self) -> list[int]:
        return [*self._node_of.values(), *(pid for pids in self._workers_of.values() for pid in pids)]

    def node_s(self, id: str) -> float:
        """Of the node process since then."""
        return self._since(self._node_of[id])

    def workers_s(self, id: str) -> float:
        """Of its DNS workers together since then."""
        return sum(map(self._since, self._workers_of[id]))

    def _since(self, pid: int) -> float:
        return cpu_s(pid) - self._before[pid]
