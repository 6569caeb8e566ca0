"""What every pod of ours has in common: labels, the `restricted` Pod Security level, resources."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pulumi

PART_OF = {"app.kubernetes.io/part-of": "session-store", "app.kubernetes.io/managed-by": "pulumi"}
REDIS_CLIENT = {"session-store/redis-client": "true"}
"""Pods with this label may reach Redis (`network.py`)."""


def selector(app: str) -> dict[str, str]:
    """The label a Service or a controller selects its pods by; the plan's `app=<name>`."""
    return {"app": app}


def labels(app: str, component: str) -> dict[str, str]:
    """Labels of an object: the recommended Kubernetes set and the plan's `app`."""
    return {**selector(app), "app.kubernetes.io/name": app, "app.kubernetes.io/component": component, **PART_OF}


def scraped(port: int) -> dict[str, str]:
    """Pod annotations by which Prometheus finds what to scrape."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}


def pod_security(user: int | None) -> dict[str, Any]:
    """Pod securityContext at level `restricted`. user: UID and fsGroup; None lets the platform choose both."""
    ids = {} if user is None else {"run_as_user": user, "run_as_group": user, "fs_group": user}
    # OnRootMismatch: a large volume is not walked at every start.
    policy = {} if user is None else {"fs_group_change_policy": "OnRootMismatch"}
    return {"run_as_non_root": True, "seccomp_profile": {"type": "RuntimeDefault"}, **ids, **policy}


def container_security() -> dict[str, Any]:
    """Container securityContext at level `restricted`, with a read-only root file system."""
    return {"allow_privilege_escalation": False, "read_only_root_filesystem": True, "capabilities": {"drop": ["ALL"]}}


def resources(cpu: str, memory: str) -> dict[str, Any]:
    """Memory is requested whole: a full node never evicts it. CPU has no limit: nothing is throttled."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


def spread(match: Mapping[str, str], revision: str = "pod-template-hash") -> list[dict[str, Any]]:
    """Over zones and nodes where the cluster has them; a cluster with one node still runs everything.

    Args:
        match: labels of the pods.
        revision: label that tells the pods of one rollout from those of another.
    """
    return [
        {
            "max_skew": 1,
            "topology_key": key,
            "when_unsatisfiable": "ScheduleAnyway",
            "label_selector": {"match_labels": dict(match)},
            "match_label_keys": [revision],
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def ca_volume(secret: str) -> dict[str, Any]:
    """Volume `redis-ca`: of the TLS Secret the CA alone, which is no secret."""
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    return {"name": "redis-ca", "secret": {"secret_name": secret, "items": items, "default_mode": 0o444}}


def fingerprint(*parts: str) -> str:
    """Short hash of texts, for annotations that make a rollout when the texts change."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def secret_fingerprint(*parts: pulumi.Output[str]) -> pulumi.Output[str]:
    """`fingerprint` of generated secrets as plain text: 64 bits of a hash of 48 random characters reveal nothing."""
    return pulumi.Output.unsecret(pulumi.Output.all(*parts).apply(lambda values: fingerprint(*values)))
