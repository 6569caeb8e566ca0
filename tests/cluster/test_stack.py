"""The main job on the real thing: a stack comes up, people log in, `verify` tells good from bad, no secret leaks."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from project import REPO, Project, ProjectMaker


@dataclass(frozen=True)
class Deployed:
    """A stack that is up, and what the first `up` printed."""

    project: Project
    printed: str


@pytest.fixture(scope="module")
def stack(make_project: ProjectMaker) -> Deployed:
    project = make_project("sessions")
    project.configure(api={"nodePort": 30031})
    return Deployed(project, project.up())


def red(lines: dict[str, dict[str, str]]) -> dict[str, str]:
    """Id and evidence of the lines that fail."""
    return {name: line["evidence"] for name, line in lines.items() if line["status"] == "fail"}


def test_up_ends_with_commands_that_log_in(stack: Deployed, tmp_path: Path) -> None:
    replies = []
    for label in ("Log in:", "Then:"):
        (command,) = re.findall(rf"^{label}\s+(curl .*)$", stack.printed, re.MULTILINE)
        command = re.sub(r"/\S+\.cookies", str(tmp_path / "cookies"), command)
        replies.append(
            subprocess.run([*shlex.split(command), "-sS"], capture_output=True, text=True, timeout=30).stdout
        )
    assert '"authenticated":true' in replies[0]
    assert '"authenticated":true' in replies[1]


def test_second_up_changes_nothing(stack: Deployed) -> None:
    before = stack.project.get("pods")["items"]
    assert "0 changes" in stack.project.ops("up")
    after = stack.project.get("pods")["items"]
    assert [p["metadata"]["uid"] for p in before] == [p["metadata"]["uid"] for p in after]


def test_up_goes_on_when_nobody_reads_what_it_says(stack: Deployed) -> None:
    stack.project.configure(api={"nodePort": 30031, "env": {"SEEN_BY": "nobody"}})
    process = stack.project.start("up")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert "0 changes" in stack.project.ops("up"), "it did its work, and the stack is free"


def test_verify_is_green(stack: Deployed) -> None:
    code, lines = stack.project.verify()
    assert red(lines) == {}
    assert code == 0
    assert len(lines) > 15


def test_sessions_are_listed_without_their_ids_and_dropped_by_user_or_all(stack: Deployed, tmp_path: Path) -> None:
    project, told = stack.project, tmp_path / "told.json"
    address = f"http://{project.service_address('api')}:3030"
    people = {user: requests.Session() for user in ("ada", "bob")}
    for user, person in people.items():
        assert person.post(f"{address}/auth", json={"username": user}, timeout=10).status_code == 200

    def logged_in() -> list[str]:
        return [user for user, person in people.items() if person.get(f"{address}/auth_status", timeout=10).ok]

    said = project.ops("sessions", "list", "--json", str(told))
    assert {"ada", "bob"} <= {row["user"] for row in json.loads(told.read_text())["listed"]}
    ids = [unquote(person.cookies["connect.sid"])[2:].partition(".")[0] for person in people.values()]
    assert [one for one in ids if one in said + told.read_text()] == []
    assert "Dropped 1 session." in project.ops("sessions", "drop", "--user", "ada", "--yes")
    assert logged_in() == ["bob"]
    assert "--yes --confirm dev" in project.ops("sessions", "flush", "--yes", code=1)
    assert logged_in() == ["bob"]
    assert "Everybody has to log in again" in project.ops("sessions", "flush", "--yes", "--confirm", "dev")
    assert logged_in() == []
    project.ops("top", "--json", str(told))
    seen = json.loads(told.read_text())
    assert (seen["sessions"], [one["role"] for one in seen["redis"]], seen["unseen"]) == (0, ["master"], [])
    assert [one["connected"] for one in seen["api"]] == [True, True]


def test_generated_values_are_nowhere_in_plain_text(stack: Deployed) -> None:
    project = stack.project
    values = [project.secret("redis-secret", "password"), project.secret("api-session-secret", "session-secret")]
    secret = [text for value in values for text in (value, base64.b64encode(value.encode()).decode())]
    seen = {"printed": stack.printed}
    for path in (project.folder / ".state").rglob("*"):
        if path.is_file() and path.name != "passphrase":
            seen[str(path)] = path.read_text(errors="replace")
    assert any(path.endswith(".json") for path in seen), "the state file was read"
    for kind in ("pods", "configmaps", "deployments", "statefulsets", "events"):
        seen[kind] = project.kubectl("get", kind, "--output", "yaml", "--show-managed-fields")
    for pod in project.get("pods")["items"]:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        seen[f"log of {pod['metadata']['name']}"] = project.kubectl("logs", pod["metadata"]["name"])
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        seen[str(process)] = _read(process)
        if "redis-server" in seen[str(process)]:
            seen[str(process.with_name("environ"))] = _read(process.with_name("environ"))
    assert any("redis-server" in text for path, text in seen.items() if path.startswith("/proc"))
    assert [where for where, text in seen.items() if any(value in text for value in secret)] == []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


def test_a_new_generation_gives_new_secrets_in_place(stack: Deployed) -> None:
    project, names = stack.project, ("redis-secret", "api-session-secret")
    before = [project.get("secret", name) for name in names]
    project.configure(api={"nodePort": 30031}, credentials={"generation": 2})
    project.ops("up")
    after = [project.get("secret", name) for name in names]
    assert [s["metadata"]["uid"] for s in before] == [s["metadata"]["uid"] for s in after]
    assert all(old["data"] != new["data"] for old, new in zip(before, after, strict=True))
    code, lines = project.verify("--read-only")
    assert (code, red(lines)) == (0, {})


def test_memory_store_turns_the_matching_lines_red(stack: Deployed) -> None:
    project = stack.project
    project.kubectl("set", "env", "deployment/api", "SESSION_STORE=memory")
    project.kubectl("rollout", "status", "deployment/api", "--timeout=120s")
    code, lines = project.verify("--read-only")
    project.kubectl("set", "env", "deployment/api", "SESSION_STORE=redis")
    project.kubectl("rollout", "status", "deployment/api", "--timeout=120s")
    assert code == 1
    assert {"session-key", "no-memorystore", "connection-line"} <= red(lines).keys()
    assert "wrong-password" not in red(lines), "Redis itself is as it should be"


def test_redis_without_a_password_turns_the_matching_lines_red(stack: Deployed) -> None:
    project = stack.project
    password = project.secret("redis-secret", "password")
    script = (
        "cat > /run/redis/p; REDISCLI_AUTH=$(cat /run/redis/p) redis-cli --tls --insecure CONFIG SET requirepass ''"
    )
    project.kubectl("exec", "-i", "redis-0", "--", "sh", "-c", script, stdin=password)
    code, lines = project.verify("--read-only")
    project.kubectl("delete", "pod", "redis-0")
    project.kubectl("rollout", "status", "statefulset/redis", "--timeout=120s")
    assert code == 1
    assert "no-password" in red(lines)
    assert "login" not in red(lines)


def test_killed_up_is_finished_by_the_next(make_project: ProjectMaker) -> None:
    project = make_project("killed")
    project.configure()
    project.ops("certificates", "issue")
    process = project.start("up")
    assert process.stdout is not None
    # In the middle: Redis is applied, and the engine waits for it.
    project.wait_for("statefulset/redis")
    process.kill()
    process.wait()
    printed = project.ops("up")
    assert "is up" in printed
    assert "0 changes" in project.ops("up")
    code, lines = project.verify("--read-only")
    assert (code, red(lines)) == (0, {})
    project.ops("down", "--yes")


def test_the_plans_own_client_code_works_without_tls(make_project: ProjectMaker, tmp_path: Path) -> None:
    project = make_project("plain")
    project.configure(tls={"enabled": False}, redis={"appendonly": False})
    project.ops("up")
    code, lines = project.verify()
    assert (code, red(lines)) == (0, {})
    environment = {
        **project.environment,
        "REDIS_HOST": project.service_address("redis"),
        "REDIS_PASSWORD": project.secret("redis-secret", "password"),
        "API_SESSION_SECRET": "a secret of the test's own",
        "API_PORT": "0",
    }
    script = REPO / "services" / "api" / "examples" / "plan-after.js"
    pipe = subprocess.PIPE
    with subprocess.Popen(["node", script], env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True) as node:
        try:
            assert node.stdout is not None
            port = next(m[1] for line in node.stdout if (m := re.search(r"Listening on port (\d+)", line)))
            jar = str(tmp_path / "cookies")
            curl = ["curl", "-sS", "-c", jar, "-b", jar]
            login = subprocess.run(
                [*curl, "-X", "POST", f"http://127.0.0.1:{port}/auth"], capture_output=True, text=True
            )
            status = subprocess.run([*curl, f"http://127.0.0.1:{port}/auth_status"], capture_output=True, text=True)
        finally:
            node.kill()
    assert '"authenticated":true' in login.stdout
    assert '"authenticated":true' in status.stdout
    project.ops("down", "--yes")


def test_wiring_is_patched_onto_a_deployment_that_helm_owns(stack: Deployed, make_project: ProjectMaker) -> None:
    project = make_project("wired")
    image = stack.project.get("deployment", "api")["spec"]["template"]["spec"]["containers"][0]["image"]
    project.kubectl("create", "namespace", project.namespace)
    project.kubectl(
        "apply", "--server-side", "--field-manager=helm", "--filename=-", stdin=HELMS.replace("IMAGE", image)
    )
    project.configure(
        createNamespace=False,
        api={"existingDeployment": "ctmd-api", "container": "ctmd", "replicas": 1},
        credentials={"createSessionSecret": False},
    )
    project.up()
    project.kubectl("rollout", "status", "deployment/ctmd-api", "--timeout=120s")
    code, lines = project.verify()
    assert (code, red(lines)) == (0, {})
    environment = {e["name"]: e.get("value") for e in _container(project)["env"]}
    assert environment["DASHBOARD_URL"] == "https://dashboard.example.org/", "what Helm set stays"
    assert environment["REDIS_HOST"] == "redis"
    project.ops("down", "--yes")
    assert "REDIS_HOST" not in {e["name"] for e in _container(project)["env"]}, "the wiring goes with the stack"
    assert _container(project)["image"] == image


def _container(project: Project) -> dict[str, list[dict[str, str]]]:
    (container,) = project.get("deployment", "ctmd-api")["spec"]["template"]["spec"]["containers"]
    return dict(container)


HELMS = """
apiVersion: v1
kind: Secret
metadata: {name: api-session-secret}
stringData: {session-secret: helms-own-session-secret}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ctmd-api}
spec:
  replicas: 1
  selector: {matchLabels: {app: ctmd-api}}
  template:
    metadata: {labels: {app: ctmd-api}}
    spec:
      containers:
        - name: ctmd
          image: IMAGE
          ports: [{containerPort: 3030}]
          env:
            - {name: DASHBOARD_URL, value: "https://dashboard.example.org/"}
            - {name: API_SESSION_SECRET, valueFrom: {secretKeyRef: {name: api-session-secret, key: session-secret}}}
"""
