"""What the engine is doing, live: resources by state, diagnostics, the summary. Never a secret.

The engine's `debug` diagnostics hold plain secret values, so they are dropped before anything else looks at them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pulumi.automation.events import StepEventMetadata
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ops import report
from ops.engine import Event

DOING = {
    "create": "creating",
    "create-replacement": "creating the new",
    "update": "updating",
    "delete": "deleting",
    "delete-replaced": "deleting the old",
    "replace": "replacing",
    "refresh": "reading",
    "import": "importing",
}
DONE = {
    "create": "created",
    "create-replacement": "replaced",
    "update": "updated",
    "delete": "deleted",
    "import": "imported",
}
QUIET = {"same", "refresh", "read", "replace", "delete-replaced", "discard", "discard-replaced"}


@dataclass
class Step:
    """A resource that the engine is working on."""

    label: str
    doing: str
    since: float
    status: str = ""


@dataclass
class Failure:
    """What went wrong with one resource: the engine's words, reduced."""

    resource: str
    reason: str

    @property
    def fix(self) -> str | None:
        """What to do about it, where that is known."""
        return report.fix(self.reason)


@dataclass
class Progress:
    """Collects engine events and shows them.

    Attributes:
        console: where to show them.
        log: file for the raw, secret-free event lines.
        dry: a preview: nothing is really done.
        finished: URN to what was done (`created`, `same`, ...).
        failures: in the order they came.
        changes: the engine's own count per operation, once it is done.
    """

    console: Console
    log: Path
    dry: bool = False
    finished: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    _steps: dict[str, Step] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)
    _live: Live | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.log.open("w")
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._file.close()

    @property
    def seconds(self) -> float:
        """Since the engine was started."""
        return time.monotonic() - self._begin

    def output(self, line: str) -> None:
        """Keep a line that the engine printed."""
        self._write(line)

    def event(self, event: Event) -> None:
        """Take in one engine event."""
        if diagnostic := event.diagnostic_event:
            self._diagnose(diagnostic.severity, diagnostic.urn, diagnostic.message, bool(diagnostic.ephemeral))
        elif event.resource_pre_event:
            step = event.resource_pre_event.metadata
            if step.op.value in DOING:
                self._steps[step.urn] = Step(report.resource(step.urn), DOING[step.op.value], time.monotonic())
        elif event.res_outputs_event:
            step = event.res_outputs_event.metadata
            started = self._steps.pop(step.urn, None)
            self._finish(step, started)
        elif event.res_op_failed_event:
            step = event.res_op_failed_event.metadata
            self._steps.pop(step.urn, None)
            self._write(f"failed: {step.op.value} {step.urn}")
        elif event.summary_event:
            self.changes = {
                str(getattr(op, "value", op)): count for op, count in event.summary_event.resource_changes.items()
            }

    def _diagnose(self, severity: str, urn: str | None, message: str, ephemeral: bool) -> None:
        if severity == "debug":
            return
        text = report.plain(message).rstrip()
        self._write(f"{severity}: {report.resource(urn)}: {text}")
        if severity == "error":
            reason = report.reduce_text(text)
            known = any(reason in failure.reason for failure in self.failures)
            if reason and not known:
                self.failures.append(Failure(report.resource(urn), reason))
        elif severity == "warning":
            if "from $PATH at" not in text:  # which plugins are in use was said before
                self._say(f"  ! {report.resource(urn)}: {text}", "yellow")
        elif urn in self._steps and text:
            self._steps[urn].status = text.splitlines()[-1].strip()
        elif not ephemeral and text and severity == "info":
            self._say(f"    {text}")

    def _finish(self, step: StepEventMetadata, started: Step | None) -> None:
        op = step.op.value
        kind = DONE.get(op, "same" if op in ("same", "read", "refresh") else "")
        if kind:
            self.finished[step.urn] = kind  # a component ends twice: when it is made, and with its outputs
        self._write(f"done: {op} {step.urn}")
        ours = step.type.startswith(("pulumi:", "sessionstore:"))  # book-keeping, nothing on the cluster
        if op not in QUIET and not ours and not self.dry:
            took = time.monotonic() - started.since if started else 0
            seconds = f" ({took:.0f} s)" if took >= 1 else ""
            kept = op == "delete" and step.old and step.old.retain_on_delete
            done = "kept on the cluster" if kept else DONE.get(op, op)
            self._say(f"  ✓ {report.resource(step.urn)} {done}{seconds}")

    def _say(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _write(self, line: str) -> None:
        if not self._file.closed:
            self._file.write(f"{self.seconds:8.2f}  {line.rstrip()}\n")
            self._file.flush()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for step in list(self._steps.values())[:12]:
            table.add_row("  …", step.label, step.doing, f"{now - step.since:.0f} s", f"[dim]{step.status[:100]}[/]")
        done = ", ".join(f"{count} {kind}" for kind, count in Counter(list(self.finished.values())).items())
        table.add_row("", f"[dim]{done or 'starting the engine'}[/]", "", f"[dim]{self.seconds:.0f} s[/]", "")
        return table


def summary(changes: dict[str, int]) -> str:
    """`3 created, 1 updated, 12 same`, or `0 changes (15 same)`.

    Args:
        changes: the engine's count per operation.
    """
    words = {
        "created": changes.get("create", 0) + changes.get("import", 0),
        "updated": changes.get("update", 0),
        "replaced": changes.get("replace", 0) or changes.get("create-replacement", 0),
        "deleted": changes.get("delete", 0),
        "no longer managed": changes.get("discard", 0),
    }
    said = [f"{count} {word}" for word, count in words.items() if count]
    same = changes.get("same", 0)
    return ", ".join([*said, f"{same} same"]) if said else f"0 changes ({same} same)"
