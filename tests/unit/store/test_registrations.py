"""Register, deregister, status and service settings, as CONTRACT section 2 says."""

from __future__ import annotations

import pytest

from discovery import limits
from discovery.command import DeleteService, Deregister, Put, Register, SetService, SetStatus, Written
from discovery.model import Port, Service


def test_a_registration_creates_instance_and_lease_in_one_revision(log):
    outcome = log.outcome(log.registration("web-0", new_lease=7, ttl_ms=10_000))
    written = outcome.result
    assert (written.revision, written.changed, written.created, written.dns) == (1, True, True, 1)
    assert written.instance == log.store.instance("default", "web", "web-0")
    assert (written.instance.lease, written.lease.id, written.lease.ttl_ms) == (7, 7, 10_000)
    assert [(effect.kind, effect.id, effect.ttl_ms) for effect in outcome.leases] == [("started", 7, 10_000)]
    assert [change.record for change in outcome.group.changes] == [written.instance]
    assert log.store.lease(7).instances == (("default", "web", "web-0"),)
    assert log.store.counts("default", "web") == (1, 1)


def test_the_same_body_from_the_same_holder_renews_and_moves_no_revision(log):
    first = log.register("web-0")
    log(Put("elsewhere", b""))
    outcome = log.outcome(log.registration("web-0", holder=first.lease.id))
    assert (outcome.result.changed, outcome.result.revision, outcome.group) == (False, 2, None)
    assert outcome.result.dns == first.revision, "a retry waits for DNS as the first request did"
    assert outcome.result.instance == first.instance
    assert outcome.result.lease.version == first.lease.version + 1
    assert [(effect.kind, effect.id, effect.version) for effect in outcome.leases] == [("started", first.lease.id, 2)]


def test_another_body_from_the_same_holder_keeps_the_lease(log):
    first = log.register("web-0")
    second = log.register("web-0", holder=first.lease.id, weight=10)
    assert (second.created, second.changed, second.lease.id) == (False, True, first.lease.id)
    assert (second.instance.create_revision, second.instance.mod_revision, second.instance.version) == (1, 2, 2)


def test_another_ttl_from_the_same_holder_moves_revision_and_lease(log):
    first = log.register("web-0", ttl_ms=10_000)
    second = log.register("web-0", holder=first.lease.id, ttl_ms=20_000)
    assert (second.changed, second.lease.ttl_ms, second.lease.version) == (True, 20_000, 2)


@pytest.mark.parametrize("holder", [0, 4711])
def test_another_holder_replaces_the_instance_and_gets_a_new_lease(log, holder):
    first = log.register("web-0")
    outcome = log.outcome(log.registration("web-0", holder=holder, new_lease=99))
    assert (outcome.result.changed, outcome.result.lease.id) == (True, 99)
    assert [(effect.kind, effect.id) for effect in outcome.leases] == [("started", 99), ("gone", first.lease.id)]
    assert log.store.lease(first.lease.id) is None
    assert log.store.events()[-1].detail == "replaced by another holder"


def test_a_permanent_instance_has_no_lease_and_repeats_quietly(log):
    first = log.register("web-0", ttl_ms=None)
    assert (first.lease, first.instance.lease, list(log.store.leases())) == (None, 0, [])
    again = log.register("web-0", ttl_ms=None)
    assert (again.changed, again.instance) == (False, first.instance)


def test_an_instance_that_becomes_permanent_drops_its_own_lease(log):
    first = log.register("web-0")
    outcome = log.outcome(log.registration("web-0", holder=first.lease.id, ttl_ms=None))
    assert [(effect.kind, effect.id) for effect in outcome.leases] == [("gone", first.lease.id)]
    assert outcome.result.instance.lease == 0


def test_without_a_ttl_the_services_default_holds_and_else_the_general_one(log):
    assert log.register("a", ttl_ms=None, ttl_given=False).lease.ttl_ms == limits.LEASE_TTL_MS_DEFAULT
    log(SetService(Service("default", "web", default_ttl_ms=30_000)))
    assert log.register("b", ttl_ms=None, ttl_given=False).lease.ttl_ms == 30_000
    assert log.register("c", ttl_ms=5_000).lease.ttl_ms == 5_000


def test_a_status_that_is_not_given_stays_on_a_replace(log):
    log.register("web-0")
    log(SetStatus("default", "web", "web-0", "draining"))
    assert log.register("web-0", weight=3).instance.spec.status == "draining"
    assert log.register("web-0", status="ready").instance.spec.status == "ready"


