"""The rules on the real engine, with our own program: as `ops` asks them, and as a policy pack that the CLI runs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine import Engine
from pulumi import automation as auto

from ops.guard import Guard

REPO = Path(__file__).parents[2]
DIGEST = "registry.example.org/{}@sha256:" + "ab" * 32
HA = {"mode": "sentinel", "image": DIGEST.format("redis"), "proxyImage": DIGEST.format("haproxy")}
Preview = Callable[..., tuple[Guard, str]]


@pytest.fixture
def preview(engine: Engine) -> Preview:
    """A function that previews our program with these settings; no cluster is asked, for nothing is there yet."""
    engine.environment |= {"SESSION_STORE_REPO": str(REPO), "SESSION_STORE_PYTHON": sys.executable}
    engine.environment["KUBECONFIG"] = str(engine.directory / "none")

    def run(
        packs: list[str] | None = None, configs: list[str] | None = None, **values: dict[str, Any]
    ) -> tuple[Guard, str]:
        settings = {"redis": HA, "api": {"image": DIGEST.format("api")}}
        settings |= {key: {**settings.get(key, {}), **value} for key, value in values.items()}
        for key, value in settings.items():
            engine.stack.set_config(f"session-store:{key}", auto.ConfigValue(json.dumps(value)))
        guard, said = Guard(), list[str]()
        call = {
            "on_event": guard.event,
            "on_output": said.append,
            "policy_packs": packs,
            "policy_pack_configs": configs,
        }
        try:
            engine.stack.preview(program=lambda: runpy.run_module("infra", run_name="__main__") and None, **call)
        except auto.CommandError:
            said.append("the preview failed")
        return guard, "\n".join(said)

    return run


@pytest.fixture(scope="session")
def pack() -> str:
    """The policy pack as a program, in its own environment."""
    subprocess.run(["make", "--no-print-directory", "policy-pack"], cwd=REPO, check=True, capture_output=True)
    return str(REPO / "policies" / "pack" / "serve")


def test_the_engines_events_hold_all_that_the_rules_need(preview: Preview) -> None:
    guard, said = preview()
    assert "the preview failed" not in said
    kinds = {resource.kind for resource in guard.resources}
    assert {"StatefulSet", "Deployment", "Secret", "ConfigMap", "Service", "PodDisruptionBudget"} <= kinds
    assert [str(one) for one in guard.violations(several=True)] == []


def test_a_violation_is_found_before_anything_is_applied(preview: Preview) -> None:
    guard, _ = preview(api={"nodePort": 30030, "replicas": 1})
    assert {(one.rule, one.resource) for one in guard.violations(several=True)} == {
        ("public", "Service api"),
        ("several", "Deployment api"),
    }


def test_the_cli_runs_the_policy_pack(preview: Preview, pack: str) -> None:
    _, said = preview([pack])
    assert "the preview failed" not in said
    assert "session-store@v0.1.0" in said
    _, said = preview([pack], api={"nodePort": 30030, "replicas": 1, "env": {"MAIL_PASSWORD": "hunter22"}})
    assert "the preview failed" in said
    for rule in ("public", "several", "plaintext"):
        assert f"[mandatory]  {rule}" in said
    assert "remove api.nodePort" in said


def test_the_cli_runs_the_policy_pack_as_staging_needs_it(preview: Preview, pack: str) -> None:
    staging = str(REPO / "policies" / "pack" / "staging.json")
    _, said = preview([pack], [staging], api={"replicas": 1})
    assert "the preview failed" not in said, "one pod is enough there"
    _, said = preview([pack], [staging], api={"nodePort": 30030})
    assert "[mandatory]  public" in said
