"""What an older version wrote is all there in this one (tests/data/before-members), and the way back is guarded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery.levels import BASE, LEVEL
from discovery.testing.cluster import Node, eventually

FROZEN = Path(__file__).parents[1] / "data" / "before-members"
EXPECTED = json.loads((FROZEN / "expected.json").read_bytes())
OLDER = ("env", f"DISCOVERY_TESTING_LEVEL={BASE}")
TXN = (
    b'{"compare": [{"key": "config/a", "target": "version", "op": "==", "value": 2}], '
    b'"then": [{"put": {"key": "txn", "value_base64": "MQ=="}}], "else": []}'
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node on a copy of the older version's directory, not started."""
    shutil.copytree(FROZEN / "node", tmp_path / "n1")
    node = Node("n1", tmp_path)
    try:
        yield node
    finally:
        node.close()


def identity(node: Node) -> Any:
    return json.loads((node.data / "identity.json").read_bytes())


def level(node: Node) -> int:
    found: int = node.request("GET", "cluster").json()["level"]
    return found


def found(node: Node) -> dict[str, Any]:
    """What the API answers, in the form of ``expected.json``."""
    instances = [one for one in get(node, "instances")["instances"] if one["namespace"] != "system"]
    for one in instances:
        if one["lease"]:
            one["lease"]["remaining"] = None
    lease = get(node, f"leases/{EXPECTED['lease']['id']}")
    del lease["remaining"]
    services = {name: get(node, "namespaces/{}/services/{}".format(*name.split("/"))) for name in EXPECTED["services"]}
    events = [[event["kind"], event["id"], event["revision"]] for event in get(node, "events")["events"]]
    return {
        "instances": instances,
        "services": services,
        "keys": get(node, "kv/?prefix=true")["items"],
        "lease": lease,
        "events": events[: len(EXPECTED["events"])],
        "history": get(node, "cluster")["history"],
    }


def known(shown: Any, expected: Any) -> Any:
    """``shown`` without the fields that the older version did not have."""
    if isinstance(expected, dict):
        return {name: known(shown[name], value) for name, value in expected.items()}
    if isinstance(expected, list) and len(shown) == len(expected):
        return [known(*pair) for pair in zip(shown, expected, strict=True)]
    return shown


def get(node: Node, path: str) -> Any:
    answer = node.request("GET", path)
    assert answer.status == 200, (path, answer.body)
    return answer.json()


def test_everything_that_an_older_version_wrote_is_there(node: Node) -> None:
    before = identity(node)
    node.start().wait_ready()
    expected = {name: value for name, value in EXPECTED.items() if name != "revision"}
    assert known(found(node), expected) == expected
    assert get(node, "cluster")["revision"] >= EXPECTED["revision"]
    assert sorted(node.ask("web.default").addresses) == [f"10.0.0.{number}" for number in range(1, 7)]
    assert node.ask("slow.default", "AAAA").addresses == ["fd00::1"]
    again = node.request("POST", "txn", TXN, headers={"Idempotency-Key": "once"})
    written = next(item["revision"] for item in EXPECTED["keys"] if item["key"] == "txn")
    assert (again.status, again.json()["revision"]) == (200, written), "the older version had answered this one"
    assert node.register("web", "web-9", "10.0.0.9", ttl=None).status == 201
    eventually(lambda: level(node) == LEVEL, 30, "the rise of the level")
    eventually(lambda: identity(node).get("level") == LEVEL, 30, "the level in the identity")
    after = identity(node)
    assert {name: after[name] for name in ("node", "zone", "incarnation", "cluster")} == {
        name: before[name] for name in ("node", "zone", "incarnation", "cluster")
    }


def test_the_way_back_is_open_until_the_level_has_risen_and_closed_afterwards(node: Node) -> None:
    before = (node.data / "identity.json").read_bytes()
    node.prefix = OLDER
    node.start().wait_ready()
    assert level(node) == BASE
    refused = node.request("POST", "cluster/members", {"id": "n2", "raft": "127.0.0.1:1"})
    assert (refused.status, "held by n1" in refused.json()["detail"]) == (409, True)
    assert node.register("web", "web-9", "10.0.0.9", ttl=None).status == 201
    node.kill()
    assert json.loads(before) == identity(node), "an older version can read it"

    node.prefix = ()
    node.restart()
    eventually(lambda: identity(node).get("level") == LEVEL, 30, "the level in the identity")
    assert "10.0.0.9" in node.ask("web.default").addresses
    node.kill()
    assert identity(node)["format"] == 2, "a version without levels says what it found and does not start"

    node.prefix = OLDER
    assert node.start().wait_exit(60) == 2
    assert "at feature level 2, this version knows up to 1" in node.log()
    assert "Way out: install the version the other members run" in node.log()
