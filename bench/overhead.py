"""What a session in Redis costs a request, over one in the API's own memory: every variant side by side, in turns."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.console import Console

from bench import wire
from bench.judge import percentile
from bench.sessions import API_PORT, Metrics
from bench.stack import BenchError, Stack

WARM_UP = 500
"""Rounds that do not count: Node compiles what is called often."""
REST = 0.003
"""Seconds before each request: what the one before left to do (EXPIRE) is not in the way of another variant."""
KINDS = ("read", "write")
RESAMPLES = 200


@dataclass(frozen=True)
class Variant:
    """Where the sessions are, and what is between."""

    label: str
    mode: str = "standalone"
    tls: bool = True
    store: str = "redis"

    def stack(self, cluster: str, namespace: str, console: Console) -> Stack:
        """A stack of this kind with one API pod, so that each variant has one connection to Redis."""
        redis: dict[str, Any] = {"memory": "256Mi"}
        if self.mode == "sentinel":
            redis["proxyReplicas"] = 1
        changes = {
            "redis": redis,
            "tls": {"enabled": self.tls},
            "sessions": {"store": self.store},
            "api": {"replicas": 1},
        }
        return Stack(cluster, namespace, self.mode, 0, console, changes)


VARIANTS = {
    "memory": Variant("MemoryStore", store="memory"),
    "direct": Variant("Redis", tls=False),
    "direct-tls": Variant("Redis, TLS"),
    "haproxy": Variant("HAProxy, Redis", "sentinel", tls=False),
    "haproxy-tls": Variant("HAProxy, Redis, TLS", "sentinel"),
}
BASE, WHOLE = "memory", "haproxy-tls"


@dataclass
class Samples:
    """Milliseconds of each request, by kind; those of one round have the same index everywhere."""

    read: list[float] = field(default_factory=list)
    write: list[float] = field(default_factory=list)


def measure(stacks: Mapping[str, Stack], rounds: int) -> tuple[dict[str, Samples], dict[str, dict[str, Any]]]:
    """In each round one read and one write of every variant, in random order, one after the other.

    Returns:
        Samples by variant, and what each API says its store took: operation -> count, mean_ms.
    """
    connections = {key: wire.Connection(stack.service_address("api"), API_PORT) for key, stack in stacks.items()}
    sessions = {key: connection.ask(wire.login("first")).session for key, connection in connections.items()}
    samples = {key: Samples() for key in stacks}
    turns = [(key, kind) for key in stacks for kind in KINDS]
    order = random.Random(1)  # noqa: S311 - whose turn it is
    before: dict[str, Metrics] = {}
    for number in range(-WARM_UP, rounds):
        if number == 0:
            before = {key: Metrics.of(connection) for key, connection in connections.items()}
            samples = {key: Samples() for key in stacks}
        order.shuffle(turns)
        for key, kind in turns:
            request = wire.read(sessions[key]) if kind == "read" else wire.login(f"user{number:06d}")
            time.sleep(REST)
            reply, took = connections[key].timed(request)
            if reply.status != 200:
                raise BenchError(f"{VARIANTS[key].label}: a {kind} failed: {reply.head[:60]!r} {reply.body[:200]!r}")
            getattr(samples[key], kind).append(took)
            if kind == "write":
                sessions[key] = reply.session
    inside = {key: Metrics.of(connection).operations(before[key]) for key, connection in connections.items()}
    return samples, inside


def summary(samples: Mapping[str, Samples]) -> dict[str, dict[str, Any]]:
    """By variant and kind: p50 and p99 in ms, and what they are over those of BASE, with a 95 % interval for p99."""
    found: dict[str, dict[str, Any]] = {}
    for key, own in samples.items():
        found[key] = {}
        for kind in KINDS:
            here, base = getattr(own, kind), getattr(samples[BASE], kind)
            p50, p99 = quantile(here, 50), quantile(here, 99)
            row = {"samples": len(here), "p50": p50, "p99": p99, "mean": sum(here) / len(here)}
            if key != BASE:
                row["added_p50"], row["added_p99"] = p50 - quantile(base, 50), p99 - quantile(base, 99)
                row["added_mean"] = row["mean"] - sum(base) / len(base)
                row["ratio_p99"] = p99 / quantile(base, 99)
                row["added_p99_interval"] = interval(here, base, 99)
            found[key][kind] = row
    return found


def interval(here: list[float], base: list[float], percent: float) -> tuple[float, float]:
    """95 % interval of the difference of two percentiles: what it is in rounds drawn again and again."""
    chance = random.Random(1)  # noqa: S311 - resampling
    differences = []
    for _ in range(RESAMPLES):
        drawn = chance.choices(range(len(here)), k=len(here))
        one, other = (quantile([values[n] for n in drawn], percent) for values in (here, base))
        differences.append(one - other)
    return quantile(differences, 2.5), quantile(differences, 97.5)


def quantile(values: list[float], percent: float) -> float:
    """By nearest rank.

    Raises:
        BenchError: there are no values.
    """
    found = percentile(sorted(values), percent)
    if found is None:
        raise BenchError("nothing was measured")
    return found


def steps(summed: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, float]:
    """Where the mean time goes, layer by layer, in ms: each variant over the one before it."""
    chain = {"Redis and the way there": "direct", "TLS": "direct-tls", "HAProxy and two replicas": WHOLE}
    keys = [BASE, *chain.values()]
    return {
        label: summed[after][kind]["mean"] - summed[before][kind]["mean"]
        for label, (before, after) in zip(chain, pairwise(keys), strict=True)
    }
