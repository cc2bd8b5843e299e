"""The route table: raw path segments to an endpoint, each with the query and body it takes. Pure.

Segments are compared as they came, percent-encoding and all: only parameters are decoded, once, after the path was
split (so ``%2F`` never becomes a separator). A parameter written ``{name}`` takes one segment, ``{name*}`` the rest
of the raw path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from discovery.api.codec import percent_decode

Kind = Literal["read", "write", "plain"]


class Endpoint(msgspec.Struct, frozen=True):
    """One method of one path.

    Args:
        handler: ``async def handler(call) -> Reply``.
        kind: ``read`` takes ``?consistency=``, ``write`` takes ``?visible=``, ``plain`` neither and any query.
        query: names of the parameters it takes besides those.
        body_max: bytes; 0 for an endpoint whose body must be empty.
        streams: the handler reads the body itself, piece by piece.
    """

    handler: Any
    kind: Kind
    query: frozenset[str] = frozenset()
    body_max: int = 0
    streams: bool = False


class Route(msgspec.Struct, frozen=True):
    """A path pattern with its methods; ``name`` labels metrics."""

    name: str
    pattern: str
    methods: dict[str, Endpoint]

    @property
    def allow(self) -> str:
        """The ``Allow`` header: HEAD where there is GET, OPTIONS always."""
        names = set(self.methods) | {"OPTIONS"}
        if "GET" in names:
            names.add("HEAD")
        return ", ".join(sorted(names))


class _Node:
    __slots__ = ("children", "parameter", "rest", "route", "under")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.under: _Node | None = None
        self.parameter = ""
        self.rest: tuple[str, Route] | None = None
        self.route: Route | None = None


class Router:
    """Finds the route of a raw path by walking its segments once."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.pattern[1:].split("/"):
            if segment.endswith("*}"):
                node.rest = (segment[1:-2], route)
                return
            node = (
                _under(node, segment[1:-1]) if segment.startswith("{") else node.children.setdefault(segment, _Node())
            )
        node.route = route

    def match(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its decoded parameters (``{name*}`` stays raw), or ``None``.

        Raises:
            InvalidInput: a parameter is not well percent-encoded.
        """
        node = self._root
        parameters: dict[str, str] = {}
        segments = path.split("/")
        for position in range(1, len(segments)):
            segment = segments[position]
            child = node.children.get(segment)
            if child is None and node.rest is not None:
                name, route = node.rest
                parameters[name] = "/".join(segments[position:])
                return route, parameters
            if child is None:
                child = node.under
                if child is None or not segment:
                    return None
                parameters[child.parameter] = percent_decode(child.parameter, segment)
            node = child
        return None if node.route is None else (node.route, parameters)


def _under(node: _Node, parameter: str) -> _Node:
    if node.under is None:
        node.under = _Node()
        node.under.parameter = parameter
    assert node.under.parameter == parameter, "one position, one parameter name"
    return node.under
