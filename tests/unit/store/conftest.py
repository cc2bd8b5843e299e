"""A state machine at the end of a log: tests append commands and look at what they came to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from discovery.command import Command, Deregister, Failure, Idempotency, Meta, Register, Result, Written, encode
from discovery.model import Group, Instance, Port
from discovery.store import Outcome, Store

START_MS = 1_700_000_000_000


class Log:
    """Applies commands one after the other, as the log of one node would."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self.term = 1
        self.time_ms = START_MS
        self.groups: list[Group] = []
        self._index = 0
        self._leases = 0

    def outcome(self, command: Command | bytes, key: str | None = None, digest: bytes = b"body") -> Outcome:
        request = None if key is None else Idempotency(key, digest)
        data = command if isinstance(command, bytes) else encode(command, request, "tester")
        self._index += 1
        outcome = self.store.apply(data, Meta(self._index, self.term, self.time_ms))
        if outcome.group is not None:
            self.groups.append(outcome.group)
        return outcome

    def __call__(self, command: Command | bytes, key: str | None = None, digest: bytes = b"body") -> Result:
        return self.outcome(command, key, digest).result

    def new_lease(self) -> int:
        self._leases += 1
        return self._leases

    def registration(self, instance_id: str = "web-0", **fields: Any) -> Register:
        """A registration of ``default/web``; fields of the instance and of the command by name."""
        command: dict[str, Any] = {
            "status_given": "status" in fields,
            "ttl_ms": 10_000,
            "ttl_given": True,
            "join": 0,
            "holder": 0,
            "new_lease": self.new_lease(),
            "if_revision": None,
        }
        command.update({name: fields.pop(name) for name in list(fields) if name in command})
        if command["join"]:
            command["ttl_ms"] = None
        spec: dict[str, Any] = {
            "namespace": "default",
            "service": "web",
            "id": instance_id,
            "addresses": ("10.0.0.7",),
            "ports": (Port("http", 8080),),
        }
        return Register(Instance(**{**spec, **fields}), **command)

    def register(self, instance_id: str = "web-0", **fields: Any) -> Written:
        result = self(self.registration(instance_id, **fields))
        assert isinstance(result, Written), result
        return result

    def deregister(self, instance_id: str = "web-0", **fields: Any) -> Result:
        return self(Deregister("default", "web", instance_id, **fields))


@pytest.fixture(scope="session")
def new_log() -> type[Log]:
    return Log


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """The module beside this one, however the tests are started."""
    spec = importlib.util.spec_from_file_location("naive_store", Path(__file__).with_name("naive.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(name="refused")
def _refused(log: Log) -> Callable[..., Failure]:
    """Applies a command that must be refused, and checks that it changed nothing and says what to do."""

    def refused(command: Command | bytes, code: str, text: str = "") -> Failure:
        before = log.store.digest()
        outcome = log.outcome(command)
        failure = outcome.result
        assert isinstance(failure, Failure), failure
        assert (failure.code, outcome.group, outcome.leases) == (code, None, ())
        assert text in failure.detail
        assert log.store.digest() == before
        return failure

    return refused
