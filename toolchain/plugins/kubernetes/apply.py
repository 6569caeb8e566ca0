"""Bringing inputs to the server: server-side apply, who may own what, retries, previews."""

from __future__ import annotations

import copy
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from toolchain.plugins.difference import lookup, parse
from toolchain.plugins.kubernetes.client import ApiError, Cluster, NoSuchTypeError
from toolchain.plugins.kubernetes.objects import annotation, metadata, qualified
from toolchain.plugins.server import PluginError
from toolchain.plugins.wire import UNKNOWN

TRIES = 5
OLD_GONE_S = 600.0  # as long as a delete may take
# People's own tools: what they changed by hand, the stack takes back. Anyone else's fields are theirs until the user
# says otherwise.
BY_HAND = re.compile(r"kubectl.*|before-first-apply|pulumi-kubernetes|pulumi-resource-kubernetes")
_OTHER = re.compile(r'conflict with "([^"]+)"')
# Known only after the real run, so a preview must not show what the dry run made up.
MADE_UP = ("uid", "resourceVersion", "creationTimestamp")


def conflicting(error: ApiError) -> dict[str, list[str]]:
    """Fields in conflict by the manager that owns them."""
    found: dict[str, list[str]] = {}
    for cause in error.causes:
        if match := _OTHER.search(cause.get("message", "")):
            found.setdefault(match[1], []).append(cause.get("field", "").lstrip("."))
    return found


def apply(
    cluster: Cluster, tree: Mapping[str, Any], manager: str, *, force: bool, patch: bool, dry_run: bool = False
) -> dict[str, Any]:
    """Server-side apply of a manifest.

    Args:
        cluster: where.
        tree: the manifest.
        manager: our field manager.
        force: take fields over from anyone.
        patch: the object is somebody else's.
        dry_run: change nothing.

    Raises:
        PluginError: a conflict, with the managers, their fields, and the fix.
        ApiError: any other refusal.
    """
    try:
        return cluster.apply(tree, manager, force=force, dry_run=dry_run)
    except ApiError as error:
        owners = conflicting(error)
        if error.code != 409 or not owners:
            raise
        if not patch and all(BY_HAND.fullmatch(owner) for owner in owners):
            return cluster.apply(tree, manager, force=True, dry_run=dry_run)
        whose = "; ".join(f"{', '.join(sorted(fields))} owned by {owner!r}" for owner, fields in owners.items())
        raise PluginError(
            f"{tree['kind']} {qualified(tree)}: other field managers own fields that this resource sets: {whose}. "
            "Leave these fields out of the program (or list them in ignoreChanges), or take them over with the "
            "annotation "
            'pulumi.com/patchForce: "true".'
        ) from None


def forced(inputs: Mapping[str, Any]) -> bool:
    """Whether the inputs ask to take fields over."""
    return annotation(inputs, "pulumi.com/patchForce") == "true"


def create(
    cluster: Cluster,
    tree: Mapping[str, Any],
    manager: str,
    *,
    patch: bool,
    upsert: bool,
    force: bool,
    cancelled: threading.Event,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make an object, or for a patch, take fields of one.

    Namespaces and types that are still being made are waited for, as programs often declare them side by side.

    Raises:
        PluginError: it exists and is not ours, it does not exist and should, or the server refuses.
    """
    for attempt in range(TRIES):
        try:
            owned_already(cluster, tree, manager, patch=patch, upsert=upsert, cancelled=cancelled, say=say)
            return apply(cluster, tree, manager, force=force, patch=patch)
        except (NoSuchTypeError, ApiError) as error:
            missing = isinstance(error, NoSuchTypeError) or error.code == 404
            if not missing or attempt == TRIES - 1 or cancelled.is_set():
                raise
            say(f"trying again: {error}")
            cancelled.wait(2**attempt / 2)
    raise AssertionError  # the last attempt returned or raised


def owned_already(
    cluster: Cluster,
    tree: Mapping[str, Any],
    manager: str,
    *,
    patch: bool,
    upsert: bool,
    cancelled: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Refuse to take over an object that something else made.

    One that carries our own field manager was made by a run that was killed before it could write that down: ours.
    """
    kind, where = tree["kind"], qualified(tree)
    end = time.monotonic() + OLD_GONE_S
    while True:
        found = cluster.get(tree["apiVersion"], kind, metadata(tree, "namespace"), metadata(tree, "name"))
        if found and not patch and found["metadata"].get("deletionTimestamp") and time.monotonic() < end:
            say(f"waiting for the old {kind} {where} to be gone")
            if not cancelled.wait(0.5):
                continue
        break
    if patch:
        if found is None:
            raise PluginError(
                f"{kind}Patch {where}: there is no {kind} {where} to patch. Deploy it first, or correct "
                "metadata.name and metadata.namespace."
            )
        return
    if found is None or upsert:
        return
    managers = [entry.get("manager") for entry in found["metadata"].get("managedFields") or []]
    if manager not in managers:
        raise PluginError(
            f"{kind} {where} already exists and is not managed by this resource. Import it (`pulumi import`, or the "
            f"import_ option), patch it with {kind}Patch, delete it, or set the provider's upsertExistingObjects."
        )


def preview(
    cluster: Cluster, tree: Mapping[str, Any], manager: str, *, patch: bool, force: bool, new: bool
) -> dict[str, Any] | None:
    """What applying would give, by a dry run.

    Args:
        cluster: where.
        tree: the manifest, all of it known.
        manager: our field manager.
        patch: the object is somebody else's.
        force: take fields over.
        new: the object is to be made.

    Returns:
        The object, with what only the real run gives as unknown; None when the server cannot tell.

    Raises:
        ApiError: the inputs are wrong.
    """
    try:
        place = metadata(tree, "namespace"), metadata(tree, "name")
        if new and patch and cluster.get(tree["apiVersion"], tree["kind"], *place) is None:
            return None  # made by someone else before the real run, perhaps
        shown = apply(cluster, tree, manager, force=force or (new and not patch), patch=patch, dry_run=True)
    except NoSuchTypeError:
        return None
    except ApiError as error:
        # 404: the namespace comes with the same run. 403: may not, or an admission rule that cannot judge. 409: exists.
        replaced = new and error.code == 422 and "immutable" in str(error)
        if error.code in (403, 404, 409) or error.code >= 500 or "dry run" in str(error) or replaced:
            return None
        raise
    if new and not patch:
        shown.pop("status", None)
        shown["metadata"] |= dict.fromkeys(MADE_UP, UNKNOWN)
        if tree["kind"] == "Service" and tree["apiVersion"] == "v1":
            given = tree.get("spec") or {}
            shown["spec"] |= {
                key: UNKNOWN for key in ("clusterIP", "clusterIPs") if key in shown["spec"] and key not in given
            }
    return shown


def keep_ignored(tree: dict[str, Any], live: Mapping[str, Any], ignored: Iterable[str], manager: str) -> None:
    """Make `ignoreChanges` hold against the cluster too: keep the live value of ours, leave out what is another's."""
    for written in ignored:
        path = parse(written)
        value = lookup(live, path)
        parent = lookup(tree, path[:-1])
        if value is None or not isinstance(parent, dict) or not all(isinstance(step, str) for step in path):
            continue
        ours = [
            entry.get("fieldsV1") or {}
            for entry in live["metadata"].get("managedFields") or []
            if entry.get("manager") == manager
        ]
        if any(lookup(fields, tuple(f"f:{step}" for step in path)) is not None for fields in ours):
            parent[path[-1]] = copy.deepcopy(value)
        else:
            parent.pop(path[-1], None)
