"""A chart of the plan's shape becomes a stack while people use it: nobody meets an error, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded import REPO
from project import Project, ProjectMaker
from redis.exceptions import AuthenticationError
from traffic import traffic

from ops import tunnel
from ops.kube import wait_for

CHART = Path(__file__).parent / "chart"


@dataclass(frozen=True)
class Team:
    """What a team has: a chart, a cluster, no stack yet."""

    project: Project
    images: dict[str, str]
    helm: str

    def release(self, verb: str, **values: Any) -> None:
        """`helm install` or `helm upgrade`, waited for."""
        given = {"images.redis": self.images["redis"], "images.api": self.images["api"], **values}
        sets = [f"--set={key}={json.dumps(value).strip(chr(34))}" for key, value in given.items()]
        command = [self.helm, verb, "dashboard", str(CHART), f"--namespace={self.project.namespace}", *sets]
        more = ["--create-namespace"] if verb == "install" else []
        subprocess.run([*command, *more, "--wait", "--timeout=180s"], env=self.project.environment, check=True)

    def old(self, database: int, *words: str) -> str:
        """What the chart's Redis answers."""
        command = ("exec", "deployment/redis", "--", "redis-cli", "-n", str(database), *words)
        return self.project.kubectl(*command).strip()

    def new(self, database: int = 0, password: str | None = None) -> Any:
        """A verified client of whatever the Service `redis` leads to."""
        opener = tunnel.direct(self.project.service_address("redis"), 6379)
        trust = tunnel.trust(self.project.secret("redis-tls", "ca.crt"))
        given = password or self.project.secret("redis-secret", "password")
        return tunnel.redis_over(opener, given, database=database, tls=trust, server_name="redis")

    def look(self, *options: str, code: int = 0) -> str:
        """`ops adopt look` with the images, unless told otherwise."""
        images = ("--redis-image", self.images["redis"], "--proxy-image", self.images["haproxy"])
        where = ("--namespace", self.project.namespace)
        return self.project.ops("adopt", "look", *where, *(options or images), code=code)


def team(make_project: ProjectMaker, namespace: str, **values: Any) -> Team:
    """A team whose chart is installed."""
    project = make_project(namespace)
    project.configure()
    (project.folder / "Pulumi.dev.yaml").unlink()
    images = {
        name: entry["ref"] for name, entry in json.loads((project.folder / ".state/images.json").read_text()).items()
    }
    path = [sys.executable, "-m", "toolchain", "path", "helm"]
    helm = subprocess.run(path, cwd=REPO, check=True, capture_output=True, text=True).stdout.split()[-1]
    made = Team(project, images, helm)
    made.release("install", **values)
    return made


@pytest.fixture(scope="module")
def dashboard(make_project: ProjectMaker) -> Iterator[Team]:
    made = team(make_project, "adopt")
    for database, number in ((0, 40), (1, 2), (2, 5)):
        for i in range(number):
            made.old(database, "set", f"kept:{i}", f"{database}/{i}", "ex", "40000")
    made.old(0, "rpush", "queue", "first", "second")
    yield made
    made.project.ops("down", "--yes", code=None)


def rollout(project: Project) -> dict[str, Any]:
    """What must not change afterwards: the Service's selector and the API's environment, with the pods it has."""
    service, api = project.get("service", "redis"), project.get("deployment", "api")
    env = {item["name"]: item for item in api["spec"]["template"]["spec"]["containers"][0]["env"]}
    env.pop("DASHBOARD_COLOR")
    return {"selector": service["spec"]["selector"], "address": service["spec"]["clusterIP"], "env": env}


def test_a_tag_is_refused_with_the_way_to_a_digest(dashboard: Team) -> None:
    said = dashboard.look("--redis-image", "redis:7.4.2", "--proxy-image", dashboard.images["haproxy"], code=1)
    assert "docker buildx imagetools inspect redis:7.4.2" in said
    assert not (dashboard.project.folder / "Pulumi.dev.yaml").exists()


def test_an_unknown_api_is_refused_with_the_names_there_are(dashboard: Team) -> None:
    images = ("--redis-image", dashboard.images["redis"], "--proxy-image", dashboard.images["haproxy"])
    assert "there are: api, redis" in dashboard.look(*images, "--deployment", "web", code=1)


