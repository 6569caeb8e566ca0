"""How long the engine takes, and whether that grows with the stacks that a cluster holds."""

from __future__ import annotations

import re
import time
from typing import Any

from rich.console import Console

from bench.stack import BenchError, Stack

_UNCHANGED = re.compile(r"is up: 0 changes \((\d+) same\)")
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
    up, _ = _timed(one, "up")
    again, said = _timed(one, "up")
    row = {"stacks": number, "resources": resources(said), "preview": preview, "up": up, "noop_up": again}
    one.say(
        f"stack {number}: {row['resources']} resources, preview {preview:.1f} s, up {up:.1f} s, again {again:.1f} s"
    )
    return row


def _timed(one: Stack, command: str) -> tuple[float, str]:
    begin = time.monotonic()
    said = one.ops(command)
    return time.monotonic() - begin, said


def resources(said: str) -> int:
    """How many there are, of what an up that changed nothing printed.

    Raises:
        BenchError: it changed something.
    """
    found = _UNCHANGED.search(said)
    if not found:
        raise BenchError(f"a second up should change nothing:\n{said[-500:]}")
    return int(found[1])
