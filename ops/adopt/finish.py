"""After an adoption: what a person does to the chart, and the end of the old Redis."""

from __future__ import annotations

from collections.abc import Iterator

from infra.settings import Settings
from ops import kube
from ops.adopt import helm
from ops.adopt import record as records
from ops.adopt.door import delete
from ops.adopt.steps import Adoption
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster


def what_next(cluster: Cluster, settings: Settings, stack: str) -> Iterator[str]:
    """What a person does next, one line each."""
    found = helm.releases(cluster, settings.namespace)
    service, deployment = settings.redis.service, settings.api.existing_deployment or "api"
    kept = records.read(cluster, settings.namespace, settings.redis.app)
    if release := helm.owner(found, "Service", service):
        yield (
            f"Next: delete the template of Service {service}{f' and Deployment {kept.deployment}' if kept else ''} "
            f"from chart {release.chart}, before its next `helm upgrade`: with it, that upgrade sets the Service's "
            "selector back, and it leads nowhere. (helm.sh/resource-policy keeps the Service.)"
        )
    yield from disagreements(cluster, settings, found, deployment)
    yield f"Commit Pulumi.{stack}.yaml. `python -m ops verify --stack {stack}` proves the stack."
    if kept:
        yield f"`python -m ops adopt undo --stack {stack}` goes back; `… adopt finish …` deletes what that needs."


def disagreements(cluster: Cluster, settings: Settings, found: list[helm.Release], deployment: str) -> Iterator[str]:
    """Environment that chart and stack both set, to different values: each upgrade would take the stack's back."""
    release = helm.owner(found, "Deployment", deployment)
    live = kube.get(cluster.apps.read_namespaced_deployment, deployment, settings.namespace)
    if release is None or live is None:
        return
    container = settings.api.container
    theirs = {
        item["name"]: item.get("value")
        for c in release.objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"]
        if c["name"] == container
        for item in c.get("env") or []
    }
    ours = {e.name: e.value for c in live.spec.template.spec.containers if c.name == container for e in c.env or []}
    for name in sorted(theirs):
        if name not in ours or theirs[name] != ours[name]:
            yield (
                f"! Chart {release.chart} sets {name} to {theirs[name]!r} and the stack to {ours.get(name)!r}: delete "
                "it from the chart, or make the two the same; else each takes it from the other."
            )


def finish(adoption: Adoption) -> None:
    """Delete the old Redis and what was noted of it.

    Raises:
        OpsError: the adoption is not through, or the chart still has the old Redis.
    """
    kept = records.read(adoption.cluster, adoption.namespace, adoption.app)
    if kept is None:
        raise OpsError("There is nothing to finish: no adoption of a Redis is noted here.")
    if adoption.settings.redis.adoption or not adoption.cut:
        raise OpsError("The adoption is not through: `ops adopt run` goes on with it.")
    found = helm.releases(adoption.cluster, adoption.namespace)
    for kind, name in (("Deployment", kept.deployment), ("Service", adoption.settings.redis.service)):
        if release := helm.owner(found, kind, name):
            raise OpsError(
                f"Chart {release.chart} still has {kind} {name}: delete its template, `helm upgrade {release.name}`, "
                "then run this again."
            )
    live = adoption.cluster.core.read_namespaced_service(
        adoption.settings.redis.service, adoption.namespace, _request_timeout=TIMEOUT
    )
    if live.spec.selector.get("app") != adoption.app:
        raise OpsError(
            f"Service {adoption.settings.redis.service} leads to {live.spec.selector}: `ops up` brings it back first."
        )
    delete(adoption.cluster, adoption.namespace, "Deployment", kept.deployment)
    records.forget(adoption.cluster, adoption.namespace, adoption.app)
    adoption.steps.say(f"Deployment {kept.deployment} is deleted. The stack stands by itself.")
