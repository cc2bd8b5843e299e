"""Many datagrams a system call: ``recvmmsg`` and ``sendmmsg`` of libc, called by ctypes on buffers laid out by hand.

The layout (a 64-byte ``mmsghdr``, a 16-byte ``iovec``) is that of 64-bit glibc and musl. It is compared with what
ctypes makes of the C declarations, then proved on a loopback socket; where either fails :func:`works` says so and the
caller takes plain sockets.

A reply is written over its question: the id stays where it is, the address and the control message of the question
are those of the reply. Addresses are computed once, so every buffer lives as long as its :class:`Slots`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import select
import socket
from typing import Final

from discovery import limits

SLOTS: Final = 64  # larger batches gain nothing, and the feed must not wait
SLOT_BYTES: Final = limits.DNS_UDP_BYTES_MAX
CONTROL_BYTES: Final = 64  # one IP_PKTINFO (32) or IPV6_PKTINFO (40) with room to spare
_NAME_BYTES: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}  # struct sockaddr_in, sockaddr_in6
_NAME_STRIDE: Final = 32
_ADDRESS: Final = {socket.AF_INET: (4, 8), socket.AF_INET6: (8, 24)}  # where it stands in its structure
_PROBE_WAIT_MS: Final = 200


class _Iovec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint32),
        ("msg_iov", ctypes.c_void_p),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("msg_hdr", _Msghdr), ("msg_len", ctypes.c_uint))


# Offsets that the strided views below rely on, in bytes.
_LAYOUT: Final = {
    "iovec": (ctypes.sizeof(_Iovec), 16),
    "iov_len": (_Iovec.iov_len.offset, 8),
    "mmsghdr": (ctypes.sizeof(_Mmsghdr), 64),
    "msg_namelen": (_Msghdr.msg_namelen.offset, 8),
    "msg_controllen": (_Msghdr.msg_controllen.offset, 40),
    "msg_flags": (_Msghdr.msg_flags.offset, 48),
    "msg_len": (_Mmsghdr.msg_len.offset, 56),
}


class Unsupported(OSError):
    """Not to be had on this machine; plain sockets are."""


class _Libc:
    """The two calls, with the types of their arguments set."""

    def __init__(self) -> None:
        try:
            libc = ctypes.CDLL(None)
            self.recvmmsg, self.sendmmsg = libc.recvmmsg, libc.sendmmsg
        except (OSError, AttributeError) as error:
            raise Unsupported(f"no recvmmsg or sendmmsg in libc: {error}") from None
        self.recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
        self.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


_libc: Final = functools.cache(_Libc)


def check_layout() -> None:
    """Raise :class:`Unsupported` where the C structures are not as the views below read them."""
    wrong = [f"{what} {found}, not {wanted}" for what, (found, wanted) in _LAYOUT.items() if found != wanted]
    if wrong:
        raise Unsupported(f"another layout: {', '.join(wrong)}")


class Slots:
    """Room for a batch of datagrams of one socket, and the calls that fill and empty it.

    Args:
        sock: non-blocking UDP socket.
        control: whether control messages (IP_PKTINFO) are taken and sent back.

    Attributes:
        memory: slot ``n`` begins at ``starts[n] - 2``: ``starts`` point behind the message's id.
        sizes: bytes of the datagrams of the last :meth:`receive`.
        lengths: bytes to send of each slot; 0: nothing. To be set before :meth:`send`.
        lost: replies that the kernel did not take.

    Raises:
        Unsupported: see :func:`check_layout`.
    """

    def __init__(self, sock: socket.socket, *, control: bool) -> None:
        check_layout()
        libc = _libc()
        self.lost = 0
        self.sizes: list[int] = []
        self.memory = mmap.mmap(-1, SLOTS * SLOT_BYTES)
        self.starts = [slot * SLOT_BYTES + 2 for slot in range(SLOTS)]
        self._fd = sock.fileno()
        self._recvmmsg, self._sendmmsg = libc.recvmmsg, libc.sendmmsg
        self._control = control
        self._lay_out(_NAME_BYTES[socket.AddressFamily(sock.family)])
        self._address_at, self._address_end = _ADDRESS[socket.AddressFamily(sock.family)]

    def _lay_out(self, name_bytes: int) -> None:
        """Point two rows of headers, to receive and to send by, at the same slots, addresses and control messages."""
        self._held: list[ctypes.c_char] = []  # buffers that are held so can be neither closed nor moved
        base = self._address(self.memory)
        self._names = ctypes.create_string_buffer(SLOTS * _NAME_STRIDE)
        self._addresses = memoryview(self._names).cast("B")
        self._controls = ctypes.create_string_buffer(SLOTS * CONTROL_BYTES)
        self._received, self._sent = bytearray(SLOTS * 64), bytearray(SLOTS * 64)
        self._room, self._replies = bytearray(SLOTS * 16), bytearray(SLOTS * 16)
        for headers, vectors in ((self._received, self._room), (self._sent, self._replies)):
            rows, parts = (_Mmsghdr * SLOTS).from_buffer(headers), (_Iovec * SLOTS).from_buffer(vectors)
            vectors_at = self._address(vectors)
            for slot in range(SLOTS):
                parts[slot].iov_base, parts[slot].iov_len = base + slot * SLOT_BYTES, SLOT_BYTES
                row = rows[slot].msg_hdr
                row.msg_name = ctypes.addressof(self._names) + slot * _NAME_STRIDE
                row.msg_namelen = name_bytes
                row.msg_iov, row.msg_iovlen = vectors_at + slot * 16, 1
                if self._control:
                    row.msg_control = ctypes.addressof(self._controls) + slot * CONTROL_BYTES
                    row.msg_controllen = CONTROL_BYTES
        self._receive_at, sent_at = self._address(self._received), self._address(self._sent)
        self._send_at = [sent_at + slot * 64 for slot in range(SLOTS)]
        self._view()

    def _address(self, buffer: mmap.mmap | bytearray) -> int:
        self._held.append(ctypes.c_char.from_buffer(buffer))
        return ctypes.addressof(self._held[-1])

    def _view(self) -> None:
        """Strided views of single fields: 2 to 15 ns an access, where a field of ctypes costs 100."""
        words, longs = memoryview(self._received).cast("I"), memoryview(self._received).cast("Q")
        self._msg_lens, self._flags, self._namelens = words[14::16], words[12::16], words[2::16]
        self._controllens = longs[5::8]
        self._controllens_sent = memoryview(self._sent).cast("Q")[5::8]
        self._namelens_full = memoryview(self._namelens.tobytes()).cast("I")
        self._controllens_full = memoryview(self._controllens.tobytes()).cast("Q")
        self.lengths = memoryview(self._replies).cast("Q")[1::2]

    def receive(self) -> int:
        """Take what has arrived, at most :data:`SLOTS` datagrams; how many. Never raises, never waits."""
        self._namelens[:] = self._namelens_full  # the kernel has written over them
        if self._control:
            self._controllens[:] = self._controllens_full
        count: int = self._recvmmsg(self._fd, self._receive_at, SLOTS, socket.MSG_DONTWAIT, None)
        if count <= 0:  # EAGAIN: all read; anything else concerns an earlier answer
            return 0
        self.sizes = self._msg_lens[:count].tolist()
        return count

    def client(self, slot: int) -> bytes:
        """The address that the datagram came from: 4 or 16 bytes."""
        at = slot * _NAME_STRIDE
        return bytes(self._addresses[at + self._address_at : at + self._address_end])

    def is_cut(self, slot: int) -> bool:
        """Whether the datagram was longer than a slot: what is there looks valid and is not the message."""
        return bool(self._flags[slot] & socket.MSG_TRUNC)

    def sender(self, slot: int) -> tuple[bytes, bytes]:
        """Socket address and control messages of a datagram, as the kernel wrote them."""
        name, control = slot * _NAME_STRIDE, slot * CONTROL_BYTES
        taken = self._controllens[slot] if self._control else 0
        return self._names.raw[name : name + self._namelens[slot]], self._controls.raw[control : control + taken]

    def send(self, count: int, *, gaps: bool) -> None:
        """Send the replies in the first ``count`` slots; ``gaps``: some have the length 0. Never raises."""
        if self._control:
            self._controllens_sent[:count] = self._controllens[:count]
        if not gaps:
            self._send_run(0, count)
            return
        first = 0
        for slot, length in enumerate(self.lengths[:count].tolist()):
            if not length:
                self._send_run(first, slot)
                first = slot + 1
        self._send_run(first, count)

    def _send_run(self, first: int, end: int) -> None:
        """The kernel stops at the first message that fails (port 0, EPERM, ENOBUFS, EAGAIN): that one is lost."""
        while first < end:
            sent: int = self._sendmmsg(self._fd, self._send_at[first], end - first, socket.MSG_DONTWAIT)
            if sent <= 0:
                self.lost += 1
                sent = 1
            first += sent


@functools.cache
def works() -> bool:
    """Whether a batch arrives and leaves on this machine as it should: tried once, on a loopback socket."""
    with contextlib.suppress(OSError):
        return _prove()
    return False


def _prove() -> bool:
    """Two datagrams and one too long come in; the two go back, the second shortened."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far,
    ):
        near.bind(("127.0.0.1", 0))
        far.settimeout(_PROBE_WAIT_MS / 1000)
        slots = Slots(near, control=False)
        for datagram in (b"first", b"x" * (SLOT_BYTES + 1), b"second"):
            far.sendto(datagram, near.getsockname())
        poll = select.poll()
        poll.register(near, select.POLLIN)
        poll.poll(_PROBE_WAIT_MS)
        if slots.receive() != 3 or slots.sizes != [5, SLOT_BYTES, 6]:
            return False
        if [slots.is_cut(slot) for slot in range(3)] != [False, True, False]:
            return False
        for slot, length in enumerate((5, 0, 3)):
            slots.lengths[slot] = length
        slots.send(3, gaps=True)
        return [far.recv(100), far.recv(100)] == [b"first", b"sec"] and not slots.lost
