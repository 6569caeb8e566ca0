"""A preview as a comment on a pull request."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import changes
from ops.changes import Change, Property, markdown
from ops.errors import OpsError

UPDATE = Change(
    "update",
    "Deployment api",
    "urn:api",
    (
        Property("spec.replicas", "update", "2", "3"),
        Property("spec.selector", "update-replace", "a|b", "`@team`"),
        Property('data["password"]', "update", "[secret]", "[secret]"),
    ),
)


def test_a_comment_is_known_by_its_first_line_and_shows_every_property() -> None:
    lines = markdown([UPDATE, Change("create", "Service api", "urn:service", ())], "Preview of staging").splitlines()
    assert lines[0] == "<!-- session-store: Preview of staging -->"
    assert "1 create, 1 update. Nothing was applied." in lines
    assert lines[-4:] == [
        "| `~` | `Deployment api` | `spec.replicas` | `2` | `3` |",
        r"|  |  | `spec.selector (replaces)` | `a\|b` | `'@team'` |",
        '|  |  | `data["password"]` | `[secret]` | `[secret]` |',
        "| `+` | `Service api` |  |  |  |",
    ]


def test_nothing_to_change_is_said() -> None:
    assert markdown([], "Preview of prod").splitlines()[-1] == "Nothing would change."


def test_a_comment_is_never_longer_than_what_is_taken() -> None:
    text = markdown([UPDATE] * 2000, "Preview of prod")
    assert len(text) < 65_000
    assert "more lines: see the job's log." in text


def test_a_failure_is_in_the_comment_too(tmp_path: Path) -> None:
    file, collected = tmp_path / "preview.md", changes.Collector()
    with pytest.raises(OpsError), changes.commented(file, "Preview of prod", collected):
        raise OpsError("prod would break rules for stages:\n  - Service api: is of type NodePort")
    text = file.read_text()
    assert text.startswith("<!-- session-store: Preview of prod -->")
    assert "❌ It fails:" in text
    assert "Service api: is of type NodePort" in text
    assert "Nothing would change" not in text


def test_an_error_that_is_not_ours_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "preview.md"
    with pytest.raises(ValueError, match="hunter2"), changes.commented(file, "Preview of prod", changes.Collector()):
        raise ValueError("hunter2")
    assert "ValueError: see the job's log." in file.read_text()
    assert "hunter2" not in file.read_text()


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with changes.commented(None, "Preview of dev", changes.Collector()):
        pass
    assert list(tmp_path.iterdir()) == []
