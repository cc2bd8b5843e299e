"""A naive model of the store, and how to compare the two.

Plain dictionaries; what hangs on a lease is found by looking at everything; a refused command is undone by going back
to a copy. Slow, and too simple to be wrong in the same way.
"""

from __future__ import annotations

import copy

import msgspec

from discovery import command as c
from discovery.model import Instance
from discovery.store import Totals


class Refused(Exception):
    pass


class Naive:
    def __init__(self):
        self.instances, self.services, self.keys, self.leases, self.last = {}, {}, {}, {}, {}
        self.revision = self.serial = 0

    def apply(self, command):
        """(code, None, None, None) of a refusal, or ("", changed, created, deleted)."""
        before = copy.deepcopy(self.__dict__)
        self.touched, self.loose, self.created, self.deleted = set(), set(), False, 0
        try:
            getattr(self, type(command).__name__.lower())(command)
        except Refused as refusal:
            self.__dict__.update(before)
            return str(refusal), None, None, None
        for lease in self.loose & set(self.leases):
            if self.leases[lease]["own"] and not any(self.attached(lease)):
                del self.leases[lease]
        if self.touched:
            self.revision += 1
            self.serial += any(len(thing) > 1 for thing in self.touched)
            for thing in self.touched:
                self.last.update(dict.fromkeys([thing[:length] for length in range(1, len(thing) + 1)], self.revision))
        return "", bool(self.touched), self.created, self.deleted

    def attached(self, lease):
        instances = sorted(key for key, (_, held, *_) in self.instances.items() if held == lease)
        return tuple(instances), tuple(sorted(key for key, (_, held, *_) in self.keys.items() if held == lease))

    def store_row(self, table, key, value, lease, thing):
        old = table.get(key)
        now = self.revision + 1
        table[key] = (value, lease, old[2] if old else now, now, old[4] + 1 if old else 1)
        if old and old[1] != lease:
            self.loose.add(old[1])
        self.touched.add(thing)

    def drop_row(self, table, key, thing):
        self.loose.add(table.pop(key)[1])
        self.touched.add(thing)

    @staticmethod
    def check(condition, table, key):
        if condition is not None and condition != (table[key][3] if key in table else 0):
            raise Refused("precondition_failed")

    def grant_lease(self, lease, ttl, own):
        old = self.leases.get(lease)
        version = old["version"] + 1 if old else 1
        self.leases[lease] = {"ttl": ttl, "version": version, "remaining": None, "own": old["own"] if old else own}

    def register(self, command):
        spec = command.instance
        key = (spec.namespace, spec.service, spec.id)
        if "bad" in spec.addresses or (command.join and command.ttl_ms is not None):
            raise Refused("invalid_input")
        self.check(command.if_revision, self.instances, key)
        settings_ = self.services.get(key[:2])
        if settings_ and settings_[0].type == "external":
            raise Refused("conflict")
        old = self.instances.get(key)
        if old and not command.status_given:
            spec = Instance(*[getattr(spec, name) for name in spec.__struct_fields__[:-1]], old[0].status)
        ttl = command.ttl_ms
        if not command.ttl_given:
            ttl = (settings_ and settings_[0].default_ttl_ms) or 15_000
        if command.join:
            if command.join not in self.leases:
                raise Refused("not_found")
            lease, ttl = command.join, self.leases[command.join]["ttl"]
        elif ttl is None:
            lease = 0
        elif old and old[1] and old[1] == command.holder and self.leases[old[1]]["own"]:
            lease = old[1]
        elif command.new_lease in self.leases:
            raise Refused("conflict")
        else:
            lease = command.new_lease
        same = old and old[0] == spec and old[1] == lease and (not lease or self.leases[lease]["ttl"] == ttl)
        if lease:
            self.grant_lease(lease, ttl, True)
        if not same:
            self.created = old is None
            self.store_row(self.instances, key, spec, lease, key)

    def held(self, command):
        key = (command.namespace, command.service, command.id)
        if key in self.instances and command.holder not in (0, self.instances[key][1]):
            raise Refused("holder_conflict")
        return key

    def deregister(self, command):
        key = (command.namespace, command.service, command.id)
        self.check(command.if_revision, self.instances, key)
        if self.held(command) in self.instances:
            self.drop_row(self.instances, key, key)
            self.deleted = 1

    def setstatus(self, command):
        key = (command.namespace, command.service, command.id)
        if key not in self.instances:
            raise Refused("not_found")
        self.held(command)
        spec, lease, *_ = self.instances[key]
        if spec.status != command.status:
            fields = [getattr(spec, name) for name in spec.__struct_fields__[:-1]]
            self.store_row(self.instances, key, Instance(*fields, command.status), lease, key)

    def setservice(self, command):
        spec = command.service
        key = (spec.namespace, spec.name)
        self.check(command.if_revision, self.services, key)
        if spec.type == "external" and any(other[:2] == key for other in self.instances):
            raise Refused("conflict")
        self.created = key not in self.services
        if self.created or self.services[key][0] != spec:
            self.store_row(self.services, key, spec, 0, key)

    def deleteservice(self, command):
        key = (command.namespace, command.service)
        if any(other[:2] == key for other in self.instances):
            raise Refused("conflict")
        if key in self.services:
            self.drop_row(self.services, key, key)
            self.deleted = 1

    def grant(self, command):
        if command.id in self.leases:
            raise Refused("conflict")
        self.grant_lease(command.id, command.ttl_ms, False)
        self.created = True

    def drop_lease(self, lease):
        instances, keys = self.attached(lease)
        for key in instances:
            self.drop_row(self.instances, key, key)
        for key in keys:
            self.drop_row(self.keys, key, (key,))
        del self.leases[lease]
        self.deleted += 1

    def revoke(self, command):
        if command.id in self.leases:
            self.drop_lease(command.id)

    def evict(self, command):
        for lease, version, _ in command.leases:
            if command.term == 1 and lease in self.leases and self.leases[lease]["version"] == version:
                self.drop_lease(lease)

    def checkpoint(self, command):
        for lease, version, remaining in command.leases:
            held = self.leases.get(lease)
            if command.term == 1 and held and held["version"] == version and held["ttl"] >= 60_000 and remaining >= 0:
                held["remaining"] = remaining

    def put(self, command):
        self.check(command.if_revision, self.keys, command.key)
        if command.lease and command.lease not in self.leases:
            raise Refused("not_found")
        self.created = command.key not in self.keys
        self.store_row(self.keys, command.key, command.value, command.lease, (command.key,))

    def matching(self, op):
        found = sorted(key for key in self.keys if (key.startswith(op.key) if op.prefix else key == op.key))
        return found[: getattr(op, "limit", 0) or None]

    def delete(self, command):
        self.check(command.if_revision, self.keys, command.key)
        for key in self.matching(command):
            self.drop_row(self.keys, key, (key,))
            self.deleted += 1

    def txn(self, command):
        for branch in (command.then, command.orelse):
            puts = [op.key for op in branch if isinstance(op, c.Put)]
            deletes = [op for op in branch if isinstance(op, c.Delete)]
            hits = [key for key in puts for op in deletes if key == op.key or (op.prefix and key.startswith(op.key))]
            if len(set(puts)) < len(puts) or hits:
                raise Refused("invalid_input")
        for op in command.then if all(map(self.holds, command.compare)) else command.orelse:
            if not isinstance(op, c.Get):
                getattr(self, type(op).__name__.lower())(op)
        self.created, self.deleted = False, 0

    def holds(self, compare):
        value, lease, create, mod, version = self.keys.get(compare.key, (None, 0, 0, 0, 0))
        if compare.target == "value" and value is None:
            return False
        numbers = {"revision": mod, "create_revision": create, "version": version, "lease": lease, "value": value}
        left, right = numbers[compare.target], compare.value
        return {"==": left == right, "!=": left != right, "<": left < right, ">": left > right}[compare.op]


