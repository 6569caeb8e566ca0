"""Talking to the cluster's servers: the few requests that `up` and `status` make."""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import Any

from cluster import pki
from cluster.spec import Cluster, ClusterError, Node


def _context(cluster: Cluster, authority: str | None, client: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.crt(cluster, authority)) if authority else None)
    if authority is None:  # the controller manager and the scheduler make their own certificate at each start
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pki.crt(cluster, client), pki.key(cluster, client))
    return context


@cache
def _admin(cluster: Cluster) -> ssl.SSLContext:
    return _context(cluster, "ca", "admin")


def _open(url: str, context: ssl.SSLContext | None, timeout: float = 3, **request: Any) -> tuple[int, str]:
    # Never through the caller's HTTP proxy: these addresses exist on this machine only.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(urllib.request.Request(url, **request), timeout=timeout) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))


def request(
    cluster: Cluster, path: str, method: str = "GET", body: object = None, content_type: str = "application/json"
) -> Any:
    """One API request as administrator, its answer parsed; None when there is no such object, else ClusterError."""
    data = None if body is None else dumps(body).encode()
    status, text = _open(
        cluster.server + path, _admin(cluster), 10, method=method, data=data, headers={"Content-Type": content_type}
    )
    if status == 404:
        return None
    if not 200 <= status < 300:
        with contextlib.suppress(JSONDecodeError, KeyError, TypeError):
            text = loads(text)["message"]
        raise ClusterError(f"API server: {method} {path}: {status or 'no answer'}: {text[:300]}")
    return loads(text)


def unhealthy(cluster: Cluster, key: str, node: Node | None) -> str | None:
    """Why a running component does not serve (one line), or None when it does."""
    kind = key.rstrip("0123456789").removesuffix("-")
    if kind == "containerd":
        return _deaf(node.containerd_socket) if node else "has no node"
    admin = None if kind == "kube-proxy" else _admin(cluster)
    address = node.ip if node else cluster.host_ip
    url = {
        "etcd": f"https://{address}:2379/health",
        "kube-apiserver": f"{cluster.server}/readyz",
        "kube-controller-manager": f"https://{address}:10257/healthz",
        "kube-scheduler": f"https://{address}:10259/healthz",
        "kubelet": f"https://{address}:10250/healthz",
        "kube-proxy": f"http://{address}:10256/livez",
    }[kind]
    if kind == "etcd":
        admin = _context(cluster, "etcd-ca", "apiserver-etcd-client")
    elif kind in ("kube-controller-manager", "kube-scheduler"):
        admin = _context(cluster, None, "admin")
    status, text = _open(url, admin)
    return None if status == 200 else f"{url}: {status or ''} {' '.join(text.split())[:160]}".strip()


def _deaf(path: Path) -> str | None:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


@dataclass(frozen=True)
class NodeState:
    """A node as the API server knows it: why it is not Ready (None: it is), its kubelet's last word (Unix seconds)."""

    problem: str | None
    heartbeat: float


def _seconds(stamp: str | None) -> float:
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def nodes(cluster: Cluster) -> dict[str, NodeState]:
    """The registered nodes by name."""
    found = {}
    for item in request(cluster, "/api/v1/nodes")["items"]:
        conditions: list[dict[str, str]] = item["status"].get("conditions", [])
        ready: dict[str, str] = next((c for c in conditions if c["type"] == "Ready"), {})
        problem = None if ready.get("status") == "True" else f"not Ready: {ready.get('message', 'no status yet')}"
        found[item["metadata"]["name"]] = NodeState(problem, _seconds(ready.get("lastHeartbeatTime")))
    return found


def stale_pods(cluster: Cluster, nodes: set[str], since: float) -> str | None:
    """Pods of freshly booted nodes that still report containers from before `since` (Unix seconds)."""
    stale = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in request(cluster, "/api/v1/pods")["items"]
        for status in pod["status"].get("containerStatuses", [])
        if pod["spec"].get("nodeName") in nodes
        and "running" in status["state"]
        and _seconds(status["state"]["running"].get("startedAt")) < int(since) - 1
    ]
    return ", ".join(sorted(set(stale))) or None


def deployments_ready(cluster: Cluster, wanted: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Deployment (given as namespace, name) -> None when all its replicas serve, else why not."""
    found: dict[str, str | None] = {}
    for namespace, name in wanted:
        item = request(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        status = item["status"] if item else {}
        want, ready = (item["spec"]["replicas"] if item else 1), status.get("readyReplicas", 0)
        observed = item is not None and status.get("observedGeneration") == item["metadata"]["generation"]
        good = observed and ready == status.get("updatedReplicas", 0) == status.get("replicas", 0) == want
        found[f"{namespace}/{name}"] = None if good else f"{ready} of {want} replicas ready" if item else "not there"
    return found


def pod_trouble(cluster: Cluster, namespace: str) -> str:
    """What the pods of a namespace that are not ready wait for, one line."""
    lines: list[str] = []
    for pod in request(cluster, f"/api/v1/namespaces/{namespace}/pods")["items"]:
        state: dict[str, str] | None = None
        for status in pod["status"].get("containerStatuses", []):
            state = status["state"].get("waiting") or status["state"].get("terminated")
            if status.get("restartCount") and not status["ready"]:
                log = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/log"
                log += f"?previous=true&tailLines=3&container={status['name']}"
                lines.append(_open(cluster.server + log, _admin(cluster))[1].strip())
            if state:
                lines.append(f"{pod['metadata']['name']}: {state.get('reason', '')} {state.get('message', '')}".strip())
        if not pod["status"].get("containerStatuses") or (state and state.get("reason") == "ContainerCreating"):
            query = f"fieldSelector=involvedObject.name={pod['metadata']['name']},type=Warning"
            events = request(cluster, f"/api/v1/namespaces/{namespace}/events?{query}")["items"]
            lines += [event["message"] for event in events[-1:]]
        for condition in pod["status"].get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                lines.append(f"{pod['metadata']['name']}: {condition.get('message', 'not scheduled')}")
    return "; ".join(lines)[:400]
