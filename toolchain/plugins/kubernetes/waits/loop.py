"""Look at an object until it is ready, broken, out of time, or the user has had enough."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from toolchain.plugins.kubernetes.client import Cluster, UnreachableError
from toolchain.plugins.kubernetes.objects import annotation, qualified
from toolchain.plugins.kubernetes.waits import others, workloads
from toolchain.plugins.kubernetes.waits.verdict import READY, Verdict, broken, pending
from toolchain.plugins.server import PluginError

TIMEOUT_S = 600.0
PAUSE_S = 0.5
Check = Callable[[Cluster, Mapping[str, Any]], Verdict]
CHECKS: dict[tuple[str, str], Check] = {
    ("apps/v1", "Deployment"): workloads.deployment,
    ("apps/v1", "StatefulSet"): workloads.stateful_set,
    ("apps/v1", "DaemonSet"): workloads.daemon_set,
    ("batch/v1", "Job"): workloads.job,
    ("v1", "Pod"): workloads.pod,
    ("v1", "Service"): others.service,
    ("v1", "PersistentVolumeClaim"): others.claim,
    ("networking.k8s.io/v1", "Ingress"): others.ingress,
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): others.definition,
}


class NotReadyError(PluginError):
    """The wait ended without the object being ready.

    Attributes:
        live: the object as last seen.
    """

    def __init__(self, message: str, live: Mapping[str, Any]):
        super().__init__(message)
        self.live = live


def look(cluster: Cluster, item: Mapping[str, Any], inputs: Mapping[str, Any]) -> Verdict:
    """What one look says; annotations of the inputs choose what to look for."""
    if asked := annotation(inputs, "pulumi.com/waitFor"):
        return others.asked_for(item, others.wanted(asked))
    if annotation(inputs, "pulumi.com/skipAwait") == "true":
        return READY
    check = CHECKS.get((str(item.get("apiVersion")), str(item.get("kind"))))
    return check(cluster, item) if check else READY


def timeout_of(requested: float, inputs: Mapping[str, Any]) -> float:
    """Seconds to wait: customTimeouts, else the annotation, else ten minutes."""
    noted = annotation(inputs, "pulumi.com/timeoutSeconds")
    return requested or (float(noted) if noted.isdigit() else 0) or TIMEOUT_S


def _grace(verdict: Verdict) -> float:
    """Seconds that a failure must last; SESSION_STORE_GRACE_SECONDS caps it, for impatient tests."""
    return min(verdict.grace, float(os.environ.get("SESSION_STORE_GRACE_SECONDS") or "inf"))


def until_ready(
    cluster: Cluster,
    item: Mapping[str, Any],
    inputs: Mapping[str, Any],
    requested: float,
    cancelled: threading.Event,
    say: Callable[[str], None],
) -> Mapping[str, Any]:
    """Wait until an object is ready.

    Args:
        cluster: where it is.
        item: the object as just applied.
        inputs: its inputs, for the annotations.
        requested: seconds of customTimeouts, 0 for none.
        cancelled: set when the user interrupts.
        say: shows a line; called when it changes.

    Returns:
        The object, ready.

    Raises:
        NotReadyError: broken, out of time or interrupted; the message says why.
    """
    limit = timeout_of(requested, inputs)
    end = time.monotonic() + limit
    said, since = "", time.monotonic()
    what = f"{item['kind']} {qualified(item)}"
    while True:
        verdict, item = _look_again(cluster, item, inputs)
        if verdict.ready:
            return item
        now = time.monotonic()
        if verdict.message != said:
            say(verdict.message)
            said = verdict.message
        # Messages of a failure differ from look to look (counts, names): the failure as such must last.
        since = since if verdict.broken else now
        if verdict.broken and now - since >= _grace(verdict):
            raise NotReadyError(f"{what} is not ready: {verdict.message}", item)
        if now >= end:
            raise NotReadyError(f"{what} is not ready after {limit:.0f} s: {verdict.message}", item)
        if cancelled.wait(PAUSE_S):
            raise NotReadyError(f"{what} is not ready: interrupted while {verdict.message}", item)


def _look_again(
    cluster: Cluster, item: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[Verdict, Mapping[str, Any]]:
    meta = item["metadata"]
    try:
        live = cluster.get(item["apiVersion"], item["kind"], meta.get("namespace", ""), meta["name"])
        if live is None:
            return broken("it was deleted meanwhile"), item
        return look(cluster, live, inputs), live
    except UnreachableError as error:  # an API server that restarts
        return pending(str(error)), item


def until_gone(
    cluster: Cluster,
    item: Mapping[str, Any],
    limit: float,
    cancelled: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Wait until an object is deleted.

    Raises:
        PluginError: out of time or interrupted; the message says what holds it.
    """
    end, said, meta = time.monotonic() + limit, "", item["metadata"]
    what = f"{item['kind']} {qualified(item)}"
    while True:
        live = cluster.get(item["apiVersion"], item["kind"], meta.get("namespace", ""), meta["name"])
        if live is None or live["metadata"]["uid"] != meta["uid"]:
            return
        held = [
            str(entry.get("message"))
            for entry in (live.get("status") or {}).get("conditions") or []
            if entry.get("status") == "True"
        ]
        finalizers = ", ".join(live["metadata"].get("finalizers") or [])
        why = "; ".join(held) if item["kind"] == "Namespace" and held else f"held by {finalizers or 'nothing'}"
        if why != said:
            say(f"deleting, {why}")
            said = why
        if time.monotonic() >= end:
            raise PluginError(f"{what} was not deleted within {limit:.0f} s: {why}. Run again to continue.")
        if cancelled.wait(PAUSE_S):
            raise PluginError(f"{what}: interrupted while it was being deleted ({why}). Run again to continue.")
