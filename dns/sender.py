"""Who sent a datagram: what the kernel writes about it, and what Python's sockets take to send to him.

Pure.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any, Final

_CONTROL: Final = struct.Struct("@Nii")  # struct cmsghdr: length, level, type; each padded to 8 bytes
_PORT: Final = struct.Struct("!H")


def sender(address: bytes, control: bytes) -> Any:
    """A socket address and control messages as Python's sockets take them.

    Args:
        address: a ``sockaddr_in`` or ``sockaddr_in6``.
        control: control messages, or nothing.

    Returns:
        ``(host, port, …)``; with control messages those and that.
    """
    port = _PORT.unpack_from(address, 2)[0]
    place: tuple[Any, ...]
    if int.from_bytes(address[:2], sys.byteorder) == socket.AF_INET:
        place = (socket.inet_ntop(socket.AF_INET, address[4:8]), port)
    else:
        scope = int.from_bytes(address[24:28], sys.byteorder)
        place = (socket.inet_ntop(socket.AF_INET6, address[8:24]), port, 0, scope)
    messages = list(_controls(control))
    return (messages, place) if messages else place


def _controls(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + _CONTROL.size <= len(control):
        length, level, kind = _CONTROL.unpack_from(control, at)
        if length < _CONTROL.size:
            break
        yield level, kind, control[at + _CONTROL.size : at + length]
        at += (length + 7) & ~7
