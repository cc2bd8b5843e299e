"""What ``/metrics`` shows: ``discovery_*``, Prometheus naming, every label bounded.

Numbers are read when they are asked for, from objects that keep them anyway; the hot path only adds to a dictionary.
A label is never a name that a client can choose: routes are those of the table, methods a closed list.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from discovery import __version__, limits
from discovery.feed import Sample
from discovery.raft.status import CertificateStatus, DiskStatus, RaftStatus
from discovery.store import Store

BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})


class Connections(Protocol):
    """Who knows about connections: the HTTP server."""

    connection_count: int
    refused: int


class Workers(Protocol):
    """Who knows about DNS workers: the hub."""

    killed: int
    children: Sequence[tuple[str, int, float]]

    def stats(self) -> Mapping[int, Iterable[Sample]]:
        """What each worker said last about itself, by worker index."""


class Evictions(Protocol):
    """Who evicts."""

    evicted: int


class Leadership(Protocol):
    """Who keeps the lease clocks."""

    @property
    def stalls(self) -> int:
        """How often the process was found to have stood still while it led."""


class Node(Protocol):
    """Who knows about everything else: the registry."""

    node_id: str
    store: Store

    @property
    def hub(self) -> Workers:
        """The DNS workers."""

    @property
    def evictions(self) -> Evictions:
        """What this node evicted as leader."""

    @property
    def lead(self) -> Leadership:
        """The lease clocks of this node as leader."""

    def staleness_ms(self) -> int:
        """Milliseconds since this node last heard from a leader."""

    def status(self) -> RaftStatus:
        """The cluster as this node sees it."""


class HttpCounters:
    """Requests by route, method and status, and how long each route took."""

    __slots__ = ("buckets", "requests", "seconds")

    def __init__(self) -> None:
        self.requests: Final[dict[tuple[str, str, int], int]] = {}
        self.buckets: Final[dict[str, list[int]]] = {}
        self.seconds: Final[dict[str, float]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: name of a route of the table.
            method: as it came; unknown ones are counted as ``other``.
            status: HTTP status of the answer.
            seconds: how long the answer took.
        """
        key = (route, method if method in _METHODS else "other", status)
        self.requests[key] = self.requests.get(key, 0) + 1
        buckets = self.buckets.get(route)
        if buckets is None:
            buckets = self.buckets[route] = [0] * (len(BUCKETS_S) + 1)
        buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds[route] = self.seconds.get(route, 0.0) + seconds


class Exposition:
    """The text of ``/metrics``."""

    def __init__(self, node: Node, http: HttpCounters, connections: Connections) -> None:
        self._prometheus: Final = CollectorRegistry(auto_describe=False)
        self._prometheus.register(_NodeCollector(node))
        self._prometheus.register(_WorkerCollector(node))
        self._prometheus.register(_HttpCollector(http, connections))
        ProcessCollector(registry=self._prometheus)
        PlatformCollector(registry=self._prometheus)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._prometheus)


class _HttpCollector(Collector):
    def __init__(self, http: HttpCounters, connections: Connections) -> None:
        self._http: Final = http
        self._connections: Final = connections

    def collect(self) -> Iterator[Metric]:
        """Requests, durations, connections."""
        requests = CounterMetricFamily(
            "discovery_http_requests", "HTTP requests answered.", labels=("route", "method", "status")
        )
        for (route, method, status), count in self._http.requests.items():
            requests.add_metric((route, method, str(status)), count)
        yield requests
        yield self._durations()
        yield _gauge("discovery_http_connections", "Open HTTP connections.", self._connections.connection_count)
        refused = self._connections.refused
        yield _counter("discovery_http_connections_refused", "HTTP connections closed as slow or too many.", refused)

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "discovery_http_request_duration_seconds", "Time from a parsed head to the answer.", labels=("route",)
        )
        for route, counts in self._http.buckets.items():
            total = 0
            buckets = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric((route,), buckets, self._http.seconds[route])
        return family


