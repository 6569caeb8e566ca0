"""How long the engine takes, and whether that grows with the stacks that a cluster holds."""

from __future__ import annotations

import re
import time
from typing import Any

from rich.console import Console

from bench.stack import BenchError, Stack

_UP = re.compile(r"is up: (\d+) created, (\d+) same")
SMALL: dict[str, dict[str, Any]] = {
    "redis": {"memory": "64Mi", "cpu": "10m"},
    "api": {"replicas": 1, "memory": "128Mi", "cpu": "10m"},
}


def stack(cluster: str, namespace: str, console: Console) -> Stack:
    """A small stack, like a developer's: one Redis with TLS and its claim, one API pod."""
    return Stack(cluster, namespace, "standalone", 0, console, SMALL)


def measure(one: Stack, number: int) -> dict[str, Any]:
    """Preview, up and an up that changes nothing, of a stack that is not there yet; the commands, from start to end."""
    one.configure()
    one.ops("certificates", "issue")
    preview, _ = _timed(one, "preview")
    up, said = _timed(one, "up")
    again, nothing = _timed(one, "up")
    if _counts(nothing)[0]:
        raise BenchError(f"a second up should change nothing:\n{nothing}")
    row = {"stacks": number, "resources": sum(_counts(said)), "preview": preview, "up": up, "noop_up": again}
    one.say(
        f"stack {number}: {row['resources']} resources, preview {preview:.1f} s, up {up:.1f} s, again {again:.1f} s"
    )
    return row


def _timed(one: Stack, command: str) -> tuple[float, str]:
    begin = time.monotonic()
    said = one.ops(command)
    return time.monotonic() - begin, said


def _counts(said: str) -> tuple[int, int]:
    found = _UP.search(said)
    if not found:
        raise BenchError(f"`ops up` should say what it did:\n{said[-500:]}")
    return int(found[1]), int(found[2])
