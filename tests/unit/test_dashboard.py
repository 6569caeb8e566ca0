"""The dashboard and the alerts ask for metrics that exist, in PromQL that parses; Grafana can import it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from alert_series import CONFIGS
from program import declare
from typer.testing import CliRunner

from infra import alerts, panels
from infra.dashboard import dashboard
from infra.settings import parse
from ops.cli import app

NAMES = Path(__file__).with_name("metric_names.txt")
TYPES: dict[str, str] = {}
for line in NAMES.read_text().splitlines():
    if not line.startswith("#"):
        _, name, TYPES[name] = line.split()
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
SERIES = {name + suffix: kind for name, kind in TYPES.items() for suffix in SUFFIXES.get(kind, ("",))}
QUERIES = [
    query.replace("$__rate_interval", "1m")
    for row in panels.ROWS.values()
    for panel in row
    for query in panel.queries.values()
]
RULES = [
    rule["expr"]
    for values in CONFIGS.values()
    for group in alerts.rules(parse(values))["groups"]
    for rule in group["rules"]
]


def metrics(query: str) -> set[str]:
    """Names that stand before a selector."""
    return set(re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{", query))


@pytest.mark.parametrize("query", dict.fromkeys(QUERIES + RULES))
def test_every_metric_is_exported(query: str) -> None:
    asked = metrics(query)
    assert asked
    assert asked <= SERIES.keys(), f"nobody exports {asked - SERIES.keys()}"
    grown = set(re.findall(r"(?:rate|increase)\(([a-z_0-9]+)\{", query))
    assert {SERIES[name] for name in grown} <= {"counter", "histogram"}, f"only what grows has a rate: {query}"


def test_every_query_parses(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    (file := tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def drawn() -> Iterator[dict[str, object]]:
    yield from (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def test_every_panel_is_drawn_beside_the_others_from_the_chosen_source() -> None:
    board = dashboard()
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == list(panels.ROWS)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "namespace"]
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in board["panels"]]
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(cells) == len(set(cells)), "panels lie over each other"
    assert max(x + w for x, _, w, _ in places) == 24
    for panel in drawn():
        assert panel["datasource"]["uid"] == "$datasource"
        assert panel["description"]
        assert all('namespace="$namespace"' in target["expr"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_metric_that_the_plan_lists_has_a_panel_and_an_alert() -> None:
    plan = {
        "redis_connected_clients",
        "redis_memory_used_bytes",
        "redis_db_keys_expiring",
        "redis_keyspace_hits_total",
        "session_store_sessions_created_total",
        "session_store_errors_total",
        "process_resident_memory_bytes",
    }
    assert plan <= set().union(*map(metrics, QUERIES))
    assert plan <= set().union(*map(metrics, RULES))


def test_ops_prints_both() -> None:
    printed = CliRunner().invoke(app, ["dashboard"])
    assert json.loads(printed.output) == dashboard()
    rules = yaml.safe_load(CliRunner().invoke(app, ["alerts", "--stack", "dev"]).output)
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert "SessionStoreUnusable" in names
    assert "SessionStoreNoMaster" not in names, "dev has one Redis"


def test_the_stack_declares_them_for_a_prometheus_with_and_without_the_operator() -> None:
    values = CONFIGS["sentinel"]
    want = alerts.rules(parse(values))
    metrics = {**values["metrics"], "rules": True, "dashboard": True}
    plain = declare({**values, "metrics": metrics}).objects
    rules = plain["ConfigMap", "session-store-alerts"]
    assert rules["metadata"]["labels"]["session-store/alerts"] == "true"
    assert yaml.safe_load(rules["data"]["alerts.yaml"]) == want
    board = plain["ConfigMap", "session-store-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["session-store-dashboard.json"]) == dashboard()
    operated = declare({**values, "metrics": {**metrics, "podMonitors": True}}).objects
    assert operated["PrometheusRule", "session-store-alerts"]["spec"] == want
    assert ("ConfigMap", "session-store-alerts") not in operated
    assert not [
        name for _, name in declare(values).objects if name in {"session-store-alerts", "session-store-dashboard"}
    ]
