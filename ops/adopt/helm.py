"""What Helm knows of a namespace: its releases and the manifests that their next upgrade compares with."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from typing import Any

import yaml

from ops.kube import TIMEOUT, Cluster


@dataclass(frozen=True)
class Release:
    """A deployed release.

    Attributes:
        name: of the release.
        chart: `name-version`.
        objects: (kind, name) to manifest.
    """

    name: str
    chart: str
    objects: dict[tuple[str, str], dict[str, Any]]


def releases(cluster: Cluster, namespace: str) -> list[Release]:
    """The deployed releases of a namespace, from the Secrets that Helm keeps."""
    found = cluster.core.list_namespaced_secret(
        namespace, label_selector="owner=helm,status=deployed", _request_timeout=TIMEOUT
    )
    return [read(base64.b64decode(secret.data["release"])) for secret in found.items]


def read(stored: bytes) -> Release:
    """A release as Helm stores it: base64 of gzip of JSON."""
    content = json.loads(gzip.decompress(base64.b64decode(stored)))
    chart = content["chart"]["metadata"]
    objects = {
        (str(item["kind"]), str(item["metadata"]["name"])): item
        for item in yaml.safe_load_all(content["manifest"])
        if item
    }
    return Release(content["name"], f"{chart['name']}-{chart['version']}", objects)


def owner(found: list[Release], kind: str, name: str) -> Release | None:
    """The release whose chart has that object."""
    return next((release for release in found if (kind, name) in release.objects), None)
