"""Clients on both sides of a cut: after it heals, no acknowledged session may be missing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from bench.failover import BACK_LIMIT, STEADY, steady
from bench.load import Load
from bench.stack import REDIS_PORT, REPO, BenchError, Stack
from ops.kube import wait_for

BEFORE = 2.0
"""Seconds that both sides write before the cut."""
START_LIMIT = 60.0
COLUMNS = {
    "pod": "master",
    "inside_acknowledged": "inside: acknowledged",
    "inside_after_cut": "of these after the cut",
    "inside_unacknowledged": "written, not acknowledged",
    "inside_refused": "refused",
    "inside_lost": "acknowledged and lost",
    "outside_acknowledged": "outside: logins",
    "outside_lost": "lost",
    "outside_unanswered": "unanswered",
}


class _Inside:
    """A writer in the network of the master's node."""

    def __init__(self, stack: Stack, pod: Any, prefix: str) -> None:
        nodes = json.loads(stack.embedded("status", "--json"))["nodes"]
        netns = next(node["netns"] for node in nodes if node["name"] == pod.spec.node_name)
        command = ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-m", "bench.inside"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, text=True)
        told = {
            "host": pod.status.pod_ip,
            "port": REDIS_PORT,
            "password": stack.secret("redis-secret", "password"),
            "ca": stack.secret("redis-tls", "ca.crt"),
            "prefix": prefix,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        self.attempts: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if not wait_for(lambda: self.attempts, START_LIMIT):
            self._process.kill()
            raise BenchError(f"the client inside node {pod.spec.node_name} wrote nothing within {START_LIMIT:.0f} s")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.attempts.append(json.loads(line))

    def stop(self) -> list[dict[str, Any]]:
        """Its attempts, all of them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._thread.join(30)
        self._process.wait(30)
        return self.attempts


def attempt(stack: Stack, load: Load, number: int, hold: float) -> dict[str, Any]:
    """One cut: the row of what came of it.

    Args:
        stack: under test.
        load: the clients outside, running.
        number: of the round.
        hold: seconds that the cut lasts at least.
    """
    pod = stack.master()
    inside = _Inside(stack, pod, f"ctmd:sess:bench-{time.time():.0f}-")
    try:
        time.sleep(BEFORE)
        stack.embedded("fault", "partition", pod.spec.node_name)
        cut = time.monotonic()
        came_back = bool(wait_for(lambda: steady(load, cut), BACK_LIMIT))
        time.sleep(max(0.0, cut + hold - time.monotonic()))
    finally:
        stack.embedded("fault", "heal", pod.spec.node_name)
    time.sleep(STEADY)
    attempts = inside.stop()
    if not wait_for(lambda: _one_master(stack), BACK_LIMIT):
        raise BenchError(f"after the cut the Redis pods did not agree on a master within {BACK_LIMIT:.0f} s")
    stack.wait_ready()
    outside = load.check(load.sessions)
    acknowledged = [a for a in attempts if a["replicas"] >= 1]
    with stack.client(stack.master().metadata.name) as client:
        lost = [a["key"] for a in acknowledged if not client.exists(a["key"])]
    row = {
        "round": number,
        "pod": pod.metadata.name,
        "node": pod.spec.node_name,
        "came_back": came_back,
        "inside_acknowledged": len(acknowledged),
        "inside_after_cut": sum(a["at"] > cut for a in acknowledged),
        "inside_unacknowledged": sum(not a["error"] and not a["replicas"] for a in attempts),
        "inside_refused": sum(bool(a["error"]) for a in attempts),
        "inside_errors": dict(Counter(a["error"] for a in attempts if a["error"])),
        "inside_lost": len(lost),
        "outside_acknowledged": outside.asked,
        "outside_lost": len(outside.lost),
        "outside_unanswered": len(outside.unanswered),
    }
    stack.say(", ".join(f"{key} {row[key]}" for key in ("round", *COLUMNS)))
    return row


def _one_master(stack: Stack) -> bool:
    infos = [stack.info(pod.metadata.name) for pod in stack.redis_pods()]
    masters = [i for i in infos if i and i["role"] == "master"]
    linked = [i for i in infos if i and i["role"] == "slave" and i["master_link_status"] == "up"]
    return len(masters) == 1 and len(masters) + len(linked) == len(infos)