def test_the_charts_redis_becomes_the_stacks(dashboard: Team) -> None:
    project = dashboard.project
    address = project.service_address("redis")
    said = dashboard.look()
    assert "database 0: 41 keys" in said
    assert "exists" in dashboard.look(code=2), "a stack file is not overwritten"
    project.ops("certificates", "issue")
    with traffic(project) as people:
        before = [people.login() for _ in range(5)]
        # Killed in the middle, and again: the next run goes on.
        for mark in ("Writes go to the new one", "The API takes password and TLS"):
            process = project.start("adopt", "run")
            assert process.stdout is not None
            next(line for line in process.stdout if mark in line)
            process.kill()
            process.wait()
        project.ops("adopt", "run")
        after = people.login()
    assert people.failures == []
    assert people.requests > 500
    for cookie in (*before, after):
        assert people.ask("GET", "/auth_status", cookie)[0] == 200
    for database, number in ((0, 40), (1, 2), (2, 5)):
        with dashboard.new(database) as client:
            for i in range(number):
                assert client.get(f"kept:{i}") == f"{database}/{i}"
                assert 30000 < client.ttl(f"kept:{i}") <= 40000
    with dashboard.new() as client:
        assert client.lrange("queue", 0, -1) == ["first", "second"]
    with pytest.raises(AuthenticationError):
        dashboard.new(password="wrong").ping()
    assert project.service_address("redis") == address
    assert project.get("deployment", "redis")["spec"]["replicas"] == 0
    # Its pods end in their own time.
    assert wait_for(lambda: "session-redis-door" not in project.kubectl("get", "pods", "--output", "name"), 90)


def test_the_charts_next_upgrade_takes_nothing_back(dashboard: Team) -> None:
    project = dashboard.project
    as_it_was = rollout(project)
    with traffic(project) as people:
        cookie = people.login()
        dashboard.release("upgrade", **{"redis.deployed": False, "api.color": "green"})
    assert people.failures == []
    assert people.ask("GET", "/auth_status", cookie)[0] == 200
    assert rollout(project) == as_it_was
    project.ops("preview", "--expect-no-changes")
    assert "stands by itself" in project.ops("adopt", "finish")
    assert "nothing to undo" in project.ops("adopt", "undo", code=1)


def test_the_stack_keeps_its_promises(dashboard: Team) -> None:
    code, lines = dashboard.project.verify("--read-only")
    assert (code, {name: line["evidence"] for name, line in lines.items() if line["status"] == "fail"}) == (0, {})


@pytest.fixture(scope="module")
def pipeline(make_project: ProjectMaker) -> Iterator[Team]:
    made = team(make_project, "adopt-back")
    yield made
    made.project.ops("down", "--yes", code=None)


def test_another_client_is_named_and_not_shut_out_and_the_way_back_loses_nothing(pipeline: Team) -> None:
    project = pipeline.project
    overrides = {"spec": {"securityContext": {"runAsUser": 999}}}
    work = "while :; do echo INCR jobs; sleep 1; done | redis-cli -h redis; sleep 1"
    worker = ("run", "pipeline", f"--image={pipeline.images['redis']}", f"--overrides={json.dumps(overrides)}")
    project.kubectl(*worker, "--command", "--", "sh", "-c", f"while :; do {work}; done")
    project.kubectl("wait", "--for=condition=Ready", "pod/pipeline", "--timeout=60s")
    assert wait_for(lambda: pipeline.old(0, "get", "jobs"), 30)
    assert "another client: pod pipeline" in pipeline.look()
    project.ops("certificates", "issue")
    with traffic(project) as people:
        before = people.login()
        said = project.ops("adopt", "run", code=1)
        between = people.login()
        assert "pod pipeline" in said
        assert "Secret redis-secret" in said
        project.ops("adopt", "undo")
    assert people.failures == []
    for cookie in (before, between):
        assert people.ask("GET", "/auth_status", cookie)[0] == 200
    assert int(pipeline.old(2, "dbsize")) > 10
    assert project.get("service", "redis")["spec"]["selector"] == {"app": "redis"}
    api = project.get("deployment", "api")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "REDIS_TLS" not in {item["name"] for item in api}
