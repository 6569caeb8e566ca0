"""A core for the way of a request alone. On this machine three nodes share what would be many machines' cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.stack import BenchError, Stack

ON_THE_WAY = {"api": ("node", "MainThread"), "redis-proxy": ("haproxy",), "redis": ("redis-server",)}
"""By label `app`, the names of the processes that a request goes through."""


@contextlib.contextmanager
def own(stacks: Iterable[Stack], proc: Path = Path("/proc")) -> Iterator[None]:
    """Client, API, proxy and master on the last core; all else of the cluster on the others, as on other nodes.

    Raises:
        BenchError: there is one core only.
    """
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        raise BenchError("one core cannot be shared out: repeat it with --shared")
    core, stacks = {max(every)}, list(stacks)
    way = [member for stack in stacks for member in _way(stack)]
    cluster = f"/session-store/{stacks[0].cluster}/"
    try:
        for process, groups, name in _processes(proc, cluster):
            mine = any(uid in groups and name in names for uid, names in way)
            _move(process, core if mine else every - core)
        os.sched_setaffinity(0, core)
        yield
    finally:
        os.sched_setaffinity(0, every)
        for process, *_ in _processes(proc, cluster):
            _move(process, every)


def _way(stack: Stack) -> list[tuple[str, tuple[str, ...]]]:
    """(uid of a pod, names of its processes that are on the way)."""
    pods = [(app, pod) for app in ("api", "redis-proxy") for pod in stack.pods(app)]
    if stack.redis_pods():
        pods.append(("redis", stack.master()))
    return [(str(pod.metadata.uid), ON_THE_WAY[app]) for app, pod in pods]


def _processes(proc: Path, cluster: str) -> Iterator[tuple[Path, str, str]]:
    """(folder in /proc, cgroups, name) of the cluster's processes; a Sentinel is no redis-server here."""
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            groups = (process / "cgroup").read_text()
            if cluster in groups:
                sentinel = b"[sentinel]" in (process / "cmdline").read_bytes()
                yield process, groups, "sentinel" if sentinel else (process / "comm").read_text().strip()


def _move(process: Path, cores: set[int]) -> None:
    with contextlib.suppress(OSError):
        for thread in (process / "task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
