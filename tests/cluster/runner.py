"""Plays a runner of GitHub's: the `run` steps of a workflow's job, as they stand in the file, with bash."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from embedded import REPO

GH = """#!/bin/sh
# Stands in for gh: keeps comments as files of their own, $COMMENTS/<id>, and notes every call.
echo "$@" >>"$COMMENTS/calls"
case "$1 $2" in
  "api --paginate") for file in "$COMMENTS"/[0-9]*; do
      [ -e "$file" ] && [ "$(head -n 1 "$file")" = "$marker" ] && basename "$file"
    done; exit 0 ;;
  "api --method") file=${4##*/}; cp "${6#body=@}" "$COMMENTS/$file" ;;
  "pr comment") cp "$5" "$COMMENTS/$(($(ls "$COMMENTS" | grep -c '^[0-9]') + 1))" ;;
  *) echo "gh: unknown call: $*" >&2; exit 2 ;;
esac
"""


@dataclass
class Ran:
    """A job that is over.

    Attributes:
        ok: no step failed.
        said: what each step that ran printed, by its command.
        failed: the command that failed first.
    """

    ok: bool = True
    said: dict[str, str] = field(default_factory=dict)
    failed: str | None = None

    def __str__(self) -> str:
        return "\n".join(f"$ {command}\n{said}" for command, said in self.said.items())


@dataclass
class Runner:
    """A machine for jobs.

    Attributes:
        folder: the checked-out repository, with a `.venv` that is ready.
        temp: its own folder.
        contexts: what expressions give, such as `secrets.KUBECONFIG`.
    """

    folder: Path
    temp: Path
    contexts: Mapping[str, str]

    def __post_init__(self) -> None:
        (self.temp / "bin").mkdir(parents=True, exist_ok=True)
        (self.temp / "bin" / "gh").write_text(GH)
        (self.temp / "bin" / "gh").chmod(0o755)
        self.comments.mkdir(exist_ok=True)

    @property
    def comments(self) -> Path:
        """Comments on the pull request, one file each."""
        return self.temp / "comments"

    def job(self, workflow: str, name: str, **matrix: str) -> Ran:
        """Run a job's steps; actions of others are taken as done."""
        file = yaml.safe_load((REPO / ".github" / "workflows" / f"{workflow}.yml").read_text())
        job = file["jobs"][name]
        contexts = {**self.contexts, **{f"matrix.{key}": value for key, value in matrix.items()}}
        environment = self._environment() | self._given(job.get("env"), contexts)
        done, outputs = Ran(), dict[str, str]()
        for step in job["steps"]:
            if "run" not in step or not self._wanted(step.get("if"), done.ok, outputs):
                continue
            files = {key: self.temp / key.lower() for key in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH")}
            for path in files.values():
                path.write_text("")
            own = self._given(step.get("env"), contexts) | {key: str(path) for key, path in files.items()}
            code, said = self._run(step["run"], {**environment, **own})
            done.said[step["run"]] = said
            if code and done.ok:
                done.ok, done.failed = False, step["run"]
            environment |= _assignments(files["GITHUB_ENV"])
            environment["PATH"] = os.pathsep.join([*files["GITHUB_PATH"].read_text().split(), environment["PATH"]])
            found = _assignments(files["GITHUB_OUTPUT"])
            outputs |= {f"steps.{step.get('id')}.outputs.{key}": value for key, value in found.items()}
        return done

    def _environment(self) -> dict[str, str]:
        """What a fresh machine has: nothing of the test's own cluster, state or Python."""
        foreign = ("KUBECONFIG", "PULUMI_", "PYTHON", "VIRTUAL_ENV", "GITHUB_", "PYTEST_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {
            **kept,
            "PATH": f"{self.temp / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_REPOSITORY": "acme/store",
            "GITHUB_REF_NAME": "main",
            "COMMENTS": str(self.comments),
            "COLUMNS": "200",
        }

    def _given(self, variables: Mapping[str, Any] | None, contexts: Mapping[str, str]) -> dict[str, str]:
        def value(match: re.Match[str]) -> str:
            return contexts[match[1]]

        return {key: re.sub(r"\$\{\{ (\S+) \}\}", value, str(text)) for key, text in (variables or {}).items()}

    def _wanted(self, condition: str | None, ok: bool, outputs: Mapping[str, str]) -> bool:
        """Whether a step runs; a condition of an unknown form is an error."""
        if condition is None:
            return ok
        text = condition.removeprefix("${{").removesuffix("}}").strip()
        if match := re.fullmatch(r"(steps\.\S+) == '(\w+)'", text):
            return ok and outputs.get(match[1]) == match[2]
        if match := re.fullmatch(r"!cancelled\(\)( && hashFiles\('(\S+)'\) != '')?", text):
            return match[2] is None or (self.folder / match[2]).exists()
        raise AssertionError(f"this runner does not know the condition {condition}")

    def _run(self, command: str, environment: Mapping[str, str]) -> tuple[int, str]:
        pipe = subprocess.PIPE
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout


def _assignments(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if line)


def python_environment(folder: Path) -> None:
    """Give a checkout this repository's `.venv`, which `make setup` then finds as it must be."""
    stamp = hashlib.sha256((REPO / "requirements-dev.txt").read_bytes()).hexdigest()[:16]
    assert (REPO / ".venv" / f".{stamp}").exists(), "the environment is an old one: run `make setup`"
    (folder / ".venv").symlink_to(REPO / ".venv")
