"""One look at a stack, and the figures between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.redis.conf import stateful_set
from infra.series import PROBES
from infra.settings import Settings
from ops.top.metrics import OPERATION, REQUESTS, Labels, Metrics, Which, quantile, since


@dataclass(frozen=True)
class Answer:
    """What a pod said.

    Attributes:
        name: of the pod; of an external Redis its host.
        at: our monotonic clock then.
        said: Redis's INFO, the API's Metrics, a proxy's servers that are up by backend; None: nothing.
        trouble: why it said nothing.
        ready: as Kubernetes has it.
    """

    name: str
    at: float
    said: Any = None
    trouble: str | None = None
    ready: bool = True


@dataclass
class Look:
    """What was seen at one time; `unseen` lists what was not."""

    redis: list[Answer] = field(default_factory=list)
    api: list[Answer] = field(default_factory=list)
    proxies: list[Answer] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


@dataclass
class RedisFigures:
    """A Redis now; a figure is None where nobody tells it."""

    pod: str
    trouble: str | None = None
    role: str | None = None
    link: str | None = None
    """A replica's to its master; a master's replicas."""
    behind: int | None = None
    """Bytes that a replica has still to get."""
    memory: int | None = None
    memory_limit: int | None = None
    operations: float | None = None
    """A second."""
    clients: int | None = None
    hit_rate: float | None = None
    """Of the keys asked for since the last look, the share that exists."""
    evicted: int | None = None
    aof: str | None = None
    keys: dict[str, int] = field(default_factory=dict)


@dataclass
class ApiFigures:
    """A pod of the API; a second, where it is a rate."""

    pod: str
    ready: bool
    trouble: str | None = None
    requests: float | None = None
    failures: float | None = None
    logins: float | None = None
    errors: float | None = None
    p99: float | None = None
    """Seconds within which 99 of 100 operations on sessions were done."""
    heap: float | None = None
    connected: bool | None = None


@dataclass
class ProxyFigures:
    """A proxy: the Redis it leads to, those that it sees as master, and how many Sentinels name each."""

    pod: str
    ready: bool
    trouble: str | None = None
    leads_to: list[str] = field(default_factory=list)
    masters: list[str] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)


@dataclass
class Figures:
    """A stack between two looks."""

    sessions: int | None = None
    logins: float | None = None
    requests: float | None = None
    failures: float | None = None
    errors: float | None = None
    p99: float | None = None
    redis: list[RedisFigures] = field(default_factory=list)
    api: list[ApiFigures] = field(default_factory=list)
    proxies: list[ProxyFigures] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return dataclasses.asdict(self)


def figures(before: Look | None, after: Look, settings: Settings) -> Figures:
    """What can be told of a stack.

    Args:
        before: the look before; None: there was none, so that there are no rates.
        after: this one.
        settings: the stack's.
    """
    earlier = before or Look()
    found = Figures(unseen=after.unseen)
    pairs = list(_pairs(earlier.redis, after.redis))
    masters = [now.said for _, now in pairs if now.said and now.said.get("role") == "master"]
    found.redis = [_redis(was, now, masters[0] if len(masters) == 1 else None) for was, now in pairs]
    if len(masters) == 1:
        # Every session has an end; the machinery's own keys have none.
        found.sessions = int((masters[0].get(f"db{settings.redis.database}") or {}).get("expires", 0))
    apis = list(_pairs(earlier.api, after.api))
    found.api = [_api(was, now) for was, now in apis]
    found.proxies = [_proxy(one, settings) for one in after.proxies]
    for name in ("logins", "requests", "failures", "errors"):
        told = [value for one in found.api if (value := getattr(one, name)) is not None]
        setattr(found, name, sum(told) if told else None)
    found.p99 = _p99([(was.said, now.said) for was, now in apis if was and was.said and now.said])
    return found


def _pairs(before: Iterable[Answer], after: Iterable[Answer]) -> Iterable[tuple[Answer | None, Answer]]:
    earlier = {one.name: one for one in before}
    return ((earlier.get(one.name), one) for one in after)


def _rate(was: Answer, now: Answer, grown: float | None) -> float | None:
    return None if grown is None or now.at <= was.at else grown / (now.at - was.at)


def _redis(was: Answer | None, now: Answer, master: Mapping[str, Any] | None) -> RedisFigures:
    info, old = now.said, was.said if was else None
    if not info:
        return RedisFigures(now.name, now.trouble or "no answer")
    found = RedisFigures(
        now.name,
        role=info.get("role"),
        memory=info.get("used_memory"),
        memory_limit=info.get("maxmemory"),
        clients=info.get("connected_clients"),
        evicted=info.get("evicted_keys"),
        aof=_aof(info),
        keys={key[2:]: value["keys"] for key, value in info.items() if key[:2] == "db" and isinstance(value, dict)},
    )
    if found.role == "master":
        found.link = f"{info.get('connected_slaves', 0)} replicas"
    else:
        found.role, found.link = "replica", str(info.get("master_link_status"))
        if info.get("master_sync_in_progress"):
            found.link = "copying"
        if master:
            found.behind = max(int(master["master_repl_offset"]) - int(info.get("slave_repl_offset", 0)), 0)
    if old and was:
        name = "total_commands_processed"
        found.operations = _rate(was, now, since(old.get(name), info.get(name)))
        hits, misses = (since(old.get(name), info.get(name)) for name in ("keyspace_hits", "keyspace_misses"))
        if hits is not None and misses is not None and hits + misses:
            found.hit_rate = hits / (hits + misses)
    return found


def _aof(info: Mapping[str, Any]) -> str:
    if info.get("loading"):
        return "loading"
    if not info.get("aof_enabled"):
        return "off"
    bad = [part for part in ("write", "bgrewrite") if info.get(f"aof_last_{part}_status", "ok") != "ok"]
    if bad:
        return f"{'rewrite' if bad == ['bgrewrite'] else 'write'} fails"
    return "rewriting" if info.get("aof_rewrite_in_progress") else "ok"


def _people(labels: Labels) -> bool:
    return labels.get("route") not in PROBES


def _failed(labels: Labels) -> bool:
    return _people(labels) and labels.get("status", "").startswith("5")


def _api(was: Answer | None, now: Answer) -> ApiFigures:
    told: Metrics | None = now.said
    if told is None:
        return ApiFigures(now.name, now.ready, now.trouble or "no answer")
    connected = told.value("session_store_connected")
    found = ApiFigures(
        now.name,
        now.ready,
        heap=told.value("nodejs_heap_size_used_bytes"),
        connected=None if connected is None else bool(connected),
    )
    old: Metrics | None = was.said if was else None
    if old and was:
        for name, series, which in (
            ("requests", REQUESTS, _people),
            ("failures", REQUESTS, _failed),
            ("logins", "session_store_sessions_created_total", lambda _: True),
            ("errors", "session_store_errors_total", lambda _: True),
        ):
            first, last = (_counted(metrics, series, which) for metrics in (old, told))
            setattr(found, name, _rate(was, now, since(first, last)))
        found.p99 = _p99([(old, told)])
    return found


def _counted(told: Metrics, series: str, which: Which) -> float | None:
    """A counter; one with labels is not there before it counts, with an API of ours."""
    value = told.value(series, which)
    return 0 if value is None and told.value("session_store_connected") is not None else value


def _p99(pairs: list[tuple[Metrics, Metrics]]) -> float | None:
    before: dict[float, float] = {}
    after: dict[float, float] = {}
    for was, now in pairs:
        old, new = was.buckets(OPERATION), now.buckets(OPERATION)
        anew = any(new.get(bound, 0) < count for bound, count in old.items())
        for bound, count in new.items():
            after[bound] = after.get(bound, 0) + count
            before[bound] = before.get(bound, 0) + (0 if anew else old.get(bound, 0))
    return quantile(0.99, before, after)


def _proxy(one: Answer, settings: Settings) -> ProxyFigures:
    up: dict[str, int] | None = one.said
    if up is None:
        return ProxyFigures(one.name, one.ready, one.trouble or "no answer")
    found, majority = ProxyFigures(one.name, one.ready), settings.redis.replicas // 2 + 1
    for number in range(settings.redis.replicas):  # its backends, as `infra.redis.conf` writes them
        pod = f"{stateful_set(settings)}-{number}"
        if up.get(f"redis-{number}"):
            found.masters.append(pod)
        if named := up.get(f"names-{number}"):
            found.named[pod] = named
    found.leads_to = [pod for pod in found.masters if found.named.get(pod, 0) >= majority]
    return found
