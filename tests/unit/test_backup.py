"""A backup's file, its stream, the comparison with a store, and the CronJob's script, with the real Redis."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from pods import server
from program import config, declare

from ops import archive, backup_stream, restore_compare, workspace
from ops.errors import OpsError
from ops.master import Store
from ops.restore_compare import Counts

SCRIPT = Path(__file__).parents[2] / "infra" / "redis" / "scripts" / "backup.sh"
MANIFEST: dict[str, Any] = {"stack": "dev", "keys": {"0": 1}}
DUMP = os.urandom(3_000_001)
SECRET = "s3cret"


def write(path: Path, dump: bytes = DUMP, secret: str | None = SECRET) -> str:
    with archive.Writer(path) as writer:
        for start in range(0, len(dump), 100_000):
            writer.write(dump[start : start + 100_000])
        return writer.finish(MANIFEST, secret, 0)


def test_a_backup_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    digest = write(path)
    found = archive.read(path)
    assert b"".join(found.dump()) == DUMP
    assert (found.session_secret, found.size, found.manifest["stack"]) == ("s3cret", len(DUMP), "dev")
    assert found.manifest["sha256"]["dump.rdb"] == digest
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    out = subprocess.run(["tar", "xOf", path, "dump.rdb"], capture_output=True, check=True).stdout
    assert out == DUMP, "any tar reads it"


def test_without_the_session_secret_it_is_nowhere_in_the_file(tmp_path: Path) -> None:
    write(tmp_path / "b.tar", secret=None)
    assert archive.read(tmp_path / "b.tar").session_secret is None
    assert b"session-secret" not in (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("word", [b"x" * 9, b"s3cret", b'"stack": "dev"', b"dump.rdb"])
def test_a_flipped_bit_is_found(tmp_path: Path, word: bytes) -> None:
    path = tmp_path / "b.tar"
    write(path, b"x" * 600)
    content = bytearray(path.read_bytes())
    content[content.index(word)] ^= 1
    path.write_bytes(content)
    with pytest.raises(OpsError, match=r"damaged|not a whole backup"):
        archive.read(path)


@pytest.mark.parametrize("length", [0, 100, 512, 5000, 3_000_000, 3_001_000])
def test_a_cut_off_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "b.tar"
    write(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OpsError, match=r"damaged|not a whole backup"):
        archive.read(path)


def test_an_interrupted_backup_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with archive.Writer(tmp_path / "b.tar") as writer:
            writer.write(DUMP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "b.tar")
    with pytest.raises(OpsError, match="exists"):
        write(tmp_path / "b.tar")


def test_what_a_killed_run_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    (tmp_path / "session-store-dev-1.tar.partial").touch()
    with archive.Writer(tmp_path / "session-store-dev-2.tar"):
        archive.sweep(tmp_path, "dev")
        assert [path.name for path in tmp_path.iterdir()] == ["session-store-dev-2.tar.partial"]


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # a file that may not grow
    try:
        with pytest.raises(OpsError, match="the disk is full"):
            write(tmp_path / "b.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="No room for the backup"):
        archive.check_space(tmp_path, 1 << 60)


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_the_stream_is_an_rdb_that_redis_loads(tmp_path: Path, diskless: str) -> None:
    options = ("--repl-diskless-sync", diskless, "--repl-diskless-sync-delay", "0")
    with server(tmp_path, *options) as (client, port):
        for number in range(300):
            client.set(f"key{number}", os.urandom(5000))
        with socket.create_connection(("127.0.0.1", port)) as talk:
            dump = b"".join(backup_stream.rdb(talk))
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    (loaded / "dump.rdb").write_bytes(dump)
    with server(loaded) as (client, _):
        assert client.dbsize() == 300


def test_a_replica_without_its_master_gives_nothing(tmp_path: Path) -> None:
    with (
        server(tmp_path, "--replicaof", "127.0.0.1 1") as (_, port),
        socket.create_connection(("127.0.0.1", port)) as talk,
        pytest.raises(OpsError, match="NOMASTERLINK"),
    ):
        list(backup_stream.rdb(talk))


@pytest.mark.parametrize("answer", [b"$EOF:" + b"m" * 40 + b"\r\nabc", b"$100\r\nabc"])
def test_a_stream_that_breaks_off_is_no_backup(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"+OK\r\n\n\n" + answer)
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(ConnectionError):
        list(backup_stream.rdb(ours))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Callable[[int], redis.Redis], Callable[[int], redis.Redis]]]:
    """A backup, loaded as `ops restore` loads it, and a store that has moved on."""
    folders = [tmp_path / name for name in ("made", "live")]
    for folder in folders:
        folder.mkdir()
    with server(folders[0]) as (client, _):
        client.set("gone", 1, px=300)
        client.mset({"same": 1, "changed": 1, "lost": 1, "session-store:beat": 1})
        client.set("ends", 1, exat=4_000_000_000)
        client.execute_command("SELECT", 3)
        client.save()
    time.sleep(0.3)
    with (
        server(folders[0], "--replicaof", "127.0.0.1 1") as (_, scratch),
        server(folders[1]) as (live, port),
    ):
        live.mset({"same": 1, "changed": 2, "new": 1, "session-store:beat": 2})
        yield (
            lambda database: redis.Redis(port=scratch, db=database),
            lambda database: redis.Redis(port=port, db=database),
        )


def test_the_comparison_counts(pair: Any) -> None:
    scratch, live = pair
    found = restore_compare.compare(scratch, live)
    assert found == {0: Counts(backup=5, expired=1, missing=2, different=1, same=1, extra=1)}
    assert found[0].changes(False, False) == (2, 0, 0)
    assert found[0].changes(True, False) == (2, 1, 0)
    assert found[0].changes(False, True) == (2, 1, 1)
    empty = restore_compare.compare(scratch, None)
    assert empty == {0: Counts(backup=5, expired=1, missing=4)}


def test_a_merge_adds_and_leaves_what_is_newer(pair: Any) -> None:
    scratch, live = pair
    assert restore_compare.copy(scratch(0), Store(lambda: live(0)), False, lambda _: None, 1) == 2
    assert live(0).mget("same", "changed", "lost", "new", "session-store:beat") == [b"1", b"2", b"1", b"1", b"2"]
    assert live(0).expiretime("ends") == 4_000_000_000
    assert restore_compare.copy(scratch(0), Store(lambda: live(0)), False, lambda _: None, 1) == 0, "again: nothing"


def test_replacing_makes_the_store_the_backup(pair: Any) -> None:
    scratch, live = pair
    store = Store(lambda: live(0))
    assert restore_compare.prune(scratch(0), store, 1) == 1
    assert restore_compare.copy(scratch(0), store, True, lambda _: None, 1) == 3
    assert sorted(live(0).keys()) == [b"changed", b"ends", b"lost", b"same", b"session-store:beat"]
    assert live(0).mget("changed", "session-store:beat") == [b"1", b"2"]


def test_a_full_store_says_so(pair: Any) -> None:
    scratch, live = pair
    live(0).config_set("maxmemory", 1)
    with pytest.raises(OpsError, match="The store is full"):
        restore_compare.copy(scratch(0), Store(lambda: live(0)), True, lambda _: None, 1)


def test_a_failover_in_the_middle_is_waited_out(pair: Any) -> None:
    scratch, live = pair
    live(0).replicaof("127.0.0.1", 1)
    asked: list[int] = []

    def connect() -> redis.Redis:
        asked.append(1)
        if len(asked) == 3:
            live(0).replicaof("NO", "ONE")
        return live(0)  # type: ignore[no-any-return]

    assert restore_compare.copy(scratch(0), Store(connect), False, lambda _: None, 10) == 2


def backup_sh(folder: Path, port: int, password: Path, keep: int = 2, mode: str = "standalone") -> Any:
    text = f"HOSTS=127.0.0.1 PORT={port} TLS= USERNAME=default FOLDER={folder} KEEP={keep} MODE={mode}"
    environment = dict(part.split("=") for part in f"PATH=/usr/bin:/bin TMPDIR={folder.parent} {text}".split())
    environment["KEYS"] = f"{password}-newer {password}"
    return subprocess.run(["sh", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)


def test_the_cronjobs_script_backs_up_prunes_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder, password = tmp_path / "claim", tmp_path / "password"
    folder.mkdir()
    password.write_text("s3cret")
    password.with_name("password-newer").write_text("not known to this Redis yet")
    with server(tmp_path, "--repl-diskless-sync-delay", "0") as (client, port):
        client.set("a", 1)
        client.config_set("requirepass", "s3cret")
        (folder / "redis-20200101T000000Z.rdb").touch()
        (folder / "redis-20200102T000000Z.rdb").touch()
        (folder / "redis-x.rdb.partial").touch()
        done = backup_sh(folder, port, password)
        assert done.returncode == 0, done.stderr
        wrong = backup_sh(folder, port, password, mode="sentinel")
        assert (wrong.returncode, "No replica is in sync" in wrong.stderr) == (1, True)
    name = done.stdout.split("backup: ")[1].split()[0]
    assert sorted(p.name for p in folder.iterdir()) == ["redis-20200102T000000Z.rdb", name, f"{name}.sha256"]
    assert subprocess.run(["sha256sum", "-c", f"{name}.sha256"], cwd=folder, capture_output=True).returncode == 0
    assert (folder / name).stat().st_mode & 0o077 == 0
    assert backup_sh(folder, 1, password).returncode == 1


def test_the_cronjob_holds_no_secret_and_may_reach_redis_only() -> None:
    declared = declare(config(backup={"schedule": "30 2 * * *"}))
    cron = declared.objects["CronJob", "redis-backup"]["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert pod["metadata"]["labels"]["session-store/redis-client"] == "true"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not any("valueFrom" in item or "PASSWORD" in item["name"] for item in container["env"])
    assert ("PersistentVolumeClaim", "redis-backup") in declared.objects
    policy = declared.objects["NetworkPolicy", "redis-backup"]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app": "redis-backup"}
    assert not policy.get("ingress")
    assert ("CronJob", "redis-backup") not in declare(config()).objects


@pytest.mark.parametrize(
    "text",
    [
        "# top\nconfig:\n  session-store:api: {replicas: 2} # two\n",
        "config:\n  session-store:acceptedSessionSecrets:\n    secure: old\n  session-store:namespace: x\n",
        "# nothing yet\n",
        "secretsprovider: x\nconfig: # ours\n  a:b: c\n",
    ],
)
def test_an_encrypted_value_lands_in_the_stack_file_and_its_text_stays(tmp_path: Path, text: str) -> None:
    where = workspace.Workspace("staging", tmp_path)
    where.source.write_text(text)
    where.directory.mkdir(parents=True)
    where.mirror.write_text(yaml.safe_dump({"config": {"session-store:acceptedSessionSecrets": {"secure": "v1:abc"}}}))
    workspace.publish_secret(where, "session-store:acceptedSessionSecrets")
    after = where.source.read_text()
    assert yaml.safe_load(after)["config"]["session-store:acceptedSessionSecrets"] == {"secure": "v1:abc"}
    kept = [line for line in text.splitlines() if "acceptedSession" not in line and "secure" not in line]
    assert [line for line in after.splitlines() if line in kept] == kept
