"""The workflows: what they may do, which code of others they run, and that their steps are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ops.cli import app

REPO = Path(__file__).parents[2]
FILES = sorted((REPO / ".github" / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {file.stem: yaml.safe_load(file.read_text()) for file in FILES}
JOBS: dict[str, dict[str, Any]] = {
    f"{name}/{job}": content for name, workflow in WORKFLOWS.items() for job, content in workflow["jobs"].items()
}
PERMISSIONS = {
    "pull-request/unit": {"contents": "read"},
    "pull-request/preview": {"contents": "read", "pull-requests": "write"},
    "pull-request/gate": {"contents": "read"},
    "deploy/staging": {"contents": "read"},
    "deploy/prod": {"contents": "write"},
    "drift/drift": {"contents": "read"},
}
"""All that each job may do."""


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """(job, step) of all workflows."""
    return ((job, step) for job, content in JOBS.items() for step in content["steps"])


RUNS = [(job, step) for job, step in steps() if "run" in step]
OPS = [(job, step["run"]) for job, step in RUNS if step["run"].startswith("python -m ops ")]


def test_there_is_something_to_test() -> None:
    assert JOBS.keys() == PERMISSIONS.keys()
    assert len(RUNS) > 15
    assert len(OPS) >= 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_code_of_others_is_pinned_to_a_commit_with_its_version(file: Path) -> None:
    lines = [line.split("uses:")[1].strip() for line in file.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_one_action_has_one_pin() -> None:
    pins = {line for file in FILES for line in re.findall(r"uses: (.*)", file.read_text())}
    assert len({pin.split("@")[0] for pin in pins}) == len(pins)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_nothing_that_its_jobs_do_not_name(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {}
    triggers = workflow[True]  # YAML's `on`
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(triggers), (
        "runs a fork's code with secrets"
    )


@pytest.mark.parametrize("job", JOBS)
def test_a_job_may_do_what_it_must_and_ends(job: str) -> None:
    assert JOBS[job]["permissions"] == PERMISSIONS[job]
    assert JOBS[job]["timeout-minutes"] <= 60
    checkouts = [step for step in JOBS[job]["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    keeps = [step["with"]["persist-credentials"] for step in checkouts]
    assert keeps == [JOBS[job]["permissions"]["contents"] == "write"], "the token stays only where something is pushed"


@pytest.mark.parametrize(("job", "step"), RUNS, ids=[f"{job}: {step['run'][:40]}" for job, step in RUNS])
def test_a_step_is_one_command_of_the_project_without_expressions(job: str, step: dict[str, Any]) -> None:
    command = step["run"]
    # An expression is pasted into the script before a shell reads it: a secret would be seen, a title could be code.
    assert "${{" not in command
    assert "\n" not in command.strip()
    assert "shell" not in step
    first, *words = shlex.split(command)
    if first == "make":
        assert re.search(rf"^{words[0]}:.*## ", (REPO / "Makefile").read_text(), re.MULTILINE)
    elif first == "scripts/ci":
        assert f"\n{words[0]}() {{" in (REPO / "scripts" / "ci").read_text()
    else:
        assert [first, *words[:2]] == ["python", "-m", "ops"]


@pytest.mark.parametrize(("job", "command"), OPS, ids=[f"{job}: {command[14:]}" for job, command in OPS])
def test_a_command_of_ops_is_one_that_ops_takes(job: str, command: str) -> None:
    stacks = JOBS[job].get("strategy", {}).get("matrix", {}).get("stack", [""])
    for stack in stacks:
        parse(shlex.split(command.replace("$STACK", stack))[3:])
        assert not stack or (REPO / f"Pulumi.{stack}.yaml").is_file()


def parse(words: list[str]) -> None:
    """Have the real command line read the words; nothing is run."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("ops", list(words))
    while getattr(command, "commands", None):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def test_a_command_that_ops_does_not_take_is_noticed() -> None:
    for wrong in (["drfit", "--stack", "prod"], ["preview", "--markdwon", "x"], ["promote", "staging"]):
        with pytest.raises(Exception, match=r"No such|Missing"):
            parse(wrong)


def test_secrets_are_given_to_single_steps_by_environment() -> None:
    for job, content in JOBS.items():
        assert "secrets." not in str(content.get("env", {})), f"{job}: every action would see it"
        for step in content["steps"]:
            outside = {key: value for key, value in step.items() if key != "env"}
            assert "secrets." not in str(outside), job
            assert "github.token" not in str(outside), job
            if "secrets." in str(step.get("env", {})):
                assert "run" in step, f"{job}: a secret is for our commands only"


def test_a_job_with_secrets_has_an_environment() -> None:
    for job, content in JOBS.items():
        assert ("secrets." in str(content)) == ("environment" in content), job
    assert {job: JOBS[job]["environment"] for job in ("deploy/staging", "deploy/prod")} == {
        "deploy/staging": "staging",
        "deploy/prod": "prod",
    }


def test_a_stack_has_one_update_at_a_time_and_none_is_cut_off() -> None:
    updates = {job: JOBS[job]["concurrency"] for job in JOBS if job.startswith("deploy/")}
    assert all(group["cancel-in-progress"] is False for group in updates.values())
    groups = [content["concurrency"]["group"] for content in JOBS.values() if "concurrency" in content]
    assert len(groups) == len(set(groups)), "a run that waits is dropped for a newer one of the same group"


