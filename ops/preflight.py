"""What must be true before the engine starts: every problem at once, each with its fix."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import kubernetes

from infra.pods import PART_OF
from infra.redis import conf
from infra.settings import Settings
from ops import tls
from ops.kube import API_ERRORS, TIMEOUT, Cluster, get, why

OLDEST, NEWEST = (1, 28), (1, 35)
"""Kubernetes minors: what this program needs, and the newest one it was tried with."""
OURS = PART_OF.items()
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Warn(str):
    """A problem that does not stop a run; any other string does."""


def check(cluster: Cluster, settings: Settings, stack: str, now: datetime) -> tuple[list[str], list[str]]:
    """Look at the cluster, read-only.

    Returns:
        (errors, warnings), one line each.
    """
    found = list(images(settings))
    try:
        found += _server(cluster)
        for part in (_namespace, _secrets, _deployment, _service, _storage, _running, _external, _monitors):
            found += part(cluster, settings)
        found += _certificate(cluster, settings, stack, now)
    except API_ERRORS as error:
        found.append(why(error, cluster))
    return [text for text in found if not isinstance(text, Warn)], [text for text in found if isinstance(text, Warn)]


def images(settings: Settings) -> Iterator[str]:
    """Images that are still placeholders."""
    redis, api = settings.redis, settings.api
    for key, image in (
        ("redis.image", redis.image),
        ("redis.proxyImage", redis.proxy_image),
        ("metrics.exporterImage", settings.metrics.exporter),
        ("api.image", api.image),
    ):
        if image and image.endswith("0" * 64):
            name = image.split("@")[0]
            yield f"session-store:{key} is a placeholder (digest all zeros): put the digest your registry gave {name}"


def certificate(data: dict[str, bytes], settings: Settings, stack: str, now: datetime) -> Iterator[str]:
    """What is wrong with the TLS Secret's content."""
    findings = tls.examine(data, tls.required_names(settings), now)
    advice = f"renew it (`python -m ops certificates issue --stack {stack} --renew` if it is ours)"
    for text in findings.errors:
        yield f"TLS Secret {settings.tls_secret}: {text}: {advice}"
    for text in findings.warnings:
        yield Warn(f"TLS Secret {settings.tls_secret}: {text}: {advice}")


def _server(cluster: Cluster) -> Iterator[str]:
    version = kubernetes.client.VersionApi(cluster.api).get_code(_request_timeout=TIMEOUT)
    # The version may be public; a list of rights is only for those who are logged in.
    review = {"spec": {"namespace": "default"}}
    kubernetes.client.AuthorizationV1Api(cluster.api).create_self_subject_rules_review(review, _request_timeout=TIMEOUT)
    number = (int(version.major), int(re.sub(r"\D", "", version.minor)))
    runs = f"{cluster.server} runs Kubernetes {version.git_version}"
    if number < OLDEST:
        yield f"{runs}; {OLDEST[0]}.{OLDEST[1]} is the oldest that serves: upgrade it"
    if number > NEWEST:
        yield Warn(f"{runs}; this was tried up to {NEWEST[0]}.{NEWEST[1]}")


def _namespace(cluster: Cluster, settings: Settings) -> Iterator[str]:
    name = settings.namespace
    found = get(cluster.core.read_namespace, name)
    if found is None and not settings.create_namespace:
        make = f"`kubectl create namespace {name}`, or set it to true"
        yield f"namespace {name} is missing and session-store:createNamespace is false: {make}"
    if found is not None and found.status and found.status.phase == "Terminating":
        yield f"namespace {name} is being deleted: wait until it is gone"


def _certificate(cluster: Cluster, settings: Settings, stack: str, now: datetime) -> Iterator[str]:
    name, where = settings.tls_secret, f"in namespace {settings.namespace}"
    if name is None or settings.tls.issuer:
        return
    data = _data(cluster, settings, name)
    if settings.redis.mode == "external":
        if not (data or {}).get("ca.crt"):
            yield f"Secret {name} with ca.crt, the CA of {settings.redis.host}, is missing {where}: create it"
    elif data is None:
        command = f"`python -m ops certificates issue --stack {stack}`"
        yield f"TLS Secret {name} is missing {where}: {command} makes it, or set session-store:tls.issuer"
    else:
        yield from certificate(data, settings, stack, now)


def _secrets(cluster: Cluster, settings: Settings) -> Iterator[str]:
    names, wanted = settings.credentials, []
    if settings.redis.mode == "external":
        wanted.append((names.password_secret, "password", "the external Redis's password"))
    if not names.create_session_secret:
        wanted.append((names.session_secret, "session-secret", "the secret that signs cookies"))
    if settings.verify.login_secret:
        wanted.append((settings.verify.login_secret, "body", "the JSON body with which `verify` logs in"))
    for secret, key, what in wanted:
        data = _data(cluster, settings, secret)
        if not (data or {}).get(key):
            lack = "is missing" if data is None else f"lacks key {key}"
            make = f"`kubectl -n {settings.namespace} create secret generic {secret} --from-file={key}=FILE`"
            line = f"Secret {secret} ({what}) {lack} in namespace {settings.namespace}: {make}"
            yield Warn(line) if secret == settings.verify.login_secret else line


