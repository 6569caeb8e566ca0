"""The commands that measure speed and memory (docs/performance.md)."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from bench import cores, failover, plot, results
from bench import engine as engines
from bench import memory as held
from bench import overhead as added
from bench import peers as others
from bench import soak as soaking
from bench import throughput as path_of
from bench.sessions import per_session
from bench.stack import REDIS_PORT, BenchError, Stack

console = Console()
Cluster = Annotated[str, typer.Option(help="Embedded cluster; it is started when it does not run (3 nodes).")]
Namespace = Annotated[str, typer.Option(help="The namespaces of the bench's own stacks begin with it.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the stacks, for another run.")]
OVERHEAD_COLUMNS = {
    "p50": "p50",
    "p99": "p99",
    "added_p50": "added to p50",
    "added_p99": "added to p99",
    "interval": "95 % interval",
    "ratio_p99": "p99, times MemoryStore's",
}
RATE_COLUMNS = {
    "rate": "a second",
    "share": "of bare",
    "busy": "busy cores",
    "client": "client",
    "redis": "the Redis asked",
    "proxies": "proxies",
    "replicas": "replicas",
}
GROWTH = 1.0
"""Per cent that the API's memory may grow over a soak."""


def overhead(
    samples: Annotated[int, typer.Option(min=100, help="Of each variant and kind.")] = 6000,
    shared: Annotated[
        bool, typer.Option("--shared", help="No core for the requests alone: they share all with the cluster's work.")
    ] = False,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench",
    keep: Keep = False,
) -> None:
    """What a request's session takes longer in Redis than in the API's memory, with and without TLS and HAProxy."""
    stacks = {key: v.stack(cluster, f"{namespace}-{key}", console) for key, v in added.VARIANTS.items()}
    _create(list(stacks.values()))
    with contextlib.nullcontext() if shared else cores.own(stacks.values()):
        taken, inside = added.measure(stacks, samples)
    summed = added.summary(taken)
    steps = {kind: added.steps(summed, kind) for kind in added.KINDS}
    placed = {key: stack.placement() for key, stack in stacks.items()}
    whole = {"summary": summed, "steps_mean_ms": steps, "inside_the_api": inside, "placement": placed}
    path = results.write("overhead-shared" if shared else "overhead", {**results.machine(), **whole})
    ranks = [100 * (n + 1) / samples for n in range(samples)]
    panels = {
        {"read": "GET /auth_status", "write": "POST /auth"}[kind]: {
            variant.label: (sorted(getattr(taken[key], kind)), ranks) for key, variant in added.VARIANTS.items()
        }
        for kind in added.KINDS
    }
    title = f"A request with a session, {samples} times each, one after the other in turns"
    plot.curves(path.with_suffix(".png"), title, panels, "ms, logarithmic", "per cent of the requests", log=True)
    for kind in added.KINDS:
        rows = {v.label: _milliseconds(summed[key][kind]) for key, v in added.VARIANTS.items()}
        results.show(console, f"Session {kind}, ms", rows, OVERHEAD_COLUMNS)
    console.print(f"{path}", soft_wrap=True, highlight=False)
    _destroy(list(stacks.values()), keep)


def throughput(
    rounds: Annotated[int, typer.Option(min=1, help="Each way and point once in each.")] = 5,
    tls: Annotated[bool, typer.Option(help="Of the stack and of the bare Redis.")] = True,
    mode: Annotated[str, typer.Option(help="redis.mode: sentinel (three Redis, HAProxy) or standalone.")] = "sentinel",
    appendonly: Annotated[bool, typer.Option(help="Of the stack; the bare Redis has none.")] = True,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench-throughput",
    keep: Keep = False,
) -> None:
    """Redis through its Service, and a bare one on loopback: sessions a second, the same client for both."""
    changes: dict[str, dict[str, Any]] = {
        "tls": {"enabled": tls},
        "api": {"replicas": 1},
        "redis": {"appendonly": appendonly},
    }
    stack = Stack(cluster, f"{namespace}-{mode}", mode, 0, console, changes)
    stack.create()
    path_of.start_client(stack, json.loads(stack.images.read_text())["redis"]["ref"])
    ways = path_of.ways_of(stack)
    rows = path_of.rounds([stack], rounds, ways)
    summed = path_of.summary(rows, ways)
    name = f"throughput-{mode}{'' if tls else '-plain'}{'' if appendonly else '-no-aof'}"
    what = {"mode": mode, "tls": tls, "appendonly": appendonly}
    path = results.write(name, {**results.machine(), **what, "summary": summed, "rows": rows})
    shown = _rates(summed)
    title = f"Sessions set and got a second, {mode}, {'TLS' if tls else 'no TLS'}{'' if appendonly else ', no AOF'}"
    results.show(console, title, shown, RATE_COLUMNS)
    series = {
        f"{test}, {point}": path_of.shares(rows, point, path_of.WHOLE, test)
        for point in summed
        for test in ("SET", "GET")
    }
    plot.dots(path.with_suffix(".png"), f"{title}: the whole path's share", "per cent of a bare Redis", series, 80)
    console.print(f"{path}", soft_wrap=True, highlight=False)
    _destroy([stack], keep)


