"""One HTTP request to whichever server answers: the standard library's client, kept alive, servers tried in turn.

A request moves on to the next server when one cannot be reached, breaks off, or says 502, 503 or 504. A write carries
an ``Idempotency-Key``, so that repeating it after an unknown outcome is safe (DESIGN guarantee 7).
"""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Self
from urllib.parse import SplitResult, quote, urlencode, urlsplit

DEFAULT_SERVER: Final = "http://127.0.0.1:8500"
CONNECT_S_MAX: Final = 2.0
TIMEOUT_S: Final = 15.0  # longer than the server's own 10 s for a write
PASS_ON: Final = frozenset({502, 503, 504})
API: Final = "/api/v1/"
_BYTES: Final = (f"{API}kv/", f"{API}snapshot")

Body = bytes | BinaryIO | None
Take = Callable[[http.client.HTTPResponse], bytes]


class Unreachable(Exception):
    """No server answered; the text has a line for each with its reason."""


class BadServer(ValueError):
    """A server's URL is none."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    server: str

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON. Raises :class:`ValueError` when it is none."""
        return json.loads(self.body)


def path(*segments: str) -> str:
    """A path under ``/api/v1/``: each segment percent-encoded whole."""
    return API + "/".join(quote(segment, safe="") for segment in segments)


def with_query(path: str, query: Mapping[str, object]) -> str:
    """``path`` with those parameters of ``query`` that are not ``None``; a list repeats its parameter."""
    given = {name: value for name, value in query.items() if value is not None and value != ()}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


class Connection:
    """A kept-alive connection to one server; opened when needed, opened again once when the server had closed it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._parts = _parse(url)
        self._http: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def request(
        self,
        method: str,
        path: str,
        body: Body,
        headers: Mapping[str, str],
        timeout_s: float,
        take: Take = http.client.HTTPResponse.read,
    ) -> Answer:
        """One request.

        Args:
            body: a file is sent from its beginning.
            timeout_s: for the whole request but a slow body: connecting, sending and each wait for data.
            take: reads the body of a success; what it returns is the answer's body.

        Raises:
            OSError, http.client.HTTPException: no answer came.
        """
        kept = self._http is not None
        try:
            return self._exchange(method, path, body, headers, timeout_s, take)
        except (ConnectionError, http.client.BadStatusLine):
            self.close()
            if not kept:
                raise
            return self._exchange(method, path, body, headers, timeout_s, take)

    def _exchange(
        self, method: str, path: str, body: Body, headers: Mapping[str, str], timeout_s: float, take: Take
    ) -> Answer:
        try:
            connection = self._open(timeout_s)
            self._send(connection, method, path, body, headers)
            response = connection.getresponse()
            data = take(response) if 200 <= response.status < 300 else response.read()
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data, self.url)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Body, headers: Mapping[str, str]
    ) -> None:
        """Send; a server that will not take a file says why without reading to its end, which is no error here."""
        is_file = body is not None and not isinstance(body, bytes)
        if is_file:
            body.seek(0)  # type: ignore[union-attr]
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, dict(headers))
        except ConnectionError:
            if not is_file:
                raise

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._http is None:
            host, port = self._parts.hostname or "", self._parts.port
            connect_s = min(timeout_s, CONNECT_S_MAX)
            if self._parts.scheme == "https":
                context = ssl.create_default_context()
                self._http = http.client.HTTPSConnection(host, port or 443, timeout=connect_s, context=context)
            else:
                self._http = http.client.HTTPConnection(host, port or 80, timeout=connect_s)
            self._http.connect()
        self._http.sock.settimeout(timeout_s)
        return self._http


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise BadServer(f"{url!r} is no server: write http://HOST:PORT")
    return parts


@dataclass
class Client:
    """Servers in the order to try them; the one that answered last is asked first.

    Raises:
        BadServer: a URL is none.
    """

    servers: Sequence[str]
    token: str = ""
    timeout_s: float = TIMEOUT_S
    _connections: list[Connection] = field(init=False)

    def __post_init__(self) -> None:
        self._connections = [Connection(url) for url in self.servers or (DEFAULT_SERVER,)]

    def get(self, path: str) -> Answer:
        """Read. Raises :class:`Unreachable`."""
        return self.send("GET", path)

    def write(self, method: str, path: str, body: object = None) -> Answer:
        """Change something, safely repeated on the next server. Raises :class:`Unreachable`.

        Args:
            body: bytes as they are, anything else as JSON, ``None`` for no body.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        return self.send(method, path, data, {"Idempotency-Key": uuid.uuid4().hex})

    def send(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        pass_on: frozenset[int] = PASS_ON,
        take: Take = http.client.HTTPResponse.read,
    ) -> Answer:
        """One request, on the first server that can serve it; else the last refusal.

        Args:
            timeout_s: for each server, instead of the client's own.
            pass_on: answers after which the next server is asked.
            take: reads the body of a success, as in :meth:`Connection.request`; anew for each server.

        Raises:
            Unreachable: not one server answered.
        """
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/octet-stream" if path.startswith(_BYTES) else "application/json"
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        refusal: Answer | None = None
        reasons = []
        for connection in list(self._connections):
            try:
                answer = connection.request(method, path, body, sent, timeout_s or self.timeout_s, take)
            except (OSError, http.client.HTTPException) as problem:
                reasons.append(f"{connection.url}: {_reason(problem)}")
                continue
            if answer.status not in pass_on:
                self._prefer(connection)
                return answer
            refusal = answer
        if refusal is not None:
            return refusal
        raise Unreachable("no server answered\n" + "\n".join(f"  {reason}" for reason in reasons))

    def _prefer(self, connection: Connection) -> None:
        """Ask ``connection`` first from now on; the others keep their turn."""
        index = self._connections.index(connection)
        self._connections[:] = self._connections[index:] + self._connections[:index]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


def _reason(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    text = problem.strerror if isinstance(problem, OSError) else None
    return text or str(problem) or type(problem).__name__
