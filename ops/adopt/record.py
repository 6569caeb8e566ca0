"""What an adoption must remember that the cluster shows no more once the Service leads elsewhere: one ConfigMap."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from infra import pods
from ops import kube
from ops.adopt.door import apply, delete
from ops.kube import Cluster


@dataclass(frozen=True)
class Record:
    """The old Redis.

    Attributes:
        deployment: name of its Deployment.
        replicas: how many pods that had.
        selector: labels by which the Service found its pods.
        ports: the Service's, as Kubernetes writes them.
        cut: whether the new Redis takes the writes, and nobody else.
    """

    deployment: str
    replicas: int
    selector: dict[str, str]
    ports: list[dict[str, Any]]
    cut: bool = False

    @property
    def port(self) -> int:
        """Where the old Redis listens."""
        wanted = self.ports[0].get("targetPort")
        return wanted if isinstance(wanted, int) else 6379


def name(app: str) -> str:
    """Name of the ConfigMap."""
    return f"{app}-adoption"


def read(cluster: Cluster, namespace: str, app: str) -> Record | None:
    """The record, None: nothing was begun."""
    found = kube.get(cluster.core.read_namespaced_config_map, name(app), namespace)
    return Record(**json.loads(found.data["record"])) if found else None


def write(cluster: Cluster, namespace: str, app: str, record: Record) -> None:
    """Keep it."""
    body = {
        "metadata": {"name": name(app), "labels": pods.labels(name(app), "adoption")},
        "data": {"record": json.dumps(asdict(record))},
    }
    apply(cluster, namespace, "ConfigMap", body)


def forget(cluster: Cluster, namespace: str, app: str) -> None:
    """Delete it."""
    delete(cluster, namespace, "ConfigMap", name(app))
