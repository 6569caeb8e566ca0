"""What the death of the master costs: one round after another, the next as soon as all is Ready, the load on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from bench.judge import Verdict, judge, percentile
from bench.load import Check, Load
from bench.stack import ERRORS, BenchError, Stack
from ops.kube import TIMEOUT, wait_for

KINDS = {
    "kill": "redis-server of the master killed (SIGKILL)",
    "delete": "master pod deleted, grace 0",
    "partition": "master's node cut off",
    "node": "master's node dead",
    "all": "redis-server of every pod killed (SIGKILL)",
}
USUAL = ("kill", "delete", "partition", "node")
"""One thing dies. Where all Redis die at once no replica is left that has what was acknowledged: only if asked for."""
COLUMNS = {
    "rounds": "rounds",
    "came_back": "came back",
    "unavailable_p50": "unavailable p50",
    "unavailable_p99": "p99",
    "unavailable_worst": "worst",
    "requests": "requests",
    "failed": "failed",
    "sessions": "sessions",
    "sessions_lost": "lost",
    "sessions_unanswered": "unanswered",
}
BACK_LIMIT = 300.0
"""Seconds after which the service is taken for gone for good."""
READY_LIMIT = 600.0
STEADY = 2.0
"""Seconds of good requests that end an outage."""
OLDER = 300
"""Sessions of earlier rounds that are asked for again in each round; at the end it is all of them."""


@dataclass
class Round:
    """One event and what came of it. Times are of the monotonic clock.

    Attributes:
        kind: key of KINDS.
        number: counts from 1.
        pod: the master that was hit, on `node`.
        begin: just before the event.
        end: all Ready again.
        came_back: whether the service served again on its own.
        check: what became of the sessions acknowledged since the round before, and of some older ones.
        error: why the round broke off.
    """

    kind: str
    number: int
    pod: str
    node: str
    begin: float
    end: float = 0.0
    came_back: bool = False
    check: Check | None = None
    error: str | None = None
    verdict: Verdict | None = None

    def row(self) -> dict[str, Any]:
        """For the JSON file."""
        verdict = self.verdict
        return {
            "kind": self.kind,
            "round": self.number,
            "pod": self.pod,
            "node": self.node,
            "came_back": self.came_back,
            "unavailable": verdict.unavailable if verdict else None,
            "all_ready_after": self.end - self.begin if self.end else None,
            **(asdict(verdict) if verdict else {}),
            "sessions_asked": self.check.asked if self.check else 0,
            "sessions_lost": len(self.check.lost) if self.check else None,
            "sessions_unanswered": len(self.check.unanswered) if self.check else None,
            "error": self.error,
        }


def rounds(stack: Stack, load: Load, kind: str, numbers: Iterable[int], hold: float) -> list[Round]:
    """Events of one kind, one after the other; stops when the service does not come back.

    Args:
        stack: under test.
        load: running on it.
        kind: key of KINDS.
        numbers: theirs, for people.
        hold: seconds that a cut lasts at least.
    """
    done: list[Round] = []
    checked = 0
    for number in numbers:
        pod = stack.master()
        event = Round(kind, number, pod.metadata.name, pod.spec.node_name, time.monotonic())
        done.append(event)
        try:
            checked = _one(stack, load, event, hold, checked)
        except ERRORS as error:
            event.error = str(error)
        event.end = event.end or time.monotonic()
        event.verdict = judge(list(load.records), event.begin, event.end)
        stack.say(_line(event))
        if event.error:
            break
    time.sleep(STEADY)
    for event in done:  # once more: by now the last requests of each round have ended
        event.verdict = judge(list(load.records), event.begin, event.end)
    return done


def _line(event: Round) -> str:
    verdict, check = event.verdict, event.check
    lost = len(check.lost) if check else "?"
    silent = f"{verdict.unavailable:.2f} s" if verdict and verdict.unavailable is not None else "no end"
    return (
        f"{event.kind} {event.number}: {event.pod} on {event.node}: unavailable {silent}, "
        f"{verdict.failed if verdict else '?'} failed, {lost} sessions lost, all Ready after "
        f"{event.end - event.begin:.0f} s" + (f" [red]{event.error}[/red]" if event.error else "")
    )


def _one(stack: Stack, load: Load, event: Round, hold: float, checked: int) -> int:
    """One event; `checked` is how many sessions were checked before it, and the new number is returned."""
    info = stack.info(event.pod)
    event.begin = time.monotonic()
    _hit(stack, event)
    hit = time.monotonic()
    event.came_back = bool(wait_for(lambda: steady(load, hit), BACK_LIMIT))
    if event.kind in ("partition", "node"):
        # A cut must last, or it would be no more than a hiccup of the network.
        time.sleep(max(0.0, hit + hold - time.monotonic()))
        stack.embedded("fault", "heal" if event.kind == "partition" else "start", event.node)
    if not event.came_back:
        raise BenchError(f"the service did not serve again within {BACK_LIMIT:.0f} s")
    # Pods become Ready meanwhile, so this takes no time off the next round's.
    sessions = list(load.sessions)
    older = random.sample(sessions[:checked], min(OLDER, checked))
    event.check = load.check(sessions[checked:] + older)

    def settled() -> bool:
        return stack.unready() is None and _redis_is_back(stack, event, info["run_id"] if info else None)

    if not wait_for(settled, READY_LIMIT):
        raise BenchError(f"not all Ready within {READY_LIMIT:.0f} s: {stack.unready() or 'a Redis does not answer'}")
    event.end = time.monotonic()
    return len(sessions)


def _hit(stack: Stack, event: Round) -> None:
    if event.kind in ("kill", "all"):
        pods = [event.pod] if event.kind == "kill" else [pod.metadata.name for pod in stack.redis_pods()]
        with ThreadPoolExecutor() as pool:
            for killed in [pool.submit(_kill, stack, pod) for pod in pods]:
                killed.result()
    elif event.kind == "delete":
        stack.api.core.delete_namespaced_pod(
            event.pod, stack.namespace, grace_period_seconds=0, _request_timeout=TIMEOUT
        )
    else:
        stack.embedded("fault", "partition" if event.kind == "partition" else "kill", event.node)


def _kill(stack: Stack, pod: str) -> None:
    stack.embedded("fault", "kill-process", stack.namespace, pod, "redis-server", "--container", "redis")


def _redis_is_back(stack: Stack, event: Round, before: str | None) -> bool:
    """Every Redis answers; the one that was hit is another process, unless it was only cut off.

    Kubernetes sees a killed container late, and a short cut not at all.
    """
    infos = {pod.metadata.name: stack.info(pod.metadata.name) for pod in stack.redis_pods()}
    hit = infos.get(event.pod)
    return all(infos.values()) and hit is not None and (event.kind == "partition" or hit["run_id"] != before)


def steady(load: Load, since: float) -> bool:
    """Whether the requests of the last seconds, all of them sent after the event, were good."""
    begin = time.monotonic() - STEADY - 0.5
    if begin < since:
        return False
    last = [r for r in load.records[-int(load.rate * STEADY * 3) :] if r.scheduled >= begin]
    good = sum(r.good for r in last)
    return good >= load.rate * STEADY * 0.95 and good >= len(last) * 0.99


def summary(events: list[Round], final: Check) -> dict[str, Any]:
    """The figures of one kind of event over its rounds; `final`: every session once more."""
    verdicts = [e.verdict for e in events if e.verdict]
    silent = sorted(v.unavailable for v in verdicts if v.unavailable is not None)
    whole = len(silent) == len(events)
    lost = final.lost.union(*(e.check.lost for e in events if e.check))
    return {
        "rounds": len(events),
        "came_back": sum(e.came_back and not e.error for e in events),
        "unavailable_p50": percentile(silent, 50),
        "unavailable_p99": percentile(silent, 99) if whole else None,
        "unavailable_worst": percentile(silent, 100) if whole else None,
        "requests": sum(v.requests for v in verdicts),
        "failed": sum(v.failed for v in verdicts),
        "latency_worst": max((v.worst for v in verdicts if v.worst is not None), default=None),
        "sessions": final.asked,
        "sessions_lost": len(lost),
        "sessions_unanswered": len(final.unanswered),
    }
