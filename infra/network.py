"""NetworkPolicies: nothing reaches our pods, and they reach nothing, but for the flows the stack needs.

Flows: API -> Redis, backup -> Redis, all of these -> DNS, anybody -> API, Prometheus -> metrics. Only pods of this
stack are selected; neighbours in the namespace stay as they are.
"""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.api import APP
from infra.redis import conf
from infra.redis.sentinel import proxy_name
from infra.settings import Settings

DNS = {"ports": [{"protocol": proto, "port": 53} for proto in ("UDP", "TCP")]}


def policies(settings: Settings) -> dict[str, dict[str, Any]]:
    """NetworkPolicy name to spec (snake_case, as pulumi_kubernetes takes it)."""
    redis = settings.redis
    redis_port = {"protocol": "TCP", "port": redis.port if redis.mode == "external" else conf.PORT}
    sentinel_port = {"protocol": "TCP", "port": conf.SENTINEL_PORT}
    client = {"pod_selector": {"match_labels": pods.REDIS_CLIENT}}
    members, proxies = (
        {"pod_selector": {"match_labels": pods.selector(app)}} for app in (redis.app, proxy_name(redis.app))
    )
    server = proxies if redis.mode == "sentinel" else members
    watchers: dict[str, Any] = {}
    if settings.metrics.scrape_namespace:
        label = {"kubernetes.io/metadata.name": settings.metrics.scrape_namespace}
        watchers = {"from_": [{"namespace_selector": {"match_labels": label}}]}

    def scrape(port: int) -> list[dict[str, Any]]:
        return [{**watchers, "ports": [{"protocol": "TCP", "port": port}]}] if settings.metrics.enabled else []

    found: dict[str, dict[str, Any]] = {}
    if redis.mode != "external":
        # Among themselves in both modes: one copies from the other when the mode changes.
        found[redis.app] = {
            **members,
            "policy_types": ["Ingress", "Egress"],
            "ingress": [
                {"from_": [client], "ports": [redis_port]},
                {"from_": [members, proxies], "ports": [redis_port, sentinel_port]},
                *(scrape(conf.EXPORTER_PORT) if settings.metrics.exporter else []),
            ],
            "egress": [DNS, {"to": [members], "ports": [redis_port, sentinel_port]}],
        }
    if redis.mode == "sentinel":
        found[proxy_name(redis.app)] = {
            **proxies,
            "policy_types": ["Ingress", "Egress"],
            "ingress": [
                {"from_": [client], "ports": [redis_port]},
                {"ports": [{"protocol": "TCP", "port": conf.PROXY_HEALTH_PORT}]},
                *scrape(conf.PROXY_METRICS_PORT),
            ],
            "egress": [DNS, {"to": [members], "ports": [redis_port, sentinel_port]}],
        }
    if settings.backup.schedule:
        backup = f"{redis.app}-backup"
        found[backup] = {
            "pod_selector": {"match_labels": pods.selector(backup)},
            "policy_types": ["Ingress", "Egress"],
            "egress": [
                DNS,
                {"to": [members], "ports": [redis_port]},
            ],
        }
    if settings.api.image:
        # An external Redis has an address, not pods: its port is open to anywhere.
        to = {} if redis.mode == "external" else {"to": [server]}
        ports = [{"protocol": "TCP", "port": port} for port in settings.network.api_egress_ports]
        found[APP] = {
            "pod_selector": {"match_labels": pods.selector(APP)},
            "policy_types": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": settings.api.port}]}],
            "egress": [DNS, {**to, "ports": [redis_port]}, *([{"ports": ports}] if ports else [])],
        }
    return found


def declare(settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
    """The policies, where `network.policies` is on."""
    for name, spec in policies(settings).items() if settings.network.policies else ():
        metadata = {"name": name, "namespace": settings.namespace, "labels": pods.labels(name, "network")}
        k8s.networking.v1.NetworkPolicy(name, metadata=metadata, spec=spec, opts=opts)
