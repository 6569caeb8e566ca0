"""What routine changes cost: each done the way an operator does it, with the load on."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.judge import Verdict, judge, percentile
from bench.load import Check, Load
from bench.stack import Stack
from bench.variant import variant

KINDS = {
    "password": "password rotation",
    "session-secret": "session-secret rotation",
    "certificates": "certificate renewal",
    "redis-upgrade": "Redis upgrade",
    "api-rollout": "API rollout",
    "drain": "drain of a node",
}
AFTER = 3.0
"""Seconds of load after a change, in which late damage shows."""
OLDER = 300
"""Sessions of before that are asked for again in each round; at the end it is all of them."""


@dataclass(frozen=True)
class Change:
    """One change and what came of it.

    Attributes:
        kind: key of KINDS.
        number: the round, from 1.
        what: was changed: a node, an image.
        seconds: from the command to all Ready.
    """

    kind: str
    number: int
    what: str
    seconds: float
    verdict: Verdict
    check: Check

    @property
    def longest_gap(self) -> float | None:
        """The longest time without a success, of reads or of logins."""
        return self.verdict.unavailable

    def row(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "kind": self.kind,
            "round": self.number,
            "what": self.what,
            "seconds": self.seconds,
            "longest_gap": self.longest_gap,
            **asdict(self.verdict),
            "sessions_asked": self.check.asked,
            "sessions_lost": len(self.check.lost),
            "sessions_unanswered": len(self.check.unanswered),
        }


def rounds(stack: Stack, load: Load, kind: str, count: int, requests: int) -> list[Change]:
    """So many changes of one kind (a drain is one of each node in turn), one after the other."""
    spans: list[tuple[int, str, float, float, float, Check]] = []
    checked = 0
    for number in range(1, count + 1):
        for what, change in _steps(stack, kind, number):
            begin = time.monotonic()
            change()
            stack.wait_ready(600)
            ready = time.monotonic()
            time.sleep(max(AFTER, requests / load.rate + 1 - (ready - begin)))
            end = time.monotonic()
            sessions = list(load.sessions)
            older = random.sample(sessions[:checked], min(OLDER, checked))
            check = load.check(sessions[checked:] + older)
            checked = len(sessions)
            spans.append((number, what, begin, ready, end, check))
            verdict = judge(list(load.records), begin, end)
            gap = f"{verdict.unavailable:.2f} s" if verdict.unavailable is not None else "no end"
            stack.say(
                f"{kind} {number} {what}: {ready - begin:.0f} s, {verdict.failed} of {verdict.requests} requests "
                f"failed {verdict.errors or ''}, {len(check.lost)} sessions lost, longest gap {gap}"
            )
    return [
        Change(kind, number, what, ready - begin, judge(list(load.records), begin, end), check)
        for number, what, begin, ready, end, check in spans
    ]


def _steps(stack: Stack, kind: str, number: int) -> list[tuple[str, Callable[[], object]]]:
    """What one round does: (what it changes, how)."""
    if kind in ("password", "session-secret", "certificates"):
        return [("", lambda: stack.ops("rotate", kind))]
    if kind == "redis-upgrade":
        reference = _other_image(stack, number)
        return [(reference[-12:], lambda: _up(stack, "redis", image=reference))]
    if kind == "api-rollout":
        note = f"{number}-{time.time():.0f}"
        return [(note, lambda: _up(stack, "api", env={"BENCH_RELEASE": note}))]
    nodes = [node.metadata.name for node in stack.api.core.list_node().items]
    return [(node, _drain(stack, node)) for node in nodes]


def _up(stack: Stack, part: str, **values: Any) -> None:
    stack.configure(part, **values)
    stack.ops("up")


def _other_image(stack: Stack, number: int) -> str:
    """An image of Redis that the stack has not run, loaded into the nodes before the round begins."""
    state = stack.folder / ".state"
    built = json.loads((state / "images.json").read_text())["redis"]
    archive = state / "redis-variant.tar"
    reference = variant(Path(built["archive"]), f"{number}-{time.time():.0f}", archive)
    stack.load_images(str(archive))
    archive.unlink()
    return reference


def _drain(stack: Stack, node: str) -> Callable[[], object]:
    def change() -> None:
        try:
            stack.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
        finally:
            stack.kubectl("uncordon", node)

    return change


def summary(done: list[Change], final: Check) -> dict[str, Any]:
    """The figures of one kind of change over its rounds; `final`: every session once more."""
    gaps = [c.longest_gap for c in done]
    return {
        "rounds": len(done),
        "requests": sum(c.verdict.requests for c in done),
        "fewest_requests": min(c.verdict.requests for c in done),
        "failed": sum(c.verdict.failed for c in done),
        "sessions": final.asked,
        "sessions_lost": len(final.lost.union(*(c.check.lost for c in done))),
        "sessions_unanswered": len(final.unanswered),
        "latency_p50": percentile(sorted(c.verdict.p50 for c in done if c.verdict.p50), 50),
        "latency_p99": max((c.verdict.p99 for c in done if c.verdict.p99), default=None),
        "latency_worst": max((c.verdict.worst for c in done if c.verdict.worst), default=None),
        "longest_gap": None if None in gaps else max(g for g in gaps if g is not None),
        "seconds": percentile(sorted(c.seconds for c in done), 50),
    }
