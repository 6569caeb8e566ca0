"""PodMonitors: what the Prometheus Operator needs to find our pods; other Prometheus find them by their annotations.

Both give a series the same labels (docs/metrics.md).
"""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.api import APP
from infra.redis.members import MODE
from infra.redis.sentinel import proxy_name
from infra.settings import Settings
from infra.wiring import PASSWORD_GENERATION

POD_LABELS = ["app", "app.kubernetes.io/component", MODE, PASSWORD_GENERATION]
"""Pod labels that every series carries."""


def monitors(settings: Settings) -> dict[str, dict[str, Any]]:
    """PodMonitor name to spec. Pods, not Services: those that are in trouble, and left their Service, matter most."""
    redis, api = settings.redis, settings.api
    wired: dict[str, Any] = {"matchExpressions": [{"key": PASSWORD_GENERATION, "operator": "Exists"}]}
    # The container of somebody else's Deployment may name its port as it likes.
    http: dict[str, Any] = {"targetPort": api.port} if api.existing_deployment else {"port": "http"}
    found = {APP: (wired, http)}
    if settings.metrics.exporter:
        found[redis.app] = ({"matchLabels": pods.selector(redis.app)}, {"port": "metrics"})
    if redis.mode == "sentinel":
        proxy = proxy_name(redis.app)
        found[proxy] = ({"matchLabels": pods.selector(proxy)}, {"port": "metrics"})
    return {
        name: {
            "selector": selector,
            "podTargetLabels": POD_LABELS,
            "podMetricsEndpoints": [{**endpoint, "path": "/metrics"}],
        }
        for name, (selector, endpoint) in found.items()
    }


def declare(settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
    """The PodMonitors, where `metrics.podMonitors` is on."""
    for name, spec in monitors(settings).items() if settings.metrics.pod_monitors else ():
        k8s.apiextensions.CustomResource(
            name,
            api_version="monitoring.coreos.com/v1",
            kind="PodMonitor",
            metadata={"name": name, "namespace": settings.namespace, "labels": pods.labels(name, "monitoring")},
            spec=spec,
            opts=opts,
        )
