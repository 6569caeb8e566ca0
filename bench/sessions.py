"""What an API and a Redis say of themselves while people log in and out, and those people."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench import wire
from bench.stack import BenchError
from ops.top import metrics

API_PORT = 3030
MB = 1e6


class Metrics:
    """The text of a /metrics, as figures."""

    def __init__(self, text: str) -> None:
        self._told = metrics.Metrics(text)

    @classmethod
    def of(cls, connection: wire.Connection) -> Metrics:
        """Of the API at the other end."""
        return cls(connection.ask(wire.METRICS).body.decode())

    def value(self, name: str, **labels: str) -> float:
        """Sum of the series of that name that have these labels; 0 of none."""
        return sum(value for own, value in self._told.series(name) if labels.items() <= own.items())

    @property
    def resident(self) -> float:
        """RSS of the process, in MB."""
        return self.value("process_resident_memory_bytes") / MB

    @property
    def heap(self) -> float:
        """JavaScript objects, garbage included, in MB."""
        return self.value("nodejs_heap_size_used_bytes") / MB

    @property
    def collections(self) -> float:
        """Collections of the whole heap so far."""
        return self.value("nodejs_gc_duration_seconds_count", kind="major")

    def operations(self, before: Metrics) -> dict[str, dict[str, float]]:
        """What the store was asked since `before`: operation -> how often, and the mean milliseconds it took."""
        name = metrics.OPERATION
        result = {}
        for operation in sorted({own["operation"] for own, _ in self._told.series(f"{name}_count")}):
            count, seconds = (
                self.value(f"{name}_{part}", operation=operation) - before.value(f"{name}_{part}", operation=operation)
                for part in ("count", "sum")
            )
            if count:
                result[operation] = {"count": int(count), "mean_ms": seconds / count * 1000}
        return result


def log_in(connections: Sequence[wire.Connection], users: Iterable[str]) -> list[str]:
    """Log all of them in, as many at a time as there are connections; their session cookies."""
    waiting, sessions = iter(users), list[str]()
    while batch := [(c, user) for c, user in zip(connections, waiting, strict=False)]:
        for connection, user in batch:
            connection.send(wire.login(user))
        sessions += [connection.receive().session for connection, _ in batch]
    return sessions


@dataclass
class Population:
    """People of a fixed number who use the API, log out and come back: whoever grows keeps what it should not.

    Attributes:
        connections: to the API's pods; each request takes the next.
        sessions: one a person; who has none logs in first.
        leaves: one request in so many is a logout, with a login after it.
    """

    connections: Sequence[wire.Connection]
    sessions: list[str]
    leaves: int = 10
    requests: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311 - who does something next
        self._out = [who for who, session in enumerate(self.sessions) if not session]

    def act(self) -> None:
        """One of them uses the API, or leaves and comes back; whoever got no answer comes back next."""
        who = self._out.pop() if self._out else self._random.randrange(len(self.sessions))
        session = self.sessions[who]
        try:
            if session and self._random.randrange(self.leaves):
                self._ask(wire.read(session))
            else:
                if session:
                    self._ask(wire.logout(session))
                self.sessions[who] = self._ask(wire.login(f"user{who:06d}")).session
        except (BenchError, OSError):
            self.failed += 1
            self.sessions[who] = ""
            self._out.append(who)

    def _ask(self, request: bytes) -> wire.Reply:
        connection = self.connections[self.requests % len(self.connections)]
        self.requests += 1
        try:
            reply = connection.ask(request)
        except OSError:
            connection.close()
            raise
        if reply.status != 200:
            raise BenchError(f"a request failed: {reply.head[:60]!r} {reply.body[:200]!r}")
        return reply


def growth(points: Sequence[tuple[float, float]]) -> float:
    """By what part of itself y grew from the first x to the last, along the line of least squares through (x, y)."""
    try:
        rise, at_zero = statistics.linear_regression(*zip(*points, strict=True))
    except statistics.StatisticsError:
        raise BenchError(f"{len(points)} samples make no line: let it run longer") from None
    first, last = (at_zero + rise * x for x in (points[0][0], points[-1][0]))
    return (last - first) / first


def per_session(used: Mapping[str, float], empty: Mapping[str, float], sessions: int) -> dict[str, float]:
    """Bytes that a session takes in Redis, of two INFO memory; and how many fit into 100 MB."""
    each = (used["used_memory"] - empty["used_memory"]) / sessions
    return {"bytes_per_session": each, "sessions_per_100_mb": 100 * MB // each}
