"""A Prometheus and a sentinel stack with TLS: everybody is seen, also through a rotation; rules are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest
from embedded import REPO, EmbeddedCluster
from project import Project, ProjectMaker
from traffic import Traffic

from ops.kube import wait_for

RULES = """\
groups:
  - name: test
    rules:
      - {alert: TestRedisUp, expr: 'redis_up{namespace="metrics"} == 1'}
"""


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **query: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Pod to value."""
        found = self.get("query", query=expression)["result"]
        return {item["metric"].get("pod", ""): float(item["value"][1]) for item in found}

    def targets(self) -> dict[str, tuple[str, str]]:
        """Pod to (label `app`, health), of the stack."""
        found = [
            target for target in self.get("targets")["activeTargets"] if target["labels"]["namespace"] == "metrics"
        ]
        return {target["labels"]["pod"]: (target["labels"]["app"], target["health"]) for target in found}


@pytest.fixture(scope="module")
def prometheus(cluster: EmbeddedCluster) -> Prometheus:
    return Prometheus(cluster.run("observe").stdout.split()[-1])


@pytest.fixture(scope="module")
def stack(make_project: ProjectMaker, cluster: EmbeddedCluster) -> Project:
    project = make_project("metrics")
    images = project.folder / ".state" / "images.json"
    build = [sys.executable, "-m", "images", "build", "redis", "api", "haproxy", "redis-exporter"]
    subprocess.run([*build, "--json", str(images)], cwd=REPO, check=True)
    cluster.run("load-image", json.loads(images.read_text())["redis-exporter"]["archive"])
    project.configure(redis={"mode": "sentinel"})
    project.up()
    return project


def test_everybody_is_seen_with_the_right_labels(stack: Project, prometheus: Prometheus) -> None:
    pods = stack.get("pods")["items"]
    wanted = {pod["metadata"]["name"]: (pod["metadata"]["labels"]["app"], "up") for pod in pods}
    assert sorted({app for app, _ in wanted.values()}) == ["api", "redis", "redis-proxy"]
    assert wait_for(lambda: prometheus.targets() == wanted, 60), f"{prometheus.targets()}, not {wanted}"
    redis_up = 'redis_up{namespace="metrics",app="redis",session_store_mode="sentinel",container="exporter"}'
    assert prometheus.query(redis_up) == {f"redis-ha-{i}": 1 for i in range(3)}
    generation = 'session_store_connected{namespace="metrics",session_store_password_generation="1"}'
    assert sorted(prometheus.query(generation).values()) == [1, 1]
    assert (
        len(prometheus.query('session_store_certificate_expiry_timestamp_seconds{namespace="metrics"} > time()')) == 2
    )
    masters = 'haproxy_backend_active_servers{namespace="metrics",proxy="redis-0"}'
    assert sorted(prometheus.query(masters)) == sorted(
        name for name, (app, _) in wanted.items() if app == "redis-proxy"
    )


def test_the_sessions_are_counted(stack: Project, prometheus: Prometheus) -> None:
    people = Traffic(stack.service_address("api"), 3030)
    for _ in range(5):
        people.login()
    sessions = 'redis_db_keys_expiring{namespace="metrics",db="db0"}'
    assert wait_for(lambda: list(prometheus.query(sessions).values()) == [5, 5, 5], 30), prometheus.query(sessions)
    logins = 'sum(http_request_duration_seconds_count{namespace="metrics",route="/auth",status="200"})'
    assert wait_for(lambda: prometheus.query(logins) == {"": 5}, 30), prometheus.query(logins)


def test_rules_come_from_labelled_config_maps(stack: Project, prometheus: Prometheus) -> None:
    metadata = {"name": "rules", "labels": {"session-store/alerts": "true"}}
    data = {"good.yaml": RULES, "bad.yaml": "groups: [{name: bad, rules: [{alert: Bad, expr: '('}]}]"}
    rules = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    stack.kubectl("apply", "--filename", "-", stdin=json.dumps(rules))
    assert wait_for(
        lambda: "TestRedisUp" in {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}, 60
    )
    assert [group["name"] for group in prometheus.get("rules")["groups"] if group["name"] == "bad"] == []


def test_a_rotation_of_the_password_loses_nobody(stack: Project, prometheus: Prometheus) -> None:
    stack.ops("rotate", "password")
    generation = 'session_store_connected{namespace="metrics",session_store_password_generation="2"}'
    assert wait_for(lambda: list(prometheus.query(generation).values()) == [1, 1], 60)
    assert wait_for(lambda: {health for _, health in prometheus.targets().values()} == {"up"}, 60)
    assert prometheus.query('min_over_time(redis_up{namespace="metrics"}[3m])') == {
        f"redis-ha-{i}": 1 for i in range(3)
    }
    restarts = [
        status["restartCount"] for pod in stack.get("pods")["items"] for status in pod["status"]["containerStatuses"]
    ]
    assert not any(restarts)
