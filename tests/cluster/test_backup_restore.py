"""Backups on the real thing: what was lost comes back, into this stack or a new one, and nothing half done is left."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from project import Project, ProjectMaker

PREFIX = "ctmd:sess:"
DAMAGE = "f=$(ls /data/appendonlydir/*.incr.aof | tail -n 1); printf '????' | dd of=$f bs=1 seek=23 conv=notrunc"
"""Four bytes near the begin of the append-only file."""
BACKUP = {"schedule": "30 2 * * *", "keep": 2, "claimSize": "64Mi"}


def api(project: Project, method: str, path: str, cookie: str = "") -> tuple[int, str]:
    """(status, cookie that was set) of one request to the Service."""
    connection = http.client.HTTPConnection(project.service_address("api"), 3030, timeout=10)
    connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
    reply = connection.getresponse()
    reply.read()
    return reply.status, (reply.getheader("set-cookie") or "").partition(";")[0]


def log_in(project: Project) -> str:
    status, cookie = api(project, "POST", "/auth")
    assert status == 200
    return cookie


def logged_in(project: Project, cookies: list[str]) -> list[bool]:
    return [api(project, "GET", "/auth_status", cookie)[0] == 200 for cookie in cookies]


def key(cookie: str) -> str:
    """A session's key in Redis."""
    found = re.search(r"s%3A([^.]+)\.", cookie)
    assert found
    return PREFIX + found[1]


def redis_cli(project: Project, *commands: str, pod: str = "redis-0") -> str:
    """What the Redis of a pod answers."""
    cli = "redis-cli --no-auth-warning --tls --insecure -h 127.0.0.1 -p 6379"
    script = f"REDISCLI_AUTH=$(cat /run/secrets/redis/password) {cli}"
    return project.kubectl("exec", "-i", pod, "-c", "redis", "--", "sh", "-c", script, stdin="\n".join(commands))


def log_with(project: Project, pod: str, words: str, seconds: float) -> str:
    """The log of a pod's Redis once it has these words, or as it is after that time; a new pod has none for a while."""
    end = time.monotonic() + seconds
    said = ""
    while words not in said and time.monotonic() < end:
        time.sleep(1)
        with contextlib.suppress(AssertionError):
            said = project.kubectl("logs", pod, "-c", "redis")
    return said


def row(printed: str) -> dict[str, int]:
    """The numbers of database 0 in the table that a restore prints."""
    (line,) = [line for line in printed.splitlines() if line.startswith("│")]
    names = ("database", "backup", "expired", "missing", "different", "same", "extra")
    return dict(zip(names, map(int, re.findall(r"\d+", line)), strict=True))


@dataclass(frozen=True)
class Saved:
    """A stack with sessions, and a backup of them."""

    project: Project
    cookies: list[str]
    file: Path
    printed: str


@pytest.fixture(scope="module")
def saved(make_project: ProjectMaker) -> Saved:
    project = make_project("backup-old")
    project.configure(backup=BACKUP)
    project.up()
    cookies = [log_in(project) for _ in range(5)]
    redis_cli(project, f"SET {PREFIX}short {{}} EX 45", "SET session-store:beat 7")
    printed = project.ops("backup", "--to", str(project.folder))
    (file,) = project.folder.glob("*.tar")
    return Saved(project, cookies, file, printed)


def test_a_backup_is_one_private_file_and_the_cluster_knows_it(saved: Saved) -> None:
    assert oct(saved.file.stat().st_mode & 0o777) == "0o600"
    assert list(saved.project.folder.glob("*.partial")) == []
    assert "as secret as the store" in saved.printed
    with tarfile.open(saved.file) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        manifest = json.load(content)
        assert {"dump.rdb", "session-secret"} <= set(tar.getnames())
    assert (manifest["stack"], manifest["namespace"], manifest["prefix"]) == ("dev", saved.project.namespace, PREFIX)
    assert manifest["keys"]["0"] == len(saved.cookies) + 2
    assert manifest["sha256"]["dump.rdb"] in saved.printed
    latest = saved.project.get("configmap", "redis-backups")["data"]["latest"]
    assert saved.file.name in latest
    assert f"python -m ops restore {saved.file.name} --stack dev" in latest


