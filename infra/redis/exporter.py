"""The exporter: a container beside each Redis that tells Prometheus about it."""

from __future__ import annotations

from typing import Any

from infra import pods
from infra.credentials import internal_secret
from infra.redis import conf
from infra.settings import Settings

NAME = "exporter"
RUN_DIR = "/run/exporter"


def hosts(settings: Settings) -> str:
    """Its /etc/hosts: the name that clients verify is the Redis of its own pod, whichever names the certificate has."""
    return f"127.0.0.1 localhost\n127.0.0.1 {conf.server_name(settings)}\n"


def files(settings: Settings) -> dict[str, str]:
    """What it needs in the pod's ConfigMap."""
    return {"exporter-hosts": hosts(settings), **conf.scripts(*conf.EXPORTER_SCRIPTS)}


def container(settings: Settings) -> dict[str, Any]:
    """The container, with nothing of the pod's but the monitor's password and the CA.

    It has no probe: one that fails would make the pod unready, and take Redis from its clients.
    """
    env = {"ADDRESS": f"redis{'s' * settings.tls.enabled}://{conf.server_name(settings)}:{conf.PORT}"}
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mount_path": conf.CONF_DIR, "read_only": True},
        {"name": "config", "mount_path": "/etc/hosts", "sub_path": "exporter-hosts", "read_only": True},
        {"name": "exporter", "mount_path": RUN_DIR},
        {"name": "monitor", "mount_path": f"{conf.SECRETS_DIR}/monitor", "read_only": True},
    ]
    if settings.tls_secret:
        env["CA"] = f"{conf.SECRETS_DIR}/redis-tls/ca.crt"
        mounts.append({"name": "redis-ca", "mount_path": f"{conf.SECRETS_DIR}/redis-tls", "read_only": True})
    return {
        "name": NAME,
        "image": settings.metrics.exporter,
        "command": ["sh", f"{conf.CONF_DIR}/exporter.sh"],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "ports": [{"name": "metrics", "container_port": conf.EXPORTER_PORT}],
        "resources": pods.resources("10m", "64Mi"),
        "security_context": pods.container_security(),
        "volume_mounts": mounts,
    }


def volumes(settings: Settings) -> list[dict[str, Any]]:
    """The volumes of its own."""
    key = {"secret_name": internal_secret(settings), "items": [{"key": "monitor", "path": "monitor"}]}
    found: list[dict[str, Any]] = [
        {"name": "exporter", "empty_dir": {"medium": "Memory", "size_limit": "1Mi"}},
        {"name": "monitor", "secret": {**key, "default_mode": 0o440}},
    ]
    if settings.tls_secret:
        found.append(pods.ca_volume(settings.tls_secret))
    return found
