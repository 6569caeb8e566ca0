"""A certificate for Redis on clusters without cert-manager: our own CA in one Secret, the server's certificate in another."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from infra.settings import Settings
from ops import tls
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster, get

MANAGER = "session-store-ops"
OWNED_BY = {"app.kubernetes.io/managed-by": MANAGER}
CA_SECRET = "redis-ca"  # noqa: S105 - a Secret's name
RENEW_BEFORE = timedelta(days=30)


class Secrets(Protocol):
    """The little of a cluster that this needs; tests bring their own."""

    def read(self, name: str) -> dict[str, Any] | None:
        """{"labels", "annotations", "owners": [kind, ...], "data": {file: bytes}}, None when there is no such Secret."""

    def write(self, name: str, kind: str, data: Mapping[str, bytes]) -> None:
        """Create or update a Secret of ours."""


class ClusterSecrets:
    """Secrets of one namespace, written by server-side apply."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._core, self._namespace = cluster.core, namespace

    def ensure_namespace(self) -> bool:
        """Create the namespace when it is missing.

        Returns:
            Whether it was made.
        """
        if get(self._core.read_namespace, self._namespace):
            return False
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}  # all else is the program's to say
        self._apply(self._core.patch_namespace, self._namespace, "Namespace", {"metadata": {"labels": labels}})
        return True

    def read(self, name: str) -> dict[str, Any] | None:
        """See `Secrets`."""
        found = get(self._core.read_namespaced_secret, name, self._namespace)
        if found is None:
            return None
        return {
            "labels": found.metadata.labels or {},
            "annotations": found.metadata.annotations or {},
            "owners": [owner.kind for owner in found.metadata.owner_references or []],
            "data": {key: base64.b64decode(value) for key, value in (found.data or {}).items()},
        }

    def write(self, name: str, kind: str, data: Mapping[str, bytes]) -> None:
        """See `Secrets`."""
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        labels = {"app.kubernetes.io/part-of": "session-store", **OWNED_BY}
        body = {"type": kind, "data": encoded, "metadata": {"labels": labels}}
        self._apply(self._core.patch_namespaced_secret, name, "Secret", body, self._namespace)

    def _apply(self, patch: Any, name: str, kind: str, body: dict[str, Any], *where: str) -> None:
        metadata = {"name": name, **dict(zip(("namespace",), where, strict=False)), **body.pop("metadata")}
        patch(
            name, *where, {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body},
            field_manager=MANAGER, force=True, _content_type="application/apply-patch+yaml", _request_timeout=TIMEOUT,
        )  # fmt: skip


def issue(secrets: Secrets, settings: Settings, now: datetime, days: int = 90, renew: bool = False) -> str:
    """Make the certificate that the stack's TLS Secret needs, unless what is there is good for a month.

    Args:
        secrets: of the stack's namespace.
        settings: the stack's.
        now: the current time, with a time zone.
        days: validity of a new certificate.
        renew: make a new one even though the present one is good.

    Returns:
        One line that says what was done.

    Raises:
        OpsError: this stack needs none, or the Secret there is somebody else's.
    """
    name = settings.tls_secret
    if name is None:
        raise OpsError(
            "This stack needs no certificate of its own: session-store:tls.enabled is false, or Redis is external."
        )
    if settings.redis.mode == "external":
        raise OpsError(
            "session-store:redis.mode is external: that Redis brings its certificate; put its CA into the Secret instead."
        )
    if settings.tls.issuer:
        raise OpsError(
            f"cert-manager issues Secret {name} (session-store:tls.issuer): remove that key to use `certificates issue`."
        )
    present = secrets.read(name)
    _refuse_foreign(name, present)
    names = tls.issued_names(settings.redis.service, settings.namespace)
    if present and not renew:
        findings = tls.examine(present["data"], names, now + min(RENEW_BEFORE, timedelta(days=days) / 2))
        if not findings.errors:
            end = tls.Pair(present["data"]["tls.crt"], b"").parsed.not_valid_after_utc
            return f"Secret {name} is good until {end:%Y-%m-%d} and covers {names[1]}: nothing to do (--renew makes a new one)."
    authority = _authority(secrets, now, days)
    leaf = tls.make_leaf(authority, names, now, days)
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": authority.certificate}
    secrets.write(name, "kubernetes.io/tls", data)
    verb = "Renewed" if present else "Made"
    return f"{verb} Secret {name} for {names[1]}, good until {leaf.parsed.not_valid_after_utc:%Y-%m-%d}; its CA is Secret {CA_SECRET}."


def _authority(secrets: Secrets, now: datetime, days: int) -> tls.Pair:
    """Our CA: the one there is while it outlives what it signs, else a new one."""
    present = secrets.read(CA_SECRET)
    _refuse_foreign(CA_SECRET, present)
    if present:
        try:
            pair = tls.Pair(present["data"]["tls.crt"], present["data"]["tls.key"])
            if pair.parsed.not_valid_after_utc > now + timedelta(days=days):
                return pair
        except (KeyError, ValueError):
            pass  # damaged: replaced below
    pair = tls.make_ca(now)
    secrets.write(CA_SECRET, "kubernetes.io/tls", {"tls.crt": pair.certificate, "tls.key": pair.key})
    return pair


def _refuse_foreign(name: str, present: dict[str, Any] | None) -> None:
    if present is None:
        return
    annotations = present["annotations"]
    if "Certificate" in present["owners"] or "cert-manager.io/certificate-name" in annotations:
        by = annotations.get("cert-manager.io/certificate-name", "a Certificate")
        raise OpsError(
            f"Secret {name} belongs to cert-manager ({by}): set session-store:tls.issuer, or tls.secretName to another name."
        )
    if any(present["labels"].get(key) != value for key, value in OWNED_BY.items()):
        raise OpsError(
            f"Secret {name} was not made by this command (label {next(iter(OWNED_BY))} is not {MANAGER}) and stays as it is: "
            "delete it, or set session-store:tls.secretName to another name."
        )