class _NodeCollector(Collector):
    """The registry and Raft, read from the node's own status objects."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node

    def collect(self) -> Iterator[Metric]:
        """Version, state machine, Raft, members."""
        yield _labelled("discovery_build_info", "Version of the daemon.", {"version": __version__}, 1)
        yield from self._state()
        yield from self._leases()
        status = self._node.status()
        yield from self._raft(status)
        yield from self._disk(status.disk)
        yield from self._certificate(status.certificate)

    def _state(self) -> Iterator[Metric]:
        store = self._node.store
        yield _gauge("discovery_registry_revision", "Revision of the state this node has applied.", store.revision)
        yield _gauge("discovery_registry_floor_revision", "Changes up to this revision were compacted.", store.floor)
        totals = store.totals()
        yield _gauge("discovery_registry_instances", "Instances registered.", totals.instances)
        yield _gauge("discovery_registry_services", "Services with settings or instances.", totals.services)
        yield _gauge("discovery_registry_leases", "Leases granted and neither expired nor revoked.", totals.leases)
        yield _gauge("discovery_registry_keys", "Public keys.", totals.keys)
        yield _gauge("discovery_registry_keys_bytes", "Keys, in characters, and values together.", totals.key_bytes)
        yield _gauge("discovery_dns_zone_serial", "SOA serial before it is cut to 32 bits.", store.serial)
        seconds = self._node.staleness_ms() / 1000
        yield _gauge("discovery_registry_staleness_seconds", "Time since this node heard from a leader.", seconds)

    def _leases(self) -> Iterator[Metric]:
        evicted, stalls = self._node.evictions.evicted, self._node.lead.stalls
        yield _counter("discovery_lease_evictions", "Leases that expired while this node led.", evicted)
        braked = len(self._node.store.braked_leases())
        yield _gauge(
            "discovery_lease_braked", "Leases that expired and are held back by their service's brake.", braked
        )
        yield _counter("discovery_lease_clock_stalls", "Pauses of this process that no lease was charged for.", stalls)

    def _raft(self, status: RaftStatus) -> Iterator[Metric]:
        yield _gauge("discovery_feature_level", "Feature level in force in the cluster.", status.level)
        yield _gauge("discovery_raft_term", "Raft term.", status.term)
        yield _gauge("discovery_raft_commit_index", "Log index known committed.", status.commit)
        yield _gauge("discovery_raft_applied_index", "Log index applied here.", status.applied)
        yield _gauge("discovery_raft_leader", "1 on the node that leads.", status.leader == self._node.node_id)
        yield _gauge("discovery_raft_leader_known", "1 when this node knows a leader.", status.leader is not None)
        members = list(status.members)[: limits.PEERS_MAX]
        alive = GaugeMetricFamily("discovery_raft_member_alive", "1 when the member is in touch.", labels=("member",))
        applied = GaugeMetricFamily("discovery_raft_member_applied_index", "Log index applied.", labels=("member",))
        text = "Highest feature level that the member knows; 0 before it was heard."
        known = GaugeMetricFamily("discovery_feature_level_known", text, labels=("member",))
        for member in members:
            known.add_metric((member.id,), member.level or 0)
            alive.add_metric((member.id,), member.alive)
            applied.add_metric((member.id,), member.applied or 0)
        yield alive
        yield applied
        yield known

    def _disk(self, disk: DiskStatus) -> Iterator[Metric]:
        yield _gauge("discovery_disk_full", "1 when there is no room: no writes, no votes here.", bool(disk.full))
        yield _counter("discovery_disk_full_batches", "Batches of the log that found no room.", disk.fulls)
        yield _gauge("discovery_disk_log_bytes", "Bytes of the log's files.", disk.log_bytes)
        yield _gauge("discovery_disk_snapshot_bytes", "Bytes of the newest snapshot.", disk.snapshot_bytes)
        yield _gauge("discovery_disk_write_waiting_seconds", "Age of the write under way to the log.", disk.stalled_s)
        yield _counter("discovery_disk_syncs", "Batches that were written to the log.", disk.syncs)
        yield _counter("discovery_disk_sync_seconds", "Time spent writing and syncing them.", disk.sync_s)

    def _certificate(self, told: CertificateStatus | None) -> Iterator[Metric]:
        if told is None:
            return
        yield _gauge(
            "discovery_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use or its authority expires; 0 when none fits.",
            told.expires,
        )
        text = "1 when the files of the certificate as they are now do not fit."
        yield _gauge("discovery_tls_certificate_unfit", text, bool(told.unfit))


class _WorkerCollector(Collector):
    """What the DNS workers sent over the feed: counters since the start of each, under its index."""

    def __init__(self, node: Node) -> None:
        self._node: Final = node

    def collect(self) -> Iterator[Metric]:
        """Every sample of every worker."""
        hub = self._node.hub
        starts = CounterMetricFamily(
            "discovery_process_starts",
            "Starts of node process and DNS workers.",
            labels=("process",),
        )
        text = "How long the next start of a process is held back; 0: it runs. As of its last end or start."
        held = GaugeMetricFamily("discovery_process_held_seconds", text, labels=("process",))
        for name, count, seconds in hub.children:
            starts.add_metric((name,), count)
            held.add_metric((name,), seconds)
        yield from (starts, held)
        yield _counter("discovery_dns_workers_killed", "DNS workers killed because they did not follow.", hub.killed)
        families: dict[str, Metric] = {}
        for worker, samples in sorted(hub.stats().items()):
            for sample in samples:
                name = f"discovery_{sample.name}"
                family = families.get(name) or families.setdefault(name, _family(name))
                family.add_sample(name, {"worker": str(worker), **dict(sample.labels)}, sample.value)
        yield from families.values()


def _family(name: str) -> Metric:
    """A counter when the name says so, else a gauge."""
    text = "Of a DNS worker, by its index."
    return Metric(name.removesuffix("_total"), text, "counter" if name.endswith("_total") else "gauge")


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _labelled(name: str, text: str, labels: dict[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family
