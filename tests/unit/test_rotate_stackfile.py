"""A rotation edits the stack file as a person would."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ops.errors import OpsError
from ops.rotate.stackfile import set_credentials

REPO = Path(__file__).resolve().parents[2]


def edited(tmp_path: Path, text: str, **changes: int) -> str:
    path = tmp_path / "Pulumi.test.yaml"
    path.write_text(text)
    assert set_credentials(path, changes)
    return path.read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# ours\nconfig:\n  session-store:namespace: a # why\n  # the end\n",
            "# ours\nconfig:\n  session-store:namespace: a # why\n  session-store:credentials: {sessionGeneration: 7}\n"
            "  # the end\n",
        ),
        (
            "config:\n  session-store:credentials: {generation: 2} # as agreed\n  session-store:namespace: a\n",
            "config:\n  session-store:credentials: {generation: 2, sessionGeneration: 7} # as agreed\n"
            "  session-store:namespace: a\n",
        ),
        (
            "config:\n    session-store:credentials:\n        sessionGeneration: 6 # March\n        generation: 2\n"
            "encryptionsalt: v1:x\n",
            "config:\n    session-store:credentials:\n        sessionGeneration: 7 # March\n        generation: 2\n"
            "encryptionsalt: v1:x\n",
        ),
        (
            "config:\n  session-store:credentials:\n    generation: 2 # two\n\n# about redis\nother: 1\n",
            "config:\n  session-store:credentials:\n    generation: 2 # two\n    sessionGeneration: 7\n\n"
            "# about redis\nother: 1\n",
        ),
        ("", "config:\n  session-store:credentials:\n    sessionGeneration: 7\n"),
        ("encryptionsalt: x", "encryptionsalt: x\nconfig:\n  session-store:credentials:\n    sessionGeneration: 7\n"),
        ("config: {}\nother: 1\n", "config:\n  session-store:credentials:\n    sessionGeneration: 7\nother: 1\n"),
        ("config: {a: 1}", "config: {a: 1, session-store:credentials: {sessionGeneration: 7}}"),
        (
            "config:\n  session-store:credentials:\n  a: 1\n",
            "config:\n  session-store:credentials: {sessionGeneration: 7}\n  a: 1\n",
        ),
        (
            "config:\n  session-store:api:\n    env:\n      A: b\n    list:\n      - x # y",
            "config:\n  session-store:api:\n    env:\n      A: b\n    list:\n      - x # y\n"
            "  session-store:credentials: {sessionGeneration: 7}\n",
        ),
    ],
)
def test_only_the_one_line_changes(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, before, sessionGeneration=7) == after


@pytest.mark.parametrize("stack", ["dev", "staging", "prod"])
def test_the_committed_files_keep_every_line(tmp_path: Path, stack: str) -> None:
    text = (REPO / f"Pulumi.{stack}.yaml").read_text()
    once = edited(tmp_path, text, passwordGeneration=2, oldestPassword=1)
    twice = edited(tmp_path, once, oldestPassword=2)
    assert [line for line in twice.splitlines() if "session-store:credentials" not in line] == text.splitlines()
    assert yaml.safe_load(twice)["config"]["session-store:credentials"] == {
        "passwordGeneration": 2,
        "oldestPassword": 2,
    }


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.test.yaml"
    path.write_text("config:\n  session-store:credentials: {generation: 2}\n")
    before = path.stat().st_ino
    assert not set_credentials(path, {"generation": 2})
    assert path.stat().st_ino == before


@pytest.mark.parametrize("value", ["'{\"generation\": 2}'", "{secure: v1:abc}", "&a {generation: 1}\n  b: *a"])
def test_a_shape_that_cannot_be_edited_is_told_with_the_lines_to_write(tmp_path: Path, value: str) -> None:
    path = tmp_path / "Pulumi.test.yaml"
    text = f"config:\n  session-store:credentials: {value}\n"
    path.write_text(text)
    with pytest.raises(OpsError, match=r"session-store:credentials:\n    generation: 3"):
        set_credentials(path, {"generation": 3})
    assert path.read_text() == text
