"""What another release would do to a stage, and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.release import Release
from ops import changes, stacks
from ops.changes import Change
from ops.errors import OpsError
from ops.promote import gate, pins
from ops.promote.gate import Refusal
from ops.stacks import Target


@dataclass
class Prospect:
    """What a change of release would do to a stage.

    Attributes:
        target: the stage with the new pins; None: its settings fail with them.
        previous: the release it runs; None: none.
        resources: what the engine would do.
    """

    release: Release
    target: Target | None
    previous: Release | None
    resources: list[Change]
    refusals: list[Refusal]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """(what, before, after) of images, settings, program and resources."""
        found = pins.differences(self.previous, self.release)
        for change in self.resources:
            paths = ", ".join(item.path for item in change.properties[:6])
            found.append((change.resource, "", f"{change.op}{f': {paths}' if paths else ''}"))
        return found

    def show(self, console: Console, stage: str) -> None:
        """A table for people."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("what", f"{stage} runs", "it will run"):
            table.add_column(title, overflow="fold")
        for what, old, new in self.rows:
            table.add_row(what, Text(old, "red"), Text(new, "green"))
        if self.rows:
            console.print(table)


def prospect(console: Console, stage: str, release: Release) -> Prospect:
    """What a stage would do with other pins, and what speaks against it."""
    found = Prospect(release, None, None, [], [])
    try:
        target = found.target = stacks.select(console, stage, pins=release.as_config())
    except OpsError as error:
        if error.code == 2:
            raise
        found.refusals.append(Refusal(f"the settings of {stage} fail with it: {error}", firm=True))
        return found
    found.refusals += gate.in_use(target)
    if found.refusals:
        return found
    found.refusals += gate.before_update(target)
    opened = target.engine.open(target.say)
    found.previous = stacks.running(target.engine.outputs())
    collected = changes.Collector()
    try:
        assert opened is not None  # noqa: S101 - made when it was missing
        _, broken = stacks.preview(target, opened, collected.event)
        found.refusals += [Refusal(f"{stage} would break a rule for stages: {line}", firm=True) for line in broken]
    except OpsError as error:
        found.refusals.append(Refusal(f"the preview of {stage} fails: {error}", firm=True))
    found.resources = collected.changes
    found.refusals += gate.keeps_data(stage, collected.changes)
    return found


def judge(reasons: list[Refusal], override: str | None, what: str) -> list[str]:
    """The refusals that an override passes over.

    Raises:
        OpsError: listing those that none does.
    """
    firm = [r for r in reasons if r.firm]
    soft = [r for r in reasons if not r.firm]
    if override is not None and not override.strip():
        raise OpsError("--override needs the reason, in words: it goes into the record.", 2)
    left = firm if override else reasons
    if left:
        lines = "\n".join(f"  - {reason}" for reason in left)
        hint = "\n(an emergency: --override 'REASON' passes over it, and is recorded)" if soft and not firm else ""
        raise OpsError(f"Refused, {what}:\n{lines}{hint}")
    return [str(reason) for reason in soft]
