"""The cluster that a drill is about, as its API shows it: where its nodes are, whether all is well, what it holds."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp

from discovery.config_rules import split_address
from discovery.drill.dnsclient import dns_client
from discovery.drill.plan import Plan
from discovery.drill.record import NO_ANSWER, SERVFAIL

LOOK: Final = aiohttp.ClientTimeout(total=2.0, connect=1.0)
READ: Final = aiohttp.ClientTimeout(total=30.0, connect=1.0)
POLL_S: Final = 0.05
NAMESPACE: Final = "system"  # where the nodes themselves are registered
SERVICE: Final = "discovery"
PAGE: Final = 10_000
ZONE: Final = "cluster.local"
_API_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, TimeoutError)


class Unfit(Exception):
    """The cluster cannot be rehearsed on; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where a node answers."""

    node: str
    url: str
    dns: tuple[str, int]


class Target:
    """The nodes of one cluster."""

    def __init__(self, http: aiohttp.ClientSession, places: Sequence[Place], zone: str = ZONE) -> None:
        self.http = http
        self.zone = zone
        self.places: Mapping[str, Place] = {place.node: place for place in places}

    @property
    def urls(self) -> list[str]:
        """Of all nodes."""
        return [place.url for place in self.places.values()]

    async def get(self, url: str, path: str, limit: aiohttp.ClientTimeout = LOOK) -> Any:
        """A JSON answer of one node. Raises one of the client's errors; ``ValueError`` when it is refused."""
        async with self.http.get(url + path, timeout=limit) as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                raise ValueError(str(body.get("detail") or f"answered {response.status}"))
            return body

    async def cluster(self, node: str) -> Any | None:
        """The cluster as one node sees it, or ``None``."""
        try:
            return await self.get(self.places[node].url, "/api/v1/cluster")
        except _API_ERRORS:
            return None

    async def leader(self) -> tuple[str, int] | None:
        """The leader by the newest term that any node knows one in, and that term."""
        seen = [view for view in await asyncio.gather(*map(self.cluster, self.places)) if view and view.get("leader")]
        newest = max(seen, key=lambda view: int(view["term"]), default=None)
        return None if newest is None else (str(newest["leader"]), int(newest["term"]))

    async def problems(self) -> list[str]:
        """Why the cluster is not healthy: nothing, or a sentence for each reason."""
        found = await asyncio.gather(*map(self._problem, self.places))
        views = await asyncio.gather(*map(self.cluster, self.places))
        leaders = {view.get("leader") for view in views if view}
        if len(leaders) != 1:
            found.append(f"the nodes do not agree on a leader: {', '.join(sorted(map(str, leaders)))}")
        for view in views:
            dead = [member["id"] for member in view["members"] if not member["alive"]] if view else []
            found += [f"{view['node']} does not hear from {', '.join(dead)}"] if view and dead else []
        return [problem for problem in found if problem]

    async def _problem(self, node: str) -> str:
        place = self.places[node]
        try:
            await self.get(place.url, "/readyz")
            async with dns_client(*place.dns) as client:
                reply = await client.ask(f"dns-version.{self.zone}", "TXT")
        except _API_ERRORS as problem:
            return f"{node} at {place.url}: {problem or type(problem).__name__}"
        if reply.rcode in (NO_ANSWER, SERVFAIL):
            return f"{node}: its DNS at {place.dns[0]}:{place.dns[1]} does not answer"
        return ""

    async def wait_healthy(self, timeout_s: float) -> None:
        """Wait until there are no problems. Raises :class:`Unfit` with them."""
        deadline = time.monotonic() + timeout_s
        while problems := await self.problems():
            if time.monotonic() > deadline:
                raise Unfit("; ".join(problems))
            await asyncio.sleep(POLL_S)

    async def wait_ready(self, node: str, timeout_s: float) -> None:
        """Wait until a node serves. Raises :class:`Unfit`."""
        deadline = time.monotonic() + timeout_s
        while problem := await self._problem(node):
            if time.monotonic() > deadline:
                raise Unfit(problem)
            await asyncio.sleep(POLL_S)

    async def keys(self, node: str, prefix: str) -> dict[str, bytes]:
        """Every key below ``prefix``, read linearizably at one node. Raises :class:`Unfit` when it cannot."""
        found: dict[str, bytes] = {}
        after = ""
        path = f"/api/v1/kv/{quote(prefix)}?prefix=true&consistency=strong&limit={PAGE}"
        try:
            while True:
                page = await self.get(self.places[node].url, path + after, READ)
                found |= {item["key"]: base64.b64decode(item["value_base64"]) for item in page["items"]}
                if "next" not in page:
                    return found
                after = f"&after={quote(page['next'], safe='')}"
        except _API_ERRORS as problem:
            raise Unfit(f"{node} cannot list the written keys: {problem or type(problem).__name__}") from problem

    async def expired(self, namespace: str, after: int) -> list[str]:
        """``service/id`` of the instances evicted after a revision, as far back as events are kept.

        Raises:
            Unfit: no node tells.
        """
        path = f"/api/v1/events?namespace={namespace}&consistency=strong"  # `since` is refused once older ones are gone
        for url in self.urls:
            try:
                events = (await self.get(url, path, READ))["events"]
            except _API_ERRORS:
                continue
            gone = [event for event in events if event["kind"] == "expired" and event["revision"] > after]
            return [f"{event['service']}/{event['id']}" for event in gone]
        raise Unfit("no node tells what was evicted")

    async def revision(self) -> int:
        """The newest revision that any node knows."""
        views = await asyncio.gather(*map(self.cluster, self.places))
        return max((int(view["revision"]) for view in views if view), default=0)


