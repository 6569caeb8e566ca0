"""Several Redis with a Sentinel beside each, and HAProxy in front that leads every client to the master."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.credentials import internal_secret
from infra.redis import conf
from infra.redis.members import Members
from infra.redis.store import SessionStoreArgs

CONF = "/etc/haproxy"


def proxy_name(app: str) -> str:
    """Name of the proxies' Deployment and the label `app` of their pods."""
    return f"{app}-proxy"


class Sentinel(Members):
    """The pods, the proxies and the disruption budgets; the Service leads to the proxies."""

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, opts)
        self._proxy = proxy_name(self._app)
        stateful_set = self._stateful_set()
        self._budget(self._set, self._match)
        deployment = self._proxies()
        if args.settings.redis.proxy_replicas > 1:
            self._budget(self._proxy, pods.selector(self._proxy))
        service = self._service(pods.selector(self._proxy), [stateful_set, deployment])
        self.host, self.port, self.objects = args.settings.redis.service, conf.PORT, [stateful_set, *service]
        self.register_outputs({"host": self.host, "port": self.port})

    def _budget(self, name: str, match: dict[str, str]) -> None:
        k8s.policy.v1.PodDisruptionBudget(
            name,
            metadata=self._meta(name),
            spec={"max_unavailable": 1, "selector": {"match_labels": match}},
            opts=self._opts(),
        )

    def _proxies(self) -> k8s.apps.v1.Deployment:
        settings, files = self._settings, conf.scripts(*conf.PROXY_SCRIPTS)
        files["haproxy.cfg"] = conf.haproxy_cfg(settings)
        config = k8s.core.v1.ConfigMap(
            f"{self._proxy}-config", metadata=self._meta(f"{self._proxy}-config"), data=files, opts=self._opts()
        )
        labels = pods.labels(self._proxy, "proxy")
        scraped = pods.scraped(conf.PROXY_METRICS_PORT) if settings.metrics.enabled else {}
        return k8s.apps.v1.Deployment(
            self._proxy,
            metadata={**self._meta(self._proxy), "labels": labels},
            spec={
                "replicas": settings.redis.proxy_replicas,
                "selector": {"match_labels": pods.selector(self._proxy)},
                "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 1, "max_unavailable": 0}},
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": {"session-store/config": pods.fingerprint(*files.values()), **scraped},
                    },
                    "spec": self._proxy_pod(),
                },
            },
            opts=self._opts(depends_on=[config]),
        )

    def _proxy_pod(self) -> dict[str, Any]:
        settings = self._settings
        # Only what a proxy needs: it sees TLS pass through and knows neither the API's password nor the server's key.
        keys = [{"key": key, "path": key} for key in ("monitor", "monitor-previous")]
        volumes: list[dict[str, Any]] = [
            {"name": "config", "config_map": {"name": f"{self._proxy}-config"}},
            {"name": "run", "empty_dir": {"medium": "Memory", "size_limit": "4Mi"}},
            {
                "name": "monitor",
                # Optional: there is a previous one only during a rotation, which must not replace these pods.
                "secret": {
                    "secret_name": internal_secret(settings),
                    "items": keys,
                    "optional": True,
                    "default_mode": 0o440,
                },
            },
        ]
        mounts: list[dict[str, Any]] = [
            {"name": "config", "mount_path": CONF, "read_only": True},
            {"name": "run", "mount_path": "/run/haproxy"},
            {"name": "monitor", "mount_path": f"{conf.SECRETS_DIR}/monitor", "read_only": True},
        ]
        if settings.tls_secret:
            volumes.append(pods.ca_volume(settings.tls_secret))
            mounts.append({"name": "redis-ca", "mount_path": f"{conf.SECRETS_DIR}/redis-tls", "read_only": True})
        health = {"http_get": {"path": "/healthz", "port": "health"}, "timeout_seconds": 3}
        environment = {"REPLICAS": settings.redis.replicas, "MAJORITY": settings.redis.replicas // 2 + 1}
        return {
            "automount_service_account_token": False,
            "enable_service_links": False,
            "termination_grace_period_seconds": 30,
            "security_context": pods.pod_security(settings.redis.run_as_user),
            "topology_spread_constraints": pods.spread(pods.selector(self._proxy)),
            "containers": [
                {
                    "name": "haproxy",
                    "image": settings.redis.proxy_image,
                    "command": ["sh", f"{CONF}/proxy.sh"],
                    "env": [{"name": key, "value": str(value)} for key, value in environment.items()],
                    "ports": [
                        {"name": "redis", "container_port": conf.PORT},
                        {"name": "health", "container_port": conf.PROXY_HEALTH_PORT},
                        {"name": "metrics", "container_port": conf.PROXY_METRICS_PORT},
                    ],
                    "resources": pods.resources("50m", "128Mi"),
                    "security_context": pods.container_security(),
                    "volume_mounts": mounts,
                    # It leaves the Service before it closes its connections: who connects again meets the other one.
                    "lifecycle": {"pre_stop": {"exec_": {"command": ["sleep", "3"]}}},
                    "liveness_probe": {**health, "period_seconds": 10, "failure_threshold": 3},
                    # Time for the first round of checks: before it every Redis counts as up.
                    "readiness_probe": {**health, "period_seconds": 2, "initial_delay_seconds": 2},
                }
            ],
            "volumes": volumes,
        }
