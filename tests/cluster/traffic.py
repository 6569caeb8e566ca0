"""People who use the API in the background while a test does something to the stack."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from project import Project

EVERY = 0.05


@dataclass
class Traffic:
    """What they met.

    Attributes:
        requests: how many were answered or failed.
        failures: the wrong ones: what was asked, and what came.
    """

    host: str
    port: int
    requests: int = 0
    failures: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, cookie: str | None = None) -> tuple[int, str | None]:
        """(status, cookies that were set, as a browser sends them back) of one request on a new connection."""
        return self._ask(method, path, cookie)[:2]

    def _ask(self, method: str, path: str, cookie: str | None) -> tuple[int, str | None, str]:
        client = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            client.request(method, path, headers={"Cookie": cookie} if cookie else {})
            reply = client.getresponse()
            text = reply.read().decode(errors="replace")
            made = reply.headers.get_all("set-cookie") or []
            return reply.status, "; ".join(cookie.split(";")[0] for cookie in made) or None, text
        finally:
            client.close()

    def login(self) -> str:
        """Log in; the cookie."""
        status, cookie = self.ask("POST", "/auth")
        assert status == 200 and cookie, f"a login answered {status}"  # noqa: PT018
        return cookie

    def _expect(self, method: str, path: str, cookie: str | None = None) -> str | None:
        begin = time.monotonic()
        try:
            status, made, text = self._ask(method, path, cookie)
            problem = None if status == 200 else f"{status} {text}"
        except OSError as error:
            made, problem = None, f"{type(error).__name__} {error}"
        self.requests += 1
        if problem:
            took = time.monotonic() - begin
            self.failures.append(f"{method} {path}: {problem} after {took:.1f} s at {time.strftime('%H:%M:%S')}")
        return made

    def run(self, stop: threading.Event) -> None:
        """Someone who is logged in from the start, and people who come and log in."""
        old = self.login()
        while not stop.wait(EVERY):
            self._expect("GET", "/auth_status", old)
            if fresh := self._expect("POST", "/auth"):
                self._expect("GET", "/auth_status", fresh)


@contextmanager
def traffic(project: Project, port: int = 3030) -> Iterator[Traffic]:
    """Requests through the API's Service, all the while."""
    with traffic_to(project.service_address("api"), port) as seen:
        yield seen


@contextmanager
def traffic_to(host: str, port: int = 3030) -> Iterator[Traffic]:
    """Requests to an address, all the while."""
    seen, stop = Traffic(host, port), threading.Event()
    threads = [threading.Thread(target=seen.run, args=(stop,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
