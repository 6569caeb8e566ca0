"""`verify` and `up` on stacks that are not the default one: what verify sees there, and what a failing up says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import Project, ProjectMaker

SETTINGS = {
    "sessions": {
        "secureCookie": True,
        "sameSite": "strict",
        "ttlSeconds": 120,
        "prefix": "app:s:",
        "cookieName": "sid",
    },
    "api": {"trustProxy": "1", "memory": "200Mi"},
    "redis": {"database": 3},
}


@pytest.fixture(scope="module")
def stack(make_project: ProjectMaker) -> Project:
    project = make_project("verified")
    project.configure(**SETTINGS)
    project.up()
    return project


def not_green(lines: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: line["evidence"] for name, line in lines.items() if line["status"] != "pass"}


def pods(project: Project) -> set[str]:
    """UIDs of the pods that nobody is deleting."""
    metadata = [pod["metadata"] for pod in project.get("pods")["items"]]
    return {item["uid"] for item in metadata if "deletionTimestamp" not in item}


def keys(project: Project) -> str:
    """What `redis-cli` lists in the stack's database."""
    script = "cat > /run/redis/p; REDISCLI_AUTH=$(cat /run/redis/p) redis-cli --tls --insecure -n 3 --scan"
    password = project.secret("redis-secret", "password")
    return project.kubectl("exec", "-i", "redis-0", "--", "sh", "-c", script, stdin=password).strip()


def test_every_setting_of_a_session_is_verified_as_configured(stack: Project) -> None:
    code, lines = stack.verify()
    assert (code, not_green(lines)) == (0, {})
    assert lines["cookie"]["evidence"] == "HttpOnly, SameSite=strict, Secure, 120 s"
    assert lines["session-key"]["evidence"].startswith("app:s:")
    assert "in database 3" in lines["session-key"]["evidence"]


def test_read_only_leaves_pods_alone_and_no_session_behind(stack: Project) -> None:
    before = pods(stack)
    code, lines = stack.verify("--read-only")
    assert code == 0
    assert set(not_green(lines)) == {"redis-replaced", "api-replaced"}
    assert before == pods(stack)
    assert keys(stack) == ""


def test_a_replica_that_is_missing_is_told(stack: Project) -> None:
    stack.kubectl("scale", "deployment/api", "--replicas=1")
    stack.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=1", "deployment/api", "--timeout=60s")
    code, lines = stack.verify("--read-only")
    stack.kubectl("scale", "deployment/api", "--replicas=2")
    stack.kubectl("rollout", "status", "deployment/api", "--timeout=120s")
    assert code == 1
    assert lines["replicas"]["status"] == "fail"
    assert "2 configured" in lines["replicas"]["evidence"]


def test_an_image_that_cannot_be_pulled_is_one_message_with_its_fix(stack: Project, tmp_path: Path) -> None:
    images = stack.get("deployment", "api")["spec"]["template"]["spec"]["containers"][0]["image"]
    redis = stack.get("statefulset", "redis")["spec"]["template"]["spec"]["containers"][0]["image"]
    bad = tmp_path / "images.json"
    bad.write_text(json.dumps({"redis": {"ref": redis}, "api": {"ref": f"{images[:-4]}dead"}}))
    printed = stack.ops("up", "--images", str(bad), code=1)
    assert "✗ Deployment api: " in printed
    assert "ImagePullBackOff" in printed
    assert "fix: the nodes cannot get the image" in printed
    assert "Traceback" not in printed
    code, lines = stack.verify("--read-only")
    assert code == 1
    assert "the release says" in lines["images"]["evidence"]
    assert lines["login"]["status"] == "pass", "the old pods still serve"
    assert "is up" in stack.ops("up")


def test_an_external_redis_is_verified_from_here_when_it_can_be_reached(
    stack: Project, make_project: ProjectMaker
) -> None:
    project = make_project("external")
    project.kubectl("create", "namespace", project.namespace)
    password, ca = stack.secret("redis-secret", "password"), stack.secret("redis-tls", "ca.crt")
    project.kubectl("create", "secret", "generic", "redis-secret", f"--from-literal=password={password}")
    project.kubectl("create", "secret", "generic", "their-ca", f"--from-literal=ca.crt={ca}")
    project.configure(
        createNamespace=False,
        redis={"mode": "external", "host": stack.service_address("redis"), "storage": {}, "memory": "64Mi"},
        tls={"secretName": "their-ca", "serverName": "redis"},
    )
    project.ops("up")
    code, lines = project.verify()
    assert (code, set(not_green(lines))) == (0, {"persistence", "redis-replaced"})
    assert "verified as redis" in lines["tls-ca"]["evidence"]
    assert "Kept: namespace" in project.ops("down", "--yes")