async def find(http: aiohttp.ClientSession, servers: Sequence[str], plan: Plan) -> Target:
    """The nodes of the cluster that ``servers`` belong to; addresses of the plan go before what the cluster says.

    Raises:
        Unfit: no server answers, or a node's HTTP or DNS address is not known.
    """
    finder = Target(http, [])
    reasons = []
    for server in servers:
        url = server.rstrip("/") if "//" in server else f"http://{server}"
        try:
            members = (await finder.get(url, "/api/v1/cluster"))["members"]
            path = f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}/instances"
            catalogue = {one["id"]: one for one in (await finder.get(url, path))["instances"]}
        except _API_ERRORS as problem:
            reasons.append(f"{url}: {problem or type(problem).__name__}")
            continue
        if unknown := sorted(set(plan.nodes) - {member["id"] for member in members}):
            raise Unfit(f"the cluster has no member {', '.join(unknown)}")
        names = [name for one in catalogue.values() for name in one["dns"]]
        zone = plan.zone or next((name.partition(".svc.")[2] for name in names), ZONE)
        return Target(http, [_place(member, catalogue.get(member["id"]), plan) for member in members], zone)
    raise Unfit("no server answered; " + "; ".join(reasons))


def _place(member: Mapping[str, Any], own: Mapping[str, Any] | None, plan: Plan) -> Place:
    """Where a member is: by the plan, else by the list of members and the nodes' own entry in the catalogue."""
    node, told = member["id"], plan.nodes.get(member["id"])
    url = (told.http if told else "") or member["http"]
    if not url:
        raise Unfit(f"the HTTP address of {node} is not known: write it into the file as nodes.{node}.http")
    if told and told.dns:
        dns = split_address(told.dns)
        if dns is None:
            raise Unfit(f"nodes.{node}.dns must be HOST:PORT, not {told.dns}")
        return Place(node, url.rstrip("/"), dns)
    port = next((one["port"] for one in (own or {}).get("ports", ()) if one["name"] == "dns"), None)
    if own is None or port is None:
        raise Unfit(f"the DNS address of {node} is not in the catalogue: write it into the file as nodes.{node}.dns")
    host = own["addresses"][0] if own["addresses"] else urlsplit(url).hostname
    return Place(node, url.rstrip("/"), (str(host), int(port)))
