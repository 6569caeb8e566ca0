"""Kubernetes objects as trees: what a type token names, what the state records, what of a live object is ours."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.plugins.server import PluginError
from toolchain.plugins.wire import UNKNOWN, Secret, has_secret, plain

AUTONAMED = "pulumi.com/autonamed"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# The official plugin's names in the state, so that it can take the stack over.
INPUTS, INITIAL_VERSION, MANAGER = "__inputs", "__initialApiVersion", "__fieldManager"
SERVER_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
)
OWN_METADATA = (*SERVER_METADATA, "resourceVersion", "uid", "selfLink")
LIST_KEYS = ("name", "mountPath", "containerPort", "port", "ip", "key", "type", "topologyKey")


@dataclass(frozen=True)
class Type:
    """What a type token names.

    Attributes:
        api_version: as in a manifest: `v1`, `apps/v1`.
        kind: as in a manifest, without `Patch`.
        patch: some fields of an object that somebody else owns.
    """

    api_version: str
    kind: str
    patch: bool = False

    @property
    def group(self) -> str:
        """API group; empty for core."""
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.api_version} {self.kind}"


def type_of(urn: str, inputs: Mapping[str, Any]) -> Type:
    """The object type of a resource.

    Args:
        urn: the resource's URN.
        inputs: for custom resources, whose patches keep `kind` there.

    Raises:
        PluginError: nothing that the stand-in can make; the message names the type.
    """
    token = urn.split("::")[2].rsplit("$", 1)[-1]
    module, kind = token.split(":")[1:3]
    group, _, version = module.partition("/")
    if not version or group in ("helm.sh", "yaml", "kustomize"):
        raise PluginError(
            f"{token}: the kubernetes stand-in makes plain Kubernetes objects only (no Helm charts, YAML files, "
            "kustomize). Declare the objects one by one, or install the official pulumi-resource-kubernetes plugin."
        )
    if kind.endswith("List") and not inputs.get("spec"):
        raise PluginError(f"{token}: list types cannot be created; declare each item as a resource of its own.")
    # A custom kind may end in Patch by itself; then the manifest's kind says so.
    given = inputs.get("kind")
    patch = kind.endswith("Patch") and kind != "Patch" and given != kind
    return Type(version if group == "core" else module, kind.removesuffix("Patch") if patch else kind, patch)


def name_from(urn_name: str, seed: bytes) -> str:
    """A name for a resource that has none, the same for the same seed."""
    tail = hashlib.sha256(urn_name.encode() + seed).hexdigest()[:8] if seed else secrets.token_hex(4)
    return f"{urn_name}-{tail}"


def manager_for(urn: str, inputs: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """A resource's field manager: asked for, as recorded, or made from its URN, so that an interrupted run finds it."""
    asked = annotation(inputs, "pulumi.com/patchFieldManager")
    recorded = plain(state.get(MANAGER))
    return asked or recorded or f"pulumi-kubernetes-{hashlib.sha256(urn.encode()).hexdigest()[:8]}"


def annotation(tree: Mapping[str, Any], name: str) -> str:
    """An annotation's text; empty when it is not there or not yet known."""
    value: Any = tree
    for step in ("metadata", "annotations", name):
        value = plain(value.get(step)) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def metadata(tree: Mapping[str, Any], name: str) -> str:
    """A text field of the metadata; empty when it is not there or not yet known."""
    found = tree.get("metadata")
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else ""


def qualified(tree: Mapping[str, Any]) -> str:
    """The resource's id: `namespace/name`, or `name`."""
    namespace, name = metadata(tree, "namespace"), metadata(tree, "name")
    return f"{namespace}/{name}" if namespace else name


def split_id(identity: str) -> tuple[str, str]:
    """Namespace (may be empty) and name of an id."""
    namespace, _, name = identity.rpartition("/")
    return namespace, name


def normalized(tree: dict[str, Any]) -> dict[str, Any]:
    """Inputs in the shape the server keeps: no read-only metadata, `stringData` of a Secret folded into `data`.

    Args:
        tree: without secret marks; changed in place.
    """
    if isinstance(tree.get("metadata"), dict):
        for name in (*OWN_METADATA,):
            tree["metadata"].pop(name, None)
    if tree.get("kind") == "Secret" and tree.get("apiVersion") == "v1":
        texts = tree.pop("stringData", None)
        if texts is UNKNOWN:
            tree["data"] = UNKNOWN
        elif texts and tree.get("data") is not UNKNOWN:
            encoded = {
                key: base64.b64encode(text.encode()).decode() if isinstance(text, str) else text
                for key, text in texts.items()
            }
            tree["data"] = {**(tree.get("data") or {}), **encoded}
    return tree


