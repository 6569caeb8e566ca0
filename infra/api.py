"""The API: a Deployment of ours, or the wiring patched onto a Deployment that Helm owns."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.settings import Settings
from infra.wiring import Wiring

APP = "api"
DEADLINE = 180
"""Seconds a new pod has to be pulled, started and ready."""


class Api(pulumi.ComponentResource):
    """Deployment, Service, PodDisruptionBudget and, where asked for, HorizontalPodAutoscaler."""

    def __init__(
        self, name: str, settings: Settings, wiring: Wiring, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("sessionstore:api:Api", name, None, opts)
        self._settings = settings
        self._labels = pods.labels(APP, "api")
        api, scaling = settings.api, settings.api.autoscaling
        child = pulumi.ResourceOptions(parent=self)
        deployment = k8s.apps.v1.Deployment(
            APP,
            metadata=self._meta(),
            spec={
                "replicas": None if scaling else api.replicas,
                "selector": {"match_labels": pods.selector(APP)},
                # A release never has fewer pods than before it.
                "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 1, "max_unavailable": 0}},
                # A pod that is not ready by then never will be: whoever waits for the rollout is told.
                "progress_deadline_seconds": DEADLINE,
                "template": self._template(wiring),
            },
            opts=child,
        )
        k8s.core.v1.Service(
            APP,
            metadata=self._meta(),
            spec={
                "type": "NodePort" if api.node_port else "ClusterIP",
                "selector": pods.selector(APP),
                "ports": [{"name": "http", "port": api.port, "target_port": "http", "node_port": api.node_port}],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
        )
        if (scaling.min_replicas if scaling else api.replicas) > 1:
            # With one pod a budget would only block every node drain.
            k8s.policy.v1.PodDisruptionBudget(
                APP,
                metadata=self._meta(),
                spec={"max_unavailable": 1, "selector": {"match_labels": pods.selector(APP)}},
                opts=child,
            )
        if scaling:
            k8s.autoscaling.v2.HorizontalPodAutoscaler(
                APP,
                metadata=self._meta(),
                spec={
                    "scale_target_ref": {"api_version": "apps/v1", "kind": "Deployment", "name": APP},
                    "min_replicas": scaling.min_replicas,
                    "max_replicas": scaling.max_replicas,
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {
                                "name": "cpu",
                                "target": {"type": "Utilization", "average_utilization": scaling.cpu_percent},
                            },
                        }
                    ],
                },
                opts=child,
            )
        self.register_outputs({})

    def _meta(self) -> dict[str, Any]:
        return {"name": APP, "namespace": self._settings.namespace, "labels": self._labels}

    def _template(self, wiring: Wiring) -> dict[str, Any]:
        api = self._settings.api
        extra = [{"name": key, "value": value} for key, value in sorted(api.env.items())]
        # The pod leaves the Service's endpoints while it still answers: nobody is sent to a closed port.
        extra.append({"name": "SHUTDOWN_DELAY_MS", "value": "5000"})
        return {
            "metadata": {"labels": {**self._labels, **wiring.labels}, "annotations": wiring.annotations},
            "spec": {
                "automount_service_account_token": False,
                "enable_service_links": False,
                "termination_grace_period_seconds": 30,
                "security_context": pods.pod_security(api.run_as_user),
                "topology_spread_constraints": pods.spread(pods.selector(APP)),
                "containers": [
                    {
                        "name": "api",
                        "image": api.image,
                        "ports": [{"name": "http", "container_port": api.port}],
                        "env": [*wiring.env, *extra],
                        "resources": pods.resources(api.cpu, api.memory),
                        "security_context": pods.container_security(),
                        "volume_mounts": wiring.mounts,
                        "startup_probe": self._probe("/healthz", period_seconds=1, failure_threshold=60),
                        "liveness_probe": self._probe("/healthz", period_seconds=10, failure_threshold=3),
                        "readiness_probe": self._probe("/readyz", period_seconds=2, failure_threshold=2),
                    }
                ],
                "volumes": wiring.volumes,
            },
        }

    def _probe(self, path: str, **timing: int) -> dict[str, Any]:
        return {"http_get": {"path": path, "port": "http"}, "timeout_seconds": 3, **timing}


class WiredApi(pulumi.ComponentResource):
    """Somebody else's Deployment with our wiring; its other fields stay its owner's."""

    def __init__(
        self, name: str, settings: Settings, deployment: str, wiring: Wiring, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("sessionstore:api:WiredApi", name, None, opts)
        # patchForce: the owner's own REDIS_HOST and API_SESSION_SECRET entries become ours.
        k8s.apps.v1.DeploymentPatch(
            deployment,
            metadata={
                "name": deployment,
                "namespace": settings.namespace,
                "annotations": {"pulumi.com/patchForce": "true"},
            },
            spec={
                "template": {
                    "metadata": {"labels": wiring.labels, "annotations": wiring.annotations},
                    "spec": {
                        "containers": [
                            {"name": settings.api.container, "env": wiring.env, "volume_mounts": wiring.mounts}
                        ],
                        "volumes": wiring.volumes,
                    },
                }
            },
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