def _deployment(cluster: Cluster, settings: Settings) -> Iterator[str]:
    name, container = settings.api.existing_deployment, settings.api.container
    if not name:
        return
    found = get(cluster.apps.read_namespaced_deployment, name, settings.namespace)
    if found is None:
        where = f"in namespace {settings.namespace} (session-store:api.existingDeployment)"
        yield f"Deployment {name} is missing {where}: install its chart first, or correct the name"
        return
    names = [item.name for item in found.spec.template.spec.containers]
    if container not in names:
        has = f"(it has {', '.join(names)})"
        yield f"Deployment {name} has no container {container} {has}: set session-store:api.container"
        return
    env = {item.name: item for c in found.spec.template.spec.containers if c.name == container for item in c.env or []}
    for wired in ("REDIS_PASSWORD", "API_SESSION_SECRET"):
        if wired in env and env[wired].value:
            # Server-side apply keeps both fields, and the API server refuses an entry with both.
            yield f"Deployment {name} sets {wired} as plain text, where the wiring refers to a Secret: remove it"
    secret = settings.credentials.session_secret
    existing = get(cluster.core.read_namespaced_secret, secret, settings.namespace)
    if settings.credentials.create_session_secret and existing and not (existing.metadata.labels or {}).items() >= OURS:
        keep = "set session-store:credentials.createSessionSecret to false to keep it (another one logs everybody out)"
        yield f"Secret {secret} exists and is not this stack's: {keep}"


def _service(cluster: Cluster, settings: Settings) -> Iterator[str]:
    """A Service of somebody else's that clients use: to lead it elsewhere loses what they stored."""
    name = settings.redis.service
    found = get(cluster.core.read_namespaced_service, name, settings.namespace)
    if settings.redis.mode == "external" or settings.redis.adoption or found is None:
        return
    # Not `managed-by`, which a chart that still has the Service sets back to Helm.
    label = "app.kubernetes.io/part-of"
    if (found.metadata.labels or {}).get(label) != PART_OF[label]:
        yield f"Service {name} exists and leads to another Redis: `python -m ops adopt` takes it over with its data"


def _storage(cluster: Cluster, settings: Settings) -> Iterator[str]:
    if settings.redis.mode == "external" or not settings.redis.appendonly:
        return
    classes = kubernetes.client.StorageV1Api(cluster.api).list_storage_class(_request_timeout=TIMEOUT).items
    names = [item.metadata.name for item in classes]
    there = f"there are: {', '.join(names) or 'none'}"
    wanted = settings.redis.storage.class_name
    if wanted and wanted not in names:
        yield f"StorageClass {wanted} (session-store:redis.storage.className) does not exist; {there}"
    if not wanted and not any((item.metadata.annotations or {}).get(DEFAULT_CLASS) == "true" for item in classes):
        yield f"the cluster has no default StorageClass: set session-store:redis.storage.className; {there}"


def _running(cluster: Cluster, settings: Settings) -> Iterator[str]:
    """Changes to a running Redis that its pods cannot make together."""
    name = conf.stateful_set(settings)
    found = get(cluster.apps.read_namespaced_stateful_set, name, settings.namespace)
    config = get(cluster.core.read_namespaced_config_map, f"{name}-config", settings.namespace)
    if settings.redis.mode == "external" or found is None or config is None:
        return
    other = "standalone" if settings.redis.mode == "sentinel" else "sentinel"
    way = f"set redis.mode to {other} in the same `up`, which copies the sessions into new pods, then back"
    if bool(found.spec.volume_claim_templates) != settings.redis.appendonly:
        yield f"session-store:redis.appendonly cannot change on StatefulSet {name}, whose pods would lose all: {way}"
    if settings.redis.mode == "sentinel":
        had_tls = "tls-port" in (config.data or {}).get("redis.conf", "")
        if had_tls != settings.tls.enabled:
            backup = f"`python -m ops backup`, delete StatefulSet {name}, `up`, `python -m ops restore`"
            yield f"session-store:tls.enabled cannot change on StatefulSet {name}: its pods could not talk: {backup}"
        if found.spec.replicas != settings.redis.replicas:
            yield (
                f"session-store:redis.replicas cannot change from {found.spec.replicas} to {settings.redis.replicas} "
                f"on a running StatefulSet {name}, since old and new pods would count majorities differently: {way}"
            )


def _monitors(cluster: Cluster, settings: Settings) -> Iterator[str]:
    if not settings.metrics.pod_monitors:
        return
    group, version = "monitoring.coreos.com", "v1"
    kinds = get(kubernetes.client.CustomObjectsApi(cluster.api).get_api_resources, group, version)
    if "PodMonitor" not in [kind.kind for kind in (kinds.resources if kinds else [])]:
        yield (
            f"session-store:metrics.podMonitors: {cluster.server} does not know PodMonitor ({group}/{version}): "
            "install the Prometheus Operator, or remove this key (pods carry scrape annotations in any case)"
        )


def _external(_cluster: Cluster, settings: Settings) -> Iterator[str]:
    host, port = settings.redis.host, settings.redis.port
    if settings.redis.mode != "external" or not host:
        return
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        yield Warn(f"{host}:{port} does not answer from here ({error}); the pods may still reach it")


def _data(cluster: Cluster, settings: Settings, secret: str) -> dict[str, bytes] | None:
    found: Any = get(cluster.core.read_namespaced_secret, secret, settings.namespace)
    return None if found is None else {key: base64.b64decode(value) for key, value in (found.data or {}).items()}
