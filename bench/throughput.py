"""What Redis does a second at the end of the whole path, and what a bare one on loopback does: one client, in turns."""

from __future__ import annotations

import contextlib
import csv
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.judge import percentile
from bench.stack import REDIS_PORT, BenchError, Stack
from infra import pods
from ops import kube, pod_exec

POD = "bench-client"
BARE_PORT = 7000
VALUE = 350
"""Bytes: what a session of the API is."""
KEYS = 100_000
TLS_FOLDER = "/tls"


@dataclass(frozen=True)
class Point:
    """How the client asks.

    Attributes:
        clients: connections.
        pipeline: requests under way on each.
        requests: of each command, in each round.
    """

    clients: int
    pipeline: int
    requests: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.clients} connections, {self.pipeline} under way on each"


POINTS = (Point(50, 1, 60_000), Point(3, 16, 150_000), Point(50, 16, 150_000))
"""Everybody's default; the API's way, where each pod has one connection for all its requests; and both."""
Ways = Mapping[str, tuple[str, int, str | None]]
"""What the client asks: host, port, password."""
BARE, DIRECT, WHOLE = "bare on loopback", "the master's pod", "through the Service"
TESTS = ("SET", "GET")
CLIENT = "client"
GROUPS = Path("/sys/fs/cgroup")


def client_pod(image: str, tls: bool) -> dict[str, Any]:
    """A pod with a bare Redis on its loopback; the client runs in the same container."""
    folder = TLS_FOLDER
    files = ["--tls-cert-file", f"{folder}/tls.crt", "--tls-key-file", f"{folder}/tls.key", "--tls-ca-cert-file"]
    listen = (
        ["--port", "0", "--tls-port", str(BARE_PORT), *files, f"{folder}/ca.crt", "--tls-auth-clients", "no"]
        if tls
        else ["--port", str(BARE_PORT)]
    )
    user = 999
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "labels": pods.REDIS_CLIENT},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "redis",
                    "image": image,
                    "command": ["redis-server", "--bind", "127.0.0.1", *listen, "--save", "", "--appendonly", "no"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "tls", "mountPath": folder}] if tls else [],
                }
            ],
            "volumes": [{"name": "tls", "secret": {"secretName": "redis-tls", "defaultMode": 0o440}}] if tls else [],
        },
    }


def command(point: Point, test: str, host: str, port: int, password: str | None, tls: bool) -> list[str]:
    """redis-benchmark: sessions set or got at random."""
    secure = ["--tls", "--cacert", f"{TLS_FOLDER}/ca.crt", "--sni", "redis"] if tls else []
    size = ["-c", point.clients, "-P", point.pipeline, "-n", point.requests, "-d", VALUE, "-r", KEYS]
    login = ["-a", password] if password else []
    return [
        str(word)
        for word in ("redis-benchmark", "-h", host, "-p", port, *secure, *login, *size, "-t", test.lower(), "--csv")
    ]


def parse(text: str) -> float:
    """Requests a second, of what redis-benchmark prints with --csv."""
    rows = list(csv.DictReader(line for line in text.splitlines() if line.startswith('"')))
    if len(rows) != 1:
        raise BenchError(f"redis-benchmark should have told of one test: {text[-500:]}")
    return float(rows[0]["rps"])


def start_client(stack: Stack, image: str) -> None:
    """The pod, running."""
    core = stack.api.core
    if not kube.get(core.read_namespaced_pod, POD, stack.namespace):
        core.create_namespaced_pod(stack.namespace, client_pod(image, stack.tls))
    stack.wait_ready(120)


def ways_of(stack: Stack) -> Ways:
    """To the bare Redis and to the stack's."""
    password = stack.secret("redis-secret", "password")
    return {
        BARE: ("127.0.0.1", BARE_PORT, None),
        DIRECT: (stack.master().status.pod_ip, REDIS_PORT, password),
        WHOLE: ("redis", REDIS_PORT, password),
    }


def rounds(stacks: Sequence[Stack], count: int, ways: Ways) -> list[dict[str, Any]]:
    """In each round every way at every point, in random order; a row each. The client is beside the first stack."""
    stack, parts = stacks[0], parts_of(stacks)
    order = random.Random(1)  # noqa: S311 - whose turn it is
    rows: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        for point in POINTS:
            turns = list(ways)
            order.shuffle(turns)
            for way in turns:
                row: dict[str, Any] = {"round": number, "point": point.label, "way": way, "cores": {}}
                for test in TESTS:
                    asked = command(point, test, *ways[way], stack.tls)
                    row[test], row["cores"][test] = _once(stack, asked, parts)
                rows.append(row)
            stack.say(f"round {number}, {point.label}: {_line(rows[-len(ways) :])}")
    return rows


