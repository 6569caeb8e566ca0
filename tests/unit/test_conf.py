"""The rendered files, run by the real redis-server, sh and redis-cli."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis
from pods import Pod, certify, eventually, standalone
from program import config

from infra.redis.conf import maxmemory
from infra.settings import parse
from infra.values import MIB

PASSWORD = r"""pa"ss\wörd 'x' $HOME `id`"""
OFF = {"enabled": False}


def run(folder: Path, password: str = PASSWORD, **changes: Any) -> AbstractContextManager[Pod]:
    return standalone(folder, password, **changes)


@pytest.fixture(scope="module", autouse=True)
def _redis_installed() -> None:
    assert shutil.which("redis-server"), "redis-server is missing: `apt-get install redis-server`, or run `make test`"


@pytest.mark.parametrize("appendonly", [True, False], ids=["aof", "memory"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_redis_runs_as_configured(tmp_path: Path, tls: bool, appendonly: bool) -> None:
    changes = {"tls": {"enabled": tls}, "redis": {"appendonly": appendonly, "memory": "256Mi"}}
    with run(tmp_path, **changes) as running:
        live = running.client().config_get("*")
        assert live["appendonly"] == ("yes" if appendonly else "no")
        assert live["appendfsync"] == "everysec"
        assert live["save"] == ""
        assert live["maxmemory-policy"] == "noeviction"
        assert int(live["maxmemory"]) == maxmemory(parse(config(**changes)))
        assert (live["port"], live["tls-port"])[tls] == str(running.place.port)
        assert running.run("probe.sh", "readiness").returncode == 0
        assert running.run("probe.sh", "liveness").returncode == 0


def test_wrong_and_missing_passwords_are_refused(tmp_path: Path) -> None:
    with run(tmp_path) as running:
        with pytest.raises(redis.AuthenticationError, match=r"WRONGPASS|invalid username-password"):
            running.client("guess").ping()
        with pytest.raises(redis.AuthenticationError, match="Authentication required"):
            running.client(None).ping()


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_tls_port_speaks_nothing_else_and_nothing_old(tmp_path: Path) -> None:
    with run(tmp_path) as running:
        with pytest.raises(redis.ConnectionError):
            running.client(ssl=False, ssl_ca_certs=None).ping()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(f"{running.place.secrets}/redis-tls/ca.crt")
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", running.place.port)) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname="127.0.0.1")


def test_password_is_in_no_argument_environment_or_output(tmp_path: Path) -> None:
    with run(tmp_path, "s3cr3t-value") as running:
        assert running.client().ping()
        for pid in (running.processes["redis"].pid, running.server()):
            proc = Path(f"/proc/{pid}")
            assert b"s3cr3t-value" not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        rendered = Path(running.place.run) / "auth.conf"
        assert oct(rendered.stat().st_mode)[-3:] == "600"
        running.processes["redis"].terminate()
        assert running.processes["redis"].wait(20) == 0
        assert "s3cr3t-value" not in running.log("redis")


def test_empty_password_never_starts_an_open_redis(tmp_path: Path) -> None:
    with run(tmp_path, "") as running:
        assert running.processes["redis"].wait(20) == 1
        assert "is empty or missing" in running.log("redis")


def test_probes_tell_a_refused_password_and_a_dead_server_apart(tmp_path: Path) -> None:
    with run(tmp_path, tls=OFF) as running:
        running.client().execute_command("ACL", "SETUSER", "default", "resetpass", ">another")
        ready = running.run("probe.sh", "readiness")
        assert ready.returncode == 1
        assert running.run("probe.sh", "liveness").returncode == 0, "a restart would not mend a password"
        running.kill()
        assert running.run("probe.sh", "liveness").returncode == 1


def test_loading_is_alive_and_not_ready(tmp_path: Path) -> None:
    with run(tmp_path, tls=OFF) as running:
        pipe = running.client().pipeline(transaction=False)
        for number in range(60_000):
            pipe.set(f"key:{number}", "x")
        pipe.execute()
    # Each key then takes a moment to load, and Redis answers LOADING meanwhile.
    slow = "key-load-delay 100\nloading-process-events-interval-bytes 1024\n"
    conf = Path(running.place.conf) / "redis.conf"
    conf.write_text(slow + conf.read_text())
    (running.folder / "redis.log").unlink()
    running.start("redis")
    try:
        eventually(lambda: "Reading RDB" in running.log("redis"))
        ready = running.run("probe.sh", "readiness")
        assert ready.returncode == 1
        assert "loading" in ready.stdout
        assert running.run("probe.sh", "liveness").returncode == 0
    finally:
        running.kill()


def test_a_changed_password_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    with run(tmp_path, "first") as running:
        server = running.server()
        held = running.client(single_connection_client=True)
        assert held.ping()
        running.secret("redis/previous", "first")
        running.secret("redis/password", "second")
        eventually(lambda: accepts(running, "second"))
        assert accepts(running, "first"), "two generations are valid"
        (Path(running.place.secrets) / "redis" / "previous").unlink()
        eventually(lambda: not accepts(running, "first"))
        assert accepts(running, "second")
        assert held.ping(), "who is connected stays connected"
        assert running.server() == server


def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    with run(tmp_path) as running:
        server, before = running.server(), served(running)
        certify(Path(running.place.secrets) / "redis-tls")
        eventually(lambda: served(running) != before)
        assert running.server() == server


def test_a_redis_that_dies_is_started_again_at_once(tmp_path: Path) -> None:
    with run(tmp_path, tls=OFF) as running:
        running.client().set("ctmd:sess:x", "1")
        running.client().wait(0, 10)
        # One that dies before it ever answered is the kubelet's to restart.
        eventually(lambda: (Path(running.place.run) / "answered").exists())
        server = running.server()
        os.kill(server, signal.SIGKILL)
        eventually(lambda: accepts(running, PASSWORD))
        assert running.server() != server
        assert "starting it again" in running.log("redis")


def accepts(pod: Pod, password: str) -> bool:
    try:
        return bool(pod.client(password).ping())
    except redis.RedisError:
        return False


def served(pod: Pod) -> str:
    return ssl.get_server_certificate((pod.host, pod.place.port))


def test_data_survives_a_kill_when_append_only(tmp_path: Path) -> None:
    with run(tmp_path) as running:
        running.client().set("ctmd:sess:x", "1", ex=600)
        # WAITAOF is newer than 7.0: two fsync periods make sure that the second's write is on disk.
        assert running.client().config_set("appendfsync", "always")
        running.client().set("ctmd:sess:y", "1", ex=600)
    with run(tmp_path) as running:
        assert running.client().exists("ctmd:sess:x", "ctmd:sess:y") == 2


def test_a_full_redis_refuses_and_evicts_nothing(tmp_path: Path) -> None:
    with run(tmp_path, redis={"memory": "64Mi"}) as running:
        client, value = running.client(), os.urandom(MIB)
        replies = [
            client.pipeline(transaction=False).set(f"ctmd:sess:{n}", value, ex=600).execute(raise_on_error=False)[0]
            for n in range(32)
        ]
        accepted = replies.count(True)
        assert 0 < accepted < 32
        assert {type(reply) for reply in replies[accepted:]} == {redis.OutOfMemoryError}
        assert client.dbsize() == accepted
        assert client.info("stats")["evicted_keys"] == 0


@pytest.mark.parametrize(
    ("limit", "appendonly", "expected"), [("256Mi", True, 112), ("256Mi", False, 214), ("64Mi", True, 16)]
)
def test_maxmemory_leaves_room_below_the_limit(limit: str, appendonly: bool, expected: int) -> None:
    assert maxmemory(parse(config(redis={"memory": limit, "appendonly": appendonly}))) == expected * MIB
