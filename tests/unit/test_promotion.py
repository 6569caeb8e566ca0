"""The gate's judgement of evidence, the records, and the fields that people add by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from program import config
from test_release import release

from infra.release import Release
from infra.settings import parse
from ops import evidence, foreign
from ops.changes import SIGNATURE
from ops.errors import OpsError
from ops.evidence import Evidence
from ops.foreign import Field, Touched
from ops.promote import gate, records
from ops.promote.records import Record

NOW = datetime.now(UTC)
SETTINGS = parse(config(evidenceHours=24))
RED = {"title": "Redis is ready", "evidence": "no pod", "status": "fail"}


def last(**changes: Any) -> dict[str, Any]:
    """A stored report."""
    return {"release": {"id": "abc"}, "ok": True, "readOnly": False, "lines": [], "time": NOW.isoformat(), **changes}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            Evidence({}, {}),
            "staging has no evidence that release abc works: run `python -m ops verify --stack staging`",
        ),
        (Evidence(last(release={"id": "def"}), {}), "is of release def, not of abc, which is to be promoted"),
        (Evidence(last(ok=False, lines=[RED]), {}), "is red (Redis is ready: no pod): mend that"),
        (Evidence(last(readOnly=True), {}), "is of a --read-only run"),
        (
            Evidence(last(), {"abc": {"time": (NOW - timedelta(days=300)).isoformat()}}),
            " h old, older than session-store:evidenceHours (24)",
        ),
    ],
)
def test_evidence_that_does_not_do_is_refused_with_what_to_run(found: Evidence, message: str) -> None:
    (refusal,) = gate.proof("staging", SETTINGS, found, "abc")
    assert message in refusal.text
    assert "python -m ops verify --stack staging" in refusal.text
    assert not refusal.firm


def test_evidence_of_before_does_while_it_is_young() -> None:
    found = Evidence(last(release={"id": "def"}), {"abc": {"time": NOW.isoformat()}})
    assert list(gate.proof("staging", SETTINGS, found, "abc")) == []


@pytest.mark.parametrize(("source", "stage"), [("dev", "staging"), ("dev", "prod"), ("prod", "prod"), ("qa", "prod")])
def test_only_neighbours_are_promoted(source: str, stage: str) -> None:
    with pytest.raises(OpsError, match=r"session-store:stages in Pulumi.yaml: dev, staging, prod") as refused:
        gate.stages(SETTINGS.stages, source, stage)
    assert refused.value.code == 2


def test_a_team_may_have_more_stages() -> None:
    stages = ["dev", "staging", "qa", "prod"]
    gate.stages(stages, "staging", "qa")
    gate.stages(stages, "qa", "prod")
    with pytest.raises(OpsError, match="prod runs what qa proved: `python -m ops promote qa prod`"):
        gate.stages(stages, "staging", "prod")


def record(**changes: Any) -> Record:
    """A record of a promotion."""
    made = Record("prod", "promotion", Release.model_validate(release()), None, **changes)
    made.evidence = {"time": "2026-11-24T10:00:00+00:00", "counts": {"pass": 31, "fail": 0}, "deep": True}
    made.differences = [("image api", "a|b", "c"), ("Deployment api", "", "update: spec.template")]
    return made


def test_a_record_reads_well_and_reads_back(tmp_path: Path) -> None:
    made = record(override="the fire\nis hot", refusals=["staging was changed\nby hand"])
    made.begin(tmp_path)
    made.end(records.DONE, "release runs")
    assert made.path is not None
    text = made.path.read_text()
    assert f"# prod: release {made.release.id}, from staging" in text
    assert "| Evidence | staging, 2026-11-24T10:00:00+00:00: 31 pass, with `--deep` |" in text
    assert "| image api | `a\\|b` | `c` |" in text
    assert "> the fire\n> is hot" in text
    assert "- staging was changed by hand" in text
    (read,) = records.of(tmp_path, "prod")
    assert read == made
    assert records.of(tmp_path, "qa") == []


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    made = record()
    made.begin(tmp_path)
    assert made.path is not None
    made.path.write_text("# prod\n")
    with pytest.raises(OpsError, match="is no record of a promotion .* `git checkout` brings it back"):
        records.of(tmp_path)


def test_an_override_is_told_until_the_release_is_proved(tmp_path: Path) -> None:
    made = record(override="fire", refusals=["x"])
    made.begin(tmp_path)
    made.end(records.DONE, "")
    assert records.unproven(records.of(tmp_path), []) == [made]
    assert records.unproven(records.of(tmp_path), [made.release.id]) == []


def live(**managers: Any) -> dict[str, Any]:
    """A Deployment whose containers have env A (ours) and B, and a label of somebody's."""
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    return {
        "metadata": {
            "labels": {"app": "api", "team": "x"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": "now"},
            "managedFields": [{"manager": name, "fieldsV1": fields} for name, fields in managers.items()],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "api", "env": env}]}}},
    }


