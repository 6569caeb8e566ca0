"""A certificate for Redis where no cert-manager makes it: our own CA in one Secret, the server's in another."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from infra.settings import Settings
from ops import tls
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster, get

MANAGER = "session-store-ops"
OWNED_BY = {"app.kubernetes.io/managed-by": MANAGER}
CA_SECRET = "redis-ca"  # noqa: S105 - a Secret's name
OURS, CERT_MANAGER = "this command", "cert-manager"
RENEW_BEFORE = timedelta(days=30)


class Secrets(Protocol):
    """The little of a cluster that this needs; tests bring their own."""

    def read(self, name: str) -> dict[str, Any] | None:
        """{"labels", "annotations", "owners": [kind, ...], "data": {file: bytes}}, None: no such Secret."""

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
        metadata = {"name": self._namespace, "labels": labels}
        self._apply(f"/api/v1/namespaces/{self._namespace}", "Namespace", {"metadata": metadata})
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
        metadata = {"name": name, "namespace": self._namespace, "labels": labels}
        body = {"type": kind, "data": encoded, "metadata": metadata}
        self._apply(f"/api/v1/namespaces/{self._namespace}/secrets/{name}", "Secret", body)

    def _apply(self, path: str, kind: str, body: dict[str, Any]) -> None:
        content = {"apiVersion": "v1", "kind": kind, **body}
        # Straight to the API: this client's patch methods cannot say that they apply.
        self._core.api_client.call_api(
            path,
            "PATCH",
            query_params=[("fieldManager", MANAGER), ("force", "true")],
            header_params={"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"},
            body=content,
            response_type="object",
            auth_settings=["BearerToken"],
            _request_timeout=TIMEOUT,
        )


def name_of(settings: Settings) -> str:
    """The Secret that this stack's Redis takes its certificate from, when it is ours to fill.

    Raises:
        OpsError: it is not.
    """
    name = settings.tls_secret
    if name is None:
        raise OpsError(
            "This stack needs no certificate of its own: session-store:tls.enabled is false, or Redis is external."
        )
    if settings.redis.mode == "external":
        raise OpsError(
            f"session-store:redis.mode is external: that Redis brings its certificate; put its CA into Secret {name}."
        )
    if settings.tls.issuer:
        raise OpsError(
            f"cert-manager issues Secret {name} (session-store:tls.issuer): remove that key to issue one here."
        )
    return name


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
        OpsError: this stack needs none of ours, or the Secret there is somebody else's.
    """
    name = name_of(settings)
    present = secrets.read(name)
    _refuse_foreign(name, present)
    names = tls.issued_names(settings.redis.service, settings.namespace, settings.redis.app)
    if present and not renew:
        findings = tls.examine(present["data"], names, now + min(RENEW_BEFORE, timedelta(days=days) / 2))
        if not findings.errors:
            end = tls.Pair(present["data"]["tls.crt"], b"").parsed.not_valid_after_utc
            return f"Secret {name} is good until {end:%Y-%m-%d}: nothing to do (--renew makes a new one)."
    authority = _authority(secrets, now, days)
    leaf = tls.make_leaf(authority, names, now, days)
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": authority.certificate}
    secrets.write(name, "kubernetes.io/tls", data)
    verb, end = "Renewed" if present else "Made", leaf.parsed.not_valid_after_utc
    return f"{verb} Secret {name} for {names[1]}, good until {end:%Y-%m-%d}; its CA is Secret {CA_SECRET}."


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


@dataclass(frozen=True)
class Authority:
    """Our CA; `upcoming` is the one that takes its place, while `ops rotate certificates` moves everybody to it."""

    present: tls.Pair
    upcoming: tls.Pair | None


def authority(secrets: Secrets) -> Authority | None:
    """What Secret redis-ca holds; None: nothing usable.

    Raises:
        OpsError: the Secret is somebody else's.
    """
    found = secrets.read(CA_SECRET)
    _refuse_foreign(CA_SECRET, found)
    data = (found or {}).get("data") or {}
    pairs = [tls.Pair(data[f"{n}.crt"], data.get(f"{n}.key", b"")) for n in ("tls", "next") if f"{n}.crt" in data]
    try:
        valid = [pair for pair in pairs if pair.key and pair.parsed]
    except ValueError:
        return None
    return Authority(valid[0], valid[1] if len(valid) > 1 else None) if valid else None


def prepare(secrets: Secrets, present: tls.Pair, upcoming: tls.Pair) -> str:
    """Keep the CA that will take the present one's place beside it."""
    both = {
        "tls.crt": present.certificate,
        "tls.key": present.key,
        "next.crt": upcoming.certificate,
        "next.key": upcoming.key,
    }
    secrets.write(CA_SECRET, "kubernetes.io/tls", both)
    return f"Secret {CA_SECRET}, good until {upcoming.parsed.not_valid_after_utc:%Y-%m-%d}"


def adopt(secrets: Secrets, pair: tls.Pair) -> str:
    """Make this our only CA."""
    secrets.write(CA_SECRET, "kubernetes.io/tls", {"tls.crt": pair.certificate, "tls.key": pair.key})
    return f"Secret {CA_SECRET} holds the new one only"


def owner_of(present: dict[str, Any]) -> str:
    """Who renews the certificate in a Secret: `this command`, `cert-manager`, or `a person`."""
    if "Certificate" in present["owners"] or "cert-manager.io/certificate-name" in present["annotations"]:
        return CERT_MANAGER
    return OURS if present["labels"].items() >= OWNED_BY.items() else "a person"


def _refuse_foreign(name: str, present: dict[str, Any] | None) -> None:
    if present is None:
        return
    annotations = present["annotations"]
    owner = owner_of(present)
    if owner == CERT_MANAGER:
        by = annotations.get("cert-manager.io/certificate-name", "a Certificate")
        raise OpsError(
            f"Secret {name} belongs to cert-manager ({by}): set session-store:tls.issuer, or another tls.secretName."
        )
    if owner != OURS:
        raise OpsError(
            f"Secret {name} was not made by this command (it lacks the label {next(iter(OWNED_BY))}={MANAGER}) "
            "and stays as it is: delete it, or set session-store:tls.secretName to another name."
        )
