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
def own(stacks: Iterable[Stack]) -> Iterator[None]:
    """Client, API, proxy and master on the last core, all else on the others, as on other machines. Root only.

    Raises:
        BenchError: there is one core only.
    """
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        raise BenchError("one core cannot be shared out: repeat it with --shared")
    core, before = {max(every)}, dict[int, set[int]]()
    way = [member for stack in stacks for member in _way(stack)]
    try:
        for thread, groups, name in _threads():
            mine = any(uid in groups and name in names for uid, names in way)
            with contextlib.suppress(OSError):  # it has ended, or is the kernel's
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, core if mine else every - core)
        os.sched_setaffinity(0, core)
        yield
    finally:
        os.sched_setaffinity(0, every)
        for thread, *_ in _threads():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, every))


def _way(stack: Stack) -> list[tuple[str, tuple[str, ...]]]:
    """(uid of a pod, names of its processes that are on the way)."""
    pods = [(app, pod) for app in ("api", "redis-proxy") for pod in stack.pods(app)]
    if stack.redis_pods():
        pods.append(("redis", stack.master()))
    return [(str(pod.metadata.uid), ON_THE_WAY[app]) for app, pod in pods]


def _threads() -> Iterator[tuple[int, str, str]]:
    """(id, cgroups, name of its process) of every thread but this process's; a Sentinel is no redis-server here."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            groups, command = (process / "cgroup").read_text(), (process / "cmdline").read_bytes()
            name = "sentinel" if b"[sentinel]" in command else (process / "comm").read_text().strip()
            if int(process.name) != os.getpid():
                for task in (process / "task").iterdir():
                    yield int(task.name), groups, name
