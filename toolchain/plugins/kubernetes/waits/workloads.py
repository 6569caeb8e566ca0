"""Rollouts: Deployment, StatefulSet, DaemonSet, Job, and a lone Pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.plugins.kubernetes.client import Cluster
from toolchain.plugins.kubernetes.waits import pods
from toolchain.plugins.kubernetes.waits.verdict import READY, Verdict, at, broken, condition, number, pending, sentence


def _unobserved(item: Mapping[str, Any]) -> bool:
    return number(item, "status", "observedGeneration") < number(item, "metadata", "generation")


def _selected(cluster: Cluster, item: Mapping[str, Any], kind: str, api_version: str = "v1") -> list[dict[str, Any]]:
    labels = at(item, "spec", "selector", "matchLabels") or {}
    chosen = ",".join(f"{key}={value}" for key, value in labels.items())
    return cluster.list(api_version, kind, item["metadata"].get("namespace", ""), labelSelector=chosen)


def _explained(step: str, why: Verdict | None) -> Verdict:
    """A step of a rollout with the reason that a pod gives."""
    if why is None:
        return pending(step)
    return Verdict(False, f"{step}: {why.message}", why.broken, why.grace)


def deployment(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """All replicas are of the newest template, available, and no others are left."""
    if _unobserved(item):
        return pending("waiting for the rollout to start")
    wanted = number(item, "spec", "replicas")
    updated, total, available = (number(item, "status", f"{what}eplicas") for what in ("updatedR", "r", "availableR"))
    if updated >= wanted and total <= updated and available >= wanted:
        return READY
    revision = at(item, "metadata", "annotations", "deployment.kubernetes.io/revision")
    sets = pods.owned(_selected(cluster, item, "ReplicaSet", "apps/v1"), item["metadata"]["uid"])
    newest = next(
        (rs for rs in sets if at(rs, "metadata", "annotations", "deployment.kubernetes.io/revision") == revision), None
    )
    why = pods.creation_failure(cluster, newest or item)
    if why is None and newest:
        why = pods.worst(cluster, pods.owned(_selected(cluster, newest, "Pod"), newest["metadata"]["uid"]))
    progressing = condition(item, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return broken(
            sentence("the rollout made no progress in time", why.message if why else progressing.get("message"))
        )
    if updated < wanted:
        return _explained(f"[1/2] {updated} of {wanted} pods are of the new version", why)
    if available < wanted:
        return _explained(f"[2/2] waiting for {wanted - available} of {wanted} pods to be ready", why)
    return pending(f"[2/2] waiting for {total - updated} old pods to end")


def stateful_set(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """All replicas are ready; with rolling updates, of the newest revision down to the partition."""
    if _unobserved(item):
        return pending("waiting for the rollout to start")
    wanted, status = number(item, "spec", "replicas"), item.get("status") or {}
    rolling = at(item, "spec", "updateStrategy", "type") != "OnDelete"
    partition = number(item, "spec", "updateStrategy", "rollingUpdate", "partition")
    due = max(wanted - partition, 0) if rolling else 0
    same = status.get("currentRevision") == status.get("updateRevision")
    updated = wanted if same else number(status, "updatedReplicas")
    ready = number(status, "readyReplicas")
    if updated >= due and ready >= wanted and number(status, "replicas") <= wanted:
        return READY
    members = pods.owned(_selected(cluster, item, "Pod"), item["metadata"]["uid"])
    why = pods.worst(cluster, members)
    if len(members) < wanted and (why is None or not why.broken):
        why = pods.creation_failure(cluster, item) or why
    if updated < due and why and why.broken:
        why = _blocked(cluster, members, status, why)
    if updated < due:
        return _explained(f"[1/2] {updated} of {due} pods are of the new version", why)
    return _explained(f"[2/2] waiting for {wanted - ready} of {wanted} pods to be ready", why)


def _blocked(cluster: Cluster, members: list[dict[str, Any]], status: Mapping[str, Any], why: Verdict) -> Verdict:
    """Kubernetes never replaces a broken pod of an old revision by itself, so the rollout stands still: say so."""
    for member in members:
        revision = at(member, "metadata", "labels", "controller-revision-hash")
        if revision != status.get("updateRevision") and not pods.judge(cluster, member).ready:
            name, place = member["metadata"]["name"], member["metadata"]["namespace"]
            advice = f"pod {name} is of the old version and blocks the new one: kubectl -n {place} delete pod {name}"
            return broken(f"{advice} ({why.message})", why.grace)
    return why


def daemon_set(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """Every node that should run it runs the newest template, ready."""
    if _unobserved(item):
        return pending("waiting for the rollout to start")
    wanted = number(item, "status", "desiredNumberScheduled")
    ready, updated = number(item, "status", "numberReady"), number(item, "status", "updatedNumberScheduled")
    if at(item, "spec", "updateStrategy", "type") == "OnDelete":
        updated = wanted
    if ready >= wanted and updated >= wanted:
        return READY
    why = pods.worst(cluster, pods.owned(_selected(cluster, item, "Pod"), item["metadata"]["uid"]))
    return _explained(f"waiting for {wanted - min(ready, updated)} of {wanted} pods to be ready", why)


def job(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """Complete; a suspended one is left alone."""
    if condition(item, "Complete").get("status") == "True" or at(item, "spec", "suspend"):
        return READY
    members = pods.owned(_selected(cluster, item, "Pod"), item["metadata"]["uid"])
    failed = condition(item, "Failed")
    why = pods.worst(cluster, members, ended=failed.get("status") == "True")
    if failed.get("status") == "True":
        return broken(
            sentence(f"the job failed ({failed.get('reason')})", failed.get("message"), why.message if why else None)
        )
    done, wanted = number(item, "status", "succeeded"), number(item, "spec", "completions") or 1
    if not members:
        why = pods.creation_failure(cluster, item)
    return _explained(f"{done} of {wanted} completions", why)


def pod(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """Ready, or done."""
    return pods.judge(cluster, item)
