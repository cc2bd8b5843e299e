"""PySyncObj as shipped, on a table as in ``discovery.testing.rig``: what the hazards' tests show to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pysyncobj.pickle
import pysyncobj.syncobj as base
import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from discovery.raft.seam import instant


class Table(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True


class Shipped(SyncObj):
    """Stock, but for its transport and for the thread that would drive it."""

    def __init__(self, name: str, others: str, **options: Any) -> None:
        options = {"appendEntriesUseBatch": True, "commandsWaitLeader": False, **options}
        self.table = Table()
        super().__init__(
            Node(name), [Node(o) for o in others], SyncObjConf(autoTick=False, **options), transport=self.table
        )
        self.values: list[Any] = []
        for other in others:
            self.table._onNodeConnected(Node(other))

    @replicated
    def put(self, value: Any) -> int:
        self.values.append(value)
        if value == "boom":
            raise ValueError(value)
        return len(self.values)

    def tick(self) -> None:
        self._onTick(0)

    def hear(self, source: str, **message: Any) -> list[dict[str, Any]]:
        """Deliver a message; the answers."""
        self.table.sent.clear()
        self.table._onMessageReceived(Node(source), message)
        return [answer for _, answer in self.table.sent]

    def campaign(self) -> None:
        self._SyncObj__raftElectionDeadline = instant.now - 1
        self.tick()

    def log(self) -> list[tuple[bytes, int, int]]:
        return [self._SyncObj__raftLog[i] for i in range(len(self._SyncObj__raftLog))]

    def append(self, value: Any, index: int, term: int) -> None:
        """An entry as a leader would have added it."""
        command = b"\x00" + pysyncobj.pickle.dumps((self._methodToID["put_v0"], (value,)))
        self._SyncObj__raftLog.add(command, index, term)


class Shop:
    """Makes shipped nodes and moves their messages."""

    def __init__(self) -> None:
        instant.now = 5000.0
        self.made: list[Shipped] = []

    def node(self, name: str, others: str, **options: Any) -> Shipped:
        self.made.append(Shipped(name, others, **options))
        return self.made[-1]

    def close(self) -> None:
        """The log's file and map, as the end of the process would."""
        for node in self.made:
            file = getattr(node._SyncObj__raftLog, "_FileJournal__journalFile", None)
            if file is not None:
                file._ResizableFile__mm.close()
                file._ResizableFile__f.close()

    def exchange(self, nodes: dict[str, Shipped], rounds: int = 5) -> None:
        """Deliver what was sent, tick, a few times; time goes by."""
        for _ in range(rounds):
            instant.now += 0.11
            for node in nodes.values():
                node.tick()
            for name, node in nodes.items():
                sent, node.table.sent = node.table.sent, []
                for target, message in sent:
                    if target in nodes:
                        nodes[target].table._onMessageReceived(Node(name), message)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Stock nodes, with the pickle that the real program never lets them have."""
    monkeypatch.setattr(base, "pickle", pysyncobj.pickle)
    shop = Shop()
    yield shop
    shop.close()


@pytest.fixture
def count_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[int]]:
    """Count the calls of a function of a module."""

    def count(module: Any, name: str) -> list[int]:
        calls: list[int] = []
        original = getattr(module, name)

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return original(*arguments)

        monkeypatch.setattr(module, name, counted)
        return calls

    return count
