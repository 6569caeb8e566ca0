"""Why pods are not ready: pull, crash, schedule, probe, quota; each with the cluster's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.plugins.kubernetes.client import Cluster
from toolchain.plugins.kubernetes.waits.verdict import READY, Verdict, at, broken, condition, number, pending, sentence
from toolchain.plugins.server import PluginError

# Seconds: a registry that hiccups, a dependency that comes up later, a volume that is still being made.
PULL_GRACE, CRASH_GRACE, SCHEDULE_GRACE, CREATE_GRACE = 15.0, 10.0, 60.0, 10.0
CRASHES = 3  # restarts before a crash loop counts as one
HOPELESS = (
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
LOG_LINES = 8


def owned(items: list[dict[str, Any]], uid: str) -> list[dict[str, Any]]:
    """Items whose owner has this uid."""
    return [
        item for item in items if any(ref.get("uid") == uid for ref in at(item, "metadata", "ownerReferences") or [])
    ]


def events(cluster: Cluster, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Warnings about an object, newest last."""
    meta = item["metadata"]
    found = cluster.list(
        "v1", "Event", meta.get("namespace", ""), fieldSelector=f"involvedObject.uid={meta['uid']},type=Warning"
    )
    return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")


def creation_failure(cluster: Cluster, owner: Mapping[str, Any]) -> Verdict | None:
    """Pods that the owner's controller may not create: quota, Pod Security, a missing service account."""
    failure = condition(owner, "ReplicaFailure") or {}
    message = failure.get("message") if failure.get("status") == "True" else None
    if not message:
        refusals = [event for event in events(cluster, owner) if event.get("reason") == "FailedCreate"]
        message = refusals[-1].get("message") if refusals else None
    return broken(sentence("pods cannot be created", message), CREATE_GRACE) if message else None


def judge(cluster: Cluster, pod: Mapping[str, Any]) -> Verdict:
    """One pod: ready, not yet, or broken and why."""
    name, phase = pod["metadata"]["name"], at(pod, "status", "phase")
    if condition(pod, "Ready").get("status") == "True" or phase == "Succeeded":
        return READY
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return broken(sentence(f"pod {name} cannot be scheduled", scheduled.get("message")), SCHEDULE_GRACE)
    statuses = [*(at(pod, "status", "initContainerStatuses") or []), *(at(pod, "status", "containerStatuses") or [])]
    found = [verdict for status in statuses if (verdict := _container(cluster, pod, status))]
    if phase == "Failed":
        why = found[0].message if found else sentence(at(pod, "status", "reason"), at(pod, "status", "message"))
        return broken(sentence(f"pod {name} failed", why))
    if found:
        return found[0]
    running = [status for status in statuses if at(status, "state", "running")]
    unready = [status["name"] for status in running if not status.get("ready")]
    if unready and len(running) == len(statuses):
        probes = [event for event in events(cluster, pod) if event.get("reason") == "Unhealthy"]
        why = sentence("not ready", probes[-1].get("message") if probes else None)
        return pending(f"pod {name}, container {unready[0]}: {why}")
    stuck = [event for event in events(cluster, pod) if str(event.get("reason", "")).startswith("Failed")]
    return pending(
        sentence(f"pod {name} is {str(phase or 'Pending').lower()}", stuck[-1].get("message") if stuck else None)
    )


def _container(cluster: Cluster, pod: Mapping[str, Any], status: Mapping[str, Any]) -> Verdict | None:
    where = f"pod {pod['metadata']['name']}, container {status['name']}"
    waiting = at(status, "state", "waiting") or {}
    reason, message = waiting.get("reason") or "", waiting.get("message")
    if reason in ("ImagePullBackOff", "ErrImagePull"):
        return broken(
            sentence(f"{where}: image {status.get('image')} cannot be pulled ({reason})", message), PULL_GRACE
        )
    if reason in HOPELESS:
        return broken(sentence(f"{where}: {reason}", message), PULL_GRACE)
    ended = at(status, "state", "terminated") or at(status, "lastState", "terminated") or {}
    failed = ended and ended.get("exitCode") != 0
    restarts = number(status, "restartCount")
    if reason == "CrashLoopBackOff" or (failed and at(status, "state", "terminated")):
        text = (
            f"{where} {'keeps crashing' if restarts else 'crashed'} (exit code {ended.get('exitCode')}"
            f"{', ' + ended['reason'] if ended.get('reason') not in (None, 'Error') else ''}, {restarts} restarts)"
        )
        last = ended.get("message") or last_lines(cluster, pod, status["name"], previous=bool(waiting))
        text = sentence(text, f"it said: {' | '.join(last.splitlines())}" if last else None)
        return broken(text, CRASH_GRACE) if restarts >= CRASHES else pending(text)
    return None


def last_lines(cluster: Cluster, pod: Mapping[str, Any], container: str, *, previous: bool) -> str:
    """The end of a container's log; empty where the node does not answer."""
    path = cluster.path("v1", "Pod", pod["metadata"].get("namespace", ""), pod["metadata"]["name"])
    query = {"container": container, "tailLines": str(LOG_LINES), "previous": str(previous).lower()}
    try:
        text = cluster.request("GET", f"{path}/log", query)
    except PluginError:
        return ""
    return text.strip() if isinstance(text, str) else str(text)


def worst(cluster: Cluster, pods: list[dict[str, Any]], *, ended: bool = False) -> Verdict | None:
    """The pod that tells most: a broken one, else one that is not ready; None when all are.

    Args:
        cluster: where they are.
        pods: of one owner.
        ended: look at failed pods too, which a controller that goes on replaces.
    """
    looked_at = [
        pod
        for pod in pods
        if not at(pod, "metadata", "deletionTimestamp") and (ended or at(pod, "status", "phase") != "Failed")
    ]
    unready = [verdict for pod in looked_at if not (verdict := judge(cluster, pod)).ready]
    return next((verdict for verdict in unready if verdict.broken), unready[0] if unready else None)
