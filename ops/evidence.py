"""What a stage proved: the last `ops verify`, kept beside the stack in a ConfigMap, and the releases it proved before.

`evidence.json` is the last report (`Report.as_json`) with the versions it saw; `proved.json` maps each release's id
that was proved (all green, no line skipped for --read-only, the cluster as the program declares) to when and how.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiException

from infra.pods import PART_OF
from ops.kube import TIMEOUT, Cluster, get

NAME = "session-store-evidence"
KEPT = 50
"""Proved releases that are remembered."""


@dataclass(frozen=True)
class Evidence:
    """What is stored.

    Attributes:
        last: the last report; {} when there is none.
        proved: release id to {time, counts, deep}.
    """

    last: dict[str, Any]
    proved: dict[str, dict[str, Any]]

    def time_of(self, release: str) -> datetime | None:
        """When a release was proved last; None: never."""
        entry = self.proved.get(release)
        return datetime.fromisoformat(entry["time"]) if entry else None


def read(cluster: Cluster, namespace: str) -> Evidence:
    """What a stack's namespace holds; what cannot be read as evidence is none."""
    found = get(cluster.core.read_namespaced_config_map, NAME, namespace)
    data = (found.data if found else None) or {}
    try:
        last, proved = (json.loads(data.get(key, "{}")) for key in ("evidence.json", "proved.json"))
        return Evidence(dict(last), {str(key): dict(entry) for key, entry in proved.items() if "time" in entry})
    except (ValueError, TypeError, AttributeError):
        return Evidence({}, {})


def store(cluster: Cluster, namespace: str, report: dict[str, Any]) -> None:
    """Keep a report, and the release it proves.

    Args:
        cluster: of the stack.
        namespace: of the stack.
        report: `Report.as_json()` and `versions`.
    """
    proved = read(cluster, namespace).proved
    if proves(report):
        entry = {"time": report["time"], "counts": report["counts"], "deep": report["deep"]}
        proved = {**proved, report["release"]["id"]: entry}
    elif not report.get("ok"):
        proved = {key: entry for key, entry in proved.items() if key != report["release"]["id"]}
    newest = sorted(proved.items(), key=lambda item: str(item[1]["time"]))[-KEPT:]
    _write(cluster, namespace, {"evidence.json": json.dumps(report, indent=1), "proved.json": json.dumps(dict(newest))})


def proves(report: dict[str, Any]) -> bool:
    """Whether a report shows that its release works."""
    return bool(report.get("ok")) and not report.get("readOnly")


def drop(cluster: Cluster, namespace: str) -> None:
    """Forget the last report and that its release was proved: the cluster is not what the program declares."""
    evidence = read(cluster, namespace)
    gone = evidence.last.get("release", {}).get("id")
    proved = {key: entry for key, entry in evidence.proved.items() if key != gone}
    if evidence.last:
        _write(cluster, namespace, {"evidence.json": "{}", "proved.json": json.dumps(proved)})


def _write(cluster: Cluster, namespace: str, data: dict[str, str]) -> None:
    body = {"metadata": {"name": NAME, "namespace": namespace, "labels": PART_OF}, "data": data}
    try:
        cluster.core.replace_namespaced_config_map(NAME, namespace, body, _request_timeout=TIMEOUT)
    except ApiException as error:
        if error.status != 404:
            raise
        cluster.core.create_namespaced_config_map(namespace, body, _request_timeout=TIMEOUT)


def age(when: datetime) -> str:
    """`3 h`, `12 min`."""
    minutes = int((datetime.now(UTC) - when).total_seconds() / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
