"""The plan's Phase 4 checklist and success criteria, each checked by its real means against the live stack."""

from __future__ import annotations

import contextlib
from typing import Any

from infra.settings import parse
from ops.stacks import Target
from ops.verify import model, pods, sentinel, sessions, store
from ops.verify.live import Live

CHECKS = (*pods.CHECKS, *sessions.CHECKS, *store.CHECKS, *sentinel.CHECKS, *pods.HEALTH, *pods.AFTER)
"""In this order: what others build on comes first, pods are replaced late, and the new ones' logs are read last."""


def verify(target: Target, outputs: dict[str, Any], read_only: bool) -> model.Report:
    """Run every check and show the results.

    Args:
        target: the stack.
        outputs: the stack's outputs.
        read_only: leave the pods alone.
    """
    live = Live(target.cluster, parse(outputs["settings"]), outputs)
    fitting = [check for check in CHECKS if live.sentinel or check not in sentinel.CHECKS]
    report = model.Report(target.stack, outputs["release"], read_only, target.cluster.context, outputs["namespace"])
    with contextlib.suppress(Exception):
        live.errors_before = pods.errors_before(live)
    try:
        model.run(fitting, live, report, target.console)
    finally:
        live.clean_up()
    target.console.print(report.verdict, style="red" if report.failed else "green", highlight=False)
    return report
