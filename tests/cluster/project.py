"""A project folder of its own for a test: stack files, state and passphrase apart from everybody else's."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from embedded import REPO, kubectl_path


@dataclass(frozen=True)
class Project:
    """Stack `dev` with a configuration of the test's, on the test's cluster.

    Attributes:
        folder: holds Pulumi.yaml, Pulumi.dev.yaml and .state/.
        kubeconfig: of the cluster.
        namespace: of the stack.
    """

    folder: Path
    kubeconfig: Path
    namespace: str

    @property
    def environment(self) -> dict[str, str]:
        """What `ops` and `kubectl` need."""
        return {
            **os.environ,
            "SESSION_STORE_PROJECT": str(self.folder),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": str(REPO),
            "COLUMNS": "200",
        }

    def configure(self, **changes: Any) -> None:
        """Write Pulumi.dev.yaml: the committed one with these changes (a dict changes keys below the key)."""
        config = yaml.safe_load((REPO / "Pulumi.dev.yaml").read_text())["config"]
        config["session-store:namespace"] = self.namespace
        # Another stack on the same cluster may have the node port.
        config["session-store:api"].pop("nodePort")
        for key, value in changes.items():
            full = f"session-store:{key}"
            config[full] = {**config.get(full, {}), **value} if isinstance(value, dict) else value
        shutil.copy(REPO / "Pulumi.yaml", self.folder)
        (self.folder / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))

    def start(self, *args: str) -> subprocess.Popen[str]:
        """`python -m ops ARGS --stack dev`, not waited for."""
        command = [sys.executable, "-m", "ops", *args, "--stack", "dev"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=REPO, env=self.environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def ops(self, *args: str, code: int | None = 0) -> str:
        """What `python -m ops ARGS --stack dev` printed; it must exit with `code`."""
        process = self.start(*args)
        output, _ = process.communicate(timeout=600)
        assert code is None or process.returncode == code, f"ops {' '.join(args)}: exit {process.returncode}\n{output}"
        return output

    def up(self) -> str:
        """Certificate and stack, as `make up` does it."""
        self.ops("certificates", "issue")
        return self.ops("up")

    def verify(self, *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """(exit code, line id to line) of `ops verify`."""
        result = self.folder / "verify.json"
        process = self.start("verify", "--json", str(result), *args)
        output, _ = process.communicate(timeout=600)
        assert result.exists(), output
        lines = json.loads(result.read_text())["lines"]
        result.unlink()
        return process.returncode, {line["id"]: line for line in lines}

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """What kubectl printed, in the stack's namespace."""
        command = [kubectl_path(), "--namespace", self.namespace, *args]
        done = subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def get(self, *args: str) -> Any:
        """Objects as kubectl gives them in JSON."""
        return json.loads(self.kubectl("get", *args, "--output", "json"))

    def secret(self, name: str, key: str) -> str:
        """One value of a Secret."""
        return base64.b64decode(self.get("secret", name)["data"][key]).decode()

    def wait_for(self, what: str) -> None:
        """Until the object exists."""
        self.kubectl("wait", "--for=create", what, "--timeout=120s")

    def service_address(self, name: str) -> str:
        """ClusterIP of a Service; the host has a route to it."""
        return str(self.get("service", name)["spec"]["clusterIP"])


ProjectMaker = Callable[..., Project]
