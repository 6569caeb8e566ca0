"""TLS material: an existing Secret, or a Certificate that cert-manager keeps renewed in that Secret."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as k8s

from infra import pods
from infra.settings import Settings


def dns_names(settings: Settings) -> list[str]:
    """Names the certificate must cover: the Service in all its lengths, every pod behind the headless one, loopback."""
    service, namespace = settings.redis.service, settings.namespace
    tails = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
    return [f"{service}{tail}" for tail in tails] + [
        f"*.{settings.redis.app}-headless.{namespace}.svc.cluster.local",
        "localhost",
    ]


def certificate(settings: Settings, opts: pulumi.ResourceOptions | None = None) -> list[pulumi.Resource]:
    """The cert-manager Certificate, where an issuer is configured; else nothing: the Secret exists."""
    issuer, secret = settings.tls.issuer, settings.tls_secret
    if not issuer or not secret:
        return []
    return [
        k8s.apiextensions.CustomResource(
            secret,
            api_version="cert-manager.io/v1",
            kind="Certificate",
            metadata={
                "name": secret,
                "namespace": settings.namespace,
                "labels": pods.labels(secret, "certificates"),
                "annotations": {"pulumi.com/waitFor": "condition=Ready"},
            },
            spec={
                "secretName": secret,
                "issuerRef": {"group": "cert-manager.io", "kind": issuer.kind, "name": issuer.name},
                "dnsNames": dns_names(settings),
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "usages": ["digital signature", "server auth", "client auth"],
            },
            opts=opts,
        )
    ]
