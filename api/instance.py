"""Instances: registration, heartbeats, status, deregistration, lists."""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from discovery import limits, validate
from discovery.api import codec, spec, view
from discovery.api.call import Call, new_lease_id
from discovery.api.paging import cut, names_after, page_of
from discovery.command import Deregister, Register, SetStatus, Written
from discovery.errors import FieldError, HolderConflict, NotFound
from discovery.model import InstanceRecord, Lease
from discovery.store import Store

SLICE: Final = 200  # about a millisecond of work: a heartbeat takes some ten turns of the loop
LIST_QUERY: Final = frozenset({"status", "tag"})
_BATCH_FIELDS: Final = frozenset({"instances"})
_Name = tuple[str, str, str]


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[list[str]]


_batch_decoder: Final = msgspec.json.Decoder(_Batch)


def _names(call: Call) -> _Name:
    given = call.parameters
    return spec.names(given["namespace"], given["service"], given["id"])


def _gone(names: _Name) -> NotFound:
    return NotFound(f"no instance {names[2]} of service {names[1]} in namespace {names[0]}: register again")


async def put(call: Call) -> web.Response:
    """``PUT …/instances/{id}``: register, replace or renew. The names are judged with all the rest."""
    given = call.parameters
    wanted = spec.registration(given["namespace"], given["service"], given["id"], call.body)
    result = await call.write(
        Register(
            instance=wanted.instance,
            status_given=wanted.status_given,
            ttl_ms=wanted.ttl_ms,
            ttl_given=wanted.ttl_given,
            join=wanted.join,
            holder=call.holder(),
            new_lease=new_lease_id(),
            if_revision=call.number("if_revision"),
        )
    )
    renewed = not wanted.join and not call.keyed  # the answer of a keyed request may be of one long ago
    return await call.written(result, 201 if result.created else 200, await _written(call, result, renewed))


async def _written(call: Call, result: Written, renewed: bool) -> view.InstanceView:
    """The instance as a write left it. A lease that was just renewed has all of its TTL left; else the leader knows."""
    assert result.instance is not None
    held = result.lease
    if held is None:
        return view.instance(result.instance, None, None, call.app.zone)
    remaining = held.ttl_ms if renewed else (await call.registry.remaining([held.id])).get(held.id)
    return view.instance(result.instance, held, remaining, call.app.zone)


async def put_status(call: Call) -> web.Response:
    """``PUT …/instances/{id}/status``."""
    names = _names(call)
    result = await call.write(SetStatus(*names, spec.status_body(call.body), holder=call.holder()))
    return await call.written(result, 200, await _written(call, result, renewed=False))


async def delete(call: Call) -> web.Response:
    """``DELETE …/instances/{id}``: 204, also when it was gone."""
    names = _names(call)
    result = await call.write(Deregister(*names, holder=call.holder(), if_revision=call.number("if_revision")))
    return await call.written(result, 204)


async def heartbeat(call: Call) -> web.Response:
    """``PUT …/instances/{id}/heartbeat``: renew the lease."""
    names = _names(call)
    beats = await call.registry.heartbeat([(*names, call.holder())])
    if beats.missing:
        raise _gone(names)
    if beats.conflict:
        raise HolderConflict(f"another holder has instance {names[2]} now: register again under another id, or stop")
    ttl = codec.seconds(beats.ttls[0])
    return call.renewed({"ttl": ttl, "remaining": ttl})


async def heartbeats(call: Call) -> web.Response:
    """``POST /api/v1/heartbeats``: renew many leases at once."""
    items = codec.array("instances", _batch(call.body), limits.HEARTBEATS_PER_REQUEST_MAX)
    store = call.store
    beats = await call.registry.heartbeat([_beat(store, position, item) for position, item in enumerate(items)])
    return call.renewed({"renewed": beats.renewed, "missing": beats.missing, "conflict": beats.conflict})


def _batch(body: bytes) -> object:
    """The ``instances`` of a batch.

    A well-formed one, with its only name once and no escapes, is decoded by its type in a fifteenth of the time that
    the strict way takes; whatever that refuses is left to the strict way, which names the fault.
    """
    few = body.count(b"[") <= limits.HEARTBEATS_PER_REQUEST_MAX + 1
    if few and body.count(b'"instances"') == 1 and b"\\" not in body:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return _batch_decoder.decode(body).instances
    fields = codec.decode_object(body, _BATCH_FIELDS)
    if "instances" not in fields:
        codec.refuse("instances", "is required")
    return fields["instances"]


