"""What differs between a stack's program, its state and its cluster."""

from __future__ import annotations

from functools import partial
from typing import Any

from pulumi import automation as auto

from ops import changes, foreign, kube, stacks
from ops.changes import Change
from ops.errors import OpsError
from ops.stacks import Target


def by_hand(target: Target, opened: auto.Stack) -> tuple[list[Change], list[foreign.Touched]]:
    """What was changed in the cluster since the last `up`.

    Returns:
        (fields and objects of ours that are otherwise: `old` as declared, `new` as it is; fields that were added)
    """
    collected = changes.Collector(refreshed=True)
    stacks.run(target, "preview", partial(_refresh, opened), collected.event)
    return collected.changes, _added(target)


def differences(target: Target, opened: auto.Stack) -> list[Change]:
    """What `up` would change in the cluster as it is now, and what was added there."""
    collected = changes.Collector()
    stacks.run(target, "preview", partial(_preview, opened), collected.event)
    return collected.changes + [touched.as_change() for touched in _added(target)]


def _added(target: Target) -> list[foreign.Touched]:
    try:
        return foreign.find(target.cluster, target.engine.resources())
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, target.cluster)) from None


def _refresh(opened: auto.Stack, **shown: Any) -> None:
    opened.preview_refresh(**shown)


def _preview(opened: auto.Stack, **shown: Any) -> None:
    opened.preview(refresh=True, suppress_outputs=True, **shown)


def brief(found: list[Change], most: int = 4) -> str:
    """`Deployment api (spec.replicas), PodDisruptionBudget api (create)`."""
    names = []
    for change in found[:most]:
        what = ", ".join(item.path for item in change.properties[:3]) if change.op == "update" else change.op
        names.append(f"{change.resource} ({what})" if what else change.resource)
    return ", ".join(names) + (f" and {len(found) - most} more" if len(found) > most else "")
