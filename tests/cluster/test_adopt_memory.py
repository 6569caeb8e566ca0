"""An API with sessions in its pod's memory gets Redis; whoever is logged in stays so until the cookie expires."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from project import ProjectMaker
from test_adopt import Team, team
from traffic import traffic


@pytest.fixture(scope="module")
def newcomer(make_project: ProjectMaker) -> Iterator[Team]:
    made = team(make_project, "adopt-memory", **{"api.useRedis": False, "redis.deployed": False})
    yield made
    made.project.ops("down", "--yes", code=None)


def test_nobody_is_logged_out_on_the_way_from_memory_to_redis(newcomer: Team) -> None:
    project = newcomer.project
    assert "in the memory of the API's pod" in newcomer.look()
    project.ops("certificates", "issue")
    with traffic(project) as people:
        before = [people.login() for _ in range(5)]
        process = project.start("adopt", "run")
        assert process.stdout is not None
        next(line for line in process.stdout if "The old pod keeps its memory" in line)
        process.kill()
        process.wait()
        said = project.ops("adopt", "run")
        assert "The old pod serves its cookies until" in said
        for cookie in before:
            assert people.ask("GET", "/auth_status", cookie)[0] == 200
        assert "serves its cookies until" in project.ops("adopt", "run"), "not before they have expired"
        # Nobody is left to be logged out but these five and the traffic, who are about to log in anew.
    assert people.failures == []
    assert people.requests > 500
    visitor = people.login()
    project.ops("adopt", "run", "--end-now")
    assert people.ask("GET", "/auth_status", visitor)[0] == 200, "whoever logged in since is in Redis"
    assert project.get("service", "api")["spec"]["selector"] == {"app": "api"}
    assert "api-router" not in project.kubectl("get", "deployments,services,configmaps", "--output", "name")
    project.ops("preview", "--expect-no-changes")
