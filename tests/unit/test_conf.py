"""The rendered files, run by the real redis-server, sh and redis-cli."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from program import config
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from infra.redis.conf import Place, maxmemory, probe_script, redis_conf, start_script
from infra.settings import parse
from infra.values import MIB

PASSWORD = r"""pa"ss\wörd 'x' $HOME `id`"""
OFF = {"enabled": False}


def certify(folder: Path) -> None:
    """A self-signed certificate for loopback, as the Secret's three files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pem = builder.add_extension(names, False).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in {"tls.crt": pem, "ca.crt": pem, "tls.key": private}.items():
        (folder / file).write_bytes(content)


@dataclasses.dataclass
class Running:
    """A redis-server started the way the pod starts it."""

    place: Place
    process: subprocess.Popen[str]
    folder: Path
    tls: bool
    password: str

    def client(self, password: str | None = "", **options: Any) -> redis.Redis:
        secure = {"ssl": True, "ssl_ca_certs": f"{self.place.tls}/ca.crt"} if self.tls else {}
        options = {**secure, "protocol": 2, "retry": None, **options}
        return redis.Redis(
            "127.0.0.1", self.place.port, password=self.password if password == "" else password, **options
        )

    def probe(self, kind: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", self.folder / "probe.sh", kind], capture_output=True, text=True, timeout=20)


@contextlib.contextmanager
def run(folder: Path, password: str = PASSWORD, **changes: Any) -> Iterator[Running]:
    settings = parse(config(**changes))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    names = {name: str(folder / name) for name in ("auth", "password", "tls", "data")}
    place = Place(conf=str(folder / "redis.conf"), port=port, **names)
    for made in ("tls", "data"):
        (folder / made).mkdir(exist_ok=True)
    certify(folder / "tls")
    (folder / "password").write_text(password)
    (folder / "redis.conf").write_text(redis_conf(settings, place))
    (folder / "start.sh").write_text(start_script(place))
    (folder / "probe.sh").write_text(probe_script(settings, place))
    process = subprocess.Popen(["sh", folder / "start.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = Running(place, process, folder, settings.tls.enabled, password)
    try:
        if password:
            retry = Retry(ConstantBackoff(0.05), 200)
            running.client(retry=retry, retry_on_error=[redis.ConnectionError, redis.BusyLoadingError]).ping()
        yield running
    finally:
        process.kill()
        process.wait()


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
        assert bool(live["save"]) is appendonly
        assert live["maxmemory-policy"] == "noeviction"
        assert int(live["maxmemory"]) == maxmemory(parse(config(**changes)))
        assert (live["port"], live["tls-port"])[tls] == str(running.place.port)
        assert running.probe("readiness").returncode == 0
        assert running.probe("liveness").returncode == 0


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
        old.load_verify_locations(f"{running.place.tls}/ca.crt")
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", running.place.port)) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw, server_hostname="127.0.0.1")


def test_password_is_in_no_argument_environment_or_output(tmp_path: Path) -> None:
    with run(tmp_path, "s3cr3t-value") as running:
        assert running.client().ping()
        proc = Path(f"/proc/{running.process.pid}")
        assert b"redis-server" in (proc / "cmdline").read_bytes()
        assert b"s3cr3t-value" not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        assert oct(Path(running.place.auth).stat().st_mode)[-3:] == "600"
        running.process.terminate()
        assert "s3cr3t-value" not in running.process.communicate()[0]


def test_empty_password_never_starts_an_open_redis(tmp_path: Path) -> None:
    with run(tmp_path, "") as running:
        output, _ = running.process.communicate(timeout=20)
        assert running.process.returncode == 1
        assert "is empty or missing" in output


def test_probes_tell_a_refused_password_and_a_dead_server_apart(tmp_path: Path) -> None:
    with run(tmp_path) as running:
        (tmp_path / "password").write_text("another")
        ready = running.probe("readiness")
        assert ready.returncode == 1
        assert "WRONGPASS" in ready.stdout
        assert running.probe("liveness").returncode == 0, "a restart would not mend a password"
        running.process.kill()
        running.process.wait()
        assert running.probe("liveness").returncode == 1


def test_loading_is_alive_and_not_ready(tmp_path: Path) -> None:
    with run(tmp_path, tls=OFF) as running:
        pipe = running.client().pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"key:{number}", "x")
        pipe.execute()
    # Each key then takes half a millisecond to load, and Redis answers LOADING meanwhile.
    slow = "key-load-delay 500\nloading-process-events-interval-bytes 1024\n"
    conf = tmp_path / "redis.conf"
    conf.write_text(slow + conf.read_text())
    process = subprocess.Popen(
        ["sh", tmp_path / "start.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if "Reading RDB" in line or "Loading RDB" in line or "incr" in line)
        loading = dataclasses.replace(running, process=process)
        assert "LOADING" in loading.probe("readiness").stdout
        assert loading.probe("liveness").returncode == 0
    finally:
        process.kill()
        process.communicate()


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
