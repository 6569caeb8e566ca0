"""Half an hour of people who come and go: does anything grow?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bench import wire
from bench.judge import percentile
from bench.sessions import API_PORT, MB, Metrics, Population, growth
from bench.stack import Stack

EVERY = 10.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Look:
    """What there was at one moment; memory in MB, of the API's pods together."""

    minute: float
    requests: int
    failed: int
    resident: float
    heap: float
    redis: float
    sessions: int


def soak(stack: Stack, minutes: float, rate: float, people: int) -> list[Look]:
    """So many people at so many requests a second; a look every EVERY seconds."""
    # Each pod by its own address: the Service would give one connection, and so one pod, everything.
    connections = [wire.Connection(address, API_PORT) for address in sorted(stack.addresses("api"))]
    population = Population(connections, [""] * people)
    looks: list[Look] = []
    with stack.client(stack.master().metadata.name) as redis:
        begin = time.monotonic()
        due = begin
        while (now := time.monotonic()) < begin + minutes * 60 + 1:
            if now >= begin + len(looks) * EVERY:
                seen = [Metrics.of(connection) for connection in connections]
                looks.append(
                    Look(
                        minute=(now - begin) / 60,
                        requests=population.requests,
                        failed=population.failed,
                        resident=sum(one.resident for one in seen),
                        heap=sum(one.heap for one in seen),
                        # Sessions and their keys; the replication backlog fills up once and stays.
                        redis=redis.info("memory")["used_memory_dataset"] / MB,
                        sessions=int(redis.dbsize()),
                    )
                )
            if now < due:
                time.sleep(due - now)
            population.act()
            due = max(due + 1 / rate, time.monotonic() - 1.0)  # what a slow second left undone is not made up for
    return looks


def summary(looks: list[Look], warm_up: float) -> dict[str, Any]:
    """Growth over the part after `warm_up` minutes, along the line of least squares."""
    steady = [look for look in looks if look.minute >= warm_up]
    minutes = steady[-1].minute - steady[0].minute
    return {
        "steady_minutes": minutes,
        "requests": looks[-1].requests,
        "failed": looks[-1].failed,
        "sessions": [min(look.sessions for look in steady), max(look.sessions for look in steady)],
        "api_resident_mb": percentile(sorted(look.resident for look in steady), 50),
        "api_resident_growth_percent": 100 * growth([(look.minute, look.resident) for look in steady]),
        "api_heap_growth_percent": 100 * growth([(look.minute, look.heap) for look in steady]),
        "redis_mb": percentile(sorted(look.redis for look in steady), 50),
        "redis_growth_percent": 100 * growth([(look.minute, look.redis) for look in steady]),
        "redis_per_session_growth_percent": 100
        * growth([(look.minute, look.redis / look.sessions) for look in steady]),
    }
