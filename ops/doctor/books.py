"""What the engine's state and the repository know of a stack. Runs no update, takes no lock, removes none."""

from __future__ import annotations

import os
from typing import Any

from infra.settings import Settings, parse
from ops import evidence, foreign, kube, locks, workspace
from ops.doctor.look import Books
from ops.engine import Engine
from ops.errors import OpsError
from ops.promote import records


def settings(stack: str) -> Settings:
    """The stack's settings as its file has them."""
    where = workspace.find(stack)
    usual = where.state / "images.json"
    given = workspace.read_images(usual) if stack == workspace.DEV and usual.exists() else {}
    return workspace.declared(where, given)


def engine(stack: str, cluster: kube.Cluster, unseen: list[str]) -> Engine | None:
    """The stack's engine; None where it cannot run, as on a machine without the Pulumi CLI or the passphrase."""
    try:
        return Engine(workspace.find(stack), cluster.kubeconfig, {})
    except OpsError as error:
        unseen.append(f"the engine's state: {error}")
        return None


def outputs(found: Engine, unseen: list[str]) -> dict[str, Any] | None:
    """The stack's outputs; {}: never deployed; None: not known."""
    try:
        return found.outputs()
    except OpsError as error:
        if "no stack named" in str(error):
            return {}
        unseen.append(f"the engine's state: {error}")
        return None


def deployed(told: dict[str, Any] | None, otherwise: Settings) -> Settings:
    """The settings that the stack was deployed with."""
    return parse(told["settings"]) if told and "settings" in told else otherwise


def read(stack: str, now: Settings, found: Engine | None, cluster: kube.Cluster, unseen: list[str]) -> Books:
    """What is in the books.

    Args:
        stack: its name.
        now: its settings; they say in which namespace its evidence is kept.
        found: its engine, where its state holds something.
        cluster: where it runs.
        unseen: gets what could not be read.
    """
    books = Books()
    try:
        known = [one for one in records.of(workspace.find(stack).repo) if stack in (one.stage, one.release.source)]
        books.unproven = records.unproven(known, evidence.read(cluster, now.namespace).proved)
    except (OpsError, *kube.API_ERRORS) as error:
        unseen.append(f"promotions past refusals: {error}")
    if found is None:
        return books
    try:
        books.locks = locks.read({**os.environ, **found.environment}, stack)
        resources = found.resources()
        books.declared = [_declared(one) for one in resources if _is_object(one)]
        books.touched = foreign.find(cluster, resources, declared=True)
    except (OpsError, *kube.API_ERRORS) as error:
        unseen.append(f"what was changed by hand: {error}")
    return books


def _is_object(resource: dict[str, Any]) -> bool:
    """Whether it stands for an object of ours in the cluster."""
    return str(resource["type"]).startswith("kubernetes:") and not str(resource["type"]).endswith("Patch")


def _declared(resource: dict[str, Any]) -> tuple[str, str]:
    """(kind, name)."""
    made = resource.get("outputs") or {}
    return str(made.get("kind")), str((made.get("metadata") or {}).get("name"))
