"""The rules, by name, and `check`, which asks all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies import plaintext, restricted
from policies.manifest import Declared, Resource, Violation, Workload, items, known, mapping, texts, walk

__all__ = ["RULES", "Resource", "Rule", "Violation", "check"]

Found = Iterator[tuple[Resource, str, str]]
"""(resource, problem, fix) triples."""
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
PLACEHOLDER = "sha256:" + "0" * 64
EVICTS = re.compile(r"maxmemory-policy\W+((?:allkeys|volatile)-\w+)")
LIMITED = re.compile(r"(^|\s)(?:--)?maxmemory[ \t]+[\"']?[1-9]", re.MULTILINE)
NO_PROBES = {
    "sentinel": "a Sentinel that hangs is outvoted by the others, one that ends is started anew by its container's "
    "script, and a readiness of its own would take a healthy Redis out of service"
}
"""Containers that need no probes: name to reason."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what a violation names.
        why: one sentence.
        only_several: asked only where there must be several of everything.
    """

    name: str
    why: str
    only_several: bool
    find: Callable[[Declared], Found]


RULES: dict[str, Rule] = {}


def rule(name: str, only_several: bool = False) -> Callable[[Callable[[Declared], Found]], Callable[[Declared], Found]]:
    """Register a rule under its name; its docstring says why it is there."""

    def register(find: Callable[[Declared], Found]) -> Callable[[Declared], Found]:
        RULES[name] = Rule(name, " ".join((find.__doc__ or "").split()), only_several, find)
        return find

    return register


def check(resources: Iterable[Resource], several: bool, masked: bool = True) -> list[Violation]:
    """Every rule that is broken, in the order of rules and resources.

    Args:
        resources: what a stack declares.
        several: there must be at least two of everything (prod).
        masked: secret values are the text `[secret]`; False where they come unwrapped, as in a policy pack.
    """
    declared = Declared(list(resources), masked)
    asked = [one for one in RULES.values() if several or not one.only_several]
    told = ((one, *found) for one in asked for found in one.find(declared))
    return list(dict.fromkeys(Violation(one.name, str(resource), problem, fix) for one, resource, problem, fix in told))


@rule("plaintext")
def plain(declared: Declared) -> Found:
    """A password in a manifest is known to everybody who may read the cluster, its backups and the state."""
    yield from plaintext.check(declared)


@rule("digest")
def digest(declared: Declared) -> Found:
    """A tag is somebody else's promise: only a digest is the image that was tested."""
    for workload in declared.workloads:
        for container in workload.containers:
            image = container.spec.get("image")
            if image is None and workload.resource.partial:
                continue
            if image is None:
                yield workload.resource, f"{container.path} names no image", "name one by digest"
            elif known(image) and PLACEHOLDER in str(image):
                fix = "put the digest that your registry printed"
                yield workload.resource, f"{container.path} has a placeholder for the digest of its image {image}", fix
            elif known(image) and not DIGEST.fullmatch(str(image)):
                fix = "append the digest: IMAGE:TAG@sha256:…"
                yield workload.resource, f"{container.path} has the image {image} without a digest", fix


@rule("eviction")
def eviction(declared: Declared) -> Found:
    """A Redis that evicts logs people out silently; one that is full must say so."""
    for resource in declared.resources:
        if resource.kind == "ConfigMap":
            told = list(texts(mapping(resource.props.get("data"))))
        else:
            told = [(container.path, _command_line(container.spec)) for container in _containers(declared, resource)]
        for where, text in told:
            if evicts := EVICTS.search(text):
                yield resource, f"{where} sets maxmemory-policy {evicts[1]}", "set maxmemory-policy noeviction"
            elif LIMITED.search(text) and not re.search(r"maxmemory-policy\W+noeviction", text):
                yield resource, f"{where} sets maxmemory and no policy", "add maxmemory-policy noeviction"


def _containers(declared: Declared, resource: Resource) -> Iterator[Any]:
    for workload in declared.workloads:
        if workload.resource is resource:
            yield from workload.containers


def _command_line(spec: Mapping[str, Any]) -> str:
    return " ".join(str(part) for key in ("command", "args") for part in spec.get(key) or [])


