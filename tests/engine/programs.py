"""Programs that the tests of the kubernetes plugin run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumi_random as random

Program = Callable[[], None]


def pod(app: str, **container: Any) -> dict[str, Any]:
    """A pod template."""
    main = {"name": "main", "image": "registry.invalid/app@sha256:0", **container}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [main]}}


def workload(app: str, replicas: int = 1, **container: Any) -> dict[str, Any]:
    """The spec of a Deployment or StatefulSet."""
    return {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": pod(app, **container)}


def stack(
    replicas: int = 2, colour: str = "blue", service_name: str = "store-headless", strict: bool = False
) -> Program:
    """A small copy of what the real program declares: a generated Secret, a config, a store, an API, a Service."""

    def run() -> None:
        password = random.RandomPassword("password", length=40, special=False)
        secret = k8s.core.v1.Secret(
            "secret", metadata={"name": "redis-secret"}, string_data={"password": password.result}
        )
        settings = k8s.core.v1.ConfigMap("settings", metadata={"name": "settings"}, data={"colour": colour})
        store = k8s.apps.v1.StatefulSet(
            "store", metadata={"name": "store"}, spec={"serviceName": service_name, **workload("store")}
        )
        env = [{"name": "COLOUR", "value": colour}]
        api = k8s.apps.v1.Deployment(
            "api",
            metadata={"name": "api"},
            spec=workload("api", replicas, env=env, resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}}),
            opts=pulumi.ResourceOptions(depends_on=[secret, settings, store]),
        )
        service = k8s.core.v1.Service(
            "service",
            metadata={"name": "api"},
            spec={"selector": {"app": "api"}, "ports": [{"port": 80}]},
            opts=pulumi.ResourceOptions(depends_on=[api]),
        )
        unnamed = k8s.core.v1.ConfigMap("unnamed", data={"a": "b"})
        pulumi.export("password", password.result)
        pulumi.export("data", secret.data)
        pulumi.export("address", service.spec.cluster_ip)
        pulumi.export("name", unnamed.metadata.name)

    return run


def deployment(replicas: int = 1, image: str = "registry.invalid/app@sha256:0", timeout: str = "60s") -> Program:
    """One Deployment."""

    def run() -> None:
        k8s.apps.v1.Deployment(
            "api",
            metadata={"name": "api"},
            spec=workload("api", replicas, image=image),
            opts=pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout)),
        )

    return run


def config_map(name: str = "settings", annotations: dict[str, str] | None = None, **data: str) -> Program:
    """One ConfigMap."""

    def run() -> None:
        metadata = {"name": name, **({"annotations": annotations} if annotations else {})}
        k8s.core.v1.ConfigMap("settings", metadata=metadata, data=data)

    return run
