"""Both modes, TLS on and off, AOF on and off: all promises kept, and the sessions go along with a change of mode."""

from __future__ import annotations

import pytest
from project import Project, ProjectMaker
from traffic import Traffic


def logged_in(stack: Project, cookies: list[str]) -> int:
    people = Traffic(stack.service_address("api"), 3030)
    return sum(people.ask("GET", "/auth_status", cookie)[0] == 200 for cookie in cookies)


def promises(stack: Project) -> dict[str, str]:
    """The lines of `ops verify` that are not kept."""
    _, lines = stack.verify()
    return {name: line["evidence"] for name, line in lines.items() if line["status"] == "fail"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("appendonly", [True, False], ids=["aof", "memory"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_promises_and_sessions_in_both_modes(make_project: ProjectMaker, tls: bool, appendonly: bool) -> None:
    stack = make_project(f"modes-{'tls' if tls else 'plain'}-{'aof' if appendonly else 'memory'}")

    def bring_up(mode: str) -> None:
        stack.configure(redis={"mode": mode, "appendonly": appendonly}, tls={"enabled": tls})
        if tls:
            stack.ops("certificates", "issue")
        stack.ops("up")

    bring_up("standalone")
    people = Traffic(stack.service_address("api"), 3030)
    assert promises(stack) == {}  # replaces Redis, which without AOF forgets
    cookies = [people.login() for _ in range(5)]
    bring_up("sentinel")
    assert logged_in(stack, cookies) == len(cookies), "from standalone to sentinel"
    assert promises(stack) == {}
    assert logged_in(stack, cookies) == len(cookies), "verify deletes the master"
    if tls == appendonly:  # two of the four go the way back, too
        bring_up("standalone")
        assert logged_in(stack, cookies) == len(cookies), "and back"
    stack.ops("down", "--yes")
