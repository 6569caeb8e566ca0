"""HTTP by hand over one connection that stays: a client whose own time hardly shows in what it measures."""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import dataclass

from bench.load import COOKIE
from bench.stack import BenchError

PATIENCE = 10.0
IDLE = 3.0
"""Seconds after which a connection is made anew: Node closes one after five."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"
_SESSION = re.compile(rb"\r\nset-cookie: *" + COOKIE.encode() + rb"=([^;\r]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, as it came.

    Attributes:
        head: status line and headers.
    """

    status: int
    head: bytes
    body: bytes

    @property
    def session(self) -> str:
        """The session cookie that came with it."""
        found = _SESSION.search(self.head)
        if self.status != 200 or not found:
            raise BenchError(f"the API should have answered with a session: {self.head[:60]!r} {self.body[:200]!r}")
        return found.group(1).decode()


def login(user: str) -> bytes:
    """A login under a name; in AUTH_ENV development whoever asks gets in."""
    body = json.dumps({"username": user})
    head = f"POST /auth HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def read(session: str) -> bytes:
    """Who is logged in?"""
    return f"GET /auth_status HTTP/1.1\r\nHost: api\r\nCookie: {COOKIE}={session}\r\n\r\n".encode()


def logout(session: str) -> bytes:
    """The end of a session."""
    return f"GET /logout HTTP/1.1\r\nHost: api\r\nCookie: {COOKIE}={session}\r\n\r\n".encode()


METRICS = b"GET /metrics HTTP/1.1\r\nHost: api\r\n\r\n"


class Connection:
    """One keep-alive connection to the API; not for threads."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._used = 0.0

    def send(self, request: bytes) -> None:
        """Send a request; `receive` must follow before the next."""
        if self._socket is None or time.monotonic() - self._used > IDLE:
            self.close()
            self._socket = socket.create_connection(self._address, PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)

    def receive(self) -> Reply:
        """The whole reply."""
        assert self._socket is not None
        got = bytearray()
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._more()
        head = bytes(got[:end])
        length = _LENGTH.search(head)
        # Without a length it comes in chunks, of which the last is empty.
        while len(got) < end + 4 + int(length[1]) if length else not got.endswith(_LAST_CHUNK):
            got += self._more()
        self._used = time.monotonic()
        return Reply(int(head[9:12]), head, bytes(got[end + 4 :]))

    def ask(self, request: bytes) -> Reply:
        """Send and receive."""
        self.send(request)
        return self.receive()

    def timed(self, request: bytes) -> tuple[Reply, float]:
        """Send and receive, and the milliseconds it took."""
        begin = time.perf_counter()
        reply = self.ask(request)
        return reply, (time.perf_counter() - begin) * 1000

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def _more(self) -> bytes:
        assert self._socket is not None
        part = self._socket.recv(65536)
        if not part:
            raise ConnectionError(f"{self._address[0]} hung up in the middle of a reply")
        return part
