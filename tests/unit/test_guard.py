"""What the guard takes from the engine's events."""

from __future__ import annotations

from typing import Any

import pytest
from pulumi.automation import EngineEvent

from ops.changes import SIGNATURE
from ops.guard import Guard

SECRET = {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "[secret]"}
SERVICE = "kubernetes:core/v1:Service"


def step(op: str, name: str = "api", kind: str = SERVICE, **inputs: Any) -> EngineEvent:
    state = None if op.startswith("delete") else {"type": kind, "urn": "", "inputs": inputs}
    metadata = {"op": op, "urn": f"urn:pulumi:prod::p::{kind}::{name}", "type": kind, "new": state}
    return EngineEvent.from_json({"resourcePreEvent": {"metadata": metadata}})


def guard(*events: EngineEvent) -> Guard:
    found = Guard()
    for event in events:
        found.event(event)
    return found


@pytest.mark.parametrize("op", ["same", "create", "update", "replace", "import"])
def test_everything_declared_is_judged_changed_or_not(op: str) -> None:
    (violation,) = guard(step(op, spec={"type": "NodePort"})).violations(several=True)
    assert (violation.rule, violation.resource) == ("public", "Service api")


@pytest.mark.parametrize("op", ["delete", "delete-replaced", "read", "refresh", "discard"])
def test_what_goes_or_is_only_looked_at_is_not(op: str) -> None:
    assert guard(step(op, spec={"type": "NodePort"})).violations(several=True) == []


def test_the_last_word_on_a_resource_counts() -> None:
    events = [step("update", spec={"type": kind}) for kind in ("NodePort", "ClusterIP")]
    assert guard(*events).violations(several=True) == []
    assert len(guard(*events).resources) == 1


def test_secrets_are_masked() -> None:
    kind = "kubernetes:core/v1:Secret"
    assert guard(step("create", kind=kind, data=SECRET)).resources[0].props == {"data": "[secret]"}
    assert guard(step("create", kind=kind, data={"password": SECRET})).violations(several=True) == []
    leaks = guard(step("create", kind="kubernetes:core/v1:ConfigMap", data={"motd": SECRET})).violations(several=True)
    assert [violation.rule for violation in leaks] == ["plaintext"]


def test_other_events_are_nothing_to_it() -> None:
    assert guard(EngineEvent.from_json({"summaryEvent": {"resourceChanges": {}}})).resources == []