def fields_of_env(name: str) -> dict[str, Any]:
    item = {f'k:{{"name":"{name}"}}': {".": {}, "f:name": {}, "f:value": {}}}
    return {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"api"}': {"f:env": item}}}}}}


def test_only_what_people_added_is_found() -> None:
    label = {"f:metadata": {"f:labels": {"f:team": {}}}}
    restart = {"f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}}
    found = list(
        foreign._fields(
            live(**{"pulumi-kubernetes-1": fields_of_env("A"), "kubectl-set": fields_of_env("B"), "k9s": label})
        )
    )
    assert [(field.pointer, field.value, field.manager) for field in found] == [
        ("/spec/template/spec/containers/0/env/1", {"name": "B", "value": "2"}, "kubectl-set"),
        ("/metadata/labels/team", "x", "k9s"),
    ]
    ours = {"pulumi-kubernetes-1": fields_of_env("A"), "kubectl-set": fields_of_env("A"), "kubectl-rollout": restart}
    assert list(foreign._fields(live(**ours))) == []


def test_what_the_program_declares_is_the_engines_to_take_back() -> None:
    taken = live(**{"pulumi-kubernetes-1": fields_of_env("A"), "kubectl-set": fields_of_env("B")})
    declared = {"spec": {"template": {"spec": {"containers": [{"name": "api", "env": [{"name": "B", "value": "1"}]}]}}}}
    (field,) = foreign._fields(taken, declared)
    assert (field.pointer, field.declared) == ("/spec/template/spec/containers/0/env/1", True)
    declared["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = "2"  # type: ignore[index]
    assert list(foreign._fields(taken, declared)) == [], "put back by hand is as declared"
    hidden = {"spec": {SIGNATURE: "a secret", "ciphertext": "x"}}
    assert [field.declared for field in foreign._fields(taken, hidden)] == [True]


def test_values_of_a_secret_are_not_shown() -> None:
    field = Field("/data/password", "cGFzc3dvcmQ=", "kubectl-patch")
    (shown,) = Touched("urn", "v1", "Secret", "ns", "redis-secret", "1", (field,)).as_change().properties
    assert (shown.path, shown.new) == ("data.password", "[secret] (kubectl-patch)")


def test_the_newest_proofs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, str] = {}
    monkeypatch.setattr(evidence, "_write", lambda cluster, namespace, data: stored.update(data))
    monkeypatch.setattr(evidence, "read", lambda cluster, namespace: Evidence({}, {"old": {"time": "2026-01-01"}}))
    report = {**last(release={"id": "new"}), "counts": {}, "deep": False}
    evidence.store(None, "ns", report)  # type: ignore[arg-type]
    assert set(json.loads(stored["proved.json"])) == {"old", "new"}
    evidence.store(None, "ns", {**report, "release": {"id": "old"}, "ok": False})  # type: ignore[arg-type]
    assert "old" not in stored["proved.json"], "what was proved once and is red now is not proved"