def test_prod_follows_staging_and_runs_what_its_file_pins() -> None:
    prod = JOBS["deploy/prod"]
    assert prod["needs"] == "staging"
    commands = [step["run"] for step in prod["steps"] if "run" in step]
    assert commands[2:] == [
        "python -m ops promote staging prod --pinned --yes",
        "scripts/ci record",
        "python -m ops up --stack prod",
        "python -m ops verify --stack prod --read-only",
    ]


def test_the_gate_can_be_required_and_works_only_when_prods_file_changes() -> None:
    gate = JOBS["pull-request/gate"]
    assert "if" not in gate, "a required check that is skipped counts as passed"
    assert "paths" not in str(WORKFLOWS["pull-request"][True]), "one that never starts is waited for"
    first, look, *work = gate["steps"]
    assert first["uses"].startswith("actions/checkout@")
    assert first["with"]["fetch-depth"] == 0
    assert (look["id"], look["run"]) == ("prod", "scripts/ci changed Pulumi.prod.yaml")
    assert {step["if"] for step in work} == {"steps.prod.outputs.changed == 'true'"}
    assert work[-1]["run"] == "python -m ops promote staging prod --check"


def test_the_cli_is_the_programs_version() -> None:
    (wanted,) = re.findall(r"^pulumi==(\S+)", (REPO / "requirements.in").read_text(), re.MULTILINE)
    versions = {step["with"]["pulumi-version"] for _, step in steps() if "pulumi/actions@" in step.get("uses", "")}
    assert versions == {wanted}


# -- scripts/ci -----------------------------------------------------------------------------------------------------


def ci(folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    """What `scripts/ci WORDS` printed, run in a folder as a runner would."""
    files = {name: str(folder / name.lower()) for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH")}
    variables = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "RUNNER_TEMP": str(folder), **files, **environment}
    command = ["bash", str(REPO / "scripts" / "ci"), *words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("file", "changed"), [("Pulumi.prod.yaml", "true"), ("README.md", "false")])
def test_the_gate_notices_a_changed_file(file: str, changed: str, tmp_path: Path) -> None:
    git(tmp_path, "init")
    for name in ("Pulumi.prod.yaml", "README.md"):
        (tmp_path / name).write_text("before\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "before")
    git(tmp_path, "checkout", "-b", "change")
    (tmp_path / file).write_text("after\n")
    git(tmp_path, "commit", "--all", "--message", "change")
    git(tmp_path, "checkout", "main")
    git(tmp_path, "merge", "--no-ff", "--message", "as the runner merges it", "change")
    ci(tmp_path, "changed", "Pulumi.prod.yaml")
    assert (tmp_path / "github_output").read_text() == f"changed={changed}\n"


def test_a_repository_without_history_is_an_error_for_the_gate(tmp_path: Path) -> None:
    git(tmp_path, "init")
    ci(tmp_path, "changed", "Pulumi.prod.yaml", code=128)


def test_the_kubeconfig_is_a_file_of_its_owner(tmp_path: Path) -> None:
    said = ci(tmp_path, "kubeconfig", KUBECONFIG_TEXT="kind: Config\ntoken: hunter2")
    file = tmp_path / "kubeconfig"
    assert file.read_text() == "kind: Config\ntoken: hunter2\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "github_env").read_text() == f"KUBECONFIG={file}\n"
    assert "hunter2" not in said
    assert "no secret KUBECONFIG" in ci(tmp_path, "kubeconfig", KUBECONFIG_TEXT="", code=1)


GH = """#!/bin/sh
echo "$@" >>"$RUNNER_TEMP/calls"
case "$*" in *--jq*) [ -z "$OURS" ] || echo "$OURS" ;; esac
"""


@pytest.mark.parametrize(
    ("ours", "call"),
    [
        ("", "pr comment 7 --body-file preview.md"),
        ("41", "api --method PATCH repos/acme/store/issues/comments/41 --field body=@preview.md --silent"),
    ],
)
def test_a_stack_has_one_comment_that_is_updated(ours: str, call: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "preview.md").write_text("<!-- session-store: Preview of prod -->\n### Preview of prod\n")
    ci(tmp_path, "comment", "preview.md", PULL_REQUEST="7", GITHUB_REPOSITORY="acme/store", OURS=ours)
    look, then = (tmp_path / "calls").read_text().splitlines()
    assert look.startswith("api --paginate repos/acme/store/issues/7/comments --jq")
    assert "github-actions[bot]" in look
    assert then == call


def test_a_promotions_record_is_pushed_to_the_branch(tmp_path: Path) -> None:
    origin, here = tmp_path / "origin.git", tmp_path / "here"
    git(tmp_path, "init", "--bare", str(origin))
    git(tmp_path, "clone", str(origin), str(here))
    git(here, "checkout", "-b", "main")
    (here / "Pulumi.prod.yaml").write_text("config: {}\n")
    git(here, "add", ".")
    git(here, "commit", "--message", "before")
    git(here, "push", "origin", "main")
    assert "No promotion was recorded" in ci(here, "record", GITHUB_REF_NAME="main")
    (here / "promotions").mkdir()
    (here / "promotions" / "1.md").write_text("done\n")
    (here / "preview.md").write_text("not ours to commit\n")
    ci(here, "record", GITHUB_REF_NAME="main")
    names = git(origin, "show", "--name-only", "--format=%an", "main").split()
    assert names == ["github-actions[bot]", "promotions/1.md"]
