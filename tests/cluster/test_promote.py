"""From staging to prod on the real thing: what is refused, what a promotion does, and the way back."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from embedded import EmbeddedCluster
from project import ProjectMaker
from stages import Stages, get, kubectl, redis_command, restored
from traffic import traffic_to

from bench.variant import variant
from ops.promote import records

PROMOTE = ("promote", "staging", "prod", "--yes")


@pytest.fixture(scope="module")
def images(make_project: ProjectMaker) -> dict[str, dict[str, str]]:
    return dict(json.loads((make_project("promote").folder / ".state" / "images.json").read_text()))


@pytest.fixture(scope="module")
def stages(
    cluster: EmbeddedCluster, images: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Stages:
    """Staging is up, from a program that no commit holds yet; prod has its certificate."""
    references = {name: image["ref"] for name, image in images.items()}
    made = Stages(tmp_path_factory.mktemp("stages") / "repository", cluster.kubeconfig, "promote", references, nice=0)
    made.create()
    for stage in ("staging", "prod"):
        made.ops("certificates", "issue", "--stack", stage)
    with (made.folder / "infra" / "pods.py").open("a") as program:
        program.write("\n# changed, and not committed\n")
    made.ops("up", "--stack", "staging")
    return made


def refused(
    stages: Stages, *reasons: str, command: tuple[str, ...] = PROMOTE, code: int = 1, **environment: str
) -> str:
    """The command is refused for these reasons, and prod's stack file and promotions/ are as they were."""
    before = (stages.path("prod").read_text(), sorted((stages.folder / "promotions").glob("*.md")))
    said = stages.ops(*command, code=code, **environment)
    flat = " ".join(said.split())
    for reason in reasons:
        assert reason in flat, said
    assert "Traceback" not in said
    pins = [line for line in before[0].splitlines() if not line.startswith("encryptionsalt")]
    assert [line for line in stages.path("prod").read_text().splitlines() if not line.startswith("encryption")] == pins
    assert sorted((stages.folder / "promotions").glob("*.md")) == before[1]
    return said


@contextmanager
def in_use(stages: Stages, stage: str) -> Iterator[None]:
    """A lock in the state backend, of a process that lives, as an engine on this machine would hold it."""
    folder = stages.folder / ".state" / "backend" / ".pulumi" / "locks" / "organization" / "session-store" / stage
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["bash", "-c", "exec -a pulumi-of-somebody sleep 600"]) as holder:
        lock = folder / "0123.json"
        content = {"pid": holder.pid, "username": "kim", "hostname": os.uname().nodename, "timestamp": "today"}
        lock.write_text(json.dumps(content))
        try:
            yield
        finally:
            lock.unlink()
            holder.kill()


def stored(stages: Stages, stage: str) -> dict[str, Any]:
    """The evidence beside a stage."""
    data = get(stages, stage, "configmap", "session-store-evidence")["data"]
    return {key: json.loads(value) for key, value in data.items()}


# --- in the order in which a team meets them: before the first evidence ...


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("promote", "staging", "production", "--yes"), "production is no stage"),
        (("promote", "prod", "staging", "--yes"), "Nothing is promoted to staging"),
        (("promote", "prod", "prod", "--yes"), "prod runs what staging proved: `python -m ops promote staging prod`"),
        (("promote", "staging", "prod", "--check", "--pinned"), "exclude each other"),
        (("rollback", "staging", "--yes"), "Nothing is promoted to staging: `git revert`"),
    ],
)
def test_a_way_that_there_is_not(stages: Stages, command: tuple[str, ...], reason: str) -> None:
    refused(stages, reason, command=command, code=2)


def test_prod_runs_nothing_that_was_not_promoted(stages: Stages) -> None:
    reason = "session-store:release: is missing: prod runs what staging proved: `ops promote staging prod`"
    refused(stages, reason, command=("up", "--stack", "prod"))


def test_without_evidence(stages: Stages) -> None:
    refused(stages, "staging has no evidence that release", "run `python -m ops verify --stack staging`")


def test_a_read_only_run_is_no_evidence(stages: Stages) -> None:
    stages.ops("verify", "--stack", "staging", "--read-only")
    refused(stages, "is of a --read-only run")


