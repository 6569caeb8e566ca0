"""What must be true before the engine starts: every problem at once, each with its fix."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import kubernetes

from infra.settings import Settings
from ops import tls
from ops.kube import API_ERRORS, TIMEOUT, Cluster, get, why

OLDEST, NEWEST = (1, 28), (1, 35)
"""Kubernetes minors: what this program needs, and the newest one it was tried with."""
CONTAINER_DEFAULT = "storageclass.kubernetes.io/is-default-class"

Problem = tuple[bool, str]
"""(stops the run, text)."""


def check(cluster: Cluster, settings: Settings, stack: str, now: datetime) -> tuple[list[str], list[str]]:
    """Look at the cluster, read-only.

    Returns:
        (errors, warnings), one line each.
    """
    found = list(_images(settings))
    try:
        found += _server(cluster)
    except API_ERRORS as error:
        found.append((True, why(error, cluster)))
        return _sorted(found)
    for part in (_namespace, _certificate, _secrets, _deployment, _storage, _external):
        try:
            found += part(cluster, settings, stack, now)
        except API_ERRORS as error:
            found.append((True, f"{part.__name__.strip('_')}: {why(error, cluster)}"))
    return _sorted(found)


def _sorted(found: list[Problem]) -> tuple[list[str], list[str]]:
    return [text for stops, text in found if stops], [text for stops, text in found if not stops]


def _images(settings: Settings) -> Iterator[Problem]:
    for key, image in (("redis.image", settings.redis.image), ("api.image", settings.api.image)):
        if image and image.endswith("0" * 64):
            name = image.split("@")[0]
            yield (
                True,
                f"session-store:{key} is a placeholder (its digest is all zeros): put the digest your registry printed for {name}",
            )


def _server(cluster: Cluster) -> Iterator[Problem]:
    version = kubernetes.client.VersionApi(cluster.api).get_code(_request_timeout=TIMEOUT)
    # The version may be public; a list of rights is only for those who are logged in.
    review = {"spec": {"namespace": "default"}}
    kubernetes.client.AuthorizationV1Api(cluster.api).create_self_subject_rules_review(review, _request_timeout=TIMEOUT)
    number = (int(version.major), int(re.sub(r"\D", "", version.minor)))
    if number < OLDEST:
        yield (
            True,
            f"{cluster.server} runs Kubernetes {version.git_version}; {OLDEST[0]}.{OLDEST[1]} is the oldest that serves: upgrade it",
        )
    if number > NEWEST:
        yield (
            False,
            f"{cluster.server} runs Kubernetes {version.git_version}; this was tried up to {NEWEST[0]}.{NEWEST[1]}",
        )


def _namespace(cluster: Cluster, settings: Settings, _stack: str, _now: datetime) -> Iterator[Problem]:
    found = get(cluster.core.read_namespace, settings.namespace)
    if found is None and not settings.create_namespace:
        yield (
            True,
            (
                f"namespace {settings.namespace} is missing and session-store:createNamespace is false: "
                f"`kubectl create namespace {settings.namespace}`, or set it to true"
            ),
        )
    if found is not None and found.status and found.status.phase == "Terminating":
        yield True, f"namespace {settings.namespace} is being deleted: wait until it is gone"


def _certificate(cluster: Cluster, settings: Settings, stack: str, now: datetime) -> Iterator[Problem]:
    name = settings.tls_secret
    if name is None or settings.tls.issuer:
        return
    data = _data(cluster, settings, name)
    if settings.redis.mode == "external":
        if not (data or {}).get("ca.crt"):
            yield (
                True,
                f"Secret {name} with ca.crt, the CA of {settings.redis.host}, is missing in namespace {settings.namespace}",
            )
        return
    if data is None:
        yield (
            True,
            (
                f"TLS Secret {name} is missing in namespace {settings.namespace}: make it with "
                f"`python -m ops certificates issue --stack {stack}`, or set session-store:tls.issuer (cert-manager)"
            ),
        )
        return
    findings = tls.examine(data, tls.names_of(settings.redis.service, settings.namespace), now)
    advice = f"renew it (`python -m ops certificates issue --stack {stack} --renew` if it is ours)"
    yield from ((True, f"TLS Secret {name}: {text}: {advice}") for text in findings.errors)
    yield from ((False, f"TLS Secret {name}: {text}: {advice}") for text in findings.warnings)


def _secrets(cluster: Cluster, settings: Settings, _stack: str, _now: datetime) -> Iterator[Problem]:
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
            yield (
                True,
                (
                    f"Secret {secret} ({what}) {lack} in namespace {settings.namespace}: "
                    f"`kubectl -n {settings.namespace} create secret generic {secret} --from-file={key}=FILE`"
                ),
            )


def _deployment(cluster: Cluster, settings: Settings, _stack: str, _now: datetime) -> Iterator[Problem]:
    name = settings.api.existing_deployment
    if not name:
        return
    found = get(cluster.apps.read_namespaced_deployment, name, settings.namespace)
    if found is None:
        yield (
            True,
            f"Deployment {name} (session-store:api.existingDeployment) is missing in namespace {settings.namespace}: install the chart first",
        )
        return
    containers = [container.name for container in found.spec.template.spec.containers]
    if settings.api.container not in containers:
        yield (
            True,
            f"Deployment {name} has no container {settings.api.container} (it has {', '.join(containers)}): set session-store:api.container",
        )


def _storage(cluster: Cluster, settings: Settings, _stack: str, _now: datetime) -> Iterator[Problem]:
    if settings.redis.mode == "external" or not settings.redis.appendonly:
        return
    classes = kubernetes.client.StorageV1Api(cluster.api).list_storage_class(_request_timeout=TIMEOUT).items
    names = ", ".join(item.metadata.name for item in classes) or "none"
    wanted = settings.redis.storage.class_name
    if wanted and wanted not in [item.metadata.name for item in classes]:
        yield True, f"StorageClass {wanted} (session-store:redis.storage.className) does not exist; there are: {names}"
    if not wanted and not any((item.metadata.annotations or {}).get(CONTAINER_DEFAULT) == "true" for item in classes):
        yield (
            True,
            f"the cluster has no default StorageClass: set session-store:redis.storage.className to one of: {names}",
        )


def _external(_cluster: Cluster, settings: Settings, _stack: str, _now: datetime) -> Iterator[Problem]:
    host, port = settings.redis.host, settings.redis.port
    if settings.redis.mode != "external" or not host:
        return
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        yield False, f"{host}:{port} does not answer from here ({error}); the pods may still reach it"


def _data(cluster: Cluster, settings: Settings, secret: str) -> dict[str, bytes] | None:
    found: Any = get(cluster.core.read_namespaced_secret, secret, settings.namespace)
    return None if found is None else {key: base64.b64decode(value) for key, value in (found.data or {}).items()}