def test_a_condition_on_the_revision_is_kept(log, refused):
    refused(log.registration("web-0", if_revision=3), "precondition_failed", "does not exist")
    log.register("web-0", if_revision=0)
    refused(log.registration("web-0", if_revision=0), "precondition_failed", "stands at 1")
    assert log.register("web-0", if_revision=1, weight=2).revision == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"namespace": "No"}, "namespace"),
        ({"service": "-web"}, "service"),
        ({"instance_id": "a b"}, "id"),
        ({"addresses": ()}, "addresses"),
        ({"addresses": ("0.0.0.0",)}, "addresses[0]"),
        ({"addresses": ("10.0.0.1",) * 2}, "addresses"),
        ({"ports": (Port("http", 0),)}, "ports[0].port"),
        ({"ports": (Port("http", 80), Port("http", 81))}, "ports[1].name"),
        ({"hostname": "a.b"}, "hostname"),
        ({"weight": 65_536}, "weight"),
        ({"dns_ttl": -1}, "dns_ttl"),
        ({"tags": ("",)}, "tags[0]"),
        ({"meta": (("b", ""), ("a", ""))}, "meta"),
        ({"ttl_ms": 999}, "ttl"),
        ({"ttl_ms": 86_400_001}, "ttl"),
        ({"new_lease": 0}, "new_lease"),
        ({"new_lease": 2**63}, "new_lease"),
        ({"if_revision": -1}, "if_revision"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_field(log, refused, fields, field):
    assert refused(log.registration(**fields), "invalid_input").field == field


def test_bad_lists_are_refused_again_and_again(log, refused):
    for _ in range(3):
        refused(log.registration(tags=("x" * 256,)), "invalid_input", "tags[0]")


def test_ttl_and_lease_exclude_each_other(log, refused):
    command = log.registration()
    refused(Register(command.instance, False, 10_000, True, 5, 0, 6), "invalid_input", "together with ttl")


def test_a_lease_id_that_is_taken_is_refused(log, refused):
    log.register("a", new_lease=50)
    refused(log.registration("b", new_lease=50), "conflict", "exists already")


def test_an_instance_joins_a_lease_and_goes_with_it(log, refused):
    refused(log.registration("b", join=4), "not_found", "does not exist")
    lease = log.register("a").lease.id
    joined = log.register("b", join=lease)
    assert joined.lease.id == lease
    assert log.store.lease(lease).instances == (("default", "web", "a"), ("default", "web", "b"))
    again = log.register("b", join=lease)
    assert (again.changed, again.lease.version) == (False, joined.lease.version + 1)


def test_a_lease_of_its_own_goes_when_nothing_hangs_on_it_any_more(log):
    lease = log.register("a").lease.id
    log.register("b", join=lease)
    log.deregister("a")
    assert log.store.lease(lease).instances == (("default", "web", "b"),)
    outcome = log.outcome(Deregister("default", "web", "b"))
    assert [(effect.kind, effect.id) for effect in outcome.leases] == [("gone", lease)]
    assert log.store.lease(lease) is None


def test_a_lease_carries_a_limited_number_of_things(log, refused, monkeypatch):
    monkeypatch.setattr(limits, "LEASE_ATTACHMENTS_MAX", 2)
    lease = log.register("a").lease.id
    log.register("b", join=lease)
    refused(log.registration("c", join=lease), "conflict", "more than 2")
    assert log.register("b", join=lease, weight=2).changed, "what hangs on it already may change"


def test_deregistration_removes_instance_and_lease(log):
    lease = log.register("web-0").lease.id
    outcome = log.outcome(Deregister("default", "web", "web-0", reason="drained", detail="SIGTERM"))
    assert (outcome.result.deleted, outcome.result.dns, outcome.group.changes[0].reason) == (1, 2, "drained")
    assert [(effect.kind, effect.id) for effect in outcome.leases] == [("gone", lease)]
    event = log.store.events()[-1]
    assert (event.kind, event.detail, event.actor, event.revision) == ("drained", "SIGTERM", "tester", 2)
    assert (log.store.namespaces(), log.store.services("default")) == ([], [])


def test_deregistering_what_is_gone_succeeds_and_names_the_revision_dns_must_have_seen(log):
    log.register("web-0")
    log.deregister("web-0")
    log(Put("elsewhere", b""))
    again = log.deregister("web-0")
    assert (again.changed, again.deleted, again.dns, again.revision) == (False, 0, 2, 3)


def test_an_old_holder_cannot_remove_or_change_its_successor(log, refused):
    old = log.register("web-0").lease.id
    log.register("web-0")
    refused(Deregister("default", "web", "web-0", holder=old), "holder_conflict", "another lease")
    refused(SetStatus("default", "web", "web-0", "draining", holder=old), "holder_conflict")
    new = log.store.instance("default", "web", "web-0").lease
    assert log(Deregister("default", "web", "web-0", holder=new)).deleted == 1


def test_deregistration_under_a_condition(log, refused):
    log.register("web-0")
    refused(Deregister("default", "web", "web-0", if_revision=9), "precondition_failed")
    assert log(Deregister("default", "web", "web-0", if_revision=1)).deleted == 1


def test_a_status_changes_alone_and_leaves_the_lease(log, refused):
    refused(SetStatus("default", "web", "web-0", "draining"), "not_found", "register it first")
    before = log.register("web-0")
    outcome = log.outcome(SetStatus("default", "web", "web-0", "draining"))
    assert (outcome.result.instance.spec.status, outcome.result.revision, outcome.leases) == ("draining", 2, ())
    assert outcome.result.lease == before.lease
    assert log.store.counts("default", "web") == (1, 0)
    assert log(SetStatus("default", "web", "web-0", "draining")).changed is False
    assert log.store.events()[-1].detail == "status ready -> draining"


def test_names_are_judged_by_every_command(refused):
    assert refused(Deregister("No", "web", "a"), "invalid_input").field == "namespace"
    assert refused(SetStatus("default", "web", "", "ready"), "invalid_input").field == "id"
    assert refused(SetService(Service("default", "No")), "invalid_input").field == "service"
    assert refused(DeleteService("default", "No"), "invalid_input").field == "service"


def test_service_settings_are_put_compared_and_removed(log, refused):
    spec = Service("default", "web", dns_ttl=2)
    written = log(SetService(spec))
    assert (written.created, written.service.spec, written.dns) == (True, spec, 1)
    assert log(SetService(spec)).changed is False
    refused(SetService(spec, if_revision=0), "precondition_failed")
    assert log(SetService(Service("default", "web", dns_ttl=3), if_revision=1)).service.version == 2
    assert log.store.services("default") == ["web"]
    assert log(DeleteService("default", "web")).deleted == 1
    assert log.store.services("default") == []
    assert log(DeleteService("default", "web")).changed is False


def test_a_service_with_instances_is_neither_removed_nor_external(log, refused):
    log(SetService(Service("default", "web")))
    log.register("web-0")
    refused(DeleteService("default", "web"), "conflict", "deregister them first")
    refused(SetService(Service("default", "web", "external", external_name="example.org")), "conflict")


def test_an_external_service_takes_no_instance(log, refused):
    log(SetService(Service("default", "web", "external", external_name="example.org")))
    refused(log.registration("web-0"), "conflict", "is external")


def test_a_service_lives_while_it_has_settings_or_instances(log):
    log.register("web-0")
    log(SetService(Service("default", "web")))
    log.deregister("web-0")
    assert log.store.services("default") == ["web"]
    assert log.store.service("default", "web") is not None


def test_the_state_as_a_whole_is_bounded(log, refused, monkeypatch):
    monkeypatch.setattr(limits, "INSTANCES_MAX", 1)
    monkeypatch.setattr(limits, "SERVICES_MAX", 1)
    log.register("a")
    refused(log.registration("b"), "overloaded", "holds 1 instances")
    refused(SetService(Service("default", "other")), "overloaded", "holds 1 services")
    monkeypatch.setattr(limits, "INSTANCES_MAX", 9)
    refused(log.registration("b", service="other"), "overloaded", "holds 1 services")
    monkeypatch.setattr(limits, "LEASES_MAX", 1)
    refused(log.registration("b"), "overloaded", "holds 1 leases")
    assert isinstance(log(log.registration("a", weight=4, holder=1)), Written), "what is there may still change"


def test_listings_are_sorted(log):
    for name in ("b", "c", "a"):
        log.register(name, service=name, namespace=name)
        log.register(name)
    assert log.store.namespaces() == ["a", "b", "c", "default"]
    assert log.store.instance_ids("default", "web") == ["a", "b", "c"]
    log.deregister("b")
    assert log.store.instance_ids("default", "web") == ["a", "c"]
    assert set(log.store.instances("default", "web")) == {"a", "c"}
    assert len(list(log.store.all_instances())) == 5
    assert log.store.instance_ids("default", "none") == []
    assert dict(log.store.instances("default", "none")) == {}


def test_only_the_catalogue_moves_the_serial(log):
    log.register("a")
    log(Put("k", b""))
    assert (log.store.revision, log.store.serial) == (2, 1)
    log(SetService(Service("default", "web")))
    assert (log.store.revision, log.store.serial, log.groups[-1].serial) == (3, 2, 2)
