"""Alerts: each one fires when it should and says what it saw; on a healthy stack of any kind none does (promtool)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_cases import CASES, Case
from alert_series import CONFIGS, NAMESPACE, Series, healthy
from program import DIGEST, config

from infra import alerts
from infra.cron import longest_gap
from infra.settings import SettingsError, parse

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def rules(mode: str) -> dict[str, Any]:
    return alerts.rules(parse(CONFIGS[mode]))


def of(mode: str) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rules(mode)["groups"] for rule in group["rules"]}


EVERY = {rule["alert"]: rule for mode in CONFIGS for rule in of(mode).values()}


def promtool(*args: str | Path) -> None:
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
    return path


def minutes(hold: str) -> int:
    return int(hold[:-1]) * {"m": 1, "h": 60}[hold[-1]]


def expected(case: Case, rule: dict[str, Any]) -> dict[str, Any]:
    """The alert as promtool shall find it: the templates of its description filled in with what the case says."""
    shown = iter(case.shown)
    description = re.sub(r"\{\{.*?\}\}", lambda _: next(shown), rule["annotations"]["description"])
    assert next(shown, None) is None, f"{case.alert}: {case.shown} is more than its description shows"
    return {
        "exp_labels": {"namespace": NAMESPACE, **case.labels, **rule["labels"]},
        "exp_annotations": {**rule["annotations"], "description": description},
    }


def group(series: Series, alert: str, step: int, times: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "interval": f"{step}m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{time}m", "alertname": alert, "exp_alerts": found} for time, found in times.items()
        ],
    }


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    files = []
    for number, case in enumerate(CASES):
        rule, hold = of(case.mode)[case.alert], minutes(of(case.mode)[case.alert]["for"])
        usual = {} if case.alone else healthy(case.mode, case.at)
        usual = {name: values for name, values in usual.items() if not any(part in name for part in case.gone)}
        times = {case.at: [expected(case, rule)]}
        if hold and "+" not in "".join(case.bad.values()):
            times[hold // 2] = []  # bad already, and not for long enough
        tests = [group({**usual, **case.bad}, case.alert, case.step, times)]
        if case.near:
            tests.append(group({**usual, **case.near}, case.alert, case.step, {case.at: []}))
        only = write(tmp_path / f"{number}.rules.yaml", {"groups": [{"name": "one", "rules": [rule]}]})
        content = {"rule_files": [only.name], "evaluation_interval": f"{case.step}m", "tests": tests}
        files.append(write(tmp_path / f"{number}-{case.alert}.yaml", content))
    promtool("test", "rules", *files)


def test_every_alert_has_a_case() -> None:
    assert EVERY.keys() == {case.alert for case in CASES}


@pytest.mark.parametrize("mode", CONFIGS)
def test_no_alert_on_a_healthy_stack(tmp_path: Path, mode: str) -> None:
    if mode == "unwatched":
        assert rules(mode) == {"groups": []}
        return
    file = write(tmp_path / "rules.yaml", rules(mode))
    promtool("check", "rules", file)
    time = 100
    test = group(healthy(mode, time), "", 1, {})
    test["alert_rule_test"] = [
        {"eval_time": f"{at}m", "alertname": alert, "exp_alerts": []} for alert in of(mode) for at in (5, time)
    ]
    promtool("test", "rules", write(tmp_path / "test.yaml", {"rule_files": [file.name], "tests": [test]}))


def test_what_does_not_apply_is_not_there() -> None:
    standalone, sentinel = of("standalone").keys(), of("sentinel").keys()
    assert not {name for name in standalone if "Replica" in name or "Proxy" in name or "Master" in name}
    assert {"SessionStoreNoMaster", "SessionStoreProxyNoMaster", "SessionStoreReplicaLag"} <= sentinel
    assert {"SessionStoreBackupTooOld", "SessionStoreReplicasUnacknowledged"} <= sentinel - standalone
    assert not {name for name in of("no-aof") if "Aof" in name or "Volume" in name}
    assert not {name for name in of("no-tls") if "Certificate" in name}
    assert not {name for name in of("external") if "Redis" in name or "Proxy" in name}
    assert "SessionStoreApiMemoryHigh" not in of("helm"), "the limit is its owner's"
    assert of("standalone")["SessionStoreRedisDown"]["labels"]["severity"] == "critical"
    assert of("sentinel")["SessionStoreRedisDown"]["labels"]["severity"] == "warning"


def test_alerts_follow_the_settings() -> None:
    def expr(alert: str, **changes: Any) -> str:
        metrics = {"exporterImage": DIGEST.format("exporter")}
        found = alerts.rules(parse(config(metrics=metrics, **changes)))
        return str(next(r["expr"] for g in found["groups"] for r in g["rules"] if r["alert"] == alert))

    assert "/ 536870912 >" in expr("SessionStoreApiMemoryHigh", api={"memory": "512Mi"})
    outrun = expr(
        "SessionStoreLoginsOutrunMemory", sessions={"ttlSeconds": 3600}, redis={"memory": "1Gi", "database": 2}
    )
    assert "* 3600 *" in outrun
    assert "> 520093696" in outrun, "half of 1Gi less 16 MiB, as redis.conf has it"
    assert 'db="db2"' in outrun
    assert 'namespace="other"' in expr("SessionStoreUnusable", namespace="other")
    assert "> 10800" in expr("SessionStoreBackupTooOld", backup={"schedule": "17 * * * *"})


@pytest.mark.parametrize("alert", EVERY)
def test_every_alert_says_what_to_do(alert: str) -> None:
    rule = EVERY[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert "$value" in rule["annotations"]["description"] or "failed" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    (section,) = re.findall(rf"^### {alert}\n(.*?)(?=^##|\Z)", RUNBOOK, re.M | re.S)
    for part in ("**Means**", "**Hurt**", "**Look**", "**Fix**", "**Wake someone**"):
        assert part in section, f"{alert}: {part}"


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (SessionStore\w+)", RUNBOOK, re.M)) == EVERY.keys()


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ("0 3 * * *", 24),
        ("*/15 * * * *", 0.25),
        ("17 */6 * * *", 6),
        ("0 8-18 * * 1-5", 62),
        ("0 0 * * sun", 168),
        ("30 2 1 * *", 31 * 24),
        ("0 4 1,15 * mon", 7 * 24),
        ("0 4 29 feb *", 24 * (4 * 365 + 1)),
    ],
)
def test_longest_gap_between_backups(schedule: str, hours: float) -> None:
    assert longest_gap(schedule) == hours * 60


@pytest.mark.parametrize("schedule", ["0 25 * * *", "x * * * *", "0 0 31 2 *"])
def test_a_schedule_that_is_none(schedule: str) -> None:
    with pytest.raises(SettingsError, match="backup.schedule"):
        alerts.rules(parse(config(backup={"schedule": schedule})))
