"""Redis pods without Kubernetes: their scripts, run by the real sh, redis-server and redis-cli on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from program import config
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from infra.redis import conf
from infra.settings import Settings, parse

INTERNAL, MONITOR = "internal-password", "monitor-password"


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


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def eventually(probe: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true answer; an AssertionError after that time."""
    end = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {probe}"
        time.sleep(0.05)
    return answer


@dataclasses.dataclass
class Pod:
    """A folder with what a pod has mounted, and the processes of its containers, each in a group of its own."""

    folder: Path
    settings: Settings
    place: conf.Place
    host: str
    name: str
    password: str
    processes: dict[str, subprocess.Popen[str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, settings: Settings, name: str, host: str, password: str, **place: Any) -> Pod:
        folders = {part: folder / part for part in ("conf", "run", "secrets", "data")}
        for path in folders.values():
            path.mkdir(parents=True, exist_ok=True)
        (folders["run"] / "hosts").touch()
        place["hosts"] = str(folders["run"] / "hosts")
        where = conf.Place(**{part: str(path) for part, path in folders.items()}, **place)
        pod = cls(folder, settings, where, host, name, password)
        for secret in ("redis", "internal", "redis-tls"):
            (folders["secrets"] / secret).mkdir(exist_ok=True)
        if settings.tls.enabled:
            certify(folders["secrets"] / "redis-tls")
        pod.secret("redis/password", password)
        pod.secret("internal/internal", INTERNAL)
        pod.secret("internal/monitor", MONITOR)
        files = {
            "redis.conf": conf.redis_conf(settings, where),
            "sentinel.conf": conf.sentinel_conf(settings, where),
            "topology.sh": conf.topology(settings, where),
            **conf.scripts(*conf.REDIS_SCRIPTS, *conf.SENTINEL_SCRIPTS),
        }
        for file, text in files.items():
            (folders["conf"] / file).write_text(text)
        return pod

    def secret(self, name: str, value: str) -> None:
        """Write a file of a mounted Secret, as the kubelet does."""
        (Path(self.place.secrets) / name).write_text(value)

    def start(self, container: str) -> subprocess.Popen[str]:
        """Start container `redis` or `sentinel`; its output goes to `<container>.log`."""
        log = (self.folder / f"{container}.log").open("a")
        self.processes[container] = subprocess.Popen(
            ["sh", f"{self.place.conf}/{container}.sh"],
            env={**os.environ, "CONF": self.place.conf, "HOSTNAME": self.name},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.processes[container]

    def kill(self) -> None:
        """SIGKILL everything in the pod."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def server(self) -> int:
        """Pid of redis-server, by the port it says it listens on."""
        found = subprocess.run(
            ["pgrep", "-f", f"redis-server {self.place.bind.split()[0]}:{self.place.port}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(found.stdout.split()[0])

    def log(self, container: str) -> str:
        """What a container has printed."""
        return (self.folder / f"{container}.log").read_text()

    def run(self, script: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a script in the pod, as exec does."""
        return subprocess.run(
            ["sh", f"{self.place.conf}/{script}", *args],
            env={**os.environ, "CONF": self.place.conf, "HOSTNAME": self.name},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def client(self, password: str | None = "", **options: Any) -> redis.Redis:
        """A client of the default user; `password` None: without."""
        tls = self.settings.tls.enabled
        secure = {"ssl": True, "ssl_ca_certs": f"{self.place.secrets}/redis-tls/ca.crt"} if tls else {}
        password = self.password if password == "" else password
        return redis.Redis(
            self.host, self.place.port, password=password, **{**secure, "protocol": 2, "retry": None, **options}
        )

    def info(self) -> dict[str, Any]:
        """INFO replication, {} when Redis does not answer."""
        try:
            return dict(self.client(decode_responses=True, socket_timeout=5).info("replication"))
        except redis.RedisError:
            return {}


@contextlib.contextmanager
def standalone(folder: Path, password: str, **changes: Any) -> Iterator[Pod]:
    """One pod in standalone mode, answering when the block starts (unless the password is empty)."""
    settings = parse(config(**changes))
    pod = Pod.make(
        folder, settings, "redis-0", "127.0.0.1", password, port=free_port(), bind="127.0.0.1", address="echo 127.0.0.1"
    )
    pod.start("redis")
    try:
        if password:
            retry = Retry(ConstantBackoff(0.05), 200)
            pod.client(retry=retry, retry_on_error=[redis.ConnectionError, redis.BusyLoadingError]).ping()
        yield pod
    finally:
        pod.kill()


@contextlib.contextmanager
def trio(folder: Path, **changes: Any) -> Iterator[list[Pod]]:
    """Three pods in sentinel mode, each on a loopback address of its own; one is master when the block starts."""
    redis_settings = {"mode": "sentinel", "proxyImage": f"haproxy@sha256:{'1' * 64}", **changes.pop("redis", {})}
    settings = parse(config(redis=redis_settings, tls={"enabled": False}, **changes))
    port, sentinel = free_port(), free_port()
    net = 20 + os.getpid() % 200
    pods = [
        Pod.make(
            folder / str(i),
            settings,
            f"redis-ha-{i}",
            f"127.0.{net}.{i + 1}",
            "api-password",
            port=port,
            sentinel_port=sentinel,
            bind=f"127.0.{net}.{i + 1}",
            address=f"echo 127.0.{net}.$(($1 + 1))",
        )
        for i in range(3)
    ]
    try:
        for pod in pods:
            for container in ("redis", "sentinel"):
                pod.start(container)
        eventually(lambda: settled(pods))
        yield pods
    finally:
        for pod in pods:
            pod.kill()


def settled(pods: list[Pod]) -> Pod | None:
    """The one master that all others follow, None while there is none."""
    infos = [pod.info() for pod in pods]
    masters = [pod for pod, info in zip(pods, infos, strict=True) if info.get("role") == "master"]
    in_sync = [info for info in infos if info.get("master_link_status") == "up"]
    if len(masters) != 1 or len(in_sync) != len(pods) - 1:
        return None
    return masters[0] if {info["master_host"] for info in in_sync} == {masters[0].host} else None


@contextlib.contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[redis.Redis, int]]:
    """A bare redis-server on a data folder: a client of it, and its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)

    def up() -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    try:
        eventually(up)
        yield client, port
    finally:
        client.close()
        process.kill()
        process.wait()
