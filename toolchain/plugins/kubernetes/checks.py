"""Before anything changes: are the inputs right, and what would they change?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.plugins.difference import Path, differences, parse, text, within
from toolchain.plugins.kubernetes import immutable, objects, validate
from toolchain.plugins.kubernetes.client import ApiError, Cluster, NoSuchTypeError, UnreachableError
from toolchain.plugins.kubernetes.objects import Type, annotation, manifest, metadata, normalized, respell
from toolchain.plugins.kubernetes.waits import loop, others
from toolchain.plugins.server import PluginError
from toolchain.plugins.wire import UNKNOWN, has_unknown, plain

Failures = list[tuple[str, str]]
BUILT_IN = {
    f"{name}.k8s.io"
    for name in [
        "admissionregistration",
        "apiextensions",
        "apiregistration",
        "authentication",
        "authorization",
        "certificates",
        "coordination",
        "discovery",
        "events",
        "networking",
        "node",
        "rbac.authorization",
        "resource",
        "scheduling",
        "storage",
    ]
}


@dataclass(frozen=True)
class Plan:
    """What new inputs change.

    Attributes:
        changes: by path ADD, DELETE or UPDATE.
        replaces: those paths that need a new object.
        unready: the object is broken and `pulumi.com/replaceUnready` asks for a new one.
    """

    changes: Mapping[Path, str]
    replaces: frozenset[Path]
    unready: bool = False


def checked(
    cluster: Cluster, kind: Type, request: Any, news: Mapping[str, Any], olds: Mapping[str, Any]
) -> tuple[dict[str, Any], Failures]:
    """Inputs with everything filled in, and what is wrong with them.

    Args:
        cluster: asked for its schema, when it answers.
        kind: the object's type.
        request: the Check request, for names.
        news: new inputs, with secret marks.
        olds: recorded inputs, {} for a new object.

    Returns:
        The inputs without secret marks, and pairs of a path and a sentence that goes on from it.
    """
    tree: dict[str, Any] = plain(news)
    tree["apiVersion"], tree["kind"] = tree.get("apiVersion") or kind.api_version, tree.get("kind") or kind.kind
    if kind.patch:
        tree["kind"] = kind.kind
    failures: Failures = []
    meta = tree.setdefault("metadata", {})
    if meta is not UNKNOWN and not isinstance(meta, dict):
        return tree, [("metadata", "must be an object")]
    if isinstance(meta, dict):
        if "generateName" in meta and not meta.get("name"):
            failures.append(
                ("metadata.generateName", "cannot be used with server-side apply; give metadata.name, or neither")
            )
        elif not meta.get("name"):
            failures += _named(kind, meta, request, olds)
    tree = normalized(tree)
    failures += [
        (text(("data", key)), "is not base64: put plain text into stringData, or encode it")
        for key in objects.wrong_base64(tree)
    ]
    failures += _annotations(tree)
    try:
        namespaced = cluster.find(tree["apiVersion"], kind.kind)[1]
        if namespaced and isinstance(meta, dict) and not meta.get("namespace"):
            meta["namespace"] = cluster.namespace
        schema = cluster.schema(tree["apiVersion"])
        version = tree["apiVersion"].rpartition("/")[2]
        found = validate.problems(
            schema, kind.group, version, kind.kind, respell(tree, "x_kubernetes_", "x-kubernetes-")
        )
        failures += [(text(path), why) for path, why in found if not (kind.patch and why == "is required")]
    except NoSuchTypeError as error:
        # A type of Kubernetes itself must be there; others may come with this very run.
        if "." not in kind.group or kind.group in BUILT_IN:
            failures.append(("kind", f"is unknown: {error}"))
    except (UnreachableError, ApiError):
        if isinstance(meta, dict) and olds and not meta.get("namespace") and metadata(olds, "namespace"):
            meta["namespace"] = metadata(olds, "namespace")
    return tree, failures


def _named(kind: Type, meta: dict[str, Any], request: Any, olds: Mapping[str, Any]) -> Failures:
    """Give the object a name: its old one, the engine's proposal, or one made from the resource's name."""
    if kind.patch:
        return [("metadata.name", "is required: a patch must say which object it patches")]
    options = request.autonaming if request.HasField("autonaming") else None
    if annotation(olds, objects.AUTONAMED) == "true":
        name = metadata(olds, "name")
    elif options and options.mode == options.DISABLE:
        return [("metadata.name", "is required: this project's autonaming is off")]
    elif options and options.proposed_name:
        name = options.proposed_name
    else:
        name = objects.name_from(request.name or request.urn.split("::")[-1], request.randomSeed)
    meta["name"] = name
    notes = meta.get("annotations")
    if notes is not UNKNOWN:
        meta["annotations"] = {**(notes or {}), objects.AUTONAMED: "true"}
    return []


def _annotations(tree: Mapping[str, Any]) -> Failures:
    if asked := annotation(tree, "pulumi.com/waitFor"):
        try:
            others.wanted(asked)
        except PluginError as error:
            return [('metadata.annotations["pulumi.com/waitFor"]', str(error).partition(": ")[2])]
    return []


def plan(
    cluster: Cluster,
    kind: Type,
    old: dict[str, Any],
    new: dict[str, Any],
    ignored: list[str],
    manager: str,
    *,
    mutable: bool,
) -> Plan:
    """What the new inputs change, and whether that needs a new object.

    Args:
        cluster: asked by a dry run, when it answers and all inputs are known.
        kind: the object's type.
        old: recorded inputs.
        new: new inputs, normalized.
        ignored: paths of ignoreChanges.
        manager: our field manager.
        mutable: for Secrets and ConfigMaps: data may change in place.

    Raises:
        ApiError: the server refuses the new inputs for a reason that a new object does not cure.
    """
    old = normalized(old)
    for tree in (old, new):  # the old ones may come from the official plugin, or from before a namespace was given
        if isinstance(tree.get("metadata"), dict) and not tree["metadata"].get("namespace"):
            tree["metadata"].pop("namespace", None)
    areas = [parse(path) for path in ignored]
    changes = {
        path: how for path, how in differences(old, new).items() if not any(within(path, area) for area in areas)
    }
    spaces = [
        (tree.get("metadata") or {}).get("namespace", "default")
        for tree in (old, new)
        if tree.get("metadata") is not UNKNOWN
    ]
    if len(set(map(str, spaces))) == 1:
        changes.pop(("metadata", "namespace"), None)
    replaces = immutable.static(kind, changes, mutable=mutable)
    if changes and not replaces and not has_unknown(new):
        try:
            cluster.apply(manifest(new), manager, force=True, dry_run=True)
        except (UnreachableError, NoSuchTypeError):
            pass
        except ApiError as error:
            replaces = immutable.refused(error, changes)
            if not replaces and error.code in (400, 422) and not kind.patch:
                raise
    return Plan(changes, frozenset(replaces), _unready(cluster, kind, new))


def _unready(cluster: Cluster, kind: Type, new: Mapping[str, Any]) -> bool:
    if annotation(new, "pulumi.com/replaceUnready") != "true" or kind.kind != "Job":
        return False
    try:
        live = cluster.get(kind.api_version, kind.kind, metadata(new, "namespace"), metadata(new, "name"))
        return live is not None and not loop.look(cluster, live, {}).ready
    except PluginError:
        return False