def summary(result):
    if isinstance(result, c.Failure):
        return result.code, None, None, None
    if isinstance(result, c.TxnDone):
        return "", result.changed, False, 0
    return "", result.changed, result.created, result.deleted


def row(value, record):
    return (value, getattr(record, "lease", 0), record.create_revision, record.mod_revision, record.version)


def assert_equal_state(store, naive):
    assert (store.revision, store.serial) == (naive.revision, naive.serial)
    instances = list(store.all_instances())
    assert naive.instances == {
        (record.spec.namespace, record.spec.service, record.spec.id): row(record.spec, record) for record in instances
    }
    assert len(instances) == len(naive.instances)
    assert naive.services == {
        (record.spec.namespace, record.spec.name): row(record.spec, record) for record in store.all_services()
    }
    assert {key: row(record.value, record) for key, record in store.keys("")} == naive.keys
    leases = {lease.id: store.lease(lease.id) for lease in store.leases()}
    assert {
        number: (lease.ttl_ms, lease.version, lease.remaining_ms, (lease.instances, lease.keys))
        for number, lease in leases.items()
    } == {
        number: (lease["ttl"], lease["version"], lease["remaining"], naive.attached(number))
        for number, lease in naive.leases.items()
    }
    for number, lease in leases.items():
        assert store.brief_lease(number) == msgspec.structs.replace(lease, instances=(), keys=())
    services = {key[:2] for key in naive.instances} | set(naive.services)
    held = sum(len(key) + len(row[0]) for key, row in naive.keys.items())
    assert store.totals() == Totals(len(instances), len(services), len(naive.keys), held, len(leases))
    assert_equal_listings(store, naive)


