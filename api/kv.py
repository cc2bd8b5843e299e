"""Public keys and transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from aiohttp import web

from discovery import limits, validate
from discovery.api import codec, view
from discovery.api.call import BYTES, Call
from discovery.api.paging import cut, page_of
from discovery.command import Compare, Delete, Get, Put, Txn, TxnOp
from discovery.errors import NotFound, TooLarge
from discovery.model import lease_text

GET_QUERY: Final = frozenset({"prefix", "limit", "after"})
PUT_QUERY: Final = frozenset({"lease", "if_revision"})
DELETE_QUERY: Final = frozenset({"prefix", "if_revision", "limit"})


def _key(call: Call, prefix: bool) -> str:
    """The key: the rest of the raw path, percent-decoded once."""
    return checked_key("key", codec.percent_decode("key", call.parameters["key"]), prefix)


def checked_key(field: str, key: str, prefix: bool) -> str:
    """``key`` when it keeps the rules of keys."""
    codec.refuse_all(codec.fault(field, one.rule, one.value) for one in validate.key(key, prefix=prefix))
    return key


def _prefix(call: Call) -> bool:
    value = call.option("prefix")
    return value is not None and codec.switch("prefix", value)


async def put(call: Call) -> web.Response:
    """``PUT /api/v1/kv/{key}``: the body is the value."""
    key = _key(call, prefix=False)
    result = await call.write(Put(key, call.body, call.holder(), call.number("if_revision")))
    return await call.written(result, 200, {"revision": result.revision})


async def delete(call: Call) -> web.Response:
    """``DELETE /api/v1/kv/{key}``: an absent key is 0 deleted, and no revision.

    With ``?prefix=true&limit=N`` the first N go, and the answer says whether there are ``more``.
    """
    prefix, limit = _prefix(call), call.number("limit")
    if limit is not None and not (prefix and 1 <= limit <= limits.DELETIONS_PER_COMMAND_MAX):
        rule = f"must be 1..{limits.DELETIONS_PER_COMMAND_MAX}" if prefix else "is only for ?prefix=true"
        codec.refuse("limit", rule, call.query["limit"])
    key = _key(call, prefix)
    result = await call.write(Delete(key, prefix, call.number("if_revision"), limit or 0))
    answer: dict[str, object] = {"deleted": result.deleted, "revision": result.revision}
    if limit is not None:
        answer["more"] = bool(call.store.keys(key, None, 1))
    return await call.written(result, 200, answer)


async def get(call: Call) -> web.Response:
    """``GET /api/v1/kv/{key}``: the bytes, or with ``?prefix=true`` a list."""
    if _prefix(call):
        return _list(call)
    for name in ("limit", "after"):
        if name in call.query:
            codec.refuse(name, "is only for ?prefix=true", call.query[name])
    key = _key(call, prefix=False)
    store = call.store
    record, index = store.key(key), store.index_of_key(key)
    if record is None:
        return call.absent(NotFound(f"no key {codec.shown(key)}"), index)
    about = {
        "X-Key-Revision": str(record.mod_revision),
        "X-Key-Create-Revision": str(record.create_revision),
        "X-Key-Version": str(record.version),
    }
    if record.lease:
        about["X-Key-Lease"] = lease_text(record.lease)
    return call.read_bytes(record.value, index, store.revision, BYTES, about)


def _list(call: Call) -> web.Response:
    prefix = _key(call, prefix=True)
    store = call.store
    page = page_of(call)
    found = store.keys(prefix, page.after, page.limit + 1)
    items, following = cut(found, page.limit, lambda item: item[0], lambda item: len(item[1].value))
    shown = [view.key(name, record) for name, record in items]
    index = store.index_of_prefix(prefix)
    return call.read(view.page("items", shown, following, store.revision), index, store.revision)


# Transactions

_TXN_FIELDS: Final = frozenset({"compare", "then", "else"})
_COMPARE_FIELDS: Final = frozenset({"key", "target", "op", "value"})
_TARGETS: Final = ("revision", "create_revision", "version", "value_base64", "lease")
_OPERATORS: Final = ("==", "!=", "<", ">")
_OPERATION_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "put": frozenset({"key", "value_base64", "lease"}),
    "delete": frozenset({"key", "prefix"}),
    "get": frozenset({"key", "prefix"}),
}


async def transact(call: Call) -> web.Response:
    """``POST /api/v1/txn``: if all of ``compare`` hold do ``then``, else ``else``; one revision."""
    result = await call.transact(transaction(call.body))
    shown = {
        "succeeded": result.succeeded,
        "results": [view.operation(one, result.revision) for one in result.results],
        "revision": result.revision,
    }
    return await call.written(result, 200, shown)


def transaction(body: bytes) -> Txn:
    """The body of a ``POST /api/v1/txn``.

    Raises:
        InvalidInput: names the field at fault.
        TooLarge: a value above its limit.
    """
    fields = codec.decode_object(body, _TXN_FIELDS)
    compare = codec.array("compare", fields.get("compare", []), limits.TXN_OPS_MAX)
    then, orelse = (codec.array(name, fields.get(name, []), limits.TXN_OPS_MAX) for name in ("then", "else"))
    if not compare and not then and not orelse:
        codec.refuse("body", "must hold at least one of compare, then and else")
    return Txn(
        tuple(_compare(f"compare[{position}]", item) for position, item in enumerate(compare)),
        tuple(_operation(f"then[{position}]", item) for position, item in enumerate(then)),
        tuple(_operation(f"else[{position}]", item) for position, item in enumerate(orelse)),
    )


def _required(fields: dict[str, Any], field: str, name: str) -> Any:
    if name not in fields:
        codec.refuse(f"{field}.{name}", "is required")
    return fields[name]


def _compare(field: str, value: object) -> Compare:
    fields = codec.check_object(value, field, _COMPARE_FIELDS)
    target, operator = _required(fields, field, "target"), _required(fields, field, "op")
    if target not in _TARGETS:
        codec.refuse(f"{field}.target", f"must be one of {', '.join(_TARGETS)}", target)
    if operator not in _OPERATORS:
        codec.refuse(f"{field}.op", f"must be one of {' '.join(_OPERATORS)}", operator)
    key = checked_key(f"{field}.key", codec.text(f"{field}.key", _required(fields, field, "key")), prefix=False)
    operand = _operand(target, f"{field}.value", _required(fields, field, "value"))
    return Compare(key, cast(Any, "value" if target == "value_base64" else target), operator, operand)


def _operand(target: str, field: str, value: object) -> int | bytes:
    if target == "value_base64":
        return _value(field, value)
    if target == "lease":
        return 0 if value is None or value == 0 else codec.lease_id(field, value)
    return codec.integer(field, value, 0, codec.INTEGER_MAX)


def _value(field: str, value: object) -> bytes:
    decoded = codec.decode_base64(field, value)
    if len(decoded) > limits.VALUE_BYTES_MAX:
        raise TooLarge(f"{field} must be at most {limits.VALUE_BYTES_MAX} bytes")
    return decoded


def _operation(field: str, value: object) -> TxnOp:
    """``{"put": {…}} | {"delete": {…}} | {"get": {…}}``."""
    fields = codec.check_object(value, field, frozenset(_OPERATION_FIELDS))
    if len(fields) != 1:
        codec.refuse(field, "must be one of put, delete, get", value)
    [(name, body)] = fields.items()
    return _OPERATIONS[name](f"{field}.{name}", codec.check_object(body, f"{field}.{name}", _OPERATION_FIELDS[name]))


def _put(field: str, fields: dict[str, Any]) -> TxnOp:
    key = checked_key(f"{field}.key", codec.text(f"{field}.key", _required(fields, field, "key")), prefix=False)
    value = _value(f"{field}.value_base64", _required(fields, field, "value_base64"))
    lease = fields.get("lease")
    return Put(key, value, 0 if lease is None else codec.lease_id(f"{field}.lease", lease))


def _ranged(field: str, fields: dict[str, Any]) -> tuple[str, bool]:
    prefix = codec.flag(f"{field}.prefix", fields.get("prefix", False))
    return checked_key(f"{field}.key", codec.text(f"{field}.key", _required(fields, field, "key")), prefix), prefix


_OPERATIONS: Final[Mapping[str, Callable[[str, dict[str, Any]], TxnOp]]] = {
    "put": _put,
    "delete": lambda field, fields: Delete(*_ranged(field, fields)),
    "get": lambda field, fields: Get(*_ranged(field, fields)),
}
