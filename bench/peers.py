"""The same people at our stack and at a Helm chart's Redis, on one cluster with the same images: in turns."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import failover
from bench.load import WARM_UP, Check, Load
from bench.routes import Balancer
from bench.stack import Stack

RELEASE = "peer"
PASSWORD, KEY = "redis-secret", "password"
KINDS = ("kill", "delete")
OURS, THEIRS = "session-store", "redis-ha"


@dataclass
class RedisHa(Stack):
    """Chart `redis-ha` of DandyDeveloper/charts with its HAProxy, and our API before it (`redis.mode: external`).

    Attributes:
        chart: its folder.
    """

    chart: Path = field(default=Path())

    @property
    def service(self) -> str:
        """The Service that leads to the master."""
        return f"{RELEASE}-redis-ha-haproxy"

    def deploy(self) -> None:
        """The chart, then our API; see `Stack`."""
        self.say(f"chart {self.chart.name} in namespace {self.namespace}")
        self.configure("redis", mode="external", host=f"{self.service}.{self.namespace}.svc")
        values, rendered, before = (self.folder / f"{name}.yaml" for name in ("values", "chart", "before"))
        values.write_text(yaml.safe_dump(values_of(json.loads(self.images.read_text()))))
        where = ["--namespace", self.namespace, "--values", str(values)]
        text = self.tool("helm", "template", RELEASE, str(self.chart), "--no-hooks", *where)
        rendered.write_text(yaml.safe_dump_all(started(yaml.safe_load_all(text))))
        meta = {"metadata": {"name": self.namespace}}
        secret = {"metadata": {"name": PASSWORD}, "stringData": {KEY: "of-the-peers-bench"}}
        both = ({"apiVersion": "v1", "kind": kind, **it} for kind, it in (("Namespace", meta), ("Secret", secret)))
        before.write_text(yaml.safe_dump_all(both))
        for path in (before, rendered):
            self.kubectl("apply", "--filename", str(path))
        self.ops("up")
        self.wait_ready()

    def redis_pods(self) -> list[Any]:
        """See `Stack`."""
        return self.pods("redis-ha")

    def proxy_pods(self) -> list[Any]:
        """See `Stack`."""
        return self.pods("redis-ha-haproxy")


def values_of(images: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What the chart is told: what both must have alike (images, password, append-only file, volumes, two proxies)."""

    def image(name: str) -> dict[str, str]:
        repository, _, digest = images[name]["ref"].rpartition(":")
        return {"repository": repository, "tag": digest}  # NAME@sha256 and the digest: the chart joins them by a colon

    return {
        "image": image("redis"),
        "haproxy": {"enabled": True, "replicas": 2, "image": image("haproxy")},
        "auth": True,
        "existingSecret": PASSWORD,
        "authKey": KEY,
        "redis": {"config": {"appendonly": "yes"}},
        "persistentVolume": {"size": "1Gi"},
    }


STARTS = {
    "sentinel": ["redis-server", "/data/conf/sentinel.conf", "--sentinel"],
    "haproxy": ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
}
"""Container to its command: what the official images do by themselves and ours do not."""


def started(objects: Iterable[Any]) -> Iterator[Any]:
    """The chart's objects, its containers started by `STARTS`."""
    for one in objects:
        if not one:
            continue
        if one["kind"] in {"Deployment", "StatefulSet"}:
            for container in one["spec"]["template"]["spec"]["containers"]:
                if command := STARTS.get(container["name"]):
                    container.update(command=command, args=[])
        yield one


def rounds(
    stacks: Mapping[str, Stack], kinds: Sequence[str], count: int, rate: float
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """In each round every kind of death once at each, in random order; a load is on the one that is hit.

    Returns:
        Summaries by `kind: stack`, and a row for each death. A stack that did not come back gets no more.
    """
    order = random.Random(1)  # noqa: S311 - whose turn it is
    events: dict[tuple[str, str], list[failover.Round]] = {(kind, key): [] for kind in kinds for key in stacks}
    checks: dict[tuple[str, str], list[Check]] = {turn: [] for turn in events}
    gone: set[str] = set()
    for number in range(1, count + 1):
        turns = list(events)
        order.shuffle(turns)
        for kind, key in turns:
            if key in gone:
                continue
            event, check = _one(stacks[key], kind, number, rate)
            events[kind, key].append(event)
            checks[kind, key].append(check)
            gone |= {key} if event.error else set()
    summaries = {
        f"{kind}: {key}": failover.summary(hit, merged(checks[kind, key])) for (kind, key), hit in events.items()
    }
    rows = [{"stack": key, **event.row()} for (_, key), hit in events.items() for event in hit]
    return summaries, rows


def _one(stack: Stack, kind: str, number: int, rate: float) -> tuple[failover.Round, Check]:
    with Load(Balancer(stack.api, stack.namespace), rate) as load:
        time.sleep(WARM_UP)
        (event,) = failover.rounds(stack, load, kind, [number], 0.0)
        load.pause()
        return event, load.check(load.sessions, 10.0 if event.error else 120.0)


def merged(checks: Sequence[Check]) -> Check:
    """Several as one."""

    def every(of: Callable[[Check], frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*map(of, checks))

    return Check(sum(c.asked for c in checks), every(lambda c: c.lost), every(lambda c: c.unanswered))