@rule("several", only_several=True)
def several(declared: Declared) -> Found:
    """One pod of anything is an outage whenever its node goes; a drain must leave one of them."""
    scalers = {
        (target.get("kind"), target.get("name")): scaler
        for scaler in declared.of_kind("HorizontalPodAutoscaler")
        for target in [walk(scaler.props, "spec", "scaleTargetRef")]
    }
    for scaler in scalers.values():
        least = _count(scaler, "minReplicas")
        if least < 2:
            fix = "set minReplicas to 2 or more (api.autoscaling.minReplicas)"
            yield scaler, f"lets {least} pod be enough", fix
    for workload in declared.workloads:
        resource, partial = workload.resource, workload.resource.partial
        if workload.kind == "Pod" and not partial:
            yield resource, "is a pod of nobody's: it dies with its node", "declare a Deployment"
        if workload.kind not in ("Deployment", "StatefulSet", "ReplicaSet"):
            continue
        replicas = 2 if partial and "replicas" not in mapping(resource.props.get("spec")) else _count(resource)
        votes = any(container.name == "sentinel" for container in workload.containers)
        if (workload.kind, resource.object_name) not in scalers:
            if votes and replicas < 3 and not partial:
                fix = "set 3 or more (redis.replicas): a majority must be left when one is gone"
                yield resource, f"has {replicas} pods with a Sentinel", fix
            elif replicas < 2:
                fix = "set 2 or more" + (" (redis.mode: sentinel)" if workload.kind == "StatefulSet" else " (replicas)")
                yield resource, "has one pod" if replicas else "has no pod", fix
        if partial:
            continue
        if not any(_covers(budget, workload) for budget in declared.of_kind("PodDisruptionBudget")):
            fix = "declare one with maxUnavailable: 1 for the labels of its pods"
            yield resource, "has no PodDisruptionBudget: one drain can take all its pods", fix


def _count(resource: Resource, key: str = "replicas") -> int:
    """How many a spec wants: one where it says nothing, enough where it is not known yet."""
    found = mapping(resource.props.get("spec")).get(key)
    if found is None:
        return 1
    return int(found) if known(found) else 3


def _covers(budget: Resource, workload: Workload) -> bool:
    """The budget selects these pods, and leaves some of them."""
    spec = mapping(budget.props.get("spec"))
    if spec.get("maxUnavailable") == "100%" or spec.get("minAvailable") in (0, "0%"):
        return False
    selector = mapping(spec.get("selector"))
    wanted, expressions = mapping(selector.get("matchLabels")), items(selector.get("matchExpressions"))
    return (
        bool(wanted or expressions)
        and all(workload.labels.get(key) == value for key, value in wanted.items())
        and all(_matches(one, workload.labels) for one in expressions)
    )


def _matches(expression: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    key, values = str(expression.get("key")), expression.get("values") or []
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }.get(str(expression.get("operator")), False)


@rule("public")
def public(declared: Declared) -> Found:
    """The store is nobody's business outside, and how the API is published is decided where TLS ends, not here."""
    for service in declared.of_kind("Service"):
        spec = mapping(service.props.get("spec"))
        if spec.get("type") in ("LoadBalancer", "NodePort"):
            hint = " (remove api.nodePort)" if spec["type"] == "NodePort" else ""
            yield service, f"is of type {spec['type']}: reachable from outside the cluster", f"make it ClusterIP{hint}"
        if spec.get("externalIPs"):
            yield service, "has externalIPs: reachable from outside the cluster", "remove them"
    for ingress in declared.of_kind("Ingress"):
        yield ingress, "publishes a Service", "declare it where the cluster's entrance is kept, not in this stack"


@rule("resources")
def resources(declared: Declared) -> Found:
    """Without requests a full node evicts the pod first; without a limit one pod takes the memory of its neighbours."""
    for workload in declared.workloads:
        for container in [] if workload.resource.partial else workload.containers:
            given = mapping(container.spec.get("resources"))
            missing = [
                f"{section}.{key}"
                for section, key in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
                if not mapping(given.get(section)).get(key)
            ]
            if missing:
                yield workload.resource, f"{container.path} has no {', '.join(missing)}", "set it under resources"


@rule("probes")
def probes(declared: Declared) -> Found:
    """Without readiness people are sent to a pod that cannot answer; without liveness one that hangs stays so."""
    for workload in declared.workloads:
        for container in [] if workload.resource.partial else workload.containers:
            missing = [name for name in ("readinessProbe", "livenessProbe") if not container.spec.get(name)]
            if missing and container.long_lived and container.name not in NO_PROBES:
                yield workload.resource, f"{container.path} has no {' and no '.join(missing)}", "add it"


@rule("restricted")
def restrict(declared: Declared) -> Found:
    """A process that is taken over must find nothing to go on with: no root, no privileges, no token, no node."""
    for workload in declared.workloads:
        yield from ((workload.resource, problem, fix) for problem, fix in restricted.pod(workload))
    for namespace in declared.of_kind("Namespace"):
        level = walk(namespace.props, "metadata", "labels").get("pod-security.kubernetes.io/enforce")
        if level != "restricted" and not (level is None and namespace.partial):
            fix = "label it pod-security.kubernetes.io/enforce: restricted"
            yield namespace, f"admits pods of level {level or 'privileged'}", fix
