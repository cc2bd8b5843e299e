"""What ``/metrics`` shows: names by Prometheus practice, bounded labels, histograms that add up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from discovery.feed import Sample
from discovery.metrics import BUCKETS_S, Exposition, HttpCounters
from discovery.raft.types import CertificateStatus, DiskStatus
from discovery.store import Totals

WORKER = (
    Sample("dns_queries_total", (), 5),
    Sample("dns_responses_total", (("rcode", "NXDOMAIN"),), 3),
    Sample("dns_stale", (), 1),
)


def shown(http: HttpCounters, certificate: CertificateStatus | None = None, **changed: Any) -> dict[str, list[Any]]:
    member = SimpleNamespace(id="n2", alive=False, applied=None, level=2)
    disk = DiskStatus("the disk is full: log", 4096, 512, 20, 1.5, 2)
    status = SimpleNamespace(
        term=7, leader=None, commit=12, applied=11, members=[member], disk=disk, certificate=certificate, level=1
    )
    registry = SimpleNamespace(
        node_id="n1",
        store=SimpleNamespace(
            revision=44, floor=3, serial=9, totals=lambda: Totals(5, 4, 3, 2, 1), braked_leases=lambda: {7, 8}
        ),
        staleness_ms=lambda: 1_500,
        status=lambda: status,
        evictions=SimpleNamespace(evicted=6),
        lead=SimpleNamespace(stalls=4),
        hub=SimpleNamespace(killed=1, stats=lambda: {0: WORKER, 1: WORKER[:1]}, children=[("dns-0", 4, 0.8)]),
        **changed,
    )
    text = Exposition(registry, http, SimpleNamespace(connection_count=5, refused=2)).text().decode()
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_the_nodes_numbers_are_shown() -> None:
    families = shown(HttpCounters())
    values = {name: samples[0].value for name, samples in families.items() if samples}
    assert values["discovery_registry_revision"] == 44
    assert values["discovery_feature_level"] == 1
    assert values["discovery_feature_level_known"] == 2
    assert values["discovery_process_starts"] == 4
    assert values["discovery_process_held_seconds"] == 0.8
    assert values["discovery_disk_full"] == 1
    assert values["discovery_disk_full_batches"] == 2
    assert values["discovery_disk_log_bytes"] == 4096
    assert values["discovery_disk_snapshot_bytes"] == 512
    assert values["discovery_disk_sync_seconds"] == 1.5
    assert values["discovery_registry_floor_revision"] == 3
    assert values["discovery_registry_staleness_seconds"] == 1.5
    held = ("instances", "services", "keys", "keys_bytes", "leases")
    assert [values[f"discovery_registry_{what}"] for what in held] == [5, 4, 3, 2, 1]
    assert values["discovery_raft_term"] == 7
    assert values["discovery_raft_applied_index"] == 11
    assert values["discovery_lease_evictions"] == 6
    assert values["discovery_lease_clock_stalls"] == 4
    assert values["discovery_lease_braked"] == 2
    assert values["discovery_raft_leader_known"] == 0
    assert values["discovery_raft_leader"] == 0
    assert values["discovery_http_connections"] == 5
    assert values["discovery_http_connections_refused"] == 2
    assert families["discovery_raft_member_alive"][0].labels == {"member": "n2"}


def test_the_end_of_a_certificate_is_shown_where_there_is_one() -> None:
    assert not [name for name in shown(HttpCounters()) if "certificate" in name]
    families = shown(HttpCounters(), CertificateStatus(1_800_000_000.0, "n1.pem is not the key of"))
    assert families["discovery_tls_certificate_expiry_timestamp_seconds"][0].value == 1_800_000_000
    assert families["discovery_tls_certificate_unfit"][0].value == 1


def test_each_dns_worker_is_shown_under_its_index() -> None:
    families = shown(HttpCounters())
    assert families["discovery_dns_workers_killed"][0].value == 1
    queries = {sample.labels["worker"]: sample.value for sample in families["discovery_dns_queries"]}
    assert queries == {"0": 5, "1": 5}
    [responses] = families["discovery_dns_responses"]
    assert (responses.labels, responses.value) == ({"worker": "0", "rcode": "NXDOMAIN"}, 3)
    assert families["discovery_dns_stale"][0].value == 1


def test_requests_and_durations_add_up() -> None:
    http = HttpCounters()
    for seconds in (0.0001, 0.003, 100.0):
        http.count("instance", "PUT", 200, seconds)
    http.count("instance", "SPY", 405, 0.1)
    families = shown(http)
    requests = {(s.labels["method"], s.labels["status"]): s.value for s in families["discovery_http_requests"]}
    assert requests == {("PUT", "200"): 3, ("other", "405"): 1}
    samples = families["discovery_http_request_duration_seconds"]
    buckets = [s.value for s in samples if s.name.endswith("_bucket")]
    assert len(buckets) == len(BUCKETS_S) + 1
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1]) == (1, 4)
    [total] = [s.value for s in samples if s.name.endswith("_sum")]
    assert round(total, 4) == 100.1031


def test_every_name_has_a_unit_or_a_meaning_of_its_own() -> None:
    names = [name for name in shown(HttpCounters()) if name.startswith("discovery_")]
    assert names
    assert all(name == name.lower() and not name.endswith(("_ms", "_millis", "_count")) for name in names)