def _beat(store: Store, position: int, item: object) -> tuple[str, str, str, int]:
    """One item of a batch. Names that the store knows need no other judgement."""
    match item:
        case [str() as namespace, str() as service, str() as id]:
            holder = 0
        case [str() as namespace, str() as service, str() as id, lease]:
            holder = codec.lease_id(f"instances[{position}][3]", lease)
        case _:
            codec.refuse(f"instances[{position}]", 'must be ["namespace", "service", "id"] or with a lease id', item)
    if store.instance(namespace, service, id) is None:
        namespace, service = codec.lowered(namespace), codec.lowered(service)
        codec.refuse_all(_placed(validate.names(namespace, service, id), position))
    return namespace, service, id, holder


def _placed(faults: list[FieldError], position: int) -> Iterator[FieldError]:
    place = {"namespace": 0, "service": 1, "id": 2}
    return (codec.fault(f"instances[{position}][{place[one.field]}]", one.rule, one.value) for one in faults)


# Reading


async def get(call: Call) -> web.Response:
    """``GET …/instances/{id}``."""
    names = _names(call)
    store = call.store
    index = store.index_of_instance(*names)
    record = store.instance(*names)
    if record is None:
        return call.absent(_gone(names), index)
    revision = store.revision
    [shown] = await _shown(call, [record])
    return call.read(shown, index, revision)


async def list_of_service(call: Call) -> web.Response:
    """``GET …/services/{svc}/instances``: of one service, empty when there is no such service."""
    namespace, service, _ = spec.names(call.parameters["namespace"], call.parameters["service"])
    store = call.store
    page = page_of(call)
    ids = names_after(store.instance_ids(namespace, service), page.after)
    wanted = _chosen(call, store.instances(namespace, service), ids)
    records, following = cut(wanted, page.limit, lambda record: record.spec.id, _size)
    return await _page(call, records, following, store.index_of_service(namespace, service))


async def list_all(call: Call) -> web.Response:
    """``GET /api/v1/instances``: of all namespaces; ``after`` and ``next`` are ``namespace/service/id``."""
    store = call.store
    page = page_of(call)
    records, following = cut(_all_after(call, store, page.after), page.limit, _full_name, _size)
    return await _page(call, records, following, store.index_of_catalog())


def _size(record: InstanceRecord) -> int:
    """Roughly how many bytes an instance is as JSON."""
    spec = record.spec
    many = 40 * (len(spec.addresses) + len(spec.ports)) + sum(map(len, spec.tags))
    return 500 + many + sum([len(name) + len(value) for name, value in spec.meta])


def _full_name(record: InstanceRecord) -> str:
    return f"{record.spec.namespace}/{record.spec.service}/{record.spec.id}"


def _all_after(call: Call, store: Store, after: str | None) -> Iterator[InstanceRecord]:
    """Every instance after ``namespace/service/id``, in the order of these three."""
    parts = [*(after or "").split("/", 2), "", ""]
    start = (parts[0], parts[1], parts[2])
    for namespace in store.namespaces():
        if namespace < start[0]:
            continue
        services = store.services(namespace)
        first = bisect_left(services, start[1]) if namespace == start[0] else 0
        for position in range(first, len(services)):
            service = services[position]
            same = (namespace, service) == start[:2]
            ids = names_after(store.instance_ids(namespace, service), start[2] if same else None)
            yield from _chosen(call, store.instances(namespace, service), ids)


def _chosen(call: Call, records: Any, ids: Iterable[str]) -> Iterator[InstanceRecord]:
    """The records that ``?status=`` and every ``?tag=`` let through."""
    status = call.option("status")
    if status is not None:
        spec.status(status)
    tags = frozenset(call.query.get("tag") or ())
    for id in ids:
        record: InstanceRecord = records[id]
        if (status is None or record.spec.status == status) and tags.issubset(record.spec.tags):
            yield record


async def _page(call: Call, records: list[InstanceRecord], following: str | None, index: int) -> web.Response:
    revision = call.store.revision
    shown = await _shown(call, records)
    return call.read(view.page("instances", shown, following, revision), index, revision)


async def _shown(call: Call, records: Sequence[InstanceRecord]) -> list[view.InstanceView]:
    """Instances with what remains of their leases: asked of the leader, ``null`` when unknown.

    A long list is made in slices, between which the loop turns; the records are immutable, so it is of one revision.
    """
    store = call.store
    held: dict[int, Lease | None] = {id: store.brief_lease(id) for id in {record.lease for record in records} if id}
    remaining = await call.registry.remaining(tuple(held)) if held else {}
    zone = call.app.zone
    shown: list[view.InstanceView] = []
    for start in range(0, len(records), SLICE):
        if start:
            await asyncio.sleep(0)
        shown += [
            view.instance(record, held.get(record.lease), remaining.get(record.lease), zone)
            for record in records[start : start + SLICE]
        ]
    return shown
