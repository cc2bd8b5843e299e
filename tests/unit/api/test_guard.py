"""What a browser was made to send by a foreign page is refused."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from discovery.api.guard import HOSTS_REMEMBERED_MAX, Guard
from discovery.errors import ClientError

GUARD = Guard(frozenset({"n1.example.org"}))


def check(**headers: str) -> None:
    """The headers, ``_`` for ``-``."""
    GUARD.check(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "127.0.0.1:8500"},
        {"Host": "127.0.0.1"},
        {"Host": "[::1]:8500"},
        {"Host": "[fd00::7]"},
        {"Host": "10.0.0.7:8500"},
        {"Host": "localhost:8500"},
        {"Host": "LOCALHOST"},
        {"Host": "n1.example.org"},
        {"Host": "N1.Example.Org:443"},
        {"Host": "127.0.0.1:8500", "Origin": "http://127.0.0.1:8500"},
        {"Host": "localhost:8500", "Origin": "http://localhost:8500"},
        {"Host": "127.0.0.1:8500", "Origin": "https://n1.example.org"},
        {"Host": "127.0.0.1:8500", "Sec_Fetch_Site": "same-origin"},
        {"Host": "127.0.0.1:8500", "Sec_Fetch_Site": "none"},
        {"Host": "127.0.0.1:8500", "Content_Type": "application/x-www-form-urlencoded"},
        {"Host": "127.0.0.1:8500", "Content_Encoding": "identity"},
        {"Host": "127.0.0.1:8500", "Transfer_Encoding": "Chunked"},
    ],
)
def test_our_own_requests_pass(headers: dict[str, str]) -> None:
    check(**headers)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": ""}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "evil.example:127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:85000000"}, 403),
        ({"Host": "127.0.0.1:"}, 403),
        ({"Host": "0x7f000001"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "127.0.0.1", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8500", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:8500", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "127.0.0.1:8500", "Origin": "http://127.0.0.1:8500.evil.example"}, 403),
        ({"Host": "127.0.0.1:8500", "Origin": "file://127.0.0.1:8500"}, 403),
        ({"Host": "127.0.0.1:8500", "Origin": ""}, 403),
        ({"Host": "127.0.0.1:8500", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "127.0.0.1", "Content_Encoding": "gzip"}, 415),
        ({"Host": "127.0.0.1", "Content_Encoding": "Identity, gzip"}, 415),
        ({"Host": "127.0.0.1", "Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Host": "127.0.0.1", "Content_Type": "Multipart/Mixed"}, 415),
        ({"Host": "127.0.0.1", "Transfer_Encoding": "gzip, chunked"}, 415),
    ],
)
def test_foreign_and_encoded_requests_are_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(ClientError) as caught:
        check(**headers)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("name", "good", "bad", "status"),
    [
        ("Origin", "http://127.0.0.1:8500", "http://evil.example", 403),
        ("Sec-Fetch-Site", "none", "cross-site", 403),
        ("Content-Encoding", "identity", "gzip", 415),
        ("Transfer-Encoding", "chunked", "gzip", 415),
    ],
)
def test_a_good_header_does_not_hide_a_bad_one_of_its_name(name: str, good: str, bad: str, status: int) -> None:
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ClientError) as caught:
            GUARD.check(CIMultiDict([("Host", "127.0.0.1:8500"), *((name, value) for value in pair)]))
        assert caught.value.status == status


def test_hosts_are_remembered_within_a_bound() -> None:
    guard = Guard(frozenset())
    for port in range(2 * HOSTS_REMEMBERED_MAX):
        guard.check(CIMultiDict({"Host": f"127.0.0.1:{port}"}))
    assert len(guard._good) <= HOSTS_REMEMBERED_MAX
