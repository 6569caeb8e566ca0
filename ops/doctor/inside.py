"""What pods say when they are asked from within: a small program in each, and the proxies' metrics."""

from __future__ import annotations

import json
import re
import time
from importlib import resources
from typing import Any

from infra.redis.conf import PROXY_METRICS_PORT
from ops import pod_exec, tunnel
from ops.doctor.look import Redis
from ops.errors import OpsError
from ops.kube import Cluster

HASH = re.compile(r"\b[0-9a-f]{64}\b")
ACTIVE = re.compile(r'^haproxy_backend_active_servers\{proxy="([^"]+)"\} (\d+)', re.MULTILINE)


def _run(cluster: Cluster, namespace: str, pod: str, container: str, *command: str) -> tuple[str, float, float]:
    """(what a command printed, our clock before it, and after it)."""
    before = time.time()
    try:
        done = pod_exec.run(cluster, namespace, pod, container, list(command))
    except ValueError as error:  # the client takes the node's complaint for an exit code
        raise OpsError(f"its node runs no command in it: {str(error).partition(': ')[2][:200]}") from None
    if done.code:
        raise OpsError(f"{command[0]} in it ended with code {done.code}: {done.err.strip()[:200] or done.out[:200]}")
    return done.out, before, time.time()


def _program(file: str) -> str:
    return (resources.files("ops.doctor") / file).read_text()


def api(cluster: Cluster, namespace: str, pod: str, container: str) -> tuple[dict[str, Any], float, float]:
    """(what `probe.js` saw in a pod of the API, our clock before it and after it)."""
    out, before, after = _run(cluster, namespace, pod, container, "node", "-e", _program("probe.js"))
    answer: dict[str, Any] = json.loads(out)
    return answer, before, after


def redis(
    cluster: Cluster, namespace: str, pod: str, database: int, prefix: str
) -> tuple[Redis, float | None, float, float]:
    """(what `probe.sh` saw in a pod of Redis, its clock, our clock before it and after it)."""
    command = ("sh", "-c", _program("probe.sh"), "doctor", str(database), prefix)
    out, before, after = _run(cluster, namespace, pod, "redis", *command)
    answer, clock = parse(out)
    return answer, clock, before, after


def proxy(cluster: Cluster, namespace: str, pod: str) -> dict[str, int]:
    """How many servers of each backend a proxy holds for up."""
    port = tunnel.open_port(cluster, namespace, pod, PROXY_METRICS_PORT)
    text = str(tunnel.request(port, "GET", "/metrics", {}, None).body)
    return {backend: int(count) for backend, count in ACTIVE.findall(text)}


def parse(out: str) -> tuple[Redis, float | None]:
    """(what `probe.sh` printed, its clock)."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in out.replace("\r", "").splitlines():
        if re.fullmatch(r"@[a-z]+", line):
            lines = found.setdefault(line[1:], [])
        else:
            lines.append(line)
    clock, disk, config = found.get("clock", []), found.get("disk", []), found.get("config", [])
    numbers = [int(word) for word in " ".join(disk).split() if word.isdigit()]
    return (
        Redis(
            ping=" ".join(found.get("ping", [])),
            logins=[line for line in found.get("logins", []) if line],
            refused=" ".join(found.get("refused", [])),
            info=dict(line.split(":", 1) for line in found.get("info", []) if ":" in line),
            config=dict(zip(config[::2], config[1::2], strict=False)),
            passwords=HASH.findall("\n".join(found.get("user", []))),
            mounted=HASH.findall("\n".join(found.get("mounted", []))),
            disk=(numbers[2], numbers[0]) if len(numbers) >= 3 else None,
            sentinel=[line for line in found.get("sentinel", []) if line],
            sessions=list(_sessions(found.get("sessions", []))),
        ),
        float(clock[0]) if clock and clock[0].isdigit() else None,
    )


def _sessions(lines: list[str]) -> list[tuple[str, int, str]]:
    """Three lines each: key, seconds to live (-1: for ever, -2: gone meanwhile), content."""
    triples = zip(lines[::3], lines[1::3], lines[2::3], strict=False)
    return [(key, int(ttl), content) for key, ttl, content in triples if ttl.lstrip("-").isdigit() and ttl != "-2"]
