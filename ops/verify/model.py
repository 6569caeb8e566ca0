"""Checks, their results, and how people and machines read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live as Screen
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ops.verify.live import Live

PASS, FAIL, SKIP, UNSEEN = "pass", "fail", "skip", "not seen"
LOOKS = {PASS: ("✓", "green"), FAIL: ("✗", "red"), SKIP: ("-", "dim"), UNSEEN: ("?", "yellow")}


class Failed(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The promise does not hold; the message is the evidence."""


class Skipped(Exception):  # noqa: N818
    """The promise does not apply to this stack, or this run was told not to try; the message says why."""


class Unseen(Exception):  # noqa: N818
    """Nothing here can see whether the promise holds; the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        id: for machines; stable.
        title: the promise.
        plan: the plan's line that makes it, or the design's.
        run: returns the evidence, or raises `Failed`, `Skipped`, `Unseen`.
        login: needs the test session.
        disruptive: replaces pods.
    """

    id: str
    title: str
    plan: str
    run: Callable[[Live], str]
    login: bool = False
    disruptive: bool = False


@dataclass(frozen=True)
class Line:
    """One result; `seconds` is how long the check took."""

    id: str
    title: str
    plan: str
    status: str
    evidence: str
    seconds: float


@dataclass
class Report:
    """What a run found.

    Attributes:
        stack: its name.
        release: the stack's release as its outputs give it.
        read_only: whether pods were left alone.
    """

    stack: str
    release: dict[str, Any]
    read_only: bool
    cluster: str = ""
    namespace: str = ""
    deep: bool = False
    lines: list[Line] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def counts(self) -> dict[str, int]:
        """Lines per status."""
        return {status: sum(line.status == status for line in self.lines) for status in LOOKS}

    @property
    def failed(self) -> bool:
        """Whether any promise is broken."""
        return self.counts[FAIL] > 0

    @property
    def verdict(self) -> str:
        """One sentence."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items() if count)
        seconds = sum(line.seconds for line in self.lines)
        result = "does NOT keep its promises" if self.failed else "keeps its promises"
        if not self.failed and self.counts[UNSEEN]:
            result += ", as far as can be seen from here"
        return f"Stack {self.stack} {result}: {counts}; {seconds:.0f} s"

    def as_json(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "stack": self.stack,
            "cluster": self.cluster,
            "namespace": self.namespace,
            "release": self.release,
            "time": self.started.isoformat(timespec="seconds"),
            "readOnly": self.read_only,
            "deep": self.deep,
            "ok": not self.failed,
            "counts": self.counts,
            "lines": [vars(line) for line in self.lines],
        }


def judge(check: Check, live: Live, read_only: bool) -> Line:
    """Run one check; whatever happens in it, the answer is a line."""
    begin = time.monotonic()
    try:
        if check.disruptive and read_only:
            raise Skipped("--read-only leaves the pods alone")  # noqa: TRY301
        if check.login and live.session is None:
            raise Failed("needs login")  # noqa: TRY301
        status, evidence = PASS, check.run(live)
    except Failed as outcome:
        status, evidence = FAIL, str(outcome)
    except Skipped as outcome:
        status, evidence = SKIP, str(outcome)
    except Unseen as outcome:
        status, evidence = UNSEEN, str(outcome)
    except Exception as error:  # a check that breaks down has not shown what it should
        reason = getattr(error, "reason", None) or error
        status, evidence = FAIL, f"the check broke down: {type(error).__name__}: {' '.join(str(reason).split())[:200]}"
    return Line(check.id, check.title, check.plan, status, live.censor(evidence), round(time.monotonic() - begin, 2))


def run(checks: Iterable[Check], live: Live, report: Report, console: Console) -> None:
    """Run the checks in order, showing each as it goes."""
    if not console.is_terminal:
        for check in checks:
            report.lines.append(judge(check, live, report.read_only))
            line = report.lines[-1]
            mark, _ = LOOKS[line.status]
            text = f"{mark} {line.status:8} {line.title}: {line.evidence} ({line.seconds:.1f} s)"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    running = {"title": ""}
    with Screen(
        get_renderable=lambda: table(report, running["title"]), console=console, refresh_per_second=6
    ) as screen:
        for check in checks:
            running["title"] = check.title
            report.lines.append(judge(check, live, report.read_only))
        running["title"] = ""
        screen.refresh()


def table(report: Report, running: str = "") -> Table:
    """The report for people; `running` is the title of the check at work."""
    result = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    result.add_column("", width=1)
    result.add_column("promise", ratio=2, overflow="fold")
    result.add_column("evidence", ratio=3, overflow="fold")
    result.add_column("s", justify="right", width=5)
    for line in report.lines:
        mark, style = LOOKS[line.status]
        evidence = line.evidence if line.status == PASS else f"{line.status}: {line.evidence}"
        result.add_row(Text(mark, style), Text(line.title), Text(evidence, style), f"{line.seconds:.1f}")
    if running:
        result.add_row(Spinner("dots"), Text(running, "dim"), "", "")
    return result
