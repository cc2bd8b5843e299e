"""DNS over TCP (RFC 7766): frames of two length bytes and a message, many on a connection, answered as they come.

Every wait has an end and every buffer a limit (``limits.DNS_TCP_*``). When a client's limit is reached its next
connection is refused; when the limit of all is reached the connection that was quiet for longest gives way.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator
from typing import Final

from discovery import limits
from discovery.dns.loop import EXCLUSIVE, READ, WRITE, Loop

_LENGTH_BYTES: Final = 2
_READ_BYTES: Final = 64 * 1024
_ACCEPTS: Final = 32  # in one go
_GONE: Final = select.EPOLLERR | select.EPOLLHUP  # told whatever is waited for, again and again
_NO_FILES_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_CROWDED: Final = 3 / 4  # of all places: from there on clients that ask are told to close when they are done

Answer = Callable[[bytes, str, float], bytes | None]


class TcpServer:
    """All connections of one worker.

    Args:
        loop: to be registered with.
        answer: from a message, its client's address and the seconds that the connection may be idle from now on to
            the message's answer; ``None`` ends the connection.
        clock: monotonic seconds.

    Attributes:
        later: takes a message without an answer, the answer to which comes through :meth:`Connection.reply`; false:
            there will be none.
    """

    def __init__(self, loop: Loop, answer: Answer, clock: Callable[[], float]) -> None:
        self.later: Callable[[bytes, Connection], bool] | None = None
        self.loop = loop
        self.answer = answer
        self.clock = clock
        self.refused = 0
        self._listeners: list[socket.socket] = []
        self._connections: dict[int, Connection] = {}  # by descriptor, the quietest first
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def idle_s(self) -> float:
        """How long a connection may be idle, as clients are told (RFC 7828); 0: it had better close."""
        crowded = len(self._connections) > _CROWDED * limits.DNS_TCP_CONNECTIONS_MAX
        return 0.0 if crowded else limits.DNS_TCP_IDLE_S_MAX

    def listen(self, fd: int) -> None:
        """Accept from an inherited listening socket, which other workers accept from too."""
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        self._listeners.append(listener)
        self.loop.add(fd, READ | EXCLUSIVE, lambda events: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = listener.accept()
            except OSError as problem:  # EAGAIN, nearly always: none left, or another worker was quicker
                if problem.errno in _NO_FILES_LEFT:
                    self._give_way()
                return
            if self._clients.get(address[0], 0) >= limits.DNS_TCP_CONNECTIONS_PER_CLIENT_MAX:
                self.refused += 1
                sock.close()
                continue
            if len(self._connections) >= limits.DNS_TCP_CONNECTIONS_MAX:
                self._give_way()
            self._clients[address[0]] = self._clients.get(address[0], 0) + 1
            self._connections[sock.fileno()] = Connection(self, sock, address[0])

    def _give_way(self) -> None:
        """Close the connection that was quiet for longest."""
        self.refused += 1
        if self._connections:
            next(iter(self._connections.values())).close()

    def touch(self, connection: Connection) -> None:
        """A connection got something done: it is the least quiet one now."""
        fd = connection.sock.fileno()
        self._connections[fd] = self._connections.pop(fd)

    def forget(self, connection: Connection) -> None:
        """A connection is about to close."""
        self._connections.pop(connection.sock.fileno(), None)
        left = self._clients.get(connection.client, 1) - 1
        if left:
            self._clients[connection.client] = left
        else:
            self._clients.pop(connection.client, None)

    def tick(self) -> None:
        """Close what waited too long; to be called about once a second."""
        now = self.clock()
        for connection in list(self._connections.values()):
            if connection.deadline <= now:
                connection.close()

    def close(self) -> None:
        """Accept no more and close all connections."""
        for listener in self._listeners:
            self.loop.remove(listener.fileno())
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections.values()):
            connection.close()


class Connection:
    """One client: bytes read but not answered, bytes answered but not sent, and when its patience ends.

    ``deadline`` moves when a whole question was read or bytes were sent, not with every byte read: a client that
    sends a byte a second is not served longer for it.
    """

    def __init__(self, server: TcpServer, sock: socket.socket, client: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = server
        self.sock = sock
        self.client = client
        self.deadline = server.clock() + limits.DNS_TCP_IDLE_S_MAX
        self._in = bytearray()
        self._out = bytearray()
        self._ended = False  # the client sends nothing more, but may still read
        self.owed = 0  # answers that come later
        self._events = READ
        server.loop.add(sock.fileno(), READ, self._on_event)

    def close(self) -> None:
        """Close now, whatever is unsent."""
        if self.sock.fileno() < 0:
            return
        self._server.forget(self)
        self._server.loop.remove(self.sock.fileno())
        self.sock.close()

    def _on_event(self, events: int) -> None:
        if self._ended and events & _GONE:  # reset behind its end: nothing will be read that would say so
            self.close()
            return
        try:
            if events & ~WRITE and not self._ended:
                self._receive()
            self._answer_all()
            self._send()
            while not self._out and self._takes_more() and self._holds_question():  # held back while answers piled up
                self._answer_all()
                self._send()
        except (OSError, ValueError):  # reset by the client, or bytes that are no DNS
            self.close()
            return
        self._wait()

    @property
    def idle_s(self) -> float:
        """How long it may be idle."""
        return self._server.idle_s()

    def give(self, message: bytes) -> None:
        """Put an answer that was owed behind the others."""
        self.owed -= 1
        self._out += len(message).to_bytes(_LENGTH_BYTES, "big") + message

    def reply(self, message: bytes) -> None:
        """Send an answer that was owed. Never raises; a connection that is gone takes none."""
        if self.sock.fileno() >= 0:
            self.give(message)
            self._on_event(WRITE)

    def _receive(self) -> None:
        """Read once: what is more comes with the next event, after other clients had their turn."""
        was_empty = not self._in
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._ended = True
        self._in += data
        if was_empty and self._in:  # a question has begun
            self.deadline = min(self.deadline, self._server.clock() + limits.DNS_TCP_QUERY_S_MAX)

    def _answer_all(self) -> None:
        """Answer whole questions while their answers may still pile up. Raises ``ValueError`` on what is no DNS."""
        answered = False
        for message in self._messages():
            reply = self._server.answer(message, self.client, self._server.idle_s())
            answered = True
            if reply is None:
                self._owe(message)
                continue
            self._out += len(reply).to_bytes(_LENGTH_BYTES, "big") + reply
        if answered:
            self._progress()

    def _owe(self, message: bytes) -> None:
        """The answer comes later, or is in ``_out`` already. Raises ``ValueError`` when there is none."""
        self.owed += 1
        if self._server.later is None or not self._server.later(message, self):
            raise ValueError("not a question")

    def _takes_more(self) -> bool:
        """Whether answers, given and owed, do not pile up yet."""
        return len(self._out) < limits.DNS_TCP_OUTSTANDING_BYTES_MAX and self.owed < limits.DNS_TCP_OWED_MAX

    def _holds_question(self) -> bool:
        whole = _LENGTH_BYTES + int.from_bytes(self._in[:_LENGTH_BYTES], "big")
        return len(self._in) >= max(whole, _LENGTH_BYTES)

    def _messages(self) -> Iterator[bytes]:
        at = 0
        while len(self._in) >= at + _LENGTH_BYTES and self._takes_more():
            end = at + _LENGTH_BYTES + int.from_bytes(self._in[at : at + _LENGTH_BYTES], "big")
            if len(self._in) < end:
                break
            yield bytes(self._in[at + _LENGTH_BYTES : end])
            at = end
        del self._in[:at]

    def _send(self) -> None:
        if not self._out:
            return
        try:
            sent = self.sock.send(self._out)
        except BlockingIOError:
            return
        del self._out[:sent]
        self._progress()

    def _progress(self) -> None:
        begun = limits.DNS_TCP_QUERY_S_MAX if self._in else limits.DNS_TCP_IDLE_S_MAX
        self.deadline = self._server.clock() + begun
        self._server.touch(self)

    def _wait(self) -> None:
        """Wait for room to send while something is unsent, for questions while answers do not pile up.

        A client that sends no more and is owed nothing has all that it came for.
        """
        if self._ended and not self._out and not self.owed:
            self.close()
            return
        reading = not self._ended and self._takes_more()
        events = (READ if reading else 0) | (WRITE if self._out else 0)
        if events != self._events:
            self._events = events
            self._server.loop.change(self.sock.fileno(), events)
