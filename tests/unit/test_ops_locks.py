"""Locks of the file backend, as the engine leaves them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import locks
from ops.errors import OpsError

FOLDER = ".pulumi/locks/organization/session-store/dev"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / FOLDER).mkdir(parents=True)
    return {"PULUMI_BACKEND_URL": f"file://{tmp_path}"}


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process that looks like an engine, whose program answers."""
    with socket.create_server(("127.0.0.1", 0)) as program:
        client = f"--client=127.0.0.1:{program.getsockname()[1]}"
        code = "import signal; signal.pause()"
        with subprocess.Popen([sys.executable, "-c", code, "pulumi", "up", client], text=True) as process:
            yield process
            process.kill()


def lock(tmp_path: Path, pid: int, host: str | None = None) -> Path:
    path = tmp_path / FOLDER / f"{pid}.json"
    content = {"pid": pid, "username": "ada", "hostname": host or socket.gethostname(), "timestamp": "2026-11-24T08:00"}
    path.write_text(json.dumps(content))
    return path


def gone() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_lock_of_a_dead_engine_is_removed_and_said(tmp_path: Path, environment: dict[str, str]) -> None:
    path, said = lock(tmp_path, pid := gone()), list[str]()
    locks.clear(environment, "dev", said.append)
    assert not path.exists()
    holder = f"ada@{socket.gethostname()} (process {pid}) since 2026-11-24T08:00"
    assert said == [f"Removed the lock that {holder} left: that engine is gone."]


def test_lock_of_a_process_id_that_something_else_got_is_removed(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        path = lock(tmp_path, other.pid)
        locks.clear(environment, "dev", lambda _line: None)
        assert not path.exists()
        assert other.poll() is None
        other.kill()


def test_lock_of_an_engine_that_ended_and_is_not_reaped_is_removed(tmp_path: Path, environment: dict[str, str]) -> None:
    """The parent of a killed run's engine is whatever adopts orphans, which may take its time."""
    with subprocess.Popen([sys.executable, "-c", "", "pulumi", "up", "--client=127.0.0.1:1"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        path = lock(tmp_path, ended.pid)
        assert [one.abandoned for one in locks.read(environment, "dev")] == [True]
        locks.clear(environment, "dev", lambda _line: None, patience=0)
        assert not path.exists()


def test_lock_of_another_machine_stays_and_names_its_holder(tmp_path: Path, environment: dict[str, str]) -> None:
    path = lock(tmp_path, gone(), host="laptop-of-bob")
    with pytest.raises(OpsError, match=r"Stack dev is in use by ada@laptop-of-bob .*`pulumi cancel --stack dev`"):
        locks.clear(environment, "dev", lambda _line: None, patience=0)
    assert path.exists()


def test_a_live_engine_keeps_its_lock(
    tmp_path: Path, environment: dict[str, str], holder: subprocess.Popen[str]
) -> None:
    path, said = lock(tmp_path, holder.pid), list[str]()
    with pytest.raises(OpsError, match=rf"in use by ada@.* \(process {holder.pid}\)"):
        locks.clear(environment, "dev", said.append, patience=0)
    assert path.exists()
    assert holder.poll() is None
    assert "waiting up to" in said[0]


def test_the_engine_of_a_killed_run_is_asked_to_stop(tmp_path: Path, environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    code = (
        "import signal, sys, pathlib; signal.signal(2, lambda *a: (pathlib.Path(sys.argv[3]).unlink(), sys.exit()))\n"
    )
    code += "print('ready', flush=True)\nwhile True: signal.pause()"
    path = tmp_path / FOLDER / "1.json"
    command = [sys.executable, "-c", code, "pulumi", f"--client=127.0.0.1:{port}", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        path.write_text(lock(tmp_path, engine.pid).read_text())
        (tmp_path / FOLDER / f"{engine.pid}.json").unlink()
        said = list[str]()
        locks.clear(environment, "dev", said.append)
        assert "still at work: asking it to stop" in said[0]
        assert not path.exists()


@pytest.mark.parametrize("name", ["x.json", "x.json.18b05cb6d3a1.tmp"])
def test_a_torn_lock_is_taken_for_a_dead_one_when_nobody_finishes_it(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    """The engine counts every file in the folder as a lock, also one that it was killed before it could rename."""
    path, said = tmp_path / FOLDER / name, list[str]()
    path.write_text('{"pid": 1')
    with pytest.raises(OpsError, match="pulumi cancel"):
        locks.clear(environment, "dev", lambda _line: None, patience=0)
    os.utime(path, times=(0, 0))
    locks.clear(environment, "dev", said.append, patience=0)
    assert not path.exists()
    assert said == ["Removed the lock that an unnamed run left: that engine is gone."]


@pytest.mark.parametrize("url", ["", "https://api.pulumi.com", "s3://bucket"])
def test_other_backends_look_after_their_own_locks(url: str) -> None:
    assert locks.read({"PULUMI_BACKEND_URL": url}, "dev") == []
