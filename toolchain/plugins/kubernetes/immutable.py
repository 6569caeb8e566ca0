"""Which changes need a new object: fields that cannot change in place.

Two sources: the fields that the official plugin replaces on (so both plan the same, with or without a cluster), and the
server's own answer to a dry run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from toolchain.plugins.difference import Path, parse, within
from toolchain.plugins.kubernetes.client import ApiError
from toolchain.plugins.kubernetes.objects import Type

IDENTITY = ("metadata.name", "metadata.namespace", "apiVersion", "kind")
SELECTOR = ("spec.selector",)
ROLE = ("roleRef",)
FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("apps", "Deployment"): SELECTOR,
    ("apps", "DaemonSet"): SELECTOR,
    ("apps", "StatefulSet"): (
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    ("batch", "Job"): ("spec.completions", "spec.parallelism", "spec.selector", "spec.template"),
    ("rbac.authorization.k8s.io", "RoleBinding"): ROLE,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): ROLE,
    ("storage.k8s.io", "StorageClass"): ("parameters", "provisioner"),
    ("", "PersistentVolumeClaim"): ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeName"),
    ("", "ResourceQuota"): ("spec.scopes",),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP",),
}
# The server's words for a field that can never change, as against a value that is wrong (a volume that would shrink).
_NEVER = re.compile(
    r"is immutable|may not change once set|may not be changed|for fields other than|may not change fields other than"
)
_EXCEPT = re.compile(r"other than (.*?)(?: are forbidden|$)|except (.*)")


def static(kind: Type, changed: Iterable[Path], *, mutable: bool) -> set[Path]:
    """Changed paths that need a new object whatever the server says.

    Args:
        kind: the object's type.
        changed: where inputs differ.
        mutable: for Secrets and ConfigMaps: data may change in place.
    """
    names: tuple[str, ...] = IDENTITY[:2] if kind.patch else (*IDENTITY, *FIELDS.get((kind.group, kind.kind), ()))
    if not kind.patch and not mutable and kind.api_version == "v1" and kind.kind in ("Secret", "ConfigMap"):
        names += ("data", "stringData", "binaryData", "type")
    areas = [parse(name) for name in names]
    return {path for path in changed if any(within(path, area) for area in areas)}


def refused(error: ApiError, changed: Iterable[Path]) -> set[Path]:
    """Changed paths that the server refuses to change in place; empty when it complains about something else.

    Args:
        error: its answer to a dry run.
        changed: where inputs differ.
    """
    found: set[Path] = set()
    causes: list[Mapping[str, Any]] = [*error.causes] or [{"field": "", "message": str(error)}]
    for cause in causes:
        message = str(cause.get("message", ""))
        if error.code != 422 or not _NEVER.search(message):
            continue
        area = parse(str(cause.get("field", "")))
        spared = {word for match in _EXCEPT.findall(message) for part in match for word in re.findall(r"\w+", part)}
        inside = {path for path in changed if within(path, area)}
        # `updates to statefulset spec for fields other than 'replicas', 'template', ...`: those may stay.
        found |= {
            path for path in inside if not spared & {str(step) for step in path[len(area) : len(area) + 1]}
        } or inside
    return found