def test_a_dry_run_says_what_would_change_and_changes_nothing(saved: Saved) -> None:
    project = saved.project
    while redis_cli(project, f"EXISTS {PREFIX}short").strip() != "0":
        time.sleep(1)
    new = log_in(project)
    lost, changed, *same = saved.cookies
    redis_cli(project, f"DEL {key(lost)}", f"PEXPIRE {key(changed)} 5000000")
    printed = project.ops("restore", str(saved.file), "--dry-run")
    found = row(printed)
    assert found == {
        "database": 0,
        "backup": len(saved.cookies) + 1,
        "expired": 1,
        "missing": 1,
        "different": 1,
        "same": len(same),
        "extra": 1,
    }
    assert "1 keys added, 0 overwritten, 0 deleted" in printed
    assert logged_in(project, [lost, new]) == [False, True]


def test_nobody_there_to_ask(saved: Saved) -> None:
    assert "repeat it with --yes" in saved.project.ops("restore", str(saved.file), code=1)


def test_a_restore_brings_back_what_was_lost_and_keeps_what_is_newer(saved: Saved) -> None:
    project = saved.project
    new = log_in(project)
    redis_cli(project, *(f"DEL {key(cookie)}" for cookie in saved.cookies[:3]))
    assert logged_in(project, saved.cookies) == [False] * 3 + [True] * 2
    project.ops("restore", str(saved.file), "--yes")
    assert logged_in(project, [*saved.cookies, new]) == [True] * 6
    assert int(redis_cli(project, f"PTTL {key(saved.cookies[0])}")) > 0, "a session still ends"
    project.ops("restore", str(saved.file), "--replace", "--yes")
    assert logged_in(project, [*saved.cookies, new]) == [True] * 5 + [False]


def test_a_damaged_file_is_refused(saved: Saved, tmp_path: Path) -> None:
    content = bytearray(saved.file.read_bytes())
    content[700] ^= 1
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(content)
    assert "checksum of its dump.rdb does not match" in saved.project.ops("restore", str(damaged), "--yes", code=1)
    damaged.write_bytes(saved.file.read_bytes()[:900])
    assert "damaged.tar" in saved.project.ops("restore", str(damaged), "--yes", code=1)


def test_a_restore_that_was_killed_is_finished_by_the_next(saved: Saved) -> None:
    project = saved.project
    # Enough for a restore to take a moment.
    fill = [f"SET {PREFIX}many{number} {'x' * 200} EX 3000" for number in range(5000)]
    redis_cli(project, *fill)
    file = project.folder / "many.tar"
    project.ops("backup", "--to", str(file))
    redis_cli(project, *(f"DEL {PREFIX}many{number}" for number in range(5000)))
    process = project.start("restore", str(file), "--yes")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("│"):
            break
    process.kill()
    process.wait()
    assert "redis-restore" in project.kubectl("get", "pods")
    before = int(redis_cli(project, "DBSIZE"))
    project.ops("restore", str(file), "--yes")
    assert int(redis_cli(project, f"EXISTS {' '.join(f'{PREFIX}many{n}' for n in range(5000))}")) == 5000
    assert before < 5000 + 20
    assert "redis-restore" not in project.kubectl("get", "pods")
    redis_cli(project, *(f"DEL {PREFIX}many{number}" for number in range(5000)))


