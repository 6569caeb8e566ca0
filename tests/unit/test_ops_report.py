"""The engine's messages, as an operator reads them, and the preview's table."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import EngineEvent
from rich.console import Console

from ops import changes, progress, report

URN = "urn:pulumi:dev::session-store::sessionstore:redis:Standalone$kubernetes:apps/v1:StatefulSet::redis"
SECRET = {changes.SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "[secret]"}


def test_a_program_error_loses_its_traceback() -> None:
    raw = """<{%reset%}>python inline source runtime error: The stack configuration is wrong:
  - session-store:redis.image: is missing
Traceback (most recent call last):
  File "/x/_server.py", line 1, in run
    loop.run_until_complete()
infra.settings.SettingsError: The stack configuration is wrong:
  - session-store:redis.image: is missing
"""
    assert report.reduce_text(raw) == "The stack configuration is wrong:\n  - session-store:redis.image: is missing"


def test_an_error_that_only_a_traceback_tells_is_kept() -> None:
    raw = 'error: Traceback (most recent call last):\n  File "x", line 1\nValueError: no such thing\n'
    assert report.reduce_text(raw) == "no such thing"


def test_headings_and_repeats_go() -> None:
    reason = "pod redis-0 is unschedulable"
    raw = f"error: 1 error occurred:\n\t* {reason}\n\nerror: {reason}\nupdate failed\n"
    assert report.reduce_text(raw) == "pod redis-0 is unschedulable"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("ImagePullBackOff: not found", "python -m cluster load-image"),
        ("CrashLoopBackOff", "kubectl logs --previous"),
        ("0/3 nodes are available: 3 Insufficient memory", "lower redis.memory"),
        ("Apply failed with 1 conflict: conflict with helm", "another owner set that field"),
        ("error: incorrect passphrase", "PULUMI_CONFIG_PASSPHRASE"),
        ('no matches for kind "Certificate"', "install its CRDs"),
    ],
)
def test_common_errors_come_with_their_fix(reason: str, advice: str) -> None:
    assert advice in (report.fix(reason) or "")


def test_an_unknown_error_comes_without_a_guess() -> None:
    assert report.fix("something odd") is None


def test_resources_have_short_names() -> None:
    assert report.resource(URN) == "StatefulSet redis"
    assert report.resource("urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev") == "the program"
    assert report.resource(None) == "the program"


def event(kind: str, **content: Any) -> EngineEvent:
    return EngineEvent.from_json({kind: content})


def step(op: str, **content: Any) -> dict[str, Any]:
    return {"metadata": {"op": op, "urn": URN, "type": "kubernetes:apps/v1:StatefulSet", **content}}


def test_progress_counts_reports_and_never_shows_debug_lines(tmp_path: Path) -> None:
    out = StringIO()
    with progress.Progress(Console(file=out, width=200), tmp_path / "logs" / "up.log") as shown:
        shown.event(event("diagnosticEvent", severity="debug", message="password=hunter2"))
        shown.event(event("resourcePreEvent", **step("create")))
        shown.event(
            event("diagnosticEvent", severity="error", urn=URN, message="error: pod redis-0: CrashLoopBackOff\n")
        )
        shown.event(event("diagnosticEvent", severity="error", urn=URN, message="pod redis-0: CrashLoopBackOff"))
        shown.event(event("diagnosticEvent", severity="error", message="update failed"))
        shown.event(event("resOutputsEvent", **step("create")))
        shown.event(event("summaryEvent", resourceChanges={"create": 1, "same": 2}))
    assert "✓ StatefulSet redis created" in out.getvalue()
    (failure,) = shown.failures
    assert (failure.resource, failure.reason) == ("StatefulSet redis", "pod redis-0: CrashLoopBackOff")
    assert failure.fix is not None
    assert progress.summary(shown.changes) == "1 created, 2 same"
    assert "hunter2" not in out.getvalue() + (tmp_path / "logs" / "up.log").read_text()


def test_nothing_changed_is_said_in_so_many_words() -> None:
    assert progress.summary({"same": 19}) == "0 changes (19 same)"


def test_what_stays_on_the_cluster_is_not_called_deleted(tmp_path: Path) -> None:
    out = StringIO()
    with progress.Progress(Console(file=out, width=200), tmp_path / "log") as shown:
        shown.event(event("resOutputsEvent", **step("delete", old={"retainOnDelete": True})))
    assert "StatefulSet redis kept on the cluster" in out.getvalue()


def preview(**metadata: Any) -> list[changes.Change]:
    collector = changes.Collector()
    collector.event(event("resourcePreEvent", **step(**metadata)))
    return collector.changes


def test_preview_shows_each_property_with_secrets_masked() -> None:
    (change,) = preview(
        op="update",
        old={"inputs": {"spec": {"replicas": 1, "t": [{"v": "a"}]}, "data": {"password": SECRET}}},
        new={"inputs": {"spec": {"replicas": 3, "t": [{"v": "b"}]}, "data": {"password": SECRET}}},
        detailedDiff={
            "spec.replicas": {"diffKind": "update", "inputDiff": True},
            "spec.t[0].v": {"diffKind": "update-replace", "inputDiff": True},
            'data["password"]': {"diffKind": "update", "inputDiff": True},
        },
    )
    assert [(p.path, p.old, p.new) for p in change.properties] == [
        ('data["password"]', "[secret]", "[secret]"),
        ("spec.replicas", "1", "3"),
        ("spec.t[0].v", "a", "b"),
    ]
    out = StringIO()
    Console(file=out, width=160).print(changes.table([change]))
    assert "StatefulSet redis" in out.getvalue()
    assert "spec.t[0].v (replaces)" in out.getvalue()
    assert change.as_json()["properties"][1] == {"path": "spec.replicas", "kind": "update", "old": "1", "new": "3"}


def test_preview_of_nothing_lists_nothing() -> None:
    assert preview(op="same") == []


def test_secrets_are_masked_at_any_depth() -> None:
    assert changes.mask({"a": [{"b": SECRET}], "c": 1}) == {"a": [{"b": "[secret]"}], "c": 1}