def peers(
    chart: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of chart redis-ha (DandyDeveloper/charts)."),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Of each kind of death, at each.")] = 5,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 100.0,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench-peers",
    keep: Keep = False,
) -> None:
    """Our stack and Helm chart redis-ha: the master dies under load, in turns; then how much each does a second."""
    plain: dict[str, dict[str, Any]] = {"tls": {"enabled": False}, "api": {"replicas": 2}}
    ours = Stack(cluster, f"{namespace}-ours", "sentinel", 1, console, dict(plain))
    theirs = others.RedisHa(cluster, f"{namespace}-chart", "external", 0, console, dict(plain), chart=chart)
    both: dict[str, Stack] = {others.OURS: ours, others.THEIRS: theirs}
    _create(list(both.values()))
    deaths, rows = others.rounds(both, others.KINDS, rounds, rate)
    path_of.start_client(ours, json.loads(ours.images.read_text())["redis"]["ref"])
    ways = {
        path_of.BARE: path_of.ways_of(ours)[path_of.BARE],
        **{
            key: (stack.service_address(service), REDIS_PORT, stack.secret("redis-secret", "password"))
            for key, stack, service in ((others.OURS, ours, "redis"), (others.THEIRS, theirs, theirs.service))
        },
    }
    asked = path_of.rounds([ours, theirs], rounds, ways)
    rates = path_of.summary(asked, ways)
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["version"]
    found = {"chart": version, "deaths": deaths, "throughput": rates, "rows": rows, "throughput_rows": asked}
    path = results.write("peers", {**results.machine(), "requests_per_second": rate, **found})
    served = [row for row in rows if row["unavailable"] is not None]
    series = {
        f"{kind}, {key}": [row["unavailable"] for row in served if (row["kind"], row["stack"]) == (kind, key)]
        for kind in others.KINDS
        for key in both
    }
    title = f"The master dies: session-store and redis-ha {version}, {rate:.0f} requests/s"
    plot.dots(path.with_suffix(".png"), title, "seconds from the last success to the first", series)
    results.show(console, title, deaths, failover.COLUMNS)
    results.show(console, "Sessions set and got a second, no TLS", _rates(rates), RATE_COLUMNS)
    console.print(f"{path}", soft_wrap=True, highlight=False)
    _destroy(list(both.values()), keep)


def memory(
    sessions: Annotated[int, typer.Option(min=1000, help="Live ones, in each store.")] = 100_000,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench",
    keep: Keep = False,
) -> None:
    """The API's memory with its sessions in it and with them in Redis, and what they take there."""
    # The default limit: Node sizes its young generation by it.
    one = {"replicas": 1}
    stores = {"MemoryStore": "memory", "Redis": "redis"}
    stacks = {
        key: Stack(
            cluster, f"{namespace}-held-{store}", "standalone", 0, console, {"sessions": {"store": store}, "api": one}
        )
        for key, store in stores.items()
    }
    _create(list(stacks.values()))
    apis = {key: held.Api.at(stack.service_address("api")) for key, stack in stacks.items()}
    store = stacks["Redis"]
    with store.client(store.master().metadata.name) as redis:
        before = redis.info("memory")
        found = held.compare(apis, sessions, store.say)
        if (kept := int(redis.dbsize())) < sessions:
            raise BenchError(f"Redis holds {kept} sessions of {sessions}")
        each = per_session(redis.info("memory"), before, kept)
    seen = {key: held.container(stack, "api") for key, stack in stacks.items()}
    saved = {what: held.less(found, "Redis", "MemoryStore", what) for what in ("resident_mb", "live_heap_mb")}
    whole = {"sessions": sessions, "api": found, "container": seen, "less_percent": saved, "redis": each}
    curves = {key: api.curve for key, api in apis.items()}
    path = results.write("memory", {**results.machine(), **whole, "resident_by_sessions": curves})
    lines = {key: ([n for n, _ in curve], [mb for _, mb in curve]) for key, curve in curves.items()}
    title = "The API's memory (RSS) while people log in"
    plot.curves(path.with_suffix(".png"), title, {"": lines}, "live sessions", "MB")
    rows = {
        f"{key}, {when}": {what: f"{value:.0f} MB" for what, value in values.items()}
        for key, stages in found.items()
        for when, values in stages.items()
    }
    results.show(console, f"{sessions} sessions", rows, {"resident_mb": "RSS", "live_heap_mb": "live heap"})
    console.print(
        f"In Redis the API's live heap is {saved['live_heap_mb']:.0f} % smaller, its RSS {saved['resident_mb']:.0f} %. "
        f"A session takes {each['bytes_per_session']:.0f} bytes there: {each['sessions_per_100_mb']:.0f} in 100 MB.\n"
        f"{path}",
        highlight=False,
        soft_wrap=True,
    )
    _destroy(list(stacks.values()), keep)


