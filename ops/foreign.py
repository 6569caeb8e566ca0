"""Fields that people added to the stack's objects by hand. The engine looks at its own fields only and never sees them.

The API server keeps who set what in `metadata.managedFields` (FieldsV1: `f:` a field, `k:` a list item by its key).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from ops.changes import SIGNATURE, Change, Property
from ops.kube import TIMEOUT, Cluster

MACHINES = re.compile(r"kube-.*|kubelet|pulumi.*|cert-manager.*|helm|OpenAPI-Generator")
"""Managers that are no person: controllers, the engine, the chart, and this program's own client."""
HARMLESS = ("kubectl.kubernetes.io/", "deployment.kubernetes.io/")
"""Annotations that kubectl keeps its books in (`rollout restart`, `apply`)."""


@dataclass(frozen=True)
class Field:
    """A field that somebody set: its JSON pointer, its value, who; whether the program sets it, too."""

    pointer: str
    value: Any
    manager: str
    declared: bool = False


@dataclass(frozen=True)
class Touched:
    """An object with such fields; `urn` names the stack's resource."""

    urn: str
    api_version: str
    kind: str
    namespace: str | None
    name: str
    version: str
    fields: tuple[Field, ...]

    def text(self, field: Field) -> str:
        """A field's value for people; those of a Secret are never shown."""
        value = field.value
        if self.kind == "Secret" and field.pointer.startswith(("/data", "/stringData")):
            return "[secret]"
        if isinstance(value, Mapping) and set(value) == {"name", "value"}:
            return f"{value['name']}={value['value']}"
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

    def as_change(self) -> Change:
        """For the table of changes."""
        shown = tuple(
            Property(f.pointer.lstrip("/").replace("/", "."), "add", None, f"{self.text(f)} ({f.manager})")
            for f in self.fields
        )
        return Change("update", f"{self.kind} {self.name}", self.urn, shown)


def find(cluster: Cluster, resources: list[dict[str, Any]], declared: bool = False) -> list[Touched]:
    """The objects of a stack that somebody added fields to.

    Args:
        cluster: where they are.
        resources: of the stack's exported state.
        declared: also fields that the program sets and that are otherwise now; a refresh takes those back.
    """
    client, found = DynamicClient(cluster.api), []
    for resource in resources:
        inputs = resource.get("outputs") or {}
        kind, api_version, meta = inputs.get("kind"), inputs.get("apiVersion"), inputs.get("metadata")
        if not resource["type"].startswith("kubernetes:") or resource["type"].endswith("Patch") or not kind or not meta:
            continue  # a patch's object is somebody else's
        try:
            api = client.resources.get(api_version=api_version, kind=kind)
            live = api.get(name=meta["name"], namespace=meta.get("namespace"), _request_timeout=TIMEOUT).to_dict()
        except ResourceNotFoundError:
            continue
        except ApiException as error:
            if error.status == 404:
                continue  # deleted: the engine says so
            raise
        if fields := tuple(f for f in _fields(live, resource.get("inputs")) if declared or not f.declared):
            place = meta.get("namespace"), meta["name"], live["metadata"]["resourceVersion"]
            found.append(Touched(resource["urn"], str(api_version), kind, *place, fields))
    return found


def remove(cluster: Cluster, touched: list[Touched]) -> None:
    """Take those fields out again."""
    client = DynamicClient(cluster.api)
    for item in touched:
        # The last ones first: an index stays right until its turn comes.
        pointers = sorted((f.pointer for f in item.fields), key=_order, reverse=True)
        steps = [{"op": "test", "path": "/metadata/resourceVersion", "value": item.version}]
        steps += [{"op": "remove", "path": pointer} for pointer in pointers]
        api = client.resources.get(api_version=item.api_version, kind=item.kind)
        api.patch(
            body=steps,
            name=item.name,
            namespace=item.namespace,
            content_type="application/json-patch+json",
            _request_timeout=TIMEOUT,
        )


def _order(pointer: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in pointer.split("/")]


def _fields(live: Mapping[str, Any], inputs: Any = None) -> Iterator[Field]:
    entries = [entry for entry in live["metadata"].get("managedFields") or [] if not entry.get("subresource")]
    ours = [entry["fieldsV1"] for entry in entries if MACHINES.fullmatch(entry["manager"])]
    for entry in entries:
        if not MACHINES.fullmatch(entry["manager"]):
            for pointer, value, made in _added(entry["fieldsV1"], ours, live, "", inputs):
                # What was put back to what the program declares is as it should be.
                if not any(mark.replace("/", "~1") in pointer for mark in HARMLESS) and made != value:
                    yield Field(pointer, value, entry["manager"], made is not None)


def _added(
    theirs: Mapping[str, Any], ours: list[Mapping[str, Any]], value: Any, pointer: str, made: Any
) -> Iterator[tuple[str, Any, Any]]:
    """(JSON pointer, value, value that the program declares) of what `theirs` has and none of `ours` does."""
    for key, below in theirs.items():
        if key == "." or (step := _step(key, value)) is None:
            continue
        part, child = step
        path = f"{pointer}/{part}"
        # Encrypted values are all under the mark.
        declared = made if isinstance(made, Mapping) and SIGNATURE in made else (_step(key, made) or (None, None))[1]
        shared = [tree[key] for tree in ours if key in tree]
        inside = any(name != "." for name in below)
        if inside and (shared or key.startswith("f:")):
            yield from _added(below, shared, child, path, declared)
        elif not shared:
            yield path, child, declared


def _step(key: str, value: Any) -> tuple[str, Any] | None:
    """(JSON pointer segment, value) that a FieldsV1 key leads to; None: nowhere any more."""
    mark, _, rest = key.partition(":")
    if mark == "f" and isinstance(value, Mapping) and rest in value:
        return rest.replace("~", "~0").replace("/", "~1"), value[rest]
    if mark == "k" and isinstance(value, list):
        wanted = json.loads(rest)
        for index, item in enumerate(value):
            if all(item.get(name, _DEFAULTS.get(name)) == expected for name, expected in wanted.items()):
                return str(index), item
    if mark == "v" and isinstance(value, list) and json.loads(rest) in value:
        return str(value.index(json.loads(rest))), json.loads(rest)
    return None


_DEFAULTS = {"protocol": "TCP"}
