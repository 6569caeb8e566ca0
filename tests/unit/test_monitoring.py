"""What tells Prometheus about a stack: annotations, the exporter beside Redis, PodMonitors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pods import MONITOR, eventually, standalone
from program import DIGEST, Declared, config, declare
from redis.exceptions import NoPermissionError

from infra.redis import conf
from infra.settings import SettingsError, parse

EXPORTER = DIGEST.format("redis-exporter")
SENTINEL = {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}


def watched(**changes: Any) -> Declared:
    return declare(config(metrics={"exporterImage": EXPORTER, **changes.pop("metrics", {})}, **changes))


def scraped(declared: Declared) -> dict[str, str]:
    """Workload to the port that its pods tell Prometheus."""
    found = {}
    for (kind, name), declaration in declared.objects.items():
        if kind in {"StatefulSet", "Deployment", "DeploymentPatch"}:
            annotations = declaration["spec"]["template"]["metadata"]["annotations"]
            if annotations.get("prometheus.io/scrape") == "true":
                assert annotations["prometheus.io/path"] == "/metrics"
                found[name] = annotations["prometheus.io/port"]
    return found


def exporter(declared: Declared, name: str = "redis") -> dict[str, Any]:
    containers = declared.pod("StatefulSet", name)["spec"]["containers"]
    return dict(next(item for item in containers if item["name"] == "exporter"))


def test_pods_tell_prometheus_where_they_answer() -> None:
    assert scraped(declare(config())) == {"api": "3030"}
    assert scraped(watched()) == {"redis": "9121", "api": "3030"}
    assert scraped(watched(redis=SENTINEL)) == {"redis-ha": "9121", "redis-proxy": "8405", "api": "3030"}
    theirs = watched(api={"image": ..., "existingDeployment": "ctmd-api", "port": 8080})
    assert scraped(theirs) == {"redis": "9121", "ctmd-api": "8080"}
    assert scraped(watched(metrics={"enabled": False})) == {}


def test_without_an_image_no_exporter_and_no_password_for_it() -> None:
    declared = declare(config())
    assert ("Secret", "redis-internal") not in declared.objects
    assert len(declared.pod("StatefulSet", "redis")["spec"]["containers"]) == 1


@pytest.mark.parametrize(("mode", "name"), [({}, "redis"), (SENTINEL, "redis-ha")])
def test_the_exporter_is_restricted_and_knows_only_the_monitors_password(mode: dict[str, Any], name: str) -> None:
    declared = watched(redis=mode)
    found, volumes = exporter(declared, name), declared.pod("StatefulSet", name)["spec"]["volumes"]
    assert found["image"] == EXPORTER
    assert found["securityContext"]["readOnlyRootFilesystem"] is True
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert found["ports"] == [{"name": "metrics", "containerPort": 9121}]
    assert {item["name"]: item["value"] for item in found["env"]} == {
        "ADDRESS": "rediss://redis:6379",
        "CA": "/run/secrets/redis-tls/ca.crt",
    }
    assert not {"livenessProbe", "readinessProbe"} & found.keys(), "a sick exporter would take Redis from its clients"
    mounted = {mount["name"] for mount in found["volumeMounts"]}
    secrets = {v["name"]: [i["key"] for i in v["secret"].get("items", [])] for v in volumes if "secret" in v}
    assert {name: keys for name, keys in secrets.items() if name in mounted} == {
        "monitor": ["monitor"],
        "redis-ca": ["ca.crt"],
    }
    assert "monitor" in declared.objects["Secret", "redis-internal"]["data"]


def test_the_exporter_verifies_the_name_that_clients_verify() -> None:
    declared = watched(redis={"service": "cache", "name": "sessions"})
    hosts = declared.objects["ConfigMap", "sessions-config"]["data"]["exporter-hosts"]
    assert "127.0.0.1 cache" in hosts.splitlines()
    assert exporter(declared, "sessions")["env"][0]["value"] == "rediss://cache:6379"
    assert exporter(watched(tls={"enabled": False}))["env"] == [{"name": "ADDRESS", "value": "redis://redis:6379"}]


def test_a_rotation_makes_a_new_password_for_the_exporter_too() -> None:
    data = watched(credentials={"generation": 2}).objects["Secret", "redis-internal"]["data"]
    assert data.keys() == {"monitor", "monitor-previous"}


def test_api_pods_tell_the_generation_of_their_password() -> None:
    def label(**credentials: Any) -> str:
        labels = declare(config(credentials=credentials)).pod("Deployment", "api")["metadata"]["labels"]
        return str(labels["session-store/password-generation"])

    assert label() == "1"
    assert label(passwordGeneration=3, oldestPassword=2) == label(passwordGeneration=3, oldestPassword=3) == "3"
    assert label(sessionGeneration=2) == "1"


def test_pod_monitors_select_each_kind_of_pod_and_keep_its_labels() -> None:
    assert "PodMonitor" not in watched().kinds()
    declared = watched(redis=SENTINEL, metrics={"podMonitors": True})
    specs = {name: o["spec"] for (kind, name), o in declared.objects.items() if kind == "PodMonitor"}
    ports = {name: spec["podMetricsEndpoints"][0]["port"] for name, spec in specs.items()}
    assert ports == {"api": "http", "redis": "metrics", "redis-proxy": "metrics"}
    for workload, name in (("redis-ha", "redis"), ("redis-proxy", "redis-proxy")):
        kind = "StatefulSet" if workload == "redis-ha" else "Deployment"
        pod = declared.pod(kind, workload)
        assert specs[name]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert "metrics" in {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
        assert "session-store/password-generation" in specs[name]["podTargetLabels"]


def test_pod_monitor_of_a_deployment_that_helm_owns() -> None:
    theirs = watched(api={"image": ..., "existingDeployment": "ctmd-api", "port": 8080}, metrics={"podMonitors": True})
    spec = theirs.objects["PodMonitor", "api"]["spec"]
    assert spec["podMetricsEndpoints"] == [{"targetPort": 8080, "path": "/metrics"}]
    (rule,) = spec["selector"]["matchExpressions"]
    assert rule["key"] in theirs.pod("DeploymentPatch", "ctmd-api")["metadata"]["labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"enabled": False, "podMonitors": True}}, "metrics.podMonitors: there is nothing to find"),
        (
            {
                "redis": {"image": ..., "mode": "external", "host": "cache.example.org"},
                "metrics": {"exporterImage": EXPORTER},
            },
            "metrics.exporterImage: runs in Redis pods of ours",
        ),
        ({"metrics": {"exporterImage": "redis_exporter:latest"}}, "metrics.exporterImage: 'redis_exporter:latest'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(config(**changes))


def test_the_exporter_is_part_of_the_release() -> None:
    assert watched().outputs["release"]["images"]["exporter"] == EXPORTER
    assert "exporter" not in declare(config()).outputs["release"]["images"]


def test_the_monitor_sees_figures_and_nothing_else(tmp_path: Path) -> None:
    with standalone(tmp_path, "secret") as pod:
        client = pod.client(MONITOR, username="monitor")
        assert client.info("memory")["maxmemory"] > 0
        assert client.latency_latest() == []
        assert client.slowlog_len() == 0
        for command in ("CONFIG GET *", "SLOWLOG GET 1", "GET ctmd:sess:x", "KEYS *", "CLIENT LIST", "ACL LIST"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


FAKE = """#!/bin/sh
echo "$*" >>"$LOG"
cat "$6" >>"$LOG"
exec sleep 600
"""


def test_a_new_password_restarts_the_exporter_and_not_its_container(tmp_path: Path) -> None:
    (tmp_path / "monitor").mkdir()
    password, log = tmp_path / "monitor" / "monitor", tmp_path / "log"
    password.write_text("first")
    program = tmp_path / "prometheus-redis-exporter"
    program.write_text(FAKE)
    program.chmod(0o755)
    log.touch()
    script = tmp_path / "exporter.sh"
    script.write_text(conf.scripts("exporter.sh")["exporter.sh"])
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(log),
        "RUN": str(tmp_path),
        "SECRETS": str(tmp_path),
        "ADDRESS": "rediss://redis:6379",
        "CA": "/ca.crt",
    }
    running = subprocess.Popen(["sh", str(script)], env=environment, start_new_session=True)
    try:
        eventually(lambda: "first" in log.read_text())
        assert "-redis.user monitor" in log.read_text()
        assert "-tls-ca-cert-file /ca.crt" in log.read_text()
        password.write_text("second")
        eventually(lambda: "second" in log.read_text())
        assert running.poll() is None
        arguments, _, content = log.read_text().partition("\n")
        assert "first" not in arguments, "a password is never an argument"
        assert json.loads(content.splitlines()[0]) == {"rediss://redis:6379": "first"}
        found = ["pgrep", "--parent", str(running.pid), "--full", "600"]
        (child,) = subprocess.run(found, capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(child), signal.SIGKILL)
        eventually(lambda: log.read_text().count("second") == 2)
        running.terminate()
        assert running.wait(10) == 0
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
