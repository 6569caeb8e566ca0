"""A preview as data: which resource changes, and which of its properties, with secrets masked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ops import report
from ops.engine import Event
from ops.errors import OpsError

SIGNATURE = "4dabf18193072939515e22adb298388d"
"""The engine's key for signed values (secrets, among them) in its JSON."""
MARKS = {
    "create": "+",
    "update": "~",
    "delete": "-",
    "replace": "+-",
    "create-replacement": "++",
    "delete-replaced": "--",
}
COMMENT = 60_000
"""The most characters of a comment, a little less than what GitHub takes."""
COLORS = {"+": "green", "~": "yellow", "-": "red", "+-": "magenta"}


@dataclass(frozen=True)
class Property:
    """One property that changes; `old` and `new` are short texts, None where there is no value."""

    path: str
    kind: str
    old: str | None
    new: str | None

    @property
    def label(self) -> str:
        """The path, and whether a change of it makes the resource anew."""
        return f"{self.path} (replaces)" if self.path and self.kind.endswith("replace") else self.path


@dataclass(frozen=True)
class Change:
    """One resource that changes."""

    op: str
    resource: str
    urn: str
    properties: tuple[Property, ...]

    def as_json(self) -> dict[str, Any]:
        """The change for machines."""
        return {
            "op": self.op,
            "resource": self.resource,
            "urn": self.urn,
            "properties": [vars(item) for item in self.properties],
        }


class Collector:
    """Collects the changes a preview announces. refreshed: of a refresh, which tells what it found when it is done."""

    def __init__(self, refreshed: bool = False) -> None:
        self.changes: list[Change] = []
        self._refreshed = refreshed

    def event(self, event: Event) -> None:
        """Take in one engine event."""
        told = event.res_outputs_event if self._refreshed else event.resource_pre_event
        if not told:
            return
        step = told.metadata
        op = step.op.value
        # A replacement is announced in three steps; the middle one carries the difference and stands for all.
        if op in ("same", "read", "refresh", "create-replacement", "delete-replaced"):
            return
        # The stack, providers and components are the program's own book-keeping.
        if step.type.startswith(("pulumi:", "sessionstore:")):
            return
        old, new = (state.inputs or {} if state else {} for state in (step.old, step.new))
        before = (step.old.outputs or {}) if step.old else {}
        found = []
        for path, difference in sorted((step.detailed_diff or {}).items()):
            kind = difference.diff_kind.value
            source = old if difference.input_diff or not _has(before, path) else before
            found.append(Property(path, kind, _show(source, path), _show(new, path)))
        if not found:
            found = [Property(key, "update", _show(old, key), _show(new, key)) for key in step.diffs or ()]
        self.changes.append(Change(op, report.resource(step.urn), step.urn, tuple(found)))


def _walk(value: Any, path: str) -> Any:
    """Follow `spec.template["a.b"][0]`; raises LookupError where it leads nowhere."""
    for quoted, index, name in re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        if isinstance(value, Mapping) and SIGNATURE in value:
            return value
        value = value[int(index)] if index else value[quoted or name]
    return value


def _has(value: Any, path: str) -> bool:
    try:
        _walk(value, path)
    except (LookupError, TypeError):
        return False
    return True


def _show(value: Any, path: str) -> str | None:
    try:
        found = mask(_walk(value, path))
    except (LookupError, TypeError):
        return None
    text = found if isinstance(found, str) else json.dumps(found, sort_keys=True)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def mask(value: Any) -> Any:
    """The value with every secret, at any depth, as `[secret]`."""
    if isinstance(value, Mapping):
        return "[secret]" if SIGNATURE in value else {key: mask(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item) for item in value]
    return value


def table(changes: list[Change], sides: tuple[str, str] = ("from", "to")) -> Table:
    """The changes for people; `sides`: what stands over the old and the new values."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "resource", "property", *sides):
        result.add_column(title, overflow="fold")
    for change in changes:
        mark = MARKS.get(change.op, change.op)
        style = COLORS.get(mark, "")
        first = [Text(mark, style), Text(change.resource, style)]
        if not change.properties:
            result.add_row(*first, "", "", "")
        for item in change.properties:
            result.add_row(*first, Text(item.label), Text(item.old or "", "red"), Text(item.new or "", "green"))
            first = [Text(""), Text("")]
    return result


def markdown(changes: list[Change], heading: str, failed: str | None = None) -> str:
    """The changes as a comment on a pull request. Its first line is hidden and says by its heading which one it is.

    Args:
        changes: with secrets masked, as `Collector` has them.
        heading: the same for every comment that takes the place of this one.
        failed: why there is no preview, or what speaks against it.
    """
    counts = Counter(change.op for change in changes)
    summary = ", ".join(f"{count} {op}" for op, count in sorted(counts.items()))
    lines = [f"<!-- session-store: {heading} -->", f"### {heading}", ""]
    if failed:
        lines += ["❌ It fails:", "", "~~~~text", failed.replace("~~~", ""), "~~~~", ""]
    if changes:
        lines += [
            f"{summary}. Nothing was applied.",
            "",
            "| | resource | property | from | to |",
            "|---|---|---|---|---|",
        ]
    elif not failed:
        lines.append("Nothing would change.")
    rows = [row for change in changes for row in _rows(change)]
    room = COMMENT - sum(len(line) + 1 for line in lines)
    for index, row in enumerate(rows):
        room -= len(row) + 1
        if room < 0:
            lines += ["", f"{len(rows) - index} more lines: see the job's log."]
            break
        lines.append(row)
    return "\n".join([*lines, ""])


def _rows(change: Change) -> Iterator[str]:
    first = [MARKS.get(change.op, change.op), change.resource]
    for item in change.properties or (Property("", change.op, None, None),):
        yield "| " + " | ".join(map(_cell, [*first, item.label, item.old or "", item.new or ""])) + " |"
        first = ["", ""]


def _cell(text: str) -> str:
    """Text that stands for itself in a table: no markup, no link, nobody mentioned."""
    return f"`{text.replace('`', chr(39)).replace('|', chr(92) + '|')}`" if text else ""


@contextmanager
def commented(file: Path | None, heading: str, collected: Collector) -> Iterator[None]:
    """What is collected meanwhile is written there as a comment, where a file is given; and why it failed."""
    failed = None
    try:
        yield
    except Exception as error:
        # Of other errors nobody knows what they quote: the job's log has the message that `main` makes of them.
        failed = str(error) if isinstance(error, OpsError) else f"{type(error).__name__}: see the job's log."
        raise
    finally:
        if file:
            file.write_text(markdown(collected.changes, heading, failed))