def engine(
    stacks: Annotated[int, typer.Option(min=1, max=16, help="So many, one after the other.")] = 8,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench-engine",
) -> None:
    """Seconds of preview, up and an up that changes nothing, as the stacks of a cluster grow in number."""
    every = [engines.stack(cluster, f"{namespace}-{n}", console) for n in range(1, stacks + 1)]
    every[0].create_cluster(every[0].images)
    rows: list[dict[str, Any]] = []
    begun: list[Stack] = []
    try:
        for number, one in enumerate(every, start=1):
            begun.append(one)
            if number > 1:
                shutil.copy(every[0].images, one.images)
            rows.append(engines.measure(one, number))
    finally:
        _destroy(begun, keep=False)
    path = results.write("engine", {**results.machine(), "rows": rows})
    numbers = [row["stacks"] for row in rows]
    labels = {"preview": "preview", "up": "up, from nothing to Ready", "noop_up": "up, nothing to change"}
    lines = {label: (numbers, [row[key] for row in rows]) for key, label in labels.items()}
    title = f"Seconds of a command, {rows[0]['resources']} resources a stack"
    plot.curves(path.with_suffix(".png"), title, {"": lines}, "stacks in the cluster", "seconds", marker="o")
    shown = {f"{row['stacks']} stacks": row for row in rows}
    results.show(console, title, shown, labels)
    console.print(f"{path}", soft_wrap=True, highlight=False)


def soak(
    minutes: Annotated[float, typer.Option(min=1, help="How long.")] = 30.0,
    warm_up: Annotated[float, typer.Option(help="Minutes of it that do not count: Node is still growing up.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 200.0,
    people: Annotated[int, typer.Option(min=1, help="Sessions at any time.")] = 2000,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench-soak",
    keep: Keep = False,
) -> None:
    """People come, use the API and go for half an hour: does its memory grow, or that of Redis?"""
    stack = Stack(cluster, namespace, "sentinel", 0, console, {"api": {"replicas": 2}})
    stack.create()
    looks = soaking.soak(stack, minutes, rate, people)
    found = soaking.summary(looks, warm_up)
    path = results.write("soak", {**results.about(stack, rate), **found, "rows": [asdict(look) for look in looks]})
    times = [look.minute for look in looks]
    lines = {
        "the API's pods, RSS": (times, [look.resident for look in looks]),
        "of it JavaScript heap in use": (times, [look.heap for look in looks]),
        "Redis, sessions": (times, [look.redis for look in looks]),
    }
    title = f"{people} sessions, {rate:.0f} requests/s, one in ten a logout and a new login"
    plot.curves(path.with_suffix(".png"), title, {"": lines}, "minutes", "MB")
    grew = found["api_resident_growth_percent"]
    console.print(
        f"{found['requests']} requests in {minutes:.0f} minutes, {found['failed']} failed. "
        f"Over the last {found['steady_minutes']:.0f}: the API's memory {grew:+.2f} % of "
        f"{found['api_resident_mb']:.0f} MB, "
        f"Redis's for each session {found['redis_per_session_growth_percent']:+.2f} %.\n{path}",
        highlight=False,
        soft_wrap=True,
    )
    _destroy([stack], keep)
    if grew >= GROWTH:
        raise BenchError(f"the API's memory grew by {grew:.2f} % in {found['steady_minutes']:.0f} minutes: see {path}")


def _create(stacks: list[Stack]) -> None:
    """The cluster once, then one stack after the other."""
    first = stacks[0]
    first.create_cluster(first.images)
    for stack in stacks:
        if stack is not first:
            shutil.copy(first.images, stack.images)
        stack.deploy()


def _destroy(stacks: list[Stack], keep: bool) -> None:
    for stack in () if keep else stacks:
        stack.destroy()


def _milliseconds(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: f"{value:.2f}" for key, value in row.items() if isinstance(value, float)}
    low, high = row.get("added_p99_interval", (None, None))
    return {
        **dict.fromkeys(OVERHEAD_COLUMNS, ""),
        **shown,
        "interval": "" if low is None else f"{low:.2f} to {high:.2f}",
    }


def _rates(summed: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, str]]:
    """Rows by test, point and way: requests a second, and the cores that were busy with them, by part."""
    rows: dict[str, dict[str, str]] = {}
    for test in path_of.TESTS:
        for point, ways in summed.items():
            for way, entry in ways.items():
                cores = entry["cores"][test]
                cores = {**cores, "redis": cores["bare" if way == path_of.BARE else "master"]}
                rows[f"{test}, {point}: {way}"] = {
                    **{key: f"{cores[key]:.2f}" for key in list(RATE_COLUMNS)[2:]},
                    "rate": f"{entry[test]:.0f}",
                    "share": f"{entry[f'{test}_share']:.0f} %",
                }
    return rows


def register(app: typer.Typer) -> None:
    """Put the commands beside the others."""
    for command in (overhead, throughput, memory, soak, engine, peers):
        app.command()(command)