def test_a_killed_backup_leaves_nothing_that_is_in_the_way(saved: Saved, tmp_path: Path) -> None:
    project = saved.project
    process = project.start("backup", "--to", str(tmp_path))
    end = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial")) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(tmp_path.glob("*.tar")) == [], "nothing that looks like a backup"
    project.ops("backup", "--to", str(tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".tar"]


def test_the_cronjob_run_once_makes_a_backup_that_restores(saved: Saved) -> None:
    project = saved.project
    for _ in range(3):
        project.ops("backup", "--to-claim")
    printed = project.ops("restore", "--from-claim", "nothing", code=1)
    assert len(set(re.findall(r"redis-\d+T\d+Z\.rdb", printed))) == 2, "keep: 2"
    redis_cli(project, f"DEL {key(saved.cookies[0])}")
    project.ops("restore", "--from-claim", "latest", "--yes")
    assert logged_in(project, saved.cookies[:1]) == [True]
    assert "--from-claim redis-" in project.get("configmap", "redis-backups")["data"]["latest"]


def test_old_cookies_log_in_at_a_new_stack(saved: Saved, make_project: ProjectMaker) -> None:
    project = make_project("backup-new")
    project.configure()
    project.up()
    own = log_in(project)
    assert logged_in(project, saved.cookies) == [False] * 5
    project.ops("restore", str(saved.file), "--yes")
    assert logged_in(project, [*saved.cookies, own]) == [True] * 6
    stack_file = (project.folder / "Pulumi.dev.yaml").read_text()
    assert "session-store:acceptedSessionSecrets" in stack_file
    assert not any(s in stack_file for s in saved.project.secret("api-session-secret", "session-secret").split(","))
    assert "0 changes" in project.ops("up"), "later runs keep it"
    assert logged_in(project, saved.cookies) == [True] * 5
    project.ops("down", "--yes")


def test_a_damaged_store_that_refuses_to_start_is_restored(saved: Saved) -> None:
    project = saved.project
    project.ops("restore", str(saved.file), "--yes")
    project.kubectl("exec", "redis-0", "-c", "redis", "--", "sh", "-c", DAMAGE)
    project.kubectl("delete", "pod", "redis-0")
    said = log_with(project, "redis-0", "damaged at offset", 90)
    assert "valid commands after it" in said
    assert "python -m ops restore" in said, "the newest backup is named"
    time.sleep(15)
    (pod,) = project.get("pods", "--selector=app=redis")["items"]
    (status,) = [s for s in pod["status"]["containerStatuses"] if s["name"] == "redis"]
    assert (status["ready"], status["restartCount"]) == (False, 0), "it waits for a person, without a crash loop"
    printed = project.ops("restore", str(saved.file), "--yes")
    assert "moves the damaged files aside" in printed
    end = time.monotonic() + 60
    while not all(logged_in(project, saved.cookies)) and time.monotonic() < end:
        time.sleep(0.5)
    assert logged_in(project, saved.cookies) == [True] * 5
    kept = project.kubectl("exec", "redis-0", "-c", "redis", "--", "ls", "/data")
    assert "appendonlydir.damaged-" in kept


def test_replicas_give_the_backup_and_a_damaged_file_costs_nothing(make_project: ProjectMaker) -> None:
    project = make_project("backup-ha")
    project.configure(redis={"mode": "sentinel"}, backup=BACKUP)
    project.up()
    cookies = [log_in(project) for _ in range(5)]
    roles = {pod: redis_cli(project, "ROLE", pod=pod).split()[0] for pod in (f"redis-ha-{i}" for i in range(3))}
    assert sorted(roles.values()) == ["master", "slave", "slave"]
    (master,) = (pod for pod, role in roles.items() if role == "master")

    printed = project.ops("backup", "--to", str(project.folder))
    (source,) = re.findall(r"From replica (redis-ha-\d)", printed)
    assert roles[source] == "slave"
    (file,) = project.folder.glob("*.tar")
    project.ops("backup", "--to-claim")
    redis_cli(project, f"DEL {key(cookies[0])}", pod=master)
    project.ops("restore", str(file), "--yes")
    redis_cli(project, f"DEL {key(cookies[1])}", pod=master)
    project.ops("restore", "--from-claim", "latest", "--yes")
    assert logged_in(project, cookies) == [True] * 5

    project.kubectl("exec", source, "-c", "redis", "--", "sh", "-c", DAMAGE)
    before = project.get("pod", source)["metadata"]["uid"]
    project.kubectl("delete", "pod", source)
    said = log_with(project, source, "damaged append-only files are in", 120)
    assert "damaged append-only files are in" in said
    project.kubectl("wait", "--for=condition=Ready", f"pod/{source}", "--timeout=120s")
    assert project.get("pod", source)["metadata"]["uid"] != before
    assert redis_cli(project, f"EXISTS {' '.join(map(key, cookies))}", pod=source).strip() == "5", "copied anew"
    assert logged_in(project, cookies) == [True] * 5
    project.ops("down", "--yes")
