"""What a stack runs, as data: the part of it that a promotion carries from one stack to the next."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from infra import VERSION
from infra.settings import Settings

OWN: dict[str, set[str]] = {
    "redis": {
        "image",
        "proxy_image",
        "replicas",
        "proxy_replicas",
        "host",
        "port",
        "service",
        "memory",
        "cpu",
        "storage",
        "run_as_user",
    },
    "backup": {"schedule", "claim_size", "keep"},
    "api": {
        "image",
        "replicas",
        "autoscaling",
        "node_port",
        "memory",
        "cpu",
        "run_as_user",
        "existing_deployment",
        "container",
        "env",
    },
    "tls": {"secret_name", "issuer", "server_name"},
    "verify": {"login_secret"},
}
"""Settings that are each stack's own: sizes, hosts, replicas, names. Images are in the release itself."""


def settings_hash(settings: Settings) -> str:
    """Hash of the settings that a promotion carries: twelve hex digits."""
    carried = settings.model_dump(
        mode="json", by_alias=True, exclude={"namespace": True, "create_namespace": True, "credentials": True, **OWN}
    )
    return hashlib.sha256(json.dumps(carried, sort_keys=True).encode()).hexdigest()[:12]


def release(settings: Settings) -> dict[str, Any]:
    """{images: {redis, proxy, api}, settings: hash, program: version}; images only where pods of the stack run them."""
    proxy = settings.redis.proxy_image if settings.redis.mode == "sentinel" else None
    images = {"redis": settings.redis.image, "proxy": proxy, "api": settings.api.image}
    return {
        "images": {name: image for name, image in images.items() if image},
        "settings": settings_hash(settings),
        "program": VERSION,
    }