def wrong_base64(tree: Mapping[str, Any]) -> list[str]:
    """Keys of a Secret's `data` that are not base64."""
    wrong = []
    data = tree.get("data")
    if tree.get("kind") == "Secret" and isinstance(data, Mapping):
        for key, value in data.items():
            try:
                base64.b64decode(value, validate=True) if isinstance(value, str) else None
            except (binascii.Error, ValueError):
                wrong.append(key)
    return wrong


def with_marks(tree: dict[str, Any], source: Any) -> dict[str, Any]:
    """Mark as secret what was secret in the source, and a Secret's data always.

    Args:
        tree: without marks.
        source: the inputs that the tree came from, with marks.
    """
    source = source.value if isinstance(source, Secret) else source
    marked = dict(tree)
    for key, value in (source or {}).items():
        if key not in marked:
            continue
        if isinstance(value, Mapping) and isinstance(marked[key], Mapping):
            marked[key] = with_marks(marked[key], value)
        elif has_secret(value):
            marked[key] = Secret(plain(marked[key]))
    if tree.get("kind") == "Secret":
        for key in ("data", "stringData"):
            if key in tree and not isinstance(marked[key], Secret):
                marked[key] = Secret(plain(tree[key]))
    return marked


def respell(tree: Any, old: str, new: str) -> Any:
    """Rename keys that begin with `old`: the SDKs write `x_kubernetes_...`, the server `x-kubernetes-...`."""
    if isinstance(tree, Mapping):
        return {
            key.replace("_" if "_" in old else "-", "_" if "_" in new else "-")
            if key.startswith(old)
            else key: respell(value, old, new)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [respell(item, old, new) for item in tree]
    return tree


def manifest(inputs: Any) -> dict[str, Any]:
    """What to send to the server for these inputs."""
    found: dict[str, Any] = respell(plain(inputs), "x_kubernetes_", "x-kubernetes-")
    return found


def recorded(inputs: Mapping[str, Any], live: Mapping[str, Any], version: str, manager: str) -> dict[str, Any]:
    """A resource's outputs as the state holds them: the live object, and the inputs beside it.

    Args:
        inputs: with secret marks.
        live: the server's answer.
        version: API version at creation.
        manager: our field manager.
    """
    shown = respell(copy.deepcopy(dict(live)), "x-kubernetes-", "x_kubernetes_")
    shown["metadata"].pop("managedFields", None)
    if shown.get("kind") == "Secret":  # it repeats the data in plain text
        (shown["metadata"].get("annotations") or {}).pop(LAST_APPLIED, None)
    outputs = with_marks(shown, inputs)
    outputs[INPUTS] = with_marks(plain(inputs), inputs)
    return outputs | {INITIAL_VERSION: version, MANAGER: manager}


def observed(inputs: Any, before: Any, now: Any) -> Any:
    """Inputs as the live object shows them: what changed since we recorded it, where we set it; never server defaults.

    Args:
        inputs: recorded inputs, without marks.
        before: the live object as recorded.
        now: the live object.

    Returns:
        A tree of the inputs' shape; None for a part that is gone.
    """
    if isinstance(inputs, Mapping) and isinstance(now, Mapping):
        past = before if isinstance(before, Mapping) else {}
        return {
            key: observed(value, past.get(key), now.get(key)) if key in now else value
            for key, value in inputs.items()
            if key in now or key not in past
        }
    if isinstance(inputs, list) and isinstance(now, list):
        return _observed_list(inputs, before if isinstance(before, list) else [], now)
    return inputs if now in (before, inputs) else now


def _observed_list(inputs: list[Any], before: list[Any], now: list[Any]) -> list[Any]:
    maps = all(isinstance(item, Mapping) for item in [*inputs, *before, *now])
    key = next((key for key in LIST_KEYS if maps and inputs and all(key in item for item in inputs)), None)
    if key is None:
        if maps and len(inputs) == len(now):
            pairs = zip(inputs, before if len(before) == len(now) else [None] * len(now), now, strict=True)
            return [observed(item, past, live) for item, past, live in pairs]
        return inputs if now in (before, inputs) else now
    past = {item.get(key): item for item in before}
    live = {item.get(key): item for item in now}
    return [
        observed(item, past.get(item[key]), live[item[key]]) if item[key] in live else item
        for item in inputs
        if item[key] in live or item[key] not in past
    ]


def importable(live: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs for an object that was made elsewhere: all of it but what only the server writes."""
    tree = {key: copy.deepcopy(value) for key, value in live.items() if key != "status"}
    for name in OWN_METADATA:
        tree["metadata"].pop(name, None)
    notes = tree["metadata"].get("annotations") or {}
    for name in (LAST_APPLIED, "deployment.kubernetes.io/revision"):
        notes.pop(name, None)
    if not notes:
        tree["metadata"].pop("annotations", None)
    return tree
