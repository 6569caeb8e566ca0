"""The API's wiring to its session store: environment, secrets, volumes; for our Deployment and somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi

from infra import pods
from infra.redis import SessionStore
from infra.settings import Settings

CA_DIR = "/etc/redis-tls"
PASSWORD_GENERATION = "session-store/password-generation"  # noqa: S105 - a label
"""Pod label: the password that the pod was started with. Two at once: a rotation stopped half way."""


@dataclass(frozen=True)
class Wiring:
    """What goes into a pod template.

    Attributes:
        env: list of EnvVar.
        volumes: list of Volume.
        mounts: list of VolumeMount of the API's container.
        labels: pod labels that let the pod reach Redis, and tell its password's generation.
        annotations: pod annotations; they change, and so roll the pods, when a secret does.
    """

    env: list[dict[str, Any]]
    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]
    labels: dict[str, str]
    annotations: dict[str, pulumi.Input[str]]


def _secret(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "value_from": {"secret_key_ref": {"name": secret, "key": key}}}


def wiring(settings: Settings, store: SessionStore, fingerprint: pulumi.Input[str]) -> Wiring:
    """The environment the plan names, and ours on top (`services/api/README.md` lists it)."""
    redis, sessions, names = settings.redis, settings.sessions, settings.credentials
    plain: dict[str, str] = {
        "NODE_ENV": settings.api.node_env,
        "API_PORT": str(settings.api.port),
        "AUTH_ENV": settings.api.auth_env,
        "REDIS_HOST": store.host,
        "REDIS_PORT": str(store.port),
        "REDIS_SESSION_DB": str(redis.database),
        "REDIS_TLS": str(settings.tls.enabled).lower(),
        "SESSION_STORE": sessions.store,
        "SESSION_PREFIX": sessions.prefix,
        "SESSION_TTL_SECONDS": str(sessions.ttl_seconds),
        "SESSION_COOKIE_NAME": sessions.cookie_name,
        "SESSION_COOKIE_SAMESITE": sessions.same_site,
        "SESSION_COOKIE_SECURE": str(settings.cookie_secure).lower(),
        "SESSION_REQUEST_BUDGET_MS": str(sessions.request_budget_ms),
    }
    if sessions.wait_replicas:
        plain["SESSION_WAIT_REPLICAS"] = str(sessions.wait_replicas)
        plain["SESSION_WAIT_TIMEOUT_MS"] = str(sessions.wait_timeout_ms)
    optional = {
        # By name where a Redis was adopted: while that one lets everybody in, AUTH with a password alone is an error.
        "REDIS_USERNAME": redis.username or ("default" if redis.app != redis.service else None),
        "REDIS_TLS_CA": f"{CA_DIR}/ca.crt" if settings.tls_secret else None,
        "REDIS_TLS_SERVERNAME": settings.tls.server_name,
        "TRUST_PROXY": settings.api.trust_proxy,
    }
    plain |= {key: value for key, value in optional.items() if value}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if settings.tls_secret:
        # Only the CA: the server's key is none of the API's business.
        volumes.append(pods.ca_volume(settings.tls_secret))
        mounts.append({"name": "redis-ca", "mount_path": CA_DIR, "read_only": True})
    scraped = pods.scraped(settings.api.port) if settings.metrics.enabled else {}
    return Wiring(
        env=[
            *({"name": key, "value": value} for key, value in plain.items()),
            _secret("REDIS_PASSWORD", names.password_secret, "password"),
            _secret("API_SESSION_SECRET", names.session_secret, "session-secret"),
        ],
        volumes=volumes,
        mounts=mounts,
        labels={**pods.REDIS_CLIENT, PASSWORD_GENERATION: str(names.passwords[0])},
        annotations={"session-store/secrets": fingerprint, **scraped},
    )
