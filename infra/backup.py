"""Backups on a schedule: a CronJob that takes an RDB from a replica into a volume claim of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.credentials import internal_secret
from infra.redis import conf
from infra.settings import Settings

FOLDER = "/backup"
SCRIPTS = "/etc/redis-backup"
SECRETS = "/run/secrets/keys"
TLS = "/run/secrets/redis-tls"
DEADLINE = 3600
SCRIPT = (Path(__file__).parent / "redis" / "scripts" / "backup.sh").read_text()


def app(settings: Settings) -> str:
    """Name of the CronJob, the claim and the policy."""
    return f"{settings.redis.app}-backup"


def hosts(settings: Settings) -> list[str]:
    """Every Redis pod's host name."""
    count = settings.redis.replicas if settings.redis.mode == "sentinel" else 1
    return [f"{conf.stateful_set(settings)}-{i}.{conf.domain(settings)}" for i in range(count)]


def environment(settings: Settings) -> dict[str, str]:
    """What backup.sh reads."""
    sentinel = settings.redis.mode == "sentinel"
    keys = ("internal", "internal-previous") if sentinel else ("password", "previous")
    return {
        "MODE": settings.redis.mode,
        "HOSTS": " ".join(hosts(settings)),
        "PORT": str(conf.PORT),
        "TLS": f"{TLS}/ca.crt" if settings.tls_secret else "",
        "USERNAME": "agent" if sentinel else "default",
        "KEYS": " ".join(f"{SECRETS}/{key}" for key in keys),
        "FOLDER": FOLDER,
        "KEEP": str(settings.backup.keep),
    }


def declare(settings: Settings, opts: pulumi.ResourceOptions | None = None) -> None:
    """Claim, script and CronJob, where `backup.schedule` is set."""
    if settings.backup.schedule is None:
        return
    name = app(settings)
    labels = pods.labels(name, "backup")

    def meta(**annotations: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": annotations or None,
        }

    k8s.core.v1.PersistentVolumeClaim(
        name,
        # A claim of a WaitForFirstConsumer class binds only at the first run. The backups outlive the stack.
        metadata=meta(**{"pulumi.com/skipAwait": "true"}),
        spec={
            "access_modes": ["ReadWriteOnce"],
            "storage_class_name": settings.redis.storage.class_name,
            "resources": {"requests": {"storage": settings.backup.claim_size}},
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(retain_on_delete=True)),
    )
    k8s.core.v1.ConfigMap(name, metadata=meta(), data={"backup.sh": SCRIPT}, opts=opts)
    k8s.batch.v1.CronJob(
        name,
        metadata=meta(),
        spec={
            "schedule": settings.backup.schedule,
            "time_zone": "Etc/UTC",
            "concurrency_policy": "Forbid",
            "starting_deadline_seconds": 600,
            "successful_jobs_history_limit": 1,
            "failed_jobs_history_limit": 2,
            "job_template": {
                "metadata": {"labels": labels},
                "spec": {
                    "backoff_limit": 3,
                    "active_deadline_seconds": DEADLINE,
                    "template": {"metadata": {"labels": {**labels, **pods.REDIS_CLIENT}}, "spec": _pod(settings)},
                },
            },
        },
        opts=opts,
    )


def _pod(settings: Settings) -> dict[str, Any]:
    name = app(settings)
    sentinel = settings.redis.mode == "sentinel"
    secrets = {"keys": (internal_secret(settings) if sentinel else settings.credentials.password_secret, SECRETS)}
    if settings.tls_secret:
        secrets["tls"] = (settings.tls_secret, TLS)
    volumes: list[dict[str, Any]] = [
        {"name": volume, "secret": {"secret_name": secret, "default_mode": 0o440}}
        for volume, (secret, _) in secrets.items()
    ]
    if settings.tls_secret:  # the CA is all that a client needs
        volumes[-1]["secret"]["items"] = [{"key": "ca.crt", "path": "ca.crt"}]
    volumes += [
        {"name": "script", "config_map": {"name": name}},
        {"name": "backup", "persistent_volume_claim": {"claim_name": name}},
        {"name": "tmp", "empty_dir": {"size_limit": "16Mi"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": volume, "mount_path": path, "read_only": True} for volume, (_, path) in secrets.items()
    ]
    mounts += [
        {"name": "script", "mount_path": SCRIPTS, "read_only": True},
        {"name": "backup", "mount_path": FOLDER},
        {"name": "tmp", "mount_path": "/tmp"},  # noqa: S108 - a volume of the pod's own
    ]
    return {
        "restart_policy": "Never",
        "automount_service_account_token": False,
        "enable_service_links": False,
        "security_context": pods.pod_security(settings.redis.run_as_user),
        "containers": [
            {
                "name": "backup",
                "image": settings.redis.image,
                "command": ["sh", f"{SCRIPTS}/backup.sh"],
                "env": [{"name": key, "value": value} for key, value in environment(settings).items()],
                "resources": pods.resources("50m", "64Mi"),
                "security_context": pods.container_security(),
                "volume_mounts": mounts,
            }
        ],
        "volumes": volumes,
    }
