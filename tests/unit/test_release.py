"""Releases: what is pinned, what a stack file may not say beside it, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from program import API_IMAGE, DIGEST, REDIS_IMAGE, config, declare

from infra import release as releases
from infra.settings import SettingsError, parse
from ops import workspace
from ops.errors import OpsError
from ops.promote import pins

STAGING = config(
    redis={"mode": "sentinel", "proxyImage": DIGEST.format("haproxy"), "memory": "128Mi"},
    sessions={"ttlSeconds": 3600, "waitReplicas": 1},
    api={"replicas": 2, "trustProxy": "1"},
    network={"apiEgressPorts": [443]},
)
OWN = {"namespace": "prod", "redis": {"memory": "1Gi"}, "api": {"replicas": 3}}


def release(**changes: Any) -> dict[str, Any]:
    """The pins that a promotion of STAGING writes."""
    staging = parse(STAGING)
    made = pins.of_stage("staging", {"release": releases.describe(staging)}, staging, "c" * 40)
    return {**made.as_config(), **changes}


def test_a_promoted_stage_runs_what_is_pinned_in_its_own_size() -> None:
    settings = parse({**OWN, "release": release()}, "prod")
    assert (settings.redis.image, settings.api.image) == (REDIS_IMAGE, API_IMAGE)
    assert (settings.redis.mode, settings.sessions.ttl_seconds) == ("sentinel", 3600)
    assert settings.network.api_egress_ports == [443]
    assert (settings.redis.memory, settings.api.replicas, settings.api.trust_proxy) == ("1Gi", 3, None)
    assert releases.describe(settings)["id"] == releases.describe(parse(STAGING))["id"]


def test_the_program_declares_what_is_pinned() -> None:
    declared = declare({**OWN, "release": release()}, stack="prod")
    assert declared.outputs["release"]["id"] == releases.describe(parse(STAGING))["id"]
    assert declared.container("Deployment", "api")["image"] == API_IMAGE


@pytest.mark.parametrize(
    ("values", "stack", "message"),
    [
        (OWN, "prod", "release: is missing: prod runs what staging proved: `ops promote staging prod`"),
        ({**OWN, "stages": ["dev", "staging", "qa", "prod"]}, "qa", "release: is missing: qa runs what staging proved"),
        ({**STAGING, "release": release()}, "staging", "release: staging is no stage that is promoted to (prod)"),
        (
            {**OWN, "sessions": {"ttlSeconds": 60}, "release": release()},
            "prod",
            "sessions.ttlSeconds: comes with the release: remove it",
        ),
        (
            {**OWN, "api": {"image": API_IMAGE}, "release": release()},
            "prod",
            "api.image: comes with the release: remove it",
        ),
        ({**OWN, "redis": {"memroy": "1Gi"}, "release": release()}, "prod", "redis.memroy: unknown key; did you mean"),
        (
            {**OWN, "release": release(settings={"redis": {"mode": "sentinel"}})},
            "prod",
            "release: was not written by a promotion",
        ),
        (
            {**OWN, "release": release(images={"redis": "redis:7", "api": API_IMAGE})},
            "prod",
            "release.images.redis: Value error, 'redis:7' is not pinned by digest",
        ),
        ({**OWN, "release": {"from": "staging"}}, "prod", "release.program: Field required"),
    ],
)
def test_what_does_not_fit_a_release_is_refused_with_the_fix(values: Any, stack: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(values, stack)
    assert f"session-store:{message}" in str(refused.value)


def test_another_program_than_the_pinned_one_declares_nothing() -> None:
    with pytest.raises(SettingsError, match=r"prod runs program 0.0.9\+aaaaaaaaaaaa, and this is 0.1.0\+"):
        declare({**OWN, "release": release(program="0.0.9+aaaaaaaaaaaa")}, stack="prod")


def test_the_program_has_another_name_when_one_of_its_files_changes(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "scripts" / "run.sh").write_text("true\n")
    before = releases.program(tmp_path)
    (tmp_path / "scripts" / "run.sh").write_text("false\n")
    assert releases.program(tmp_path) != before
    (tmp_path / "scripts" / "run.sh").write_text("true\n")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("")
    assert releases.program(tmp_path) == before


@pytest.fixture
def where(tmp_path: Path) -> workspace.Workspace:
    return workspace.Workspace("prod", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "# ours\nconfig:\n  session-store:namespace: prod # the name\n  session-store:api:\n    replicas: 3\n",
        "config:\n  session-store:namespace: prod\n\nencryptionsalt: v1:x\n",
        "encryptionsalt: v1:x\nconfig:\n  # first\n  session-store:namespace: prod\n# last\n",
        "config:\n  session-store:namespace: prod",
        "",
    ],
)
def test_pins_are_written_without_touching_another_line(where: workspace.Workspace, text: str) -> None:
    where.source.write_text(text)
    first = releases.Release.model_validate(release())
    pins.write(where, first)
    assert pins.read(where) == first
    second = releases.Release.model_validate(release(commit="d" * 40))
    pins.write(where, second)
    assert pins.read(where) == second
    assert where.source.read_text().count("session-store:release") == 1
    kept = [line for line in where.source.read_text().splitlines() if line in text.splitlines()]
    assert kept == text.splitlines()


def test_pins_that_cannot_be_written_safely_are_told(where: workspace.Workspace) -> None:
    text = "config: {session-store:namespace: prod}\n"
    where.source.write_text(text)
    with pytest.raises(OpsError, match=r"put this below `config:`\n  session-store:release: "):
        pins.write(where, releases.Release.model_validate(release()))
    assert where.source.read_text() == text


def test_a_release_is_the_same_text_whatever_order_it_comes_in() -> None:
    there = release()
    back = {**there, "images": dict(reversed(there["images"].items()))}
    back["settings"] = {key: dict(reversed(value.items())) for key, value in reversed(there["settings"].items())}
    texts = {yaml.safe_dump(releases.Release.model_validate(r).as_config(), sort_keys=False) for r in (there, back)}
    assert len(texts) == 1


def test_differences_name_images_settings_and_program() -> None:
    old = releases.Release.model_validate(release())
    new = releases.Release.model_validate(
        release(
            images={**release()["images"], "api": DIGEST.format("api2")},
            settings={"redis": {"mode": "sentinel"}, "sessions": {"ttlSeconds": 7200}},
        )
    )
    rows = {what: (before, after) for what, before, after in pins.differences(old, new)}
    assert rows["image api"] == (API_IMAGE, DIGEST.format("api2"))
    assert rows["sessions.ttlSeconds"] == ("3600", "7200")
    assert rows["network.apiEgressPorts"] == ("[443]", "")
    assert "redis.mode" not in rows
    assert yaml.safe_dump(rows)
