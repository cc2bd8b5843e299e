"""The application: finds the endpoint of a request, lets it answer, and shows every error as problem+json.

There is no chain of middlewares; what every request needs (:meth:`App.answer`) is one function, because at 10,000
heartbeats a second each microsecond is a hundredth of a core.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from socket import socket
from ssl import SSLContext
from typing import Final

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from multidict import istr

from discovery import limits
from discovery.api import problem
from discovery.api.call import REVISION, Call, Registry, Resolver, read_body
from discovery.api.codec import parse_query, refuse
from discovery.api.guard import Guard
from discovery.api.problem import BadRequest
from discovery.api.route import Endpoint, Route, Router
from discovery.api.routes import LATER, ROUTES
from discovery.api.server import Server
from discovery.errors import Forbidden, MethodNotAllowed, NotFound, RegistryError
from discovery.metrics import Exposition, HttpCounters

log: Final = logging.getLogger(__name__)

CSP: Final = "default-src 'none'; frame-ancestors 'none'"
_HISTORY: Final = istr("X-Registry-History")
_NODE: Final = istr("X-Registry-Node")
_NOSNIFF: Final = istr("X-Content-Type-Options")
_CSP: Final = istr("Content-Security-Policy")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_CONSISTENCY: Final = frozenset({"consistency"})
_VISIBLE: Final = frozenset({"visible"})
_KIND_QUERY: Final = {"read": _CONSISTENCY, "write": _VISIBLE, "plain": frozenset[str]()}


class Settings(msgspec.Struct, frozen=True):
    """What the API needs to know of the configuration.

    Args:
        zone: the DNS suffix served, for the ``dns`` names of instances.
        hosts: advertised host names that a ``Host`` header may carry.
    """

    zone: str = "cluster.local"
    hosts: frozenset[str] = frozenset()


class App:
    """Answers requests; one for each node."""

    def __init__(self, registry: Registry, resolver: Resolver, settings: Settings, now: Callable[[], float]) -> None:
        self.registry: Final = registry
        self.resolver: Final = resolver
        self.zone: Final = settings.zone
        self.bodies_bytes = 0
        self.backups = 0
        self.restoring = False
        self.counters: Final = HttpCounters()
        self._exposition: Exposition | None = None
        self._guard: Final = Guard(frozenset(host.lower() for host in settings.hosts))
        self._router: Final = Router(ROUTES)
        self._now: Final = now

    # Answers

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for a cancelled task."""
        started = self._now()
        route = "unmatched"
        response: web.StreamResponse
        try:
            if request.protocol.writing_paused:
                await _taken(request)
            path, query = self._target(request)
            self._guard.check(request.headers)
            found = self._router.match(path)
            if found is None:
                response = self._no_route(request.method, path)
            else:
                route = found[0].name
                response = await self._answer(request, found[0], found[1], query)
        except RegistryError as error:
            response = self.problem(error)
        except Exception as error:
            log.exception("defect in a handler", extra={"route": route})
            response = self.problem(problem.unexpected(error))
        if not request.content.is_eof():
            response.force_close()  # what the client still sends is no request
        self.counters.count(route, request.method, response.status, self._now() - started)
        return response

    def _target(self, request: web.BaseRequest) -> tuple[str, str]:
        """Raw path and raw query of the request target (RFC 9112 section 3.2: origin, absolute or asterisk form)."""
        raw = request.raw_path
        if not HttpVersion10 <= request.version <= HttpVersion11:  # the parser lets 0.9 and 2.0 pass
            raise BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here")
        if "#" in raw:
            raise BadRequest("the request target must not hold a fragment: # is written %23")
        if hdrs.HOST not in request.headers and request.version >= HttpVersion11:
            raise BadRequest("a request must carry one Host header (RFC 9112 section 3.2)")
        if not raw.startswith("/") and raw != "*":
            raw = self._relative(raw)
        path, _, query = raw.partition("?")
        return path, query

    def _relative(self, absolute: str) -> str:
        """The part of an absolute target that a request without proxy would have sent."""
        match = _ABSOLUTE.fullmatch(absolute)
        if match is None or not self._guard.accepts(match[1]):
            raise Forbidden("the request target names another host")
        rest = match[2]
        return rest if rest.startswith("/") else "/" + rest

    async def _answer(
        self, request: web.BaseRequest, route: Route, parameters: dict[str, str], query: str
    ) -> web.StreamResponse:
        method = request.method
        endpoint = route.methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            return self._other_method(method, route)
        call = Call(self, request, parameters, query)
        if query and endpoint.kind != "plain":
            call.query = parse_query(query, endpoint.query | _KIND_QUERY[endpoint.kind], LATER)
        if endpoint.kind == "read":
            await self._consistency(call)
        elif endpoint.kind == "write":
            await self._body(call, endpoint)
        response: web.StreamResponse = await endpoint.handler(call)
        return response

    def _no_route(self, method: str, path: str) -> web.Response:
        if method == "OPTIONS" and path == "*":  # the server as a whole (RFC 9110 section 9.3.7)
            return self.respond(204, None, "", {hdrs.ALLOW: "DELETE, GET, HEAD, OPTIONS, POST, PUT"})
        raise NotFound("no such path; the API is under /api/v1")

    def _other_method(self, method: str, route: Route) -> web.Response:
        if method == "OPTIONS":
            return self.respond(204, None, "", {hdrs.ALLOW: route.allow})
        response = self.problem(MethodNotAllowed(f"{route.pattern} takes {route.allow}"))
        response.headers[hdrs.ALLOW] = route.allow
        return response

    async def _consistency(self, call: Call) -> None:
        wanted = call.option("consistency")
        if wanted is None or wanted == "stale":
            return
        if wanted != "strong":
            refuse("consistency", "must be stale or strong", wanted)
        await self.registry.barrier()
        call.strong = True

    async def _body(self, call: Call, endpoint: Endpoint) -> None:
        visible = call.option("visible")
        if visible is not None and visible != "cluster":
            refuse("visible", "must be cluster", visible)
        if endpoint.streams:
            return
        call.body = await read_body(self, call.request, endpoint.body_max or limits.HTTP_BODY_BYTES_MAX)
        if call.body and not endpoint.body_max and call.body.strip() not in (b"", b"{}", b"null"):
            refuse("body", "must be empty here")

    def respond(
        self, status: int, body: bytes | None, content_type: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """A response with the headers that every answer carries."""
        every = self._headers(headers)
        if body is not None:
            every.setdefault(hdrs.CONTENT_TYPE, content_type)
        return web.Response(status=status, body=body, headers=every)

    def stream(self, content_type: str, headers: Mapping[str, str]) -> web.StreamResponse:
        """A 200 whose body comes piece by piece, with the headers that every answer carries."""
        return web.StreamResponse(headers={hdrs.CONTENT_TYPE: content_type, **self._headers(headers)})

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        store = self.registry.store
        every: dict[str, str] = {
            REVISION: str(store.revision),
            _HISTORY: store.history,
            _NODE: self.registry.node_id,
            _NOSNIFF: "nosniff",
            _CSP: CSP,
            hdrs.SERVER: "discovery",
        }
        if more:
            every.update(more)
        return every

    def problem(self, error: RegistryError) -> web.Response:
        """An error as problem+json."""
        return self.respond(error.status, problem.body(error), problem.CONTENT_TYPE, problem.headers(error))

    def raw_problem(self, error: RegistryError) -> bytes:
        """An error as the bytes of a whole answer, for a connection that never had a request."""
        response = self.problem(error)
        body = response.body
        assert isinstance(body, bytes)
        response.headers[hdrs.CONTENT_LENGTH] = str(len(body))
        response.headers[hdrs.CONNECTION] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        return f"HTTP/1.1 {error.status} {response.reason}\r\n{head}\r\n".encode() + body

    def metrics(self) -> bytes:
        """The exposition of ``/metrics``."""
        assert self._exposition is not None
        return self._exposition.text()

    def attach(self, server: Server) -> None:
        """Let ``/metrics`` show the connections of ``server``."""
        self._exposition = Exposition(self.registry, self.counters, server)


async def _taken(request: web.BaseRequest) -> None:
    """Return once the client has taken the answers before this one."""
    try:
        await request.writer.drain()
    except ConnectionError:
        raise BadRequest("the client went away") from None


def make_app(
    registry: Registry, *, resolver: Resolver, settings: Settings, now: Callable[[], float] = time.monotonic
) -> Server:
    """The HTTP server of a node, for :func:`serve` or ``aiohttp.web.ServerRunner``; call it in the running loop.

    It is aiohttp's low-level server, not an ``Application``: see :mod:`discovery.api.server`.
    """
    app = App(registry, resolver, settings, now)
    server = Server(app.handle, app, now)
    app.attach(server)
    return server


async def serve(
    server: Server, sockets: Iterable[socket], *, ssl_context: SSLContext | None = None, shutdown_timeout_s: float = 5.0
) -> web.ServerRunner:
    """Answer on ``sockets`` (bound, listening or not); ``await runner.cleanup()`` drains and ends."""
    runner = web.ServerRunner(server, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    for bound in sockets:
        await web.SockSite(runner, bound, ssl_context=ssl_context, backlog=1024).start()
    return runner
