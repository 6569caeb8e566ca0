"""An open-loop client load on the API: requests start on schedule, whatever became of earlier ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from bench.routes import Route

PATIENCE = 10.0
"""Seconds after which a client gives up."""
READ_PATIENCE = 5.0
"""Seconds after which a balancer asks another pod; more than the API's own budget for a request (4 s)."""
CONNECT = 1.0
CHECKERS = 10
"""Checks at the same time: more would be a second load."""
WARM_UP = 3.0
"""Seconds of load before it counts."""
PORTS = range(10000, 65536)
"""Clients' ports, one after the other. People have addresses of their own; here they share one, and a port used again
within two minutes may lead to where it led before, a pod that is gone: so long conntrack remembers."""
_ports = itertools.cycle(PORTS)
COOKIE = "connect.sid"
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(slots=True)
class Record:
    """One request. Times are of the monotonic clock; `end` minus `scheduled` is what its user waited.

    Attributes:
        kind: `login` or `read`.
        status: of the reply that counted; None: there was none, and `error` says why.
        session: the cookie that a login got, or a read sent.
        tries: how many pods were asked.
    """

    scheduled: float
    end: float
    kind: str
    status: int | None
    error: str | None
    session: str | None
    tries: int

    @property
    def good(self) -> bool:
        """Whether the user got what they asked for."""
        return self.status == 200


@dataclass(frozen=True)
class Check:
    """What became of acknowledged sessions: how many were asked for, which are lost, which nobody answered for."""

    asked: int
    lost: frozenset[str]
    unanswered: frozenset[str]


class Load:
    """Logins and reads of acknowledged sessions at a fixed rate, in a thread of its own.

    Args:
        route: how the API is reached.
        rate: requests per second.
        logins: one request in so many is a login.
    """

    def __init__(self, route: Route, rate: float = 200.0, logins: int = 5) -> None:
        self.records: list[Record] = []
        self.sessions: list[str] = []
        """Cookies of the sessions whose login was answered, in that order."""
        self.rate = rate
        self._route, self._logins = route, logins
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._stopping = self._paused = False
        self._random = random.Random(1)  # noqa: S311 - which session is read next
        self._running: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession
        self._checking: aiohttp.ClientSession
        """Of checks, which are many: over few connections, that last."""

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pause(self) -> None:
        """Start no more requests; sessions can still be checked."""
        self._paused = True

    def stop(self) -> None:
        """Start no more requests, and wait for those under way."""
        self._stopping = True
        self._thread.join(PATIENCE * 4)

    def check(self, sessions: Iterable[str], seconds: float = 60.0) -> Check:
        """Ask the API for each session until it says yes or no, for so many seconds in all."""
        asked = list(sessions)
        answers = asyncio.run_coroutine_threadsafe(self._check(asked, time.monotonic() + seconds), self._loop).result()
        lost = frozenset(s for s, status in answers.items() if status == 401)
        return Check(len(asked), lost, frozenset(asked) - lost - {s for s, status in answers.items() if status == 200})

    async def _run(self) -> None:
        # A new connection for each request, as nginx does by default: none is lost because its server closed it.
        each = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_socket)
        few = aiohttp.TCPConnector(limit=CHECKERS)
        async with (
            aiohttp.ClientSession(connector=each, cookie_jar=aiohttp.DummyCookieJar()) as self._client,
            aiohttp.ClientSession(connector=few, cookie_jar=aiohttp.DummyCookieJar()) as self._checking,
        ):
            begun = time.monotonic()
            for number in range(10**9):
                scheduled = begun + number / self.rate
                if (early := scheduled - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                if self._stopping:
                    break
                if self._paused:
                    continue
                task = asyncio.create_task(self._one(scheduled, number % self._logins == 0))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0.25)  # a check that ends just now still gets its answer

    async def _one(self, scheduled: float, login: bool) -> None:
        session = None if login or not self.sessions else self._random.choice(self.sessions)
        kind = "read" if session else "login"
        status, error, cookie, tries = await self._ask(self._client, session)
        end = time.monotonic()
        if kind == "login" and status == 200 and cookie:
            self.sessions.append(cookie)
        self.records.append(Record(scheduled, end, kind, status, error, cookie or session, tries))

    async def _ask(
        self, client: aiohttp.ClientSession, session: str | None
    ) -> tuple[int | None, str | None, str | None, int]:
        """One request of a user: (status, error, new cookie, pods asked)."""
        tried: list[str] = []
        deadline = time.monotonic() + PATIENCE
        error = None
        while (left := deadline - time.monotonic()) > 0 and len(tried) < self._route.tries:
            address = self._route.pick(tried)
            if address is None:
                return None, error or "no pod is ready", None, len(tried)
            tried.append(address)
            patience = min(left, READ_PATIENCE) if session and self._route.tries > 1 else left
            try:
                status, cookie = await self._send(client, address, session, patience)
            except _FAILURES as failure:
                error = type(failure).__name__
                self._route.failed(address)
                # A login that reached a pod may have happened: no proxy repeats it.
                if session or isinstance(failure, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
                    continue
                break
            return status, None, cookie, len(tried)
        return None, error, None, len(tried)

    async def _send(
        self, client: aiohttp.ClientSession, address: str, session: str | None, patience: float
    ) -> tuple[int, str | None]:
        timeout = aiohttp.ClientTimeout(total=patience, sock_connect=min(CONNECT, patience))
        method, path = ("GET", "/auth_status") if session else ("POST", "/auth")
        headers = {"Cookie": f"{COOKIE}={session}"} if session else {}
        async with client.request(method, f"{address}{path}", headers=headers, timeout=timeout) as reply:
            await reply.read()
            cookie = reply.cookies.get(COOKIE) if not session else None
            return reply.status, cookie.value if cookie else None

    async def _check(self, sessions: list[str], deadline: float) -> dict[str, int]:
        answers: dict[str, int] = {}
        waiting = iter(sessions)

        async def checker() -> None:
            for session in waiting:
                while time.monotonic() < deadline:
                    status, *_ = await self._ask(self._checking, session)
                    if status in (200, 401):
                        answers[session] = status
                        break
                    await asyncio.sleep(0.2)

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*(checker() for _ in range(CHECKERS)))
        return answers


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    while True:
        own = socket.socket(family, kind, protocol)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("", next(_ports)))
        except OSError:  # somebody else has that port
            own.close()
        else:
            return own
