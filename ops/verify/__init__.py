"""The plan's Phase 4 checklist and success criteria, each checked by its real means against the live stack."""

from __future__ import annotations

import contextlib
from typing import Any

from infra.settings import parse
from ops import evidence, kube
from ops.errors import OpsError
from ops.stacks import Target
from ops.verify import declared, faults, model, pods, sentinel, sessions, store
from ops.verify.live import Live

CHECKS = (*pods.CHECKS, *sessions.CHECKS, *store.CHECKS, *sentinel.CHECKS, *pods.HEALTH, *pods.AFTER)
"""In this order: what others build on comes first, pods are replaced late, and the new ones' logs are read last."""


def verify(target: Target, outputs: dict[str, Any], read_only: bool, deep: bool = False) -> model.Report:
    """Run every check and show the results; those of a stage that promotes are kept as its evidence.

    Args:
        target: the stack.
        outputs: the stack's outputs.
        read_only: leave the pods alone.
        deep: kill pods too.
    """
    live = Live(target.cluster, parse(outputs["settings"]), outputs)
    stage = target.stack in target.settings.stages[1:]
    chosen = [*CHECKS[: -len(pods.AFTER)], *(faults.CHECKS if deep else ()), *pods.AFTER]
    fitting = [check for check in chosen if live.sentinel or check not in sentinel.CHECKS]
    if stage:
        fitting.append(declared.check(target))
    report = model.Report(target.stack, outputs["release"], read_only, target.cluster.context, outputs["namespace"])
    report.deep = deep
    with contextlib.suppress(Exception):
        live.errors_before = pods.errors_before(live)
    try:
        model.run(fitting, live, report, target.console)
    finally:
        live.clean_up()
    target.console.print(report.verdict, style="red" if report.failed else "green", highlight=False)
    if stage:
        target.say(_keep(target, live, report))
    return report


def _keep(target: Target, live: Live, report: model.Report) -> str:
    """Store the report as the stack's evidence, in the cluster and as an output; the line that says so."""
    where = f"ConfigMap {evidence.NAME} in namespace {live.namespace}"
    try:
        if any(line.id == declared.ID and line.status == model.FAIL for line in report.lines):
            evidence.drop(target.cluster, live.namespace)
            target.engine.set_output("evidence", None)
            return f"No evidence: the cluster is not what the program declares ({where} was emptied)."
        content = {**report.as_json(), "versions": declared.versions(live)}
        evidence.store(target.cluster, live.namespace, content)
    except kube.API_ERRORS as error:
        raise OpsError(f"The result could not be kept as evidence: {kube.why(error, target.cluster)}") from None
    target.engine.set_output("evidence", content)
    release = report.release["id"]
    if evidence.proves(content):
        stages = target.settings.stages
        following = stages[stages.index(target.stack) + 1 :]
        then = f"; next: `python -m ops promote {target.stack} {following[0]}`" if following else ""
        return f"Evidence that release {release} works is kept ({where}){then}"
    why = "a line is red" if report.failed else "--read-only tried only a part"
    return f"Kept, but no evidence for a promotion: {why} ({where})."
