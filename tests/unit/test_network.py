"""The rendered NetworkPolicies, evaluated: every flow the stack needs is allowed, strangers are refused.

No enforcer runs in the embedded cluster, so the policies are proved here, by the rules of the NetworkPolicy API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from program import DIGEST, Declared, config, declare


@dataclass(frozen=True)
class Pod:
    """An end of a flow; `outside` is no pod of the namespace, but perhaps one of the `namespace` of that name."""

    labels: dict[str, str] = field(default_factory=dict)
    outside: bool = False
    namespace: str | None = None


def matches(selector: dict[str, Any], pod: Pod) -> bool:
    return not pod.outside and selector.get("matchLabels", {}).items() <= pod.labels.items()


def is_peer(peer: dict[str, Any], pod: Pod) -> bool:
    if "namespaceSelector" not in peer:
        return matches(peer["podSelector"], pod)
    assert peer.keys() == {"namespaceSelector"}
    return bool(peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": pod.namespace})


def peers_allow(rule: dict[str, Any], key: str, peer: Pod, port: tuple[str, int]) -> bool:
    peers, ports = rule.get(key), rule.get("ports")
    return (not peers or any(is_peer(p, peer) for p in peers)) and (
        not ports or any((p.get("protocol", "TCP"), p["port"]) == port for p in ports)
    )


def allowed(declared: Declared, source: Pod, target: Pod, port: tuple[str, int]) -> bool:
    """By the API's rules: pods that a policy selects are closed but for the union of its rules."""
    specs = [o["spec"] for (kind, _), o in declared.objects.items() if kind == "NetworkPolicy"]

    def side(pod: Pod, other: Pod, direction: str, peers: str) -> bool:
        selecting = [s for s in specs if direction.title() in s["policyTypes"] and matches(s["podSelector"], pod)]
        return not selecting or any(peers_allow(r, peers, other, port) for s in selecting for r in s.get(direction, []))

    return side(source, target, "egress", "to") and side(target, source, "ingress", "from")


@pytest.fixture(scope="module")
def declared() -> Declared:
    return declare(config(network={"apiEgressPorts": [443]}))


REDIS, HTTP, DNS = ("TCP", 6379), ("TCP", 3030), ("UDP", 53)
STRANGER = Pod({"app": "web"})
INTERNET = Pod(outside=True)


def ends(declared: Declared) -> tuple[Pod, Pod]:
    return (
        Pod(declared.pod("StatefulSet", "redis")["metadata"]["labels"]),
        Pod(declared.pod("Deployment", "api")["metadata"]["labels"]),
    )


def test_needed_flows_are_allowed(declared: Declared) -> None:
    redis, api = ends(declared)
    needed = [
        (api, redis, REDIS),
        (api, INTERNET, DNS),
        (redis, INTERNET, DNS),
        (INTERNET, api, HTTP),
        (STRANGER, api, HTTP),
        (api, INTERNET, ("TCP", 443)),
        (Pod({"app": "ctmd-api", "session-store/redis-client": "true"}), redis, REDIS),
    ]
    assert [flow for flow in needed if not allowed(declared, *flow)] == []


def test_strangers_are_refused(declared: Declared) -> None:
    redis, api = ends(declared)
    refused = [
        (STRANGER, redis, REDIS),
        (INTERNET, redis, REDIS),
        (api, redis, ("TCP", 22)),
        (STRANGER, api, ("TCP", 9229)),
        (redis, api, HTTP),
        (redis, INTERNET, ("TCP", 443)),
        (redis, STRANGER, ("TCP", 80)),
        (api, INTERNET, REDIS),
        (api, STRANGER, ("TCP", 5432)),
    ]
    assert [flow for flow in refused if allowed(declared, *flow)] == []


def test_neighbours_in_the_namespace_stay_as_they_are(declared: Declared) -> None:
    assert allowed(declared, INTERNET, STRANGER, ("TCP", 80))
    assert allowed(declared, STRANGER, INTERNET, ("TCP", 443))


def test_external_redis_may_be_reached() -> None:
    declared = declare(config(redis={"image": ..., "mode": "external", "host": "cache.example.org", "port": 6380}))
    api = Pod(declared.pod("Deployment", "api")["metadata"]["labels"])
    assert allowed(declared, api, INTERNET, ("TCP", 6380))
    assert not allowed(declared, api, INTERNET, REDIS)


def test_somebody_elses_api_keeps_its_own_network() -> None:
    declared = declare(config(api={"image": ..., "existingDeployment": "api"}))
    assert [name for kind, name in declared.objects if kind == "NetworkPolicy"] == ["redis"]


def test_policies_can_be_switched_off() -> None:
    assert "NetworkPolicy" not in declare(config(network={"policies": False})).kinds()


PROMETHEUS, ELSEWHERE = Pod(outside=True, namespace="monitoring"), Pod(outside=True, namespace="web")
EXPORTER, PROXY = ("TCP", 9121), ("TCP", 8405)


def watched(**metrics: Any) -> tuple[Declared, Pod, Pod]:
    """A declared sentinel stack with the exporter; a pod of Redis and one of the proxy."""
    found = declare(
        config(
            redis={"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")},
            metrics={"exporterImage": DIGEST.format("exporter"), **metrics},
        )
    )
    redis, proxy = found.pod("StatefulSet", "redis-ha"), found.pod("Deployment", "redis-proxy")
    return found, Pod(redis["metadata"]["labels"]), Pod(proxy["metadata"]["labels"])


def test_prometheus_may_scrape_and_nothing_else() -> None:
    declared, redis, proxy = watched()
    api = Pod(declared.pod("Deployment", "api")["metadata"]["labels"])
    needed = [(PROMETHEUS, redis, EXPORTER), (PROMETHEUS, proxy, PROXY), (PROMETHEUS, api, HTTP)]
    refused = [
        *((stranger, redis, EXPORTER) for stranger in (STRANGER, ELSEWHERE, INTERNET, api)),
        *((stranger, proxy, PROXY) for stranger in (STRANGER, ELSEWHERE, INTERNET, api)),
        *((PROMETHEUS, pod, port) for pod in (redis, proxy) for port in (REDIS, ("TCP", 26379))),
    ]
    assert [flow for flow in needed if not allowed(declared, *flow)] == []
    assert [flow for flow in refused if allowed(declared, *flow)] == []


def test_who_may_scrape_can_be_chosen() -> None:
    declared, redis, proxy = watched(scrapeNamespace="web")
    assert allowed(declared, ELSEWHERE, redis, EXPORTER)
    assert not allowed(declared, PROMETHEUS, proxy, PROXY)
    declared, redis, proxy = watched(scrapeNamespace=None)
    assert allowed(declared, INTERNET, redis, EXPORTER)
    assert allowed(declared, STRANGER, proxy, PROXY)
    assert not allowed(declared, STRANGER, redis, REDIS)


def test_no_metrics_no_open_port(declared: Declared) -> None:
    redis, _ = ends(declared)
    assert not allowed(declared, PROMETHEUS, redis, EXPORTER), "no exporter runs there"
    declared, redis, proxy = watched(enabled=False)
    assert not allowed(declared, PROMETHEUS, redis, EXPORTER)
    assert not allowed(declared, PROMETHEUS, proxy, PROXY)
