"""`promotions/`: a Markdown file per promotion and per way back. People read it in a pull request, `ops` reads its end.

A record is written before anything is changed and again when it is known what came of it; git keeps what happened.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from infra.release import Release
from ops import workspace
from ops.errors import OpsError

FOLDER = "promotions"
STARTED, PROPOSED, DONE, UNDONE, FAILED, LEFT = "started", "proposed", "done", "rolled back", "failed", "left"
"""Status: at work, or interrupted; the update is left to CI; done; failed and undone; failed; replaced by another."""
LOOKS = {STARTED: "…", PROPOSED: "📝", DONE: "✅", UNDONE: "↩️", FAILED: "❌", LEFT: "⏭️"}
FENCE = "```yaml\n"


@dataclass
class Record:
    """One promotion, or one rollback.

    Attributes:
        stage: the stack that changes.
        kind: `promotion` or `rollback`.
        release: what it is to run.
        previous: what it ran; None: nothing.
        evidence: what the stage before proved, as `evidence.Evidence.proved` has it.
        differences: (what, before, after) for people.
        override: why refusals were passed over; None: none was.
        refusals: those.
        outcome: one sentence when it is over.
    """

    stage: str
    kind: str
    release: Release
    previous: Release | None
    evidence: dict[str, Any] = field(default_factory=dict)
    differences: list[tuple[str, str, str]] = field(default_factory=list)
    override: str | None = None
    refusals: list[str] = field(default_factory=list)
    status: str = STARTED
    by: str = ""
    started: str = ""
    finished: str | None = None
    outcome: str | None = None
    path: Path | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        stamp = datetime.fromisoformat(self.started).strftime("%Y%m%d-%H%M%S")
        return f"{stamp}-{self.stage}-{self.release.id}"

    def begin(self, repo: Path) -> None:
        """Write it, with who and when; one that was begun before keeps both."""
        if self.path is None:
            self.by, self.started = who(), datetime.now(UTC).isoformat(timespec="seconds")
            self.path = repo / FOLDER / f"{self.name}.md"
        self.write()

    def end(self, status: str, outcome: str) -> None:
        """Write what came of it."""
        self.status, self.outcome, self.finished = status, outcome, datetime.now(UTC).isoformat(timespec="seconds")
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        assert self.path is not None  # noqa: S101 - `begin` and `read` set it
        workspace.replace_file(self.path, self.text())

    def text(self) -> str:
        """The Markdown."""
        release = self.release
        verb = "from" if self.kind == "promotion" else "back to what came from"
        about = [
            ("Status", f"{LOOKS[self.status]} **{self.status}**{f': {self.outcome}' if self.outcome else ''}"),
            ("By", self.by),
            ("When", f"{self.started}{f' to {self.finished}' if self.finished else ''}"),
            ("Release", f"`{release.id}`, before it {f'`{self.previous.id}`' if self.previous else 'nothing'}"),
            ("Program", f"`{release.program}`, commit `{release.commit[:12]}`"),
        ]
        if self.evidence:
            counts = ", ".join(f"{count} {status}" for status, count in self.evidence["counts"].items() if count)
            deep = ", with `--deep`" if self.evidence.get("deep") else ""
            about.append(("Evidence", f"{release.source}, {self.evidence['time']}: {counts}{deep}"))
        lines = [f"# {self.stage}: release {release.id}, {verb} {release.source}", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in about]
        if self.override:
            lines += ["", "## ⚠️ Refusals passed over", "", *(f"> {line}" for line in self.override.splitlines()), ""]
            lines += [f"- {' '.join(refusal.split())}" for refusal in self.refusals]
        lines += ["", "## What changes", ""]
        if self.differences:
            lines += ["| what | before | after |", "|---|---|---|"]
            lines += [f"| {what} | {_code(old)} | {_code(new)} |" for what, old, new in self.differences]
        else:
            lines.append("Nothing.")
        return "\n".join([*lines, "", "## For `ops rollback`", "", f"{FENCE}{self._data()}```", ""])

    def _data(self) -> str:
        data = {
            key: getattr(self, key)
            for key in ("stage", "kind", "status", "by", "started", "finished", "outcome", "evidence", "override")
        }
        data |= {"refusals": self.refusals, "differences": [list(row) for row in self.differences]}
        data["release"] = self.release.as_config()
        data["previous"] = self.previous.as_config() if self.previous else None
        return str(yaml.safe_dump(data, sort_keys=False, width=1000, allow_unicode=True))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def read(path: Path) -> Record:
    """A record from its file.

    Raises:
        OpsError: it is not one.
    """
    try:
        data = yaml.safe_load(path.read_text().rpartition(FENCE)[2].rpartition("```")[0])
        data["release"] = Release.model_validate(data["release"])
        data["previous"] = Release.model_validate(data["previous"]) if data["previous"] else None
        data["differences"] = [tuple(row) for row in data["differences"]]
        return Record(**data, path=path)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OpsError(f"{path} is no record of a promotion ({reason}): `git checkout` brings it back.") from None


def of(repo: Path, stage: str | None = None) -> list[Record]:
    """The records, of one stage or of all, oldest first."""
    found = [read(path) for path in sorted((repo / FOLDER).glob("*.md")) if path.stem[:1].isdigit()]
    return [record for record in found if stage in (None, record.stage)]


def unproven(records: Iterable[Record], proved: Iterable[str]) -> list[Record]:
    """Records of releases that refusals were passed over for and that no stage before has proved since."""
    known = set(proved)
    return [r for r in records if r.override and r.status in (STARTED, DONE) and r.release.id not in known]


def who() -> str:
    """Who is at it: the CI run's actor, else git's user, else the login."""
    if actor := os.environ.get("GITHUB_ACTOR"):
        run = os.environ.get("GITHUB_RUN_ID")
        return f"{actor} (CI run {run})" if run else actor
    names = []
    for key in ("user.name", "user.email"):
        done = subprocess.run(["git", "config", key], capture_output=True, text=True, check=False)
        names.append(done.stdout.strip())
    name, mail = names
    return f"{name} <{mail}>" if name and mail else name or os.environ.get("USER") or "unknown"