def _once(stack: Stack, asked: list[str], parts: Mapping[str, list[str]]) -> tuple[float, dict[str, float]]:
    """What redis-benchmark found, and the cores that each part was busy with meanwhile."""
    before = cpu_seconds(parts)
    done = pod_exec.run(stack.api, stack.namespace, POD, "redis", asked)
    after = cpu_seconds(parts)
    if done.code:
        raise BenchError(f"redis-benchmark: exit {done.code}: {(done.out + done.err)[-500:]}")
    seconds = after["seconds"] - before["seconds"]
    return parse(done.out), {name: (after[name] - before[name]) / seconds for name in after if name != "seconds"}


def parts_of(stacks: Sequence[Stack]) -> dict[str, list[str]]:
    """Uids of the pods that a request, or its copies, go through; the client is beside the first stack."""
    client = stacks[0].api.core.read_namespaced_pod(POD, stacks[0].namespace)
    masters = [stack.master().metadata.uid for stack in stacks]
    redis = [pod.metadata.uid for stack in stacks for pod in stack.redis_pods()]
    return {
        CLIENT: [client.metadata.uid],
        "master": masters,
        "replicas": [uid for uid in redis if uid not in masters],
        "proxies": [pod.metadata.uid for stack in stacks for pod in stack.proxy_pods()],
    }


def _line(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['way']} SET {row['SET']:.0f} GET {row['GET']:.0f}" for row in rows)


def summary(rows: list[dict[str, Any]], ways: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By point: for each way, in that order, its rounds' median, the share of the bare one's, and the busy cores."""
    found: dict[str, dict[str, Any]] = {}
    for point in POINTS:
        found[point.label] = {}
        for way in ways:
            mine = [row for row in rows if (row["point"], row["way"]) == (point.label, way)]
            entry: dict[str, Any] = {"cores": {}}
            for test in TESTS:
                cores = [row["cores"][test] for row in mine]
                entry[test] = _middle([row[test] for row in mine])
                entry[f"{test}_share"] = _middle(shares(rows, point.label, way, test))
                entry["cores"][test] = {name: _middle([one[name] for one in cores]) for name in cores[0]}
            found[point.label][way] = entry
    return found


def shares(rows: list[dict[str, Any]], point: str, way: str, test: str) -> list[float]:
    """Per cent of what the bare Redis did in the same round, for each round."""
    here, bare = (
        {row["round"]: row[test] for row in rows if (row["point"], row["way"]) == (point, each)} for each in (way, BARE)
    )
    return [100 * here[number] / bare[number] for number in here]


def _middle(values: list[float]) -> float:
    found = percentile(sorted(values), 50)
    assert found is not None
    return found


def cpu_seconds(parts: Mapping[str, list[str]], proc: Path = Path("/proc"), groups: Path = GROUPS) -> dict[str, float]:
    """Seconds of CPU so far: of the pods of each part, of the bare Redis, of the machine (`busy`), and what time it is.

    Args:
        parts: label to uids of pods; the one of CLIENT runs the bare Redis, which is not counted there.
        proc: where the kernel tells of processes.
        groups: where the cgroup hierarchies are mounted.
    """
    tick = os.sysconf("SC_CLK_TCK")
    found = {label: sum(pod_seconds(uid, groups) for uid in uids) for label, uids in parts.items()}
    found["bare"] = 0.0
    for stat in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name == "redis-server" and parts[CLIENT][0] in stat.with_name("cgroup").read_text():
                found["bare"] += sum(int(n) for n in rest.split()[11:13]) / tick
    found[CLIENT] -= found["bare"]
    times = [int(n) / tick for n in (proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = times[3] + times[4]
    return {**found, "busy": sum(times) - idle, "seconds": float((proc / "uptime").read_text().split()[0])}


def pod_seconds(uid: str, groups: Path = GROUPS) -> float:
    """Seconds of CPU of a pod of an embedded cluster, of its processes that have ended as well."""
    for usage in groups.glob(f"cpuacct/session-store/*/*/kubepods/*/pod{uid}/cpuacct.usage"):
        return int(usage.read_text()) / 1e9
    for stat in groups.glob(f"session-store/*/*/kubepods/*/pod{uid}/cpu.stat"):
        return int(stat.read_text().split()[1]) / 1e6
    return 0.0
