"""Driving `python -m cluster` from tests."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]


def run_cluster(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python -m cluster …`; when `check` is set a failure is the test's, with what the command said."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    if check and done.returncode:
        pytest.fail(f"cluster {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return done


@functools.cache
def kubectl_path() -> str:
    """The pinned kubectl, built if need be."""
    command = [sys.executable, "-m", "toolchain", "path", "kubectl"]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.split()[-1]


@dataclass(frozen=True)
class EmbeddedCluster:
    """A running embedded cluster: `name`, the path of its administrator's `kubeconfig`."""

    name: str
    kubeconfig: Path

    def run(self, command: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -m cluster COMMAND --name NAME …`."""
        return run_cluster(command, "--name", self.name, *arguments, check=check)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [kubectl_path(), *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        if check and done.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {done.stderr}", pytrace=False)
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`cluster status --json`, parsed."""
        found: dict[str, Any] = json.loads(self.run("status", "--json", check=False).stdout)
        return found

    def pids(self) -> dict[str, int | None]:
        """Component -> pid."""
        return {row["name"]: row["pid"] for row in self.status()["components"]}
