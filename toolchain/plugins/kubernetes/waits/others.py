"""Services, claims, ingresses, and conditions that an annotation asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolchain.plugins.difference import lookup, parse
from toolchain.plugins.kubernetes.client import Cluster
from toolchain.plugins.kubernetes.waits import pods
from toolchain.plugins.kubernetes.waits.verdict import READY, Verdict, at, condition, pending, sentence
from toolchain.plugins.server import PluginError

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def service(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """A ready pod behind it, and an address for a load balancer; ready at once when headless or without a selector."""
    spec, meta = item["spec"], item["metadata"]
    kind = spec.get("type", "ClusterIP")
    if kind == "LoadBalancer" and not at(item, "status", "loadBalancer", "ingress"):
        return pending("waiting for the load balancer's address")
    if kind == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
        return READY
    slices = cluster.list(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        meta["namespace"],
        labelSelector=f"kubernetes.io/service-name={meta['name']}",
    )
    endpoints = [endpoint for part in slices for endpoint in part.get("endpoints") or []]
    if any(at(endpoint, "conditions", "ready") is not False for endpoint in endpoints):
        return READY
    chosen = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    behind = cluster.list("v1", "Pod", meta["namespace"], labelSelector=chosen)
    if not behind:
        return pending(f"no pod matches its selector {chosen}")
    why = pods.worst(cluster, behind)
    return pending(sentence("none of its pods is ready", why.message if why else None))


def claim(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """Bound; pending is enough where the storage class waits for the first pod."""
    phase, spec = at(item, "status", "phase"), item["spec"]
    if phase == "Bound":
        return READY
    if phase == "Lost":
        return pending(f"its volume {spec.get('volumeName')} is lost")
    name = spec.get("storageClassName")
    if name is None:
        classes = cluster.list("storage.k8s.io/v1", "StorageClass", "")
        default = [entry for entry in classes if at(entry, "metadata", "annotations", DEFAULT_CLASS) == "true"]
        storage = default[0] if default else None
    else:
        storage = cluster.get("storage.k8s.io/v1", "StorageClass", "", name) if name else None
    if storage and storage.get("volumeBindingMode") == "WaitForFirstConsumer":
        return READY
    if storage is None and not spec.get("volumeName"):
        missing = (
            f"there is no storage class {name}"
            if name
            else "it names no storage class and the cluster has no default one"
        )
        return pending(f"no volume: {missing}")
    why = [event.get("message") for event in pods.events(cluster, item)]
    return pending(sentence("waiting for a volume", why[-1] if why else None))


def ingress(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """It has an address, and the Services that it names exist."""
    rules = at(item, "spec", "rules") or []
    backends = [at(path, "backend", "service", "name") for rule in rules for path in at(rule, "http", "paths") or []]
    for name in filter(None, [*backends, at(item, "spec", "defaultBackend", "service", "name")]):
        if cluster.get("v1", "Service", item["metadata"]["namespace"], name) is None:
            return pending(f"there is no Service {name}")
    return (
        READY
        if at(item, "status", "loadBalancer", "ingress")
        else pending("waiting for an ingress controller to give it an address")
    )


def definition(cluster: Cluster, item: Mapping[str, Any]) -> Verdict:
    """The new type is served."""
    refused = condition(item, "NamesAccepted")
    if refused.get("status") == "False":
        return pending(sentence("its names are taken", refused.get("message")))
    return (
        READY
        if condition(item, "Established").get("status") == "True"
        else pending("waiting for the type to be served")
    )


def wanted(annotation: str) -> list[str]:
    """Conditions that a `pulumi.com/waitFor` annotation lists: one, or a JSON array.

    Raises:
        PluginError: not in a form that is understood.
    """
    text = annotation.strip()
    try:
        listed = json.loads(text) if text.startswith("[") else [text]
    except ValueError:
        listed = []
    forms = r"condition=\w+(=\w+)?|jsonpath=\{?\.?[^{}]+\}?(=.*)?"
    if not listed or not all(isinstance(entry, str) and re.fullmatch(forms, entry) for entry in listed):
        raise PluginError(
            f"pulumi.com/waitFor: {annotation!r} is not understood. Write condition=TYPE, condition=TYPE=STATUS, "
            "jsonpath={.path}=VALUE, or a JSON array of these."
        )
    return listed


def asked_for(item: Mapping[str, Any], conditions: list[str]) -> Verdict:
    """Every condition of the annotation holds."""
    for entry in conditions:
        what, _, rest = entry.partition("=")
        if what == "condition":
            name, _, status = rest.partition("=")
            found = condition(item, name)
            if str(found.get("status", "")).lower() != (status or "True").lower():
                return pending(sentence(f"waiting for condition {name}", found.get("reason"), found.get("message")))
            continue
        match = re.fullmatch(r"\{?\.?([^{}=]+)\}?(?:=(.*))?", rest)
        value = lookup(item, parse(match[1])) if match else None
        if value is None or (match and match[2] is not None and str(value) != match[2].strip("'\"")):
            return pending(f"waiting for {entry}")
    return READY
