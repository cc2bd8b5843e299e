"""A server that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from discovery.cli.root import group


@dataclass
class Asked:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    port: int

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """``answers`` are given in turn, the last one for ever: (status, body) or (status, body, headers)."""

    answers: deque[tuple[Any, ...]] = field(default_factory=lambda: deque([(200, {})]))
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def will_answer(self, *answers: tuple[Any, ...]) -> None:
        self.answers = deque(answers)

    def next_answer(self) -> tuple[Any, ...]:
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.stub.asked.append(Asked(self.command, self.path, body, dict(self.headers.items()), self.client_address[1]))
        status, content, *headers = self.stub.next_answer()
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", "0" if status == 204 else str(len(data)))
        for name, value in dict(*headers).items():
            self.send_header(name, value)
        self.end_headers()
        if status != 204:
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


def _serve() -> Iterator[Server]:
    stub = Server()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stub": stub}))
    listener.daemon_threads = True
    stub.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stub
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from _serve()


@pytest.fixture
def second_server() -> Iterator[Server]:
    yield from _serve()


@pytest.fixture
def cli(server: Server) -> Callable[..., Result]:
    """Runs ``discovery …`` against the server."""

    def invoke(*arguments: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(group, list(arguments), input=input, env={"DISCOVERY_SERVER": server.url})

    return invoke
