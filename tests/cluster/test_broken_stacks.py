"""`ops doctor` on the real thing: healthy is no finding, and everything that is broken is named, with its fix.

Each time those of USUAL are broken; SESSION_STORE_TEST_ALL=1 breaks all there are, which takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from breakages import BREAKAGES, SENTINEL_BREAKAGES, SLOW, Breakage, eventually
from project import Project, ProjectMaker

ALL = bool(os.environ.get("SESSION_STORE_TEST_ALL"))
USUAL = {"service-selector", "network-policy", "wrong-password", "tls-expired", "eviction", "session-without-end"}
CHOSEN = [one for one in BREAKAGES + SLOW if ALL or one[0] in USUAL]


@pytest.fixture(scope="module")
def stack(make_project: ProjectMaker) -> Project:
    project = make_project("doctor")
    project.configure()
    project.up()
    return project


@pytest.fixture(scope="module")
def several(make_project: ProjectMaker) -> Project:
    project = make_project("doctor-ha")
    project.configure(redis={"mode": "sentinel"})
    project.up()
    return project


def doctor(project: Project) -> tuple[int, dict[str, Any]]:
    """(exit code, what it wrote)."""
    result = project.folder / "doctor.json"
    process = project.start("doctor", "--json", str(result))
    output, _ = process.communicate(timeout=180)
    assert result.exists(), output
    found: dict[str, Any] = json.loads(result.read_text())
    result.unlink()
    assert project.secret("redis-secret", "password") not in output + json.dumps(found)
    return process.returncode, found


def healthy(project: Project) -> bool:
    """Nothing found, and nothing that could not be looked at."""
    code, found = doctor(project)
    return (code, found["findings"], found["unseen"]) == (0, [], [])


def named_first(project: Project, cause: str, fix: str, breakage: Breakage) -> None:
    with breakage(project):
        code, found = doctor(project)
        names = [one["id"] for one in found["findings"]]
        assert (code, names[:1]) == (1, [cause]), found
        assert fix in found["findings"][0]["fix"]
        assert found["findings"][0]["evidence"]


def test_healthy(stack: Project) -> None:
    eventually(lambda: healthy(stack))


@pytest.mark.parametrize(("cause", "fix", "breakage"), CHOSEN, ids=[cause for cause, *_ in CHOSEN])
def test_a_broken_stack(stack: Project, cause: str, fix: str, breakage: Breakage) -> None:
    named_first(stack, cause, fix, breakage)


def test_healthy_again(stack: Project) -> None:
    eventually(lambda: healthy(stack))


@pytest.mark.skipif(not ALL, reason="a stack of its own: SESSION_STORE_TEST_ALL=1")
def test_several_redis(several: Project) -> None:
    eventually(lambda: healthy(several))
    for cause, fix, breakage in SENTINEL_BREAKAGES:
        named_first(several, cause, fix, breakage)
    eventually(lambda: healthy(several))


def test_a_stack_that_was_never_deployed(stack: Project, make_project: ProjectMaker) -> None:
    stranger = make_project("nowhere")
    stranger.configure()
    assert "Stack dev is not deployed: run `python -m ops up --stack dev`" in stranger.ops("doctor", code=2)


def test_a_cluster_that_does_not_answer(stack: Project, tmp_path: Any) -> None:
    config = stack.kubeconfig.read_text()
    server = next(line for line in config.splitlines() if "server:" in line)
    (tmp_path / "config").write_text(config.replace(server, server.rpartition(":")[0] + ":9"))
    lost = Project(stack.folder, tmp_path / "config", stack.namespace)
    printed = lost.ops("doctor", code=1)
    assert "cannot be reached" in printed
    assert "Traceback" not in printed
