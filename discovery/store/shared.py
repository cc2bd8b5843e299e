"""Equal values kept once: most instances of a service have the same ports, tags and meta data.

A record with shared tuples takes a quarter of the memory of one with its own. Sharing is invisible: values are
immutable and compare equal, so what the table remembers or forgets never shows in the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from discovery import limits, validate
from discovery.errors import FieldError
from discovery.model import Instance, Port

T = TypeVar("T")


class Known(Generic[T]):
    """Values that keep their rules, each once; bounded by two generations, so that the unused are forgotten.

    Args:
        rules: names the rules that a value breaks; what is known already need not be judged again.
        most: values of one generation.
    """

    __slots__ = ("_most", "_old", "_rules", "_young")

    def __init__(self, rules: Callable[[T], list[FieldError]], most: int) -> None:
        self._rules = rules
        self._most = most
        self._young: dict[T, T] = {}
        self._old: dict[T, T] = {}

    def admit(self, value: T, errors: list[FieldError]) -> T:
        """The equal value kept, or ``value`` itself with the rules it breaks added to ``errors``."""
        found = self._young.get(value)
        return self._admit(value, errors) if found is None else found

    def _admit(self, value: T, errors: list[FieldError]) -> T:
        found = self._old.get(value)
        if found is None:
            found = value
            if broken := self._rules(value):
                errors.extend(broken)
                return value
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[found] = found
        return found


class Shared:
    """The lists (and TTLs) that instances share, and the instances made of them."""

    __slots__ = ("addresses", "meta", "ports", "tags", "ttls")

    def __init__(self) -> None:
        self.addresses: Known[tuple[str, ...]] = Known(validate.addresses, limits.SHARED_ADDRESSES_MAX)
        self.ports: Known[tuple[Port, ...]] = Known(validate.ports, limits.SHARED_VALUES_MAX)
        self.tags: Known[tuple[str, ...]] = Known(validate.tags, limits.SHARED_VALUES_MAX)
        self.meta: Known[tuple[tuple[str, str], ...]] = Known(validate.meta, limits.SHARED_VALUES_MAX)
        self.ttls: Known[int] = Known(validate.ttl, limits.SHARED_ADDRESSES_MAX)

    def instance(self, spec: Instance, namespace: str, service: str, errors: list[FieldError]) -> Instance:
        """``spec`` made of shared parts; rules that its lists break are added to ``errors``.

        ``namespace`` and ``service`` equal those of ``spec``, but are the strings that the catalogue keeps.
        """
        return Instance(
            namespace,
            service,
            spec.id,
            self.addresses.admit(spec.addresses, errors),
            self.ports.admit(spec.ports, errors),
            spec.hostname,
            spec.weight,
            spec.priority,
            spec.dns_ttl,
            self.tags.admit(spec.tags, errors),
            self.meta.admit(spec.meta, errors),
            spec.status,
        )
