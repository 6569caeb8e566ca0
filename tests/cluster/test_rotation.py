"""Rotations of a running stack while people use it: nobody meets an error, nobody is logged out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from project import Project, ProjectMaker
from redis.exceptions import AuthenticationError
from traffic import traffic

from ops import tunnel
from ops.kube import wait_for


@pytest.fixture(scope="module")
def stack(make_project: ProjectMaker) -> Iterator[Project]:
    project = make_project("rotation")
    project.configure(redis={"mode": "sentinel"})
    project.up()
    yield project
    project.ops("down", "--yes", code=None)


def ping(project: Project, password: str) -> bool:
    """Whether Redis lets a client with this password in."""
    opener = tunnel.direct(project.service_address("redis"), 6379)
    trust = tunnel.trust(project.secret("redis-tls", "ca.crt"))
    client = tunnel.redis_over(opener, password, tls=trust, server_name="redis")
    try:
        return bool(client.ping())
    except AuthenticationError:
        return False
    finally:
        client.close()


def restarts(project: Project) -> dict[str, int]:
    """Restarts of every container of Redis and the proxy, by pod."""
    pods = project.get("pods", "--selector", "app in (redis, redis-proxy)")["items"]
    return {
        pod["metadata"]["uid"]: sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
        for pod in pods
    }


def test_a_password_rotation_costs_nobody_anything(stack: Project) -> None:
    old, before = stack.secret("redis-secret", "password"), restarts(stack)
    with traffic(stack) as people:
        cookie = people.login()
        printed = stack.ops("rotate", "password")
    assert people.failures == []
    assert people.requests > 100
    assert people.ask("GET", "/auth_status", cookie)[0] == 200
    assert "Redis refuses the old one" in printed
    assert not ping(stack, old)
    assert ping(stack, stack.secret("redis-secret", "password"))
    assert "previous" not in stack.get("secret", "redis-secret")["data"]
    assert restarts(stack) == before, "passwords are taken over live"


def test_a_killed_rotation_is_finished_by_running_it_again(stack: Project) -> None:
    old = stack.secret("redis-secret", "password")
    with traffic(stack) as people:
        cookie = people.login()
        process = stack.start("rotate", "password")
        assert process.stdout is not None
        # In the middle: both are valid, the API's pods are about to move.
        next(line for line in process.stdout if "are both valid" in line)
        stack.kubectl("wait", "--for=jsonpath={.data.previous}", "secret/redis-secret", "--timeout=120s")
        process.kill()
        process.wait()
        assert ping(stack, old), "an API pod that has not moved is not cut off"
        printed = stack.ops("rotate", "password")
    assert "going on with it" in printed
    assert people.failures == []
    assert people.ask("GET", "/auth_status", cookie)[0] == 200
    assert not ping(stack, old)


def test_a_new_session_secret_logs_nobody_out_until_it_is_told_to(stack: Project) -> None:
    with traffic(stack) as people:
        before = people.login()
        stack.ops("rotate", "session-secret")
        after = people.login()
    assert people.failures == []
    assert people.ask("GET", "/auth_status", before)[0] == 200
    assert "whoever has one would be logged out" in stack.ops("rotate", "session-secret", "--revoke", code=1)
    stack.ops("rotate", "session-secret", "--revoke", "--force")
    assert people.ask("GET", "/auth_status", before)[0] == 401
    assert people.ask("GET", "/auth_status", after)[0] == 200


@pytest.mark.parametrize("options", [[], ["--authority"]])
def test_a_new_certificate_is_served_without_a_restart(stack: Project, options: list[str]) -> None:
    ca, before = stack.secret("redis-tls", "ca.crt"), restarts(stack)
    with traffic(stack) as people:
        cookie = people.login()
        stack.ops("rotate", "certificates", *options)
    assert people.failures == []
    assert people.ask("GET", "/auth_status", cookie)[0] == 200
    assert (stack.secret("redis-tls", "ca.crt") != ca) == bool(options)
    assert restarts(stack) == before
    assert ping(stack, stack.secret("redis-secret", "password")), "the new CA vouches for what is served"


def test_plain_up_twice_rotates_the_password_too(make_project: ProjectMaker) -> None:
    project = make_project("rotation-plain")
    project.configure()
    project.up()
    old = project.secret("redis-secret", "password")
    with traffic(project) as people:
        cookie = people.login()
        for credentials in ({"generation": 2}, {"generation": 2, "oldestPassword": 2}):
            project.configure(credentials=credentials)
            project.ops("up")
    assert people.failures == []
    assert people.ask("GET", "/auth_status", cookie)[0] == 200
    project.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    assert wait_for(lambda: not ping(project, old), 120), "kubelet comes by itself, within about a minute"
    assert ping(project, project.secret("redis-secret", "password"))


def test_the_stack_keeps_its_promises_after_all_that(stack: Project) -> None:
    code, lines = stack.verify()
    assert (code, {name: line["evidence"] for name, line in lines.items() if line["status"] == "fail"}) == (0, {})
    assert "0 changes" in stack.ops("up")
