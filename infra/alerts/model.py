"""An alert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from infra.settings import Settings

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Alert:
    """One rule.

    Attributes:
        name: also the heading in docs/runbook.md.
        severity: `critical` wakes somebody; `warning` can wait for the morning.
        expr: PromQL; true is bad.
        hold: how long it must be bad.
        summary: what is wrong.
        description: with the value, and what it means for people.
    """

    name: str
    severity: Severity
    expr: str
    hold: str
    summary: str
    description: str

    def rule(self, settings: Settings) -> dict[str, Any]:
        """As a rule file has it. `namespace` is a label even where the expression drops all labels."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity, "namespace": settings.namespace},
            "annotations": {
                "summary": f"{self.summary} (namespace {settings.namespace})",
                "description": self.description,
                "runbook_url": f"{settings.metrics.runbook}#{self.name.lower()}",
            },
        }
