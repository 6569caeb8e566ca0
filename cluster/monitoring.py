"""The Prometheus that `observe` adds to a cluster: it scrapes every annotated pod, and loads rules from ConfigMaps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from cluster import addons, api, lifecycle, tools
from cluster.lifecycle import Progress
from cluster.spec import Cluster

NODE_PORT = 30090
_MANIFESTS = Path(__file__).parent / "monitoring.yaml"
_DISCOVERY = Path(__file__).parent / "discover.sh"


def manifests(image: tools.Image) -> list[dict[str, Any]]:
    """The objects of monitoring.yaml; a changed file in its ConfigMap makes a new pod."""
    text, script = _MANIFESTS.read_text(), _DISCOVERY.read_text()
    digest = hashlib.sha256((text + script).encode()).hexdigest()[:16]
    for name, value in {"PROMETHEUS": image.ref, "NODE_PORT": str(NODE_PORT), "HASH": digest}.items():
        text = text.replace(f"@{name}@", value)
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(text))
    config = next(item for item in objects if item["kind"] == "ConfigMap")
    config["data"]["discover.sh"] = script
    return objects


def start(cluster: Cluster, progress: Progress) -> str:
    """Start Prometheus, or bring it up to date; returns its URL once it serves."""
    progress("image of Prometheus")
    image = tools.build(["prometheus"])["prometheus"]
    tools.load(cluster, [image])
    addons.send(cluster, tools.kubectl(), manifests(image))

    def problem() -> str | None:
        why = api.deployments_ready(cluster, [("monitoring", "prometheus")])["monitoring/prometheus"]
        return why and f"{why} ({api.pod_trouble(cluster, 'monitoring')})"

    lifecycle.wait(progress, "Prometheus", problem)
    return f"http://{cluster.nodes[0].ip}:{NODE_PORT}"
