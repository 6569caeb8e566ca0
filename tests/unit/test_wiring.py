"""The environment of the API beyond what every stack has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from program import API_IMAGE, config

from infra.redis import SessionStore
from infra.settings import parse
from infra.wiring import wiring


def plain_env(**changes: Any) -> dict[str, str]:
    settings = parse(config(**changes))
    wired = wiring(settings, cast(SessionStore, SimpleNamespace(host="redis", port=6379)), "fingerprint")
    return {item["name"]: item["value"] for item in wired.env if "value" in item}


def test_durable_logins_are_wired_only_where_asked_for() -> None:
    assert not [name for name in plain_env() if name.startswith("SESSION_WAIT_")]
    sentinel = {"mode": "sentinel", "proxyImage": API_IMAGE}
    env = plain_env(redis=sentinel, sessions={"waitReplicas": 1, "waitTimeoutMs": 300, "requestBudgetMs": 2500})
    assert env["SESSION_WAIT_REPLICAS"] == "1"
    assert env["SESSION_WAIT_TIMEOUT_MS"] == "300"
    assert env["SESSION_REQUEST_BUDGET_MS"] == "2500"
