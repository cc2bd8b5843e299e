"""DNS cookies: the hash, the form, who is believed and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.dns.cookies import AGE_S_MAX, AHEAD_S_MAX, KEY_S, RENEW_AFTER_S, WHOLE_BYTES, Cookies
from discovery.dns.siphash import siphash24

OWN = bytes.fromhex("2464c4abcf10c957")
CLIENT = bytes((198, 51, 100, 100))
NOW = 1_559_731_985


def test_siphash_is_that_of_its_authors() -> None:
    """Appendix A of the paper, and the first of the reference implementation's vectors."""
    key = bytes(range(16))
    assert siphash24(key, bytes(range(15))) == 0xA129CA6149BE45E5.to_bytes(8, "little")
    assert siphash24(key, b"").hex() == "310e0edd47db6f72"
    assert siphash24(key, b"\0").hex() == "fd67dc93c539f874"
    assert siphash24(key, bytes(range(8))).hex() == "62 24 93 9a 79 f5 f5 93".replace(" ", "")


def test_a_cookie_is_that_of_rfc_9018(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appendix A.1: the same secret, address and time make the same bytes."""
    cookies = Cookies(b"any")
    monkeypatch.setattr(cookies, "_key", lambda day: bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf"))
    assert cookies.answer(OWN, CLIENT, NOW).hex() == "2464c4abcf10c957010000005cf79f111f8130c3eee29480"


secrets = st.binary(min_size=1, max_size=80)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(secrets, st.binary(min_size=8, max_size=8), addresses, st.integers(0, 2**33), st.integers(0, AGE_S_MAX))
def test_who_brings_back_what_he_got_is_believed_for_an_hour(
    secret: bytes, own: bytes, client: bytes, now: int, later: int
) -> None:
    whole = Cookies(secret).answer(own, client, now)
    other = Cookies(secret)  # another worker, another node
    assert len(whole) == WHOLE_BYTES
    assert whole[:8] == own
    assert other.is_valid(whole, client, now + later)
    assert other.is_valid(whole, client, now - min(later, AHEAD_S_MAX))
    assert not other.is_valid(whole, client, now + AGE_S_MAX + 1)
    assert not other.is_valid(whole, client, now - AHEAD_S_MAX - 1)
    assert (other.answer(whole, client, now + later) == whole) == (later <= RENEW_AFTER_S)


@given(st.binary(max_size=45), addresses)
def test_nobody_guesses_one(cookie: bytes, client: bytes) -> None:
    assert not Cookies(b"secret").is_valid(cookie, client, NOW)


@pytest.mark.parametrize("at", range(WHOLE_BYTES))
def test_one_bit_elsewhere_is_no_cookie(at: int) -> None:
    cookies = Cookies(b"secret")
    whole = bytearray(cookies.answer(OWN, CLIENT, NOW))
    whole[at] ^= 1
    assert not cookies.is_valid(bytes(whole), CLIENT, NOW)


def test_another_address_or_secret_is_not_believed() -> None:
    whole = Cookies(b"secret").answer(OWN, CLIENT, NOW)
    assert not Cookies(b"secret").is_valid(whole, bytes((198, 51, 100, 101)), NOW)
    assert not Cookies(b"another").is_valid(whole, CLIENT, NOW)


def test_keys_change_every_day_and_few_are_kept() -> None:
    cookies = Cookies(b"secret")
    midnight = NOW // KEY_S * KEY_S
    before, after = (cookies.answer(OWN, CLIENT, midnight + at) for at in (-1, 0))
    assert cookies._key(midnight // KEY_S) != cookies._key(midnight // KEY_S - 1)
    assert cookies.is_valid(before, CLIENT, midnight + 60)
    assert cookies.is_valid(after, CLIENT, midnight - 60)
    for day in range(100):
        cookies.answer(OWN, CLIENT, NOW + day * KEY_S)
    assert len(cookies._keys) <= 3
