"""The feed's frames: round trips, cutting of streams, and what hostile bytes get."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import feed, limits
from discovery.model import Change, Group, Instance, InstanceRecord, KeyRecord, Port, Service, ServiceRecord


def instance(number: int = 0) -> InstanceRecord:
    spec = Instance("default", "web", f"web-{number}", ("10.0.0.7",), (Port("http", 8080),), tags=("v2",))
    return InstanceRecord(spec, 7, 1, 2, 3)


def service() -> ServiceRecord:
    return ServiceRecord(Service("default", "web", virtual_ips=("10.1.0.1",)), 1, 1, 1)


FROM_NODE = [
    feed.Begin("h", 3, 2),
    feed.Items((instance(),), (service(),)),
    feed.End(3),
    feed.Resume("h", 3),
    feed.Changes(
        4,
        3,
        (
            feed.PutInstance(instance()),
            feed.DropInstance("default", "web", "web-0"),
            feed.PutService(service()),
            feed.DropService("default", "web"),
        ),
    ),
    feed.State(False, 1500, 4),
    feed.State(True, 0, 4, counted=True),
]
FROM_WORKER = [
    feed.Hello(1, 4711, "h", 3, True),
    feed.Ack(3),
    feed.Bound(),
    feed.Stats((feed.Sample("queries_total", (("protocol", "udp"),), 12.0),)),
]


def body(frame: feed.FromNode | feed.FromWorker) -> bytes:
    (only,) = feed.Splitter().push(feed.encode(frame))
    return only


@pytest.mark.parametrize("frame", FROM_NODE, ids=lambda frame: type(frame).__name__)
def test_a_frame_of_the_node_comes_back_as_it_was(frame):
    assert feed.decode_from_node(body(frame)) == frame


@pytest.mark.parametrize("frame", FROM_WORKER, ids=lambda frame: type(frame).__name__)
def test_a_frame_of_a_worker_comes_back_as_it_was(frame):
    assert feed.decode_from_worker(body(frame)) == frame


@given(st.lists(st.sampled_from(FROM_NODE), max_size=8), st.lists(st.integers(1, 60), min_size=1))
def test_a_stream_cut_anywhere_gives_the_same_frames(frames, cuts):
    stream = b"".join(map(feed.encode, frames))
    splitter, found, at = feed.Splitter(), [], 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        found += [feed.decode_from_node(part) for part in splitter.push(stream[at : at + size])]
        at += size
    assert found == frames


@given(st.binary(max_size=200))
def test_hostile_bytes_are_frames_or_a_feed_error(data):
    for decode in (feed.decode_from_node, feed.decode_from_worker):
        try:
            decode(data)
        except feed.FeedError:
            continue


@pytest.mark.parametrize("length", [limits.FEED_FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_refused_before_its_bytes_come(length):
    with pytest.raises(feed.FeedError, match="above the limit"):
        feed.Splitter().push(struct.pack("!I", length))


def test_a_frame_above_the_limit_is_not_made():
    with pytest.raises(feed.FeedError, match="above the limit"):
        feed.encode(feed.Begin("h" * (limits.FEED_FRAME_BYTES_MAX + 1), 1, 1))


def test_the_frames_of_one_side_are_not_taken_from_the_other():
    with pytest.raises(feed.FeedError):
        feed.decode_from_worker(body(feed.End(1)))
    with pytest.raises(feed.FeedError):
        feed.decode_from_node(body(feed.Ack(1)))


def test_a_group_becomes_its_instance_and_service_changes_in_order():
    group = Group(
        9,
        4,
        0,
        (
            Change("put", "instance", "default", "web", "web-0", instance()),
            Change("put", "key", "", "", "a", KeyRecord(b"1", 0, 9, 9, 1)),
            Change("delete", "instance", "default", "web", "web-1", None, "expired"),
            Change("put", "service", "default", "web", "", service()),
            Change("delete", "service", "default", "db", "", None),
        ),
    )
    frame = feed.changes_frame(group)
    assert frame is not None
    (part,) = feed.Splitter().push(frame)
    assert feed.decode_from_node(part) == feed.Changes(
        9,
        4,
        (
            feed.PutInstance(instance()),
            feed.DropInstance("default", "web", "web-1"),
            feed.PutService(service()),
            feed.DropService("default", "db"),
        ),
    )


def test_a_group_of_keys_alone_has_no_frame():
    assert feed.changes_frame(Group(9, 4, 0, (Change("delete", "key", "", "", "a", None),))) is None


def test_a_whole_view_holds_everything_once_in_small_frames():
    records = [instance(number) for number in range(2 * feed.ITEMS_PER_FRAME + 1)]
    frames = [
        feed.decode_from_node(part)
        for encoded in feed.whole_view(feed.Begin("h", 5, 2), records, [service()])
        for part in feed.Splitter().push(encoded)
    ]
    assert frames[0] == feed.Begin("h", 5, 2)
    assert frames[-1] == feed.End(5)
    items = [frame for frame in frames if isinstance(frame, feed.Items)]
    assert [record for part in items for record in part.instances] == records
    assert [record for part in items for record in part.services] == [service()]
    assert all(len(part.instances) <= feed.ITEMS_PER_FRAME for part in items)