def test_red_evidence(stages: Stages) -> None:
    redis_command(stages, "staging", "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    stages.ops("verify", "--stack", "staging", "--read-only", code=1)
    redis_command(stages, "staging", "CONFIG", "SET", "maxmemory-policy", "noeviction")
    refused(stages, "is red (No login is evicted: ", "mend that")


def test_a_program_that_no_commit_holds(stages: Stages) -> None:
    said = stages.ops("verify", "--stack", "staging", "--deep")
    for survived in ("Sessions outlive the death of Redis", "The death of a proxy", "The death of an API pod"):
        assert re.search(f"✓ pass +{survived}.*killed", said), said
    refused(stages, "No commit holds this program (infra/pods.py changed since): commit it")
    stages.commit("The program that staging runs")


def test_evidence_is_kept_beside_the_stack_and_as_an_output(stages: Stages) -> None:
    report = stored(stages, "staging")["evidence.json"]
    output = stages.ops("outputs", "--stack", "staging")
    assert report["ok"] is True
    assert report["release"] == stages.release("staging")
    assert {"program", "pulumi", "kubernetes", "redis"} <= report["versions"].keys()
    assert json.loads(output[output.index("{\n") :])["evidence"] == report


# --- ... with evidence, and something else that is wrong


def test_evidence_that_is_too_old(stages: Stages) -> None:
    kept = stored(stages, "staging")
    release = stages.release("staging")["id"]
    old = {**kept["proved.json"], release: {**kept["proved.json"][release], "time": "2026-01-01T00:00:00+00:00"}}
    for proved in (old, kept["proved.json"]):
        patch = json.dumps({"data": {"proved.json": json.dumps(proved)}})
        kubectl(stages, "staging", "patch", "configmap", "session-store-evidence", "--patch", patch)
        if proved is old:
            refused(stages, "older than session-store:evidenceHours (72)")


def test_a_stage_that_was_changed_by_hand(stages: Stages) -> None:
    kubectl(stages, "staging", "scale", "deployment/api", "--replicas=1")
    refused(stages, "staging was changed by hand: Deployment api (spec.replicas)", "python -m ops drift staging")
    stages.ops("drift", "staging", "--fix", "--yes")


def test_a_stack_file_that_staging_does_not_run(stages: Stages) -> None:
    with restored(stages.path("staging")):
        stages.change("staging", "sessions", ttlSeconds=7200)
        refused(stages, "staging does not run what is checked out (settings in Pulumi.staging.yaml changed since)")


def test_a_program_that_staging_does_not_run(stages: Stages) -> None:
    program = stages.folder / "infra" / "api.py"
    with restored(program):
        program.write_text(program.read_text() + "\n# another one\n")
        refused(stages, "staging does not run what is checked out (infra/ changed since)")


@pytest.mark.parametrize("stage", ["staging", "prod"])
def test_an_update_in_progress(stages: Stages, stage: str) -> None:
    with in_use(stages, stage):
        refused(stages, f"{stage} has an update in progress, of kim@")


@pytest.mark.parametrize(
    ("section", "values", "reason"),
    [
        ("sessions", {"ttlSeconds": 60}, "session-store:sessions.ttlSeconds: comes with the release: remove it"),
        ("tls", {"secretName": "nowhere"}, "TLS Secret nowhere is missing in namespace promote-prod"),
        ("api", {"replicas": 1}, "prod would break a rule for stages: Deployment api: has one pod"),
    ],
)
def test_settings_of_prod_that_do_not_do(stages: Stages, section: str, values: dict[str, Any], reason: str) -> None:
    with restored(stages.path("prod")):
        stages.change("prod", section, **values)
        refused(stages, reason)


def test_the_wrong_passphrase(stages: Stages) -> None:
    refused(stages, "incorrect passphrase", PULUMI_CONFIG_PASSPHRASE="another one")


def test_a_cluster_that_does_not_answer(stages: Stages, tmp_path: Path) -> None:
    document = yaml.safe_load(stages.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    refused(stages, "cannot be reached", KUBECONFIG=str(path))


def test_nobody_there_to_ask(stages: Stages) -> None:
    refused(stages, "repeat it with --yes", command=("promote", "staging", "prod"))


def test_an_override_needs_its_reason(stages: Stages) -> None:
    with restored(stages.path("staging")):
        refused(stages, "--override needs the reason", command=(*PROMOTE, "--override", " "), code=2)


def test_there_is_nothing_to_go_back_to(stages: Stages) -> None:
    refused(stages, "Stack prod is not deployed", command=("rollback", "prod", "--yes"), code=2)


# --- what a promotion does


def test_a_dry_run_shows_and_changes_nothing(stages: Stages) -> None:
    said = refused(stages, "nothing was changed", command=("promote", "staging", "prod", "--dry-run"), code=0)
    assert re.search(r"image api +session-store.local/api@sha256:", said)
    assert re.search(r"StatefulSet redis-ha +create", said)


def test_killed_in_the_middle_and_run_again(stages: Stages) -> None:
    process = stages.start(*PROMOTE)

    kubectl(stages, "prod", "wait", "--for=create", "secret/redis-internal", "--timeout=120s")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (record,) = records.of(stages.folder, "prod")
    assert record.status == records.STARTED
    said = stages.ops(*PROMOTE)
    assert f"Going on with {record.name}" in said
    (record,) = records.of(stages.folder, "prod")
    assert (record.status, record.previous) == (records.DONE, None)
    assert stages.release("prod")["id"] == stages.release("staging")["id"] == record.release.id
    stages.commit("First promotion")


def test_what_runs_already_is_not_promoted_again(stages: Stages) -> None:
    assert "nothing to promote" in refused(stages, code=0)


def test_pins_are_not_edited(stages: Stages) -> None:
    text = stages.path("prod").read_text()
    with restored(stages.path("prod")):
        stages.path("prod").write_text(text.replace("waitReplicas: 1", "waitReplicas: 0"))
        refused(stages, "session-store:release: was not written by a promotion", command=("up", "--stack", "prod"))


def test_prod_has_its_own_sizes_and_staging_s_settings(stages: Stages) -> None:
    env = {item["name"]: item.get("value") for item in _api(stages)["env"]}
    assert env["SESSION_WAIT_REPLICAS"] == "1"
    assert get(stages, "prod", "deployment", "api")["spec"]["replicas"] == 2


def _api(stages: Stages) -> dict[str, Any]:
    (container,) = get(stages, "prod", "deployment", "api")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_a_release_that_nobody_verified(stages: Stages) -> None:
    stages.change("staging", "sessions", ttlSeconds=7200)
    with (stages.folder / "infra" / "pods.py").open("a") as program:
        program.write("# another program\n")
    stages.commit("Another lifetime, another program")
    stages.ops("up", "--stack", "staging")
    refused(stages, "the evidence of staging is of release")


def test_steps_that_would_lose_data(stages: Stages) -> None:
    with restored(stages.path("prod")):
        stages.change("prod", "redis", service="store")
        said = refused(stages, "StatefulSet redis-ha of prod would be deleted", "take a backup")
        assert "Secret redis-internal of prod would be deleted" in " ".join(said.split())


def test_a_pull_request_pins_only_what_is_proved(stages: Stages) -> None:
    propose = ("promote", "staging", "prod", "--pull-request", "--yes")
    refused(stages, "the evidence of staging is of release", command=propose)
    stages.ops("verify", "--stack", "staging")
    first = stages.release("prod")["id"]
    stages.ops(*propose)
    assert stages.release("prod")["id"] == first, "the update is CI's"
    assert records.of(stages.folder, "prod")[-1].status == records.PROPOSED
    said = stages.ops("up", "--stack", "prod", code=1)
    assert "`python -m ops promote staging prod --pinned` judges and applies it" in " ".join(said.split())
    assert "prod may run release" in stages.ops("promote", "staging", "prod", "--check")
    stages.commit("Proposed")


def test_a_merged_pull_request_is_applied(stages: Stages) -> None:
    stages.ops("promote", "staging", "prod", "--pinned", "--yes")
    assert {item["name"]: item.get("value") for item in _api(stages)["env"]}["SESSION_TTL_SECONDS"] == "7200"
    assert records.of(stages.folder, "prod")[-1].status == records.DONE
    stages.commit("Second promotion")
    assert "nothing to promote" in stages.ops("promote", "staging", "prod", "--pinned", "--yes")
    assert "0 changes" in stages.ops("up", "--stack", "prod")


def test_back_to_the_first_and_its_program(stages: Stages) -> None:
    first, second = records.of(stages.folder, "prod")
    claims = {c["metadata"]["uid"] for c in get(stages, "prod", "pvc")["items"]}
    stages.ops("rollback", "prod", "--yes")
    assert stages.release("prod")["id"] == first.release.id != second.release.id
    assert stages.release("prod")["program"] == first.release.program != stages.release("staging")["program"]
    assert {item["name"]: item.get("value") for item in _api(stages)["env"]}["SESSION_TTL_SECONDS"] == "43200"
    assert {c["metadata"]["uid"] for c in get(stages, "prod", "pvc")["items"]} == claims, "data stays"
    assert records.of(stages.folder, "prod")[-1].kind == "rollback"
    stages.commit("Back")
    said = stages.ops("promote", "staging", "prod", "--check")
    assert "prod runs release" in said
    stages.ops("rollback", "prod", "--to", "ffffffffffff", "--yes", code=1)
    stages.ops("rollback", "prod", "--to", second.name, "--yes")
    assert stages.release("prod")["id"] == second.release.id
    stages.commit("Forth")


def test_pins_that_nothing_proved_do_not_pass_the_check(stages: Stages) -> None:
    with restored(stages.path("prod")):
        document = yaml.safe_load(stages.path("prod").read_text())
        pins = document["config"]["session-store:release"]
        pins["images"]["api"] = f"{pins['images']['api'].partition('@')[0]}@sha256:{'ab' * 32}"
        stages.path("prod").write_text(yaml.safe_dump(document, sort_keys=False))
        refused(stages, "the evidence of staging", command=("promote", "staging", "prod", "--check"))


def test_an_emergency_is_recorded_and_told_until_it_is_proved(stages: Stages) -> None:
    stages.change("staging", "sessions", ttlSeconds=3600)
    stages.commit("An emergency")
    stages.ops("up", "--stack", "staging")
    stages.ops(*PROMOTE, "--override", "Sessions must end sooner, now")
    record = records.of(stages.folder, "prod")[-1]
    assert (record.status, record.override) == (records.DONE, "Sessions must end sooner, now")
    assert record.path is not None
    assert "Refusals passed over" in record.path.read_text()
    stages.commit("Emergency promotion")
    warning = f"prod got release {record.release.id} past 1 refusals"
    assert warning in stages.ops("promote", "staging", "prod", "--dry-run", code=None)
    stages.ops("verify", "--stack", "staging")
    assert warning not in stages.ops("promote", "staging", "prod", "--dry-run", code=None)


def test_a_promotion_that_fails_is_taken_back_by_itself(
    stages: Stages, cluster: EmbeddedCluster, images: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    archive = tmp_path / "broken.tar"
    broken = variant(Path(images["api"]["archive"]), "broken", archive, NODE_OPTIONS="--require=/not/there.js")
    cluster.run("load-image", str(archive))
    # A difference between the stages that nobody thought of: staging's own environment takes away what breaks it.
    stages.change("staging", "api", image=broken, env={"NODE_OPTIONS": "--no-warnings"})
    stages.commit("Needs what only staging has")
    stages.ops("up", "--stack", "staging")
    before, pins = stages.release("prod"), stages.path("prod").read_text()
    with traffic_to(get(stages, "prod", "service", "api")["spec"]["clusterIP"]) as people:
        said = stages.ops(*PROMOTE, "--override", "Staging proves nothing about this one", code=1)
    assert f"The promotion failed; prod runs release {before['id']} again, verified" in " ".join(said.split())
    record = records.of(stages.folder, "prod")[-1]
    assert record.status == records.UNDONE
    assert "Deployment api" in str(record.outcome)
    assert stages.release("prod") == before
    assert stages.path("prod").read_text() == pins
    assert people.requests > 100
    assert people.failures == []
    stages.commit("A promotion that was taken back")


# --- drift


def test_hand_edits_are_found_and_taken_back(stages: Stages) -> None:
    assert "Nothing of prod was changed by hand" in stages.ops("drift", "prod")
    kubectl(stages, "prod", "scale", "deployment/api", "--replicas=3")
    kubectl(stages, "prod", "set", "env", "deployment/api", "SESSION_COOKIE_SAMESITE=strict", "DEBUG=express")
    kubectl(stages, "prod", "delete", "pdb", "api")
    kubectl(stages, "prod", "label", "service", "redis", "owner=kim")
    said = " ".join(stages.ops("drift", "prod", code=3).split())
    for seen in ("Deployment api spec.replicas 2 3", "lax strict", "DEBUG=express (kubectl-set)", "owner kim"):
        assert seen in said.replace("metadata.labels.owner", "owner"), said
    assert "PodDisruptionBudget api" in said
    assert "No evidence: the cluster is not what the program declares" in stages.ops(
        "verify", "--stack", "prod", "--read-only", code=1
    )
    stages.ops("drift", "prod", "--fix", code=1)
    stages.ops("drift", "prod", "--fix", "--yes")
    assert "Nothing of prod was changed by hand" in stages.ops("drift", "prod")
    assert get(stages, "prod", "deployment", "api")["spec"]["replicas"] == 2
    assert "DEBUG" not in {item["name"] for item in _api(stages)["env"]}
    assert get(stages, "prod", "pdb", "api")["spec"]["maxUnavailable"] == 1
    assert "owner" not in get(stages, "prod", "service", "redis")["metadata"]["labels"]
