"""What Prometheus and Grafana are told: PodMonitors, alerts, the dashboard.

A Prometheus without the Operator finds our pods by their annotations. A series has the same labels (docs/metrics.md).
"""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

from infra import alerts, dashboard, pods
from infra.api import APP
from infra.redis.members import MODE
from infra.redis.sentinel import proxy_name
from infra.settings import Settings
from infra.wiring import PASSWORD_GENERATION

POD_LABELS = ["app", "app.kubernetes.io/component", MODE, PASSWORD_GENERATION]
"""Pod labels that every series carries."""
ALERTS, DASHBOARD = "session-store-alerts", "session-store-dashboard"
"""Names of the PrometheusRule or ConfigMap with the alerts, and of the dashboard's ConfigMap."""


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
    """PodMonitors, alerts and dashboard, each where its setting is on."""
    metrics = settings.metrics

    def meta(name: str, **labels: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**pods.labels(name, "monitoring"), **labels},
        }

    def custom(kind: str, name: str, spec: dict[str, Any]) -> None:
        k8s.apiextensions.CustomResource(
            name, api_version="monitoring.coreos.com/v1", kind=kind, metadata=meta(name), spec=spec, opts=opts
        )

    for name, spec in monitors(settings).items() if metrics.pod_monitors else ():
        custom("PodMonitor", name, spec)
    if metrics.rules and metrics.pod_monitors:
        custom("PrometheusRule", ALERTS, alerts.rules(settings))
    elif metrics.rules:
        k8s.core.v1.ConfigMap(
            ALERTS,
            metadata=meta(ALERTS, **{"session-store/alerts": "true"}),
            data={"alerts.yaml": yaml.safe_dump(alerts.rules(settings), sort_keys=False, width=1000)},
            opts=opts,
        )
    if metrics.dashboard:
        k8s.core.v1.ConfigMap(
            DASHBOARD,
            metadata=meta(DASHBOARD, grafana_dashboard="1"),
            data={f"{DASHBOARD}.json": json.dumps(dashboard.dashboard(), indent=1)},
            opts=opts,
        )