def assert_equal_listings(store, naive):
    services = {key[:2] for key in naive.instances} | set(naive.services)
    assert store.namespaces() == sorted({key[0] for key in services})
    for namespace in ("default", "prod"):
        assert store.services(namespace) == sorted(key[1] for key in services if key[0] == namespace)
        assert store.index_of_namespace(namespace) == naive.last.get((namespace,), 0)
        for service in ("web", "db"):
            living = {key[2]: row[0] for key, row in naive.instances.items() if key[:2] == (namespace, service)}
            ready = sum(spec.status == "ready" for spec in living.values())
            assert store.instance_ids(namespace, service) == sorted(living)
            assert store.counts(namespace, service) == (len(living), ready)
            assert store.index_of_service(namespace, service) == naive.last.get((namespace, service), 0)
            for name in ("a", "b", "c"):
                index = store.index_of_instance(namespace, service, name)
                assert index == naive.last.get((namespace, service, name), 0)
    for prefix in ("", "k", "k/"):
        touched = [thing[0] for thing in naive.last if len(thing) == 1 and thing[0] not in ("default", "prod")]
        assert store.index_of_prefix(prefix) == max(
            (naive.last[(key,)] for key in touched if key.startswith(prefix)), default=0
        )


def replayed(groups):
    """The state that a follower of the groups holds."""
    state = {}
    for group in groups:
        for change in group.changes:
            thing = (change.resource, change.namespace, change.service, change.name)
            if change.kind == "put":
                assert change.record.mod_revision == group.revision
                state[thing] = change.record
            else:
                del state[thing]
    return state


def held(store):
    found = {("key", "", "", key): record for key, record in store.keys("")}
    for record in store.all_instances():
        found[("instance", record.spec.namespace, record.spec.service, record.spec.id)] = record
    for record in store.all_services():
        found[("service", record.spec.namespace, record.spec.name, "")] = record
    return found


def indexes(store):
    """The index of every thing that tests touch, by what it is."""
    found = {"catalog": store.index_of_catalog()}
    for namespace in ("default", "prod"):
        found[namespace] = store.index_of_namespace(namespace)
        for service in ("web", "db"):
            found[namespace, service] = store.index_of_service(namespace, service)
            for name in "abcd":
                found[namespace, service, name] = store.index_of_instance(namespace, service, name)
    for key in ("k", "k/", "l/", "k/1", "k1", "k/2", "l", ""):
        found["key", key] = store.index_of_key(key)
        found["prefix", key] = store.index_of_prefix(key)
    return found
