"""Namespaces and services: lists, settings, counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from discovery import limits
from discovery.api import codec, spec, view
from discovery.api.call import Call
from discovery.api.paging import cut, names_after, page_of
from discovery.command import DeleteService, SetService
from discovery.errors import NotFound
from discovery.model import Service
from discovery.store import Store

_WHOLE: Final = str


def _names(call: Call) -> tuple[str, str]:
    return spec.names(call.parameters["namespace"], call.parameters["service"])[:2]


async def list_namespaces(call: Call) -> web.Response:
    """``GET /api/v1/namespaces``."""
    store = call.store
    page = page_of(call)
    names, following = cut(names_after(store.namespaces(), page.after), page.limit, _WHOLE)
    shown: dict[str, Any] = {"namespaces": names}
    if following is not None:
        shown["next"] = following
    return call.read(shown, store.index_of_catalog(), store.revision)


async def list_services(call: Call) -> web.Response:
    """``GET …/namespaces/{ns}/services``."""
    namespace = spec.label("namespace", call.parameters["namespace"])
    store = call.store
    page = page_of(call)
    names, following = cut(names_after(store.services(namespace), page.after), page.limit, _WHOLE)
    counted = ((name, store.counts(namespace, name)) for name in names)
    shown = [
        {"name": name, "instances": all, "ready": ready, "braked": store.braked(namespace, name)}
        for name, (all, ready) in counted
    ]
    index = store.index_of_namespace(namespace)
    return call.read(view.page("services", shown, following, store.revision), index, store.revision)


async def get(call: Call) -> web.Response:
    """``GET …/services/{svc}``: settings and counts; 404 when there is neither a setting nor an instance."""
    namespace, name = _names(call)
    store = call.store
    index = store.index_of_service(namespace, name)
    record, counts = store.service(namespace, name), store.counts(namespace, name)
    if record is None and not counts[0]:
        return call.absent(NotFound(f"no service {name} in namespace {namespace}"), index)
    shown = view.service(namespace, name, record, counts, store.braked(namespace, name), call.app.zone)
    return call.read(shown, index, store.revision)


async def put(call: Call) -> web.Response:
    """``PUT …/services/{svc}``: its settings."""
    namespace, name = _names(call)
    wanted = spec.service(namespace, name, call.body)
    _check_loop(call.store, wanted, call.app.zone)
    result = await call.write(SetService(wanted, if_revision=call.number("if_revision")))
    counts = call.store.counts(namespace, name)
    braked = call.store.braked(namespace, name)
    shown = view.service(namespace, name, result.service, counts, braked, call.app.zone)
    return await call.written(result, 201 if result.created else 200, shown)


async def delete(call: Call) -> web.Response:
    """``DELETE …/services/{svc}``: 204; 409 while instances live."""
    return await call.written(await call.write(DeleteService(*_names(call))), 204)


def _check_loop(store: Store, wanted: Service, zone: str) -> None:
    """Refuse an external name whose chain inside the zone leads back to the service itself.

    Two settings written at once may still make a loop; DNS bounds its chains for that (DESIGN section 7).
    """
    if any(target == (wanted.namespace, wanted.name) for target in _chain(store, wanted, zone)):
        codec.refuse("external_name", "must not lead back to the service itself", wanted.external_name)


def _chain(store: Store, wanted: Service, zone: str) -> Iterator[tuple[str, str]]:
    external = wanted.external_name
    for _ in range(limits.CNAME_CHAIN_MAX):
        target = _inside(external, zone)
        if target is None:
            return
        yield target
        record = store.service(*target)
        external = None if record is None else record.spec.external_name


def _inside(name: str | None, zone: str) -> tuple[str, str] | None:
    """(namespace, service) when ``name`` is the name of a service in our zone."""
    suffix = f".svc.{zone}"
    if name is None or not name.endswith(suffix):
        return None
    service, _, namespace = name.removesuffix(suffix).partition(".")
    return (namespace, service) if namespace and "." not in namespace else None
