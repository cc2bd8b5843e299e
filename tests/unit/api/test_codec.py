"""Text from outside becomes a value, or a refusal that names field and rule."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.api import codec
from discovery.errors import InvalidInput

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


def fault(error: InvalidInput) -> tuple[str, str]:
    return error.errors[0].field, error.errors[0].rule


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"", "body", "must be JSON"),
        (b"{", "body", "must be JSON"),
        (b'{"a": 1,}', "body", "must be JSON"),
        (b"{} {}", "body", "must be JSON"),
        (b"\xff\xfe{}", "body", "must be UTF-8"),
        (b"\xef\xbb\xbf{}", "body", "must be JSON"),
        (b'{"a": NaN}', "body", "NaN is no JSON number"),
        (b'{"a": Infinity}', "body", "Infinity is no JSON number"),
        (b'{"a": -Infinity}', "body", "-Infinity is no JSON number"),
        (b'{"a": 1, "a": 2}', "a", "stands twice"),
        (b'{"a": 1, "\\u0061": 2}', "a", "stands twice"),
        (b'{"x": {"deep": 1, "deep": 2}}', "deep", "stands twice"),
        (b'"\\ud800"', "body", "lone surrogate"),
        (b'{"\\udc00": 1}', "body", "lone surrogate"),
        (b"[" * 17 + b"]" * 17, "body", "nest deeper than 16"),
        (b"[" * 100_000, "body", "nest deeper than 16"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "body", "nest deeper than 16"),
        (b"9" * 5000, "body", "beyond 64 bits"),
        (b"[" + b"{}," * 100_000 + b"{}]", "body", "at most 100000 arrays and objects"),
    ],
)
def test_what_is_no_strict_json_is_refused_by_name(body: bytes, field: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.decode_json(body)
    assert fault(caught.value)[0] == field
    assert rule in fault(caught.value)[1]


def test_many_names_are_judged_in_proportion_and_few_faults_are_told() -> None:
    names = ",".join(f'"{number:x}":0' for number in range(100_000))
    began = time.perf_counter()
    with pytest.raises(InvalidInput) as caught:
        codec.decode_json(f'{{{names},"last":1,"last":2}}'.encode())
    assert fault(caught.value)[0] == "last"
    with pytest.raises(InvalidInput) as caught:
        codec.decode_object(f"{{{names}}}".encode(), frozenset({"ttl"}))
    assert len(caught.value.errors) == limits.PROBLEM_ERRORS_MAX
    assert time.perf_counter() - began < 2.0, "each name was compared with each other"


def test_nesting_up_to_the_limit_passes() -> None:
    deep = limits.JSON_DEPTH_MAX
    assert codec.decode_json(b"[" * deep + b"]" * deep) is not None
    assert codec.decode_json(json.dumps({"flat": ["[{"] * 100}).encode()) == {"flat": ["[{"] * 100}


@given(VALUES)
def test_any_json_that_is_not_too_deep_comes_out_as_it_went_in(value: Any) -> None:
    try:
        assert codec.decode_json(json.dumps(value).encode()) == value
    except InvalidInput as error:
        assert "nest deeper" in fault(error)[1]  # noqa: PT017


@given(st.binary(max_size=80))
def test_any_bytes_give_a_value_or_a_refusal(body: bytes) -> None:
    try:
        codec.encode(codec.shown(codec.decode_json(body)))
    except InvalidInput as error:
        assert error.errors  # noqa: PT017


@given(VALUES | st.floats() | st.text())
def test_whatever_is_shown_can_be_encoded_and_is_short(value: Any) -> None:
    assert len(codec.encode(codec.shown(value))) < 1200


@pytest.mark.parametrize(
    ("given_value", "milliseconds"),
    [
        (10, 10_000),
        (1.5, 1_500),
        ("10s", 10_000),
        ("1500ms", 1_500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("0.5s", 500),
        ("30", 30_000),
        (0, 0),
        (-1, -1_000),
    ],
)
def test_durations_are_seconds_or_text_with_a_unit(given_value: Any, milliseconds: int) -> None:
    assert codec.duration_ms("ttl", given_value) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", "s", "10 s", "10S", "-1s", "1d", "1e3s", "0x10", "\u0661s", True, None, [], {}, math.inf, math.nan, "9" * 40],
)
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="ttl must be a duration"):
        codec.duration_ms("ttl", value)


@pytest.mark.parametrize("value", [0, 0.999, "999ms", -5, 86_401, "25h", 31_536_000, 1e300])
def test_a_lease_lives_a_second_to_a_day(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"ttl must be 1s\.\.24h"):
        codec.lease_ttl_ms("ttl", value)


@pytest.mark.parametrize(("milliseconds", "shown"), [(10_000, 10), (9_980, 9.98), (0, 0), (1, 0.001), (None, None)])
def test_durations_are_shown_in_seconds(milliseconds: int | None, shown: float | None) -> None:
    found = codec.seconds(milliseconds)
    assert found == shown
    assert type(found) is type(shown)


@pytest.mark.parametrize("value", [True, "1", 1.5, None, [], 65_536, -1, 2**70])
def test_what_is_no_whole_number_in_range_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="port must be"):
        codec.integer("port", value, 0, 65_535)


def test_a_float_that_is_whole_is_a_whole_number() -> None:
    assert codec.integer("port", 65_534.0, 0, 65_535) == 65_534


@pytest.mark.parametrize("value", ["", "0", "g", "0" * 17, "8" + "0" * 15, 5, None, " 1", "0x1", "\u0661"])
def test_what_is_no_lease_id_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="lease must be a lease id"):
        codec.lease_id("lease", value)


@given(st.integers(1, 2**63 - 1))
def test_a_lease_id_reads_back_from_its_text(number: int) -> None:
    assert codec.lease_id("lease", f"{number:016x}") == number
    assert codec.lease_id("lease", f"{number:x}".upper()) == number


@pytest.mark.parametrize("value", ["a", "====", "YQ", "Y Q==", "YQ==\n", "é", 5, None])
def test_what_is_no_base64_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="value_base64 must be"):
        codec.decode_base64("value_base64", value)


@given(st.binary())
def test_base64_reads_back(value: bytes) -> None:
    assert codec.decode_base64("value", codec.encode_base64(value)) == value


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        ("a", "a"),
        ("a+b", "a+b"),
        ("%2F", "/"),
        ("%252F", "%2F"),
        ("%C3%A9", "é"),
        ("a%20b", "a b"),
        ("\udcc3\udca9", "é"),
        ("%e2%82%ac", "€"),
    ],
)
def test_percent_encoding_is_undone_once(raw: str, decoded: str) -> None:
    assert codec.percent_decode("key", raw) == decoded


@pytest.mark.parametrize("raw", ["%", "%z1", "%1", "a%g0", "%ff", "%C3", "\udcff", "%ED%A0%80"])
def test_bad_percent_encoding_is_refused(raw: str) -> None:
    with pytest.raises(InvalidInput, match="key must be"):
        codec.percent_decode("key", raw)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_percent_encoding(text: str) -> None:
    raw = "".join(f"%{byte:02X}" for byte in text.encode())
    assert codec.percent_decode("key", raw) == text


KNOWN = frozenset({"limit", "tag", "status"})


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [
        ("limit=5", {"limit": "5"}),
        ("limit=5&&status=", {"limit": "5", "status": ""}),
        ("tag=a&tag=b%26c", {"tag": ["a", "b&c"]}),
        ("tag=a+b", {"tag": ["a b"]}),
        ("tag=a%2Bb", {"tag": ["a+b"]}),
        ("%6cimit=5", {"limit": "5"}),
        ("status=a=b", {"status": "a=b"}),
    ],
)
def test_queries_are_parsed(raw: str, parameters: dict[str, Any]) -> None:
    assert codec.parse_query(raw, KNOWN, {}) == parameters


@pytest.mark.parametrize(
    ("raw", "field", "rule"),
    [
        ("limt=5", "limt", "is not known here; known are limit, status, tag"),
        ("limit=1&limit=2", "limit", "stands twice in the query"),
        ("index=5", "index", "is reserved"),
        ("limit=%zz", "limit", "must be percent-encoded"),
        ("limit=%ff", "limit", "must be UTF-8"),
        ("&".join(["tag=x"] * 33), "query", "at most 32 parameters"),
    ],
)
def test_queries_are_strict(raw: str, field: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec.parse_query(raw, KNOWN, {"index": "is reserved"})
    assert fault(caught.value)[0] == field
    assert rule in fault(caught.value)[1]


@pytest.mark.parametrize("value", ["", "-1", "1.0", "1e3", " 1", "\u0661", "9" * 30, "0"])
def test_a_number_of_a_query_is_decimal_and_in_range(value: str) -> None:
    with pytest.raises(InvalidInput, match="limit must be a whole number 1"):
        codec.decimal("limit", value, 1, 10_000)
