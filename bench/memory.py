"""What live sessions take of the API's memory and of Redis's: the same logins to both, in turns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import wire
from bench.sessions import API_PORT, MB, Metrics, log_in
from bench.stack import BenchError, Stack

CONNECTIONS = 8
STEPS = 20
COLLECTIONS = 2
"""Of the whole heap, before it is looked at: what is left then is alive."""
PATIENCE = 240.0
ASKED = 1000
"""Sessions that are asked for at the end: they must be there."""


@dataclass
class Api:
    """One API under test, and what was seen of it.

    Attributes:
        connections: to it.
        curve: (sessions, MB of RSS) after each step.
    """

    connections: list[wire.Connection]
    sessions: list[str] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def at(cls, host: str, port: int = API_PORT) -> Api:
        """The API at an address."""
        return cls([wire.Connection(host, port) for _ in range(CONNECTIONS)])

    def metrics(self) -> Metrics:
        """Its /metrics."""
        return Metrics.of(self.connections[0])

    def fill(self, count: int) -> None:
        """So many people more, each with a session."""
        first = len(self.sessions)
        self.sessions += log_in(self.connections, (f"user{n:06d}" for n in range(first, first + count)))
        self.curve.append((len(self.sessions), self.metrics().resident))

    def settled(self) -> dict[str, float]:
        """Memory in MB once Node has collected its garbage, which it does when there is enough: reads make some."""
        deadline = time.monotonic() + PATIENCE
        now = self.metrics()
        until, alive = now.collections + COLLECTIONS, now.heap
        while now.collections < until and time.monotonic() < deadline:
            for session in self.sessions[:: max(1, len(self.sessions) // 50)]:
                self.connections[0].ask(wire.read(session))
            now = self.metrics()
            alive = min(alive, now.heap)
        return {"resident_mb": now.resident, "live_heap_mb": alive}

    def must_serve(self) -> None:
        """Every session that is asked for is there, or the figures are worth nothing."""
        for session in self.sessions[:: max(1, len(self.sessions) // ASKED)]:
            if (status := self.connections[0].ask(wire.read(session)).status) != 200:
                raise BenchError(f"a session that should be live got {status}")


def compare(
    apis: Mapping[str, Api], sessions: int, say: Callable[[str], None]
) -> dict[str, dict[str, dict[str, float]]]:
    """Log so many people in to each API; memory of each before (with one session) and after."""
    for api in apis.values():
        # Node compiles and sizes its heap by what it does: the empty one has done something, too.
        api.sessions = log_in(api.connections[:1], ["first"])
    found = {key: {"empty": api.settled()} for key, api in apis.items()}
    for step in range(1, STEPS + 1):
        for api in apis.values():
            api.fill(sessions * step // STEPS - len(api.sessions))
        if step % 5 == 0:
            say(", ".join(f"{key}: {len(a.sessions)} sessions, RSS {a.curve[-1][1]:.0f} MB" for key, a in apis.items()))
    for key, api in apis.items():
        found[key]["full"] = api.settled()
        api.must_serve()
    return found


def less(found: Mapping[str, Mapping[str, Mapping[str, float]]], key: str, other: str, what: str) -> float:
    """By how many per cent the full API `key` is below `other`."""
    return 100 * (1 - found[key]["full"][what] / found[other]["full"][what])


def container(stack: Stack, app: str) -> dict[str, float]:
    """MB of the container of that pod, as the kubelet has it: with page cache (working set), without (anonymous)."""
    pod = stack.api.core.list_namespaced_pod(stack.namespace, label_selector=f"app={app}").items[0]
    path = f"/api/v1/nodes/{pod.spec.node_name}/proxy/stats/summary"
    reply, *_ = stack.api.api.call_api(path, "GET", auth_settings=["BearerToken"], _preload_content=False)
    pods: list[dict[str, Any]] = json.loads(reply.data)["pods"]
    (memory,) = (p["containers"][0]["memory"] for p in pods if p["podRef"]["uid"] == pod.metadata.uid)
    return {"working_set_mb": memory["workingSetBytes"] / MB, "anonymous_mb": memory["rssBytes"] / MB}
