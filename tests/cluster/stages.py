"""Staging and prod for tests, and what the tests ask of them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedded import kubectl_path

from bench.stages import Stages


def kubectl(stages: Stages, stage: str, *args: str, stdin: str | None = None) -> str:
    """What kubectl printed, in a stage's namespace."""
    command = [kubectl_path(), "--namespace", f"{stages.namespace}-{stage}", *args]
    done = subprocess.run(command, env=stages.environment, input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
    return done.stdout


def get(stages: Stages, stage: str, *args: str) -> Any:
    """Objects as kubectl gives them in JSON."""
    return json.loads(kubectl(stages, stage, "get", *args, "--output", "json"))


def redis_command(stages: Stages, stage: str, *command: str) -> None:
    """Give every Redis of a stage a command."""
    password = base64.b64decode(get(stages, stage, "secret", "redis-secret")["data"]["password"]).decode()
    for pod in get(stages, stage, "pods", "--selector", "app=redis")["items"]:
        script = 'REDISCLI_AUTH=$(cat) redis-cli --tls --insecure "$@"'
        inside = ("exec", "--stdin", pod["metadata"]["name"], "--container=redis", "--", "sh", "-c", script, "sh")
        assert kubectl(stages, stage, *inside, *command, stdin=password).strip() == "OK"


@contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Files are afterwards as they were."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)
