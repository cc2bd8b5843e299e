"""Keeping one instance registered: what ``discovery run`` does beside its command.

:class:`Registration` decides one step at a time and has no clock or thread; :class:`Keeper` is the thread that takes
the steps. States: unregistered, registered under a lease, left. A 404 leads back to unregistered at once. A 409 means
that another holder has the id: nothing is fought over, but once that one is gone the 404 lets us in again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from discovery import limits
from discovery.cli import output
from discovery.cli.client import Answer, Unreachable, with_query

HEARTBEATS_PER_TTL: Final = 3
HEARTBEAT_S_MAX: Final = 5.0  # for one server's answer; then the next is tried
HEARTBEAT_S_MIN: Final = 0.25
REGISTER_S_MAX: Final = 10.0
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 2.0
LEAVE_S_MAX: Final = 1.0  # for each of the two last requests to a server


class Sender(Protocol):
    """What is needed of :class:`discovery.cli.client.Client`."""

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """One request on the first server that can serve it; raises Unreachable."""


class Registration:
    """One instance and its lease.

    Args:
        path: of the instance.
        body: of its registration.
        ttl_s: asked for, or ``None`` for the service's or the registry's default.
        say: takes each change of state as a sentence for people.
    """

    def __init__(
        self, client: Sender, path: str, body: Mapping[str, object], ttl_s: float | None, say: Callable[[str], None]
    ) -> None:
        self._client = client
        self._path = path
        self._body = json.dumps(body if ttl_s is None else {**body, "ttl": ttl_s}).encode()
        self._ttl_s = ttl_s or limits.LEASE_TTL_MS_DEFAULT / 1000
        self._say = say
        self._said = ""
        self._failures = 0
        self.lease: str | None = None

    @property
    def interval_s(self) -> float:
        """Seconds from one heartbeat to the next."""
        return self._ttl_s / HEARTBEATS_PER_TTL

    def step(self) -> float:
        """Register, or send a heartbeat. Returns the seconds after its beginning at which the next step is due."""
        try:
            if self.lease is None:
                answer = self._send("PUT", "", self._body, timeout_s=min(max(self.interval_s, 2.0), REGISTER_S_MAX))
                return self._registered(answer)
            timeout_s = min(max(self.interval_s / 2, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)
            return self._renewed(self._send("PUT", "/heartbeat", timeout_s=timeout_s))
        except Unreachable as problem:
            return self._failed(str(problem))

    def _send(self, method: str, more: str, body: bytes | None = None, *, timeout_s: float) -> Answer:
        """Every request but the first names our lease, so that it never touches a successor's registration."""
        return self._client.send(
            method, with_query(self._path + more, {"lease": self.lease}), body, timeout_s=timeout_s
        )

    def _registered(self, answer: Answer) -> float:
        if not answer.ok:
            return self._refused("cannot register", answer)
        lease = answer.json()["lease"]
        self.lease, self._ttl_s, self._failures = lease["id"], float(lease["ttl"]), 0
        self._tell(f"registered as {self._path.rsplit('/', 1)[1]} by {answer.server}, lease {self.lease}")
        return self.interval_s

    def _renewed(self, answer: Answer) -> float:
        if answer.ok:
            self._failures = 0
            self._said = ""
            return self.interval_s
        if answer.status == 404:
            self._tell(f"the registration is gone ({answer.server}); registering again")
            self.lease = None
            return 0.0
        return self._refused("cannot renew", answer)

    def _refused(self, what: str, answer: Answer) -> float:
        """A refusal by the server: soon again when it could not (5xx), at the usual pace when it would not (4xx)."""
        if answer.status >= 500:
            return self._failed(f"{what}: {output.problem(answer)}")
        self._tell(f"{what}: {output.problem(answer)}")
        return self.interval_s

    def _failed(self, text: str) -> float:
        """No server could: again after 0.1, 0.2, 0.4 … 2 s, but never later than a heartbeat is due."""
        self._tell(text)
        self._failures = min(self._failures + 1, 10)
        return min(RETRY_S_MIN * 2.0 ** (self._failures - 1), RETRY_S_MAX, self.interval_s)

    def _tell(self, text: str) -> None:
        """Say it, but not the same again and again."""
        if text != self._said:
            self._say(text)
        self._said = text

    def drain(self) -> None:
        """Leave DNS, but stay registered while the last requests are served."""
        self._last("PUT", "/status", b'{"status":"draining"}')

    def deregister(self) -> None:
        """Remove the registration, if it is ours."""
        self._last("DELETE", "")
        self.lease = None

    def _last(self, method: str, more: str, body: bytes | None = None) -> None:
        """A request that may fail: what stays behind leaves when its lease expires."""
        if self.lease is None:
            return
        try:
            answer = self._send(method, more, body, timeout_s=LEAVE_S_MAX)
        except Unreachable as problem:
            self._tell(f"{problem}\nthe registration ends with its lease")
            return
        if not answer.ok and answer.status not in (404, 409):
            self._tell(f"{output.problem(answer)}\nthe registration ends with its lease")


class Keeper(threading.Thread):
    """Takes the steps of a registration until told to leave. :attr:`left` is set when it is deregistered.

    Args:
        drain_s: how long the instance stays registered as draining before it is deregistered.
    """

    def __init__(self, registration: Registration, drain_s: float = 0.0) -> None:
        super().__init__(name="keeper", daemon=True)
        self._registration = registration
        self._drain_s = drain_s
        self._leaving = threading.Event()
        self._hurry = threading.Event()
        self.left = threading.Event()

    def leave(self, *, hurry: bool = False) -> None:
        """Drain and deregister, without a pause between them when in a hurry. Returns at once."""
        if hurry:
            self._hurry.set()
        self._leaving.set()

    def run(self) -> None:
        """The thread."""
        try:
            self._keep(self._leaving, float("inf"))
            self._registration.drain()
            self._keep(self._hurry, time.monotonic() + self._drain_s)
            self._registration.deregister()
        finally:
            self.left.set()

    def _keep(self, until: threading.Event, deadline: float) -> None:
        """Take steps until ``until`` is set or ``deadline`` (monotonic) is reached."""
        while not until.is_set() and (now := time.monotonic()) < deadline:
            due = now + self._registration.step()
            until.wait(max(0.0, min(due, deadline) - time.monotonic()))
