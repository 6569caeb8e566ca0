"""Stages in a repository of their own: what a team has, with staging and prod as two namespaces of one cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.stack import BEHIND, REPO, BenchError

PROGRAM = ("infra", "ops", "policies", "Pulumi.yaml", ".gitignore")
"""What of this repository a team's has."""


@dataclass
class Stages:
    """A git repository with the program and the stack files of staging and prod.

    Attributes:
        folder: the repository; made by `create`.
        kubeconfig: of the cluster.
        namespace: the stages' namespaces are `<namespace>-staging` and `<namespace>-prod`.
        images: name (redis, haproxy, api) to reference by digest.
        nice: levels by which the commands stand back.
    """

    folder: Path
    kubeconfig: Path
    namespace: str
    images: Mapping[str, str]
    nice: int = BEHIND

    def create(self) -> None:
        """The repository, with one commit."""
        self.folder.mkdir(parents=True)
        for name in PROGRAM:
            source = REPO / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.folder)
        (self.folder / "toolchain").symlink_to(REPO / "toolchain")  # the stand-in plugins
        (self.folder / ".gitignore").open("a").write("toolchain\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.write("staging", self.settings("staging"))
        self.write("prod", self.settings("prod"))
        self.commit("The stages")

    def settings(self, stage: str) -> dict[str, Any]:
        """A stage's settings; prod's are those of its own."""
        own: dict[str, Any] = {
            "namespace": f"{self.namespace}-{stage}",
            "redis": {"memory": "128Mi", "cpu": "50m", "storage": {"size": "256Mi", "retain": False}},
            "api": {"replicas": 2, "cpu": "50m"},
        }
        if stage == "prod":
            return own
        redis = {"mode": "sentinel", "image": self.images["redis"], "proxyImage": self.images["haproxy"]}
        return {
            **own,
            "redis": {**own["redis"], **redis},
            "sessions": {"secureCookie": False, "waitReplicas": 1},
            "api": {**own["api"], "image": self.images["api"], "authEnv": "development"},
        }

    def path(self, stage: str) -> Path:
        """A stage's stack file."""
        return self.folder / f"Pulumi.{stage}.yaml"

    def write(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Write a stack file; what else is in it (pins, salt, generations) stays."""
        path = self.path(stage)
        before = yaml.safe_load(path.read_text()) if path.exists() else {}
        kept = {k: v for k, v in before.get("config", {}).items() if k.endswith((":release", ":credentials"))}
        config = {**{f"session-store:{key}": value for key, value in settings.items()}, **kept}
        path.write_text(yaml.safe_dump({**before, "config": config}, sort_keys=False))

    def change(self, stage: str, section: str, **values: Any) -> None:
        """Change settings of one section in a stack file, as an editor would; `...` removes one."""
        document = yaml.safe_load(self.path(stage).read_text())
        key = f"session-store:{section}"
        found = {**(document["config"].get(key) or {}), **values}
        document["config"][key] = {name: value for name, value in found.items() if value is not ...}
        self.path(stage).write_text(yaml.safe_dump(document, sort_keys=False))

    def commit(self, message: str) -> str:
        """Commit everything; the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        """What git printed."""
        who = {f"GIT_{part}_{what}": value for part in ("AUTHOR", "COMMITTER") for what, value in _WHO.items()}
        command = ["git", "-C", str(self.folder), *arguments]
        done = subprocess.run(command, env={**os.environ, **who}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`git {' '.join(arguments)}`: {done.stderr.strip()}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """What `ops` and `kubectl` need."""
        own = {"KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        own |= {"PULUMI_CONFIG_PASSPHRASE": "of the rehearsal", "PULUMI_BACKEND_URL": f"file://{self._backend}"}
        return {**os.environ, **own}

    @property
    def _backend(self) -> Path:
        folder = self.folder / ".state" / "backend"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`python -m ops ARGUMENTS`, not waited for."""
        command = ["nice", f"-n{self.nice}", sys.executable, "-m", "ops", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ops(self, *arguments: str, code: int | None = 0, seconds: float = 600, **environment: str) -> str:
        """What `python -m ops ARGUMENTS` printed.

        Raises:
            BenchError: it did not exit with `code` (None: any).
        """
        process = self.start(*arguments, **environment)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise BenchError(f"`ops {' '.join(arguments)}` was not done after {seconds:.0f} s:\n{output}") from None
        if code is not None and process.returncode != code:
            raise BenchError(f"`ops {' '.join(arguments)}`: exit {process.returncode}, not {code}\n{output}")
        return output

    def release(self, stage: str) -> dict[str, Any]:
        """The release that a stage runs, as its outputs give it."""
        found = self.start("outputs", "--stack", stage)
        output, _ = found.communicate(timeout=120)
        return dict(json.loads(output[output.index("{\n") :])["release"])


_WHO = {"NAME": "rehearsal", "EMAIL": "rehearsal@example.org"}
