"""The stack's own matters: changes by hand, locks, releases that went past the gate, its autoscaler."""

from __future__ import annotations

from collections.abc import Iterator

from ops.doctor.look import Look, name
from ops.doctor.model import API, CHANGED, CLUSTER, RISK, STACK, Finding

KINDS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "scalers",
    "NetworkPolicy": "policies",
    "PersistentVolumeClaim": "claims",
    "PodDisruptionBudget": "budgets",
    "Service": "services",
    "StatefulSet": "statefulsets",
}
"""Kinds that a stack declares, as they are listed in a look; a missing Secret is told by what it was for."""
LONG = 160
"""Characters of a value that are shown."""


def autoscaler(look: Look) -> Iterator[Finding]:
    """It gets the metrics that it decides by."""
    for scaler in look.of("scalers"):
        if scaler["spec"]["scaleTargetRef"].get("name") != look.deployment:
            continue
        for condition in scaler.get("status", {}).get("conditions") or []:
            if condition["type"] != "ScalingActive" or condition["status"] == "True":
                continue
            if condition.get("reason") == "ScalingDisabled":
                continue  # by replicas 0, which is told
            seen = f"HorizontalPodAutoscaler {name(scaler)}: ScalingActive False: {condition.get('reason')}: "
            what = f"The autoscaler of {look.deployment} has no metrics and does not scale"
            fix = "install or mend metrics-server: `kubectl get apiservice v1beta1.metrics.k8s.io`"
            about = (f"HorizontalPodAutoscaler {name(scaler)}",)
            yield Finding(
                "autoscaler-no-metrics",
                API,
                what,
                (seen + condition.get("message", ""),),
                fix,
                RISK,
                about,
                because=(CLUSTER, API),
            )


def changed(look: Look) -> Iterator[Finding]:
    """The cluster is what the last update made it."""
    for kind, called in look.books.declared:
        listed = KINDS.get(kind)
        if listed and look.saw(listed) and look.named(listed, called) is None:
            what = f"{kind} {called} was deleted by hand"
            seen = f"{listed} in namespace {look.settings.namespace}: no {called}"
            yield Finding(CHANGED, STACK, what, (seen,), look.mend, RISK, (f"{kind} {called}",))
    for touched in look.books.touched:
        if touched.kind == "Namespace":
            continue
        lines = []
        for one in touched.fields[:6]:
            value = " ".join(touched.text(one).split())
            value = value if len(value) < LONG else f"{value[:LONG]}…"
            lines.append(f"{one.pointer.lstrip('/').replace('/', '.')}: {value} (set by {one.manager})")
        what = f"{touched.kind} {touched.name} was changed by hand"
        yield Finding(CHANGED, STACK, what, tuple(lines), look.mend, RISK, (f"{touched.kind} {touched.name}",))


def locks(look: Look) -> Iterator[Finding]:
    """No run that was killed holds the stack."""
    for lock in look.books.locks:
        if lock.dead or lock.orphan:
            what = f"A run that was killed left stack {look.stack} locked"
            seen = f"{lock.path}: {lock}, " + ("that process is gone" if lock.dead else "its program is gone")
            fix = f"`python -m ops up --stack {look.stack}` removes it and goes on"
            yield Finding("stale-lock", STACK, what, (seen,), fix, RISK)


def overrides(look: Look) -> Iterator[Finding]:
    """No release runs that went past refusals and that nobody has proved since."""
    for record in look.books.unproven:
        what = f"{record.stage} got release {record.release.id} past {len(record.refusals)} refusals: {record.override}"
        seen = (
            f"{record.path.name if record.path else 'record'}: {record.status}, {record.started[:10]}, by {record.by}"
        )
        source = record.release.source
        fix = f"run that release in {source}, then `python -m ops verify --stack {source}`"
        lines = (seen, *(f"refused: {' '.join(line.split())[:160]}" for line in record.refusals))
        yield Finding("override-unproven", STACK, what, lines, fix, RISK)
