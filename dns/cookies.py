"""DNS cookies (RFC 7873) in the form that servers agree on (RFC 9018): who brings one back has the address he says.

Pure; time is an argument. A server cookie is its version, a timestamp and a hash of both, the client's cookie and its
address. Nothing is kept for a client, and nothing is told between workers or nodes: all have one secret, and the key
of a cookie follows from the secret and the day of its timestamp, so that keys change every day on all of them at once.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from discovery.dns.siphash import KEY_BYTES, siphash24

CLIENT_BYTES: Final = 8
WHOLE_BYTES: Final = 24  # with the server's part
LENGTHS: Final = frozenset({CLIENT_BYTES, *range(16, 41)})  # RFC 7873 section 5.2.2: any other is FORMERR
AGE_S_MAX: Final = 3600  # RFC 9018 section 4.3
AHEAD_S_MAX: Final = 300
RENEW_AFTER_S: Final = 1800
KEY_S: Final = 86_400
_HEAD: Final = struct.Struct("!B3xI")  # version, reserved, timestamp
_VERSION: Final = 1


class Cookies:
    """Makes and knows the cookies of one secret.

    Args:
        secret: any bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret[: hashlib.blake2b.MAX_KEY_SIZE]
        self._keys: dict[int, bytes] = {}

    def is_valid(self, cookie: bytes, client: bytes, now_s: int) -> bool:
        """Whether we gave this whole cookie to this client, not long ago.

        Args:
            client: its address, 4 or 16 bytes.
            now_s: Unix time.
        """
        if len(cookie) != WHOLE_BYTES or cookie[8:12] != b"\1\0\0\0":
            return False
        time_s = int.from_bytes(cookie[12:16], "big")
        age_s = _age(time_s, now_s)
        return -AHEAD_S_MAX <= age_s <= AGE_S_MAX and self._make(cookie[:CLIENT_BYTES], client, time_s) == cookie

    def answer(self, cookie: bytes, client: bytes, now_s: int) -> bytes:
        """The whole cookie to give back: the one that came while it is young, else a new one."""
        if self.is_valid(cookie, client, now_s):
            age_s = _age(int.from_bytes(cookie[12:16], "big"), now_s)
            if age_s <= RENEW_AFTER_S:
                return cookie
        return self._make(cookie[:CLIENT_BYTES], client, now_s & 0xFFFFFFFF)

    def _make(self, own: bytes, client: bytes, time_s: int) -> bytes:
        whole = own + _HEAD.pack(_VERSION, time_s)
        return whole + siphash24(self._key(time_s // KEY_S), whole + client)

    def _key(self, day: int) -> bytes:
        key = self._keys.get(day)
        if key is None:
            if len(self._keys) > 2:
                self._keys.clear()
            made = hashlib.blake2b(
                day.to_bytes(4, "big"), key=self._secret, digest_size=KEY_BYTES, person=b"dns-cookie"
            )
            key = self._keys[day] = made.digest()
        return key


def _age(time_s: int, now_s: int) -> int:
    """Seconds since a timestamp of 32 bits, in the arithmetic of RFC 1982."""
    return (now_s - time_s + 0x80000000 & 0xFFFFFFFF) - 0x80000000
