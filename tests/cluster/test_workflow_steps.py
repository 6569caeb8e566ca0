"""The workflows' steps on the real thing: a pull request is previewed and judged, its merge goes to staging and prod"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from embedded import EmbeddedCluster
from project import REPO, ProjectMaker
from runner import Runner, python_environment
from stages import Stages, kubectl

PREVIEW, GATE = ("pull-request", "preview"), ("pull-request", "gate")
CHECK = "python -m ops promote staging prod --check"
PINNED = "python -m ops promote staging prod --pinned --yes"
WHAT_THE_STEPS_USE = ("Makefile", "requirements.txt", "requirements-dev.txt", "scripts")
"""Of this repository, besides what every team's has (`bench.stages.PROGRAM`)."""


@pytest.fixture(scope="module")
def stages(cluster: EmbeddedCluster, make_project: ProjectMaker, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """A repository with an origin; both stages have their certificates, neither is up."""
    built = json.loads((make_project("workflow").folder / ".state" / "images.json").read_text())
    images = {name: image["ref"] for name, image in built.items()}
    folder = tmp_path_factory.mktemp("workflow") / "repository"
    made = Stages(folder, cluster.kubeconfig, "workflow", images, nice=0)
    made.create()
    for name in WHAT_THE_STEPS_USE:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder)
    python_environment(folder)
    with (folder / ".gitignore").open("a") as ignored:
        ignored.write(".venv\npreview.md\n")
    for stage in ("staging", "prod"):
        made.ops("certificates", "issue", "--stack", stage)
    made.commit("What the workflows' steps use")
    origin = folder.with_name("origin.git")
    made.git("init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    made.git("remote", "add", "origin", str(origin))
    made.git("push", "--quiet", "origin", "main")
    return made


@pytest.fixture
def runner(stages: Stages, tmp_path: Path) -> Runner:
    environment = stages.environment
    return Runner(
        stages.folder,
        tmp_path / "runner",
        {
            "secrets.KUBECONFIG": stages.kubeconfig.read_text(),
            "secrets.PULUMI_CONFIG_PASSPHRASE": environment["PULUMI_CONFIG_PASSPHRASE"],
            "vars.PULUMI_BACKEND_URL": environment["PULUMI_BACKEND_URL"],
            "github.token": "a token of the test's",
            "github.event.pull_request.number": "7",
        },
    )


def merged(stages: Stages, branch: str, message: str) -> None:
    """Commit what is there on a branch, and merge it: as the runner checks out a pull request, and as main is then."""
    stages.git("checkout", "--quiet", "-b", branch)
    stages.commit(message)
    stages.git("checkout", "--quiet", "main")
    stages.git("merge", "--quiet", "--no-ff", "--message", f"Merge: {message}", branch)


def comments(runner: Runner) -> dict[str, str]:
    """First line of a comment to all of it."""
    found = [file.read_text() for file in sorted(runner.comments.glob("[0-9]*"))]
    return {text.splitlines()[0]: text for text in found}


def test_a_pull_request_gets_one_comment_for_each_stack(stages: Stages, runner: Runner) -> None:
    ran = runner.job(*PREVIEW, stack="staging")
    assert ran.ok, str(ran)
    text = comments(runner)["<!-- session-store: Preview of staging -->"]
    assert "`StatefulSet redis-ha`" in text
    ran = runner.job(*PREVIEW, stack="prod")
    assert not ran.ok, "prod has no release yet"
    stages.change("staging", "api", replicas=3)
    assert runner.job(*PREVIEW, stack="staging").ok
    stages.change("staging", "api", replicas=2)
    calls = (runner.comments / "calls").read_text()
    assert calls.count("pr comment 7 --body-file preview.md") == 2, "one for each stack"
    assert calls.count("api --method PATCH") == 1, "and that of staging was updated in its place"
    assert "Preview of prod" in " ".join(comments(runner))
    prod = comments(runner)["<!-- session-store: Preview of prod -->"]
    assert "❌ It fails:" in prod
    assert "session-store:release: is missing" in prod


def test_a_setting_that_breaks_a_rule_makes_the_preview_red(stages: Stages, runner: Runner) -> None:
    stages.change("staging", "api", nodePort=30032)
    ran = runner.job(*PREVIEW, stack="staging")
    stages.change("staging", "api", nodePort=...)
    assert not ran.ok
    assert "Service api: is of type NodePort" in comments(runner)["<!-- session-store: Preview of staging -->"]


def test_a_merge_is_applied_to_staging_and_proved(stages: Stages, runner: Runner) -> None:
    ran = runner.job("deploy", "staging")
    assert ran.ok, str(ran)
    assert "Stack staging keeps its promises" in ran.said["python -m ops verify --stack staging"]


def test_the_gate_has_nothing_to_do_when_prods_file_is_as_it_was(stages: Stages, runner: Runner) -> None:
    stages.commit("What the first runs left in the stack files: their salts")
    (stages.folder / "NOTES").write_text("nothing of prod's\n")
    merged(stages, "notes", "Notes")
    ran = runner.job(*GATE)
    assert ran.ok, str(ran)
    assert list(ran.said) == ["scripts/ci changed Pulumi.prod.yaml"]


def test_the_gate_lets_through_what_staging_proved_and_the_merge_brings_it_to_prod(
    stages: Stages, runner: Runner
) -> None:
    before = stages.git("rev-parse", "main").strip()
    stages.ops("promote", "staging", "prod", "--pull-request", "--yes")
    merged(stages, "promotion", "Promote to prod")
    ran = runner.job(*GATE)
    assert ran.ok, str(ran)
    assert CHECK in ran.said

    stages.git("push", "--quiet", "origin", "main")
    ran = runner.job("deploy", "prod")
    assert ran.ok, str(ran)
    assert stages.release("prod")["id"] == stages.release("staging")["id"]
    assert "0 changes" in ran.said["python -m ops up --stack prod"]
    recorded = stages.git("diff", "--name-only", f"{before}..origin/main").split()
    (record,) = [name for name in recorded if name.startswith("promotions/")]
    assert "✅" in stages.git("show", f"origin/main:{record}"), "what came of it is on the branch, too"
    assert stages.git("status", "--porcelain") == ""

    ran = runner.job("deploy", "prod")
    assert ran.ok, str(ran)
    assert "nothing to promote" in ran.said[PINNED]
    assert "No promotion was recorded" in ran.said["scripts/ci record"]


def test_the_gate_refuses_a_release_that_nobody_proved(stages: Stages, runner: Runner) -> None:
    stages.change("staging", "sessions", ttlSeconds=3600)
    merged(stages, "shorter", "Shorter sessions")
    stages.ops("up", "--stack", "staging")
    file = stages.path("prod")
    pinned = file.read_text()
    stages.ops("verify", "--stack", "staging")
    stages.ops("promote", "staging", "prod", "--pull-request", "--yes")
    file.write_text(file.read_text().replace("ttlSeconds: 3600", "ttlSeconds: 7200"))
    merged(stages, "tampered", "Other pins than those that were written")
    ran = runner.job(*GATE)
    file.write_text(pinned)
    stages.commit("Back")
    assert not ran.ok
    assert ran.failed == CHECK
    assert "was not written by a promotion" in " ".join(ran.said[CHECK].split())


def test_a_morning_without_changes_by_hand_is_green_and_one_with_is_red(stages: Stages, runner: Runner) -> None:
    ran = runner.job("drift", "drift", stack="prod")
    assert ran.ok, str(ran)
    kubectl(stages, "prod", "set", "env", "deployment/api", "SEEN_BY=somebody")
    ran = runner.job("drift", "drift", stack="prod")
    assert not ran.ok
    assert "Deployment api" in ran.said['python -m ops drift "$STACK"']


def test_a_fork_without_secrets_is_told_and_goes_no_further(stages: Stages, runner: Runner) -> None:
    runner.contexts = {**runner.contexts, "secrets.KUBECONFIG": ""}
    ran = runner.job("drift", "drift", stack="prod")
    assert not ran.ok
    assert ran.failed == "scripts/ci kubeconfig"
    assert list(ran.said) == ["scripts/ci setup", "scripts/ci kubeconfig"]
