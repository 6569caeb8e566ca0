"""Declared resources as the rules see them: Kubernetes objects, the pods they make, their containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SECRET = "[secret]"  # noqa: S105 - stands in for one
"""The text that takes the place of a value that the engine keeps secret."""
UNKNOWN = frozenset(
    (
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    )
)
"""What the engine writes, by type, for a value that is known only when another resource has been made."""
LONG_LIVED = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Pod"}
WITH_TEMPLATE = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"}


@dataclass(frozen=True)
class Resource:
    """One declared resource.

    Attributes:
        type: Pulumi's token, such as `kubernetes:apps/v1:StatefulSet`.
        name: Pulumi's name of it.
        props: plain inputs in camelCase; a secret value is the text `[secret]`.
    """

    type: str
    name: str
    props: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The object's kind, for a patch that of the patched object; "" for what is no object of Kubernetes itself."""
        provider, _, kind = self.type.rpartition(":")
        built_in = provider.startswith("kubernetes:") and ("." not in provider or provider.split("/")[0][11:] in GROUPS)
        return kind.removesuffix("Patch") if built_in else ""

    @property
    def partial(self) -> bool:
        """It sets some fields of an object of somebody else's; only these are judged."""
        return self.type.endswith("Patch")

    @property
    def object_name(self) -> str:
        """`metadata.name`, by which other objects refer to it."""
        return str(mapping(self.props.get("metadata")).get("name") or self.name)

    def __str__(self) -> str:
        return f"{self.type.rpartition(':')[2]} {self.name}"


GROUPS = {
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
}
"""API groups with a dot that are Kubernetes's own; objects of any other are custom resources, which no rule knows."""


@dataclass(frozen=True)
class Violation:
    """One rule that one resource breaks."""

    rule: str
    resource: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.resource}: {self.problem}; {self.fix} ({self.rule})"


@dataclass(frozen=True)
class Container:
    """A container of a pod; `path` is where it stands, such as `container api`."""

    path: str
    name: str
    spec: Mapping[str, Any]
    long_lived: bool
    pod: Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """An object that makes pods.

    Attributes:
        resource: the object.
        labels: of its pods.
        pod: the pod's spec.
    """

    resource: Resource
    labels: Mapping[str, Any]
    pod: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return self.resource.kind

    @cached_property
    def containers(self) -> list[Container]:
        """Its containers; an init container that is restarted always is a sidecar and lives as long as the pod."""
        lives = self.kind in LONG_LIVED
        found = [("container", item, lives) for item in items(self.pod.get("containers"))]
        for item in items(self.pod.get("initContainers")):
            found.append(("init container", item, lives and item.get("restartPolicy") == "Always"))
        return [
            Container(f"{what} {item.get('name', '?')}", str(item.get("name", "")), item, lasts, self.pod)
            for what, item, lasts in found
        ]


@dataclass(frozen=True)
class Declared:
    """Everything a rule may look at.

    Attributes:
        resources: what a stack declares.
        masked: secret values are masked, so that a Secret's value in plain text is one that the engine does not know
            as a secret.
    """

    resources: Sequence[Resource]
    masked: bool = True

    @cached_property
    def workloads(self) -> list[Workload]:
        """The objects that make pods."""
        return [found for resource in self.resources if (found := _workload(resource))]

    def of_kind(self, *kinds: str) -> Iterator[Resource]:
        """The objects of these kinds."""
        return (resource for resource in self.resources if resource.kind in kinds)


def _workload(resource: Resource) -> Workload | None:
    spec = mapping(resource.props.get("spec"))
    if resource.kind == "CronJob":
        template = walk(spec, "jobTemplate", "spec", "template")
    elif resource.kind == "Pod":
        template = resource.props
    elif resource.kind in WITH_TEMPLATE:
        template = mapping(spec.get("template"))
    else:
        return None
    return Workload(resource, walk(template, "metadata", "labels"), mapping(template.get("spec")))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; [] for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def walk(value: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping at the end of these keys; an empty one where they lead nowhere."""
    for key in keys:
        value = mapping(value).get(key)
    return mapping(value)


def known(value: Any) -> bool:
    """Whether there is a value, and it is known before the run."""
    return value is not None and not (isinstance(value, str) and value in UNKNOWN)


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of every text in a value, at any depth."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from texts(item, f"{path}[{index}]")
