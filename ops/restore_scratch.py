"""A short-lived Redis beside the stack, on the stack's image, that holds a backup: what the store is compared with.

It listens on loopback only; the way in is the API server's port-forward.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import redis
from kubernetes.client import ApiException

from infra import pods as parts
from ops import kube, pod_exec, tunnel
from ops.errors import OpsError
from ops.redis_pods import PORT, RedisPods

NAME = "redis-restore"
CLAIM_FOLDER = "/backup"
CHUNK = 3 * 16 * 1024
"""A multiple of three: base64 of the pieces is base64 of the whole."""
DEADLINE = 6 * 3600
"""What a killed run leaves is stopped by then; the next run removes it."""
# A replica, for its clock: it keeps the keys that have expired since, and counts them, but shows them to nobody.
SCRIPT = f"""
umask 077
until [ -e /data/ready ]; do sleep 0.2; done
exec redis-server --bind 127.0.0.1 --port {PORT} --dir /data --save '' --appendonly no --replicaof 127.0.0.1 1
"""
PULLS = 180.0
LOADS = 600.0


class Scratch:
    """The pod, for the time of a `with`."""

    def __init__(self, pods: RedisPods, size: int, memory: int, claim: str | None = None) -> None:
        """
        Args:
            pods: the stack's Redis.
            size: bytes of the dump.
            memory: bytes its data takes.
            claim: mount this volume claim.
        """
        self._pods, self._core, self._namespace = pods, pods.cluster.core, pods.namespace
        self._size, self._memory, self._claim = size, memory, claim

    def __enter__(self) -> Scratch:
        self._remove()
        try:
            self._core.create_namespaced_pod(self._namespace, self._body(), _request_timeout=kube.TIMEOUT)
            self._until_running()
        except BaseException:
            self._remove(wait=False)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*kube.API_ERRORS):
            self._remove(wait=False)

    def _remove(self, wait: bool = True) -> None:
        try:
            self._core.delete_namespaced_pod(
                NAME, self._namespace, grace_period_seconds=0, _request_timeout=kube.TIMEOUT
            )
        except ApiException as error:
            if error.status == 404:
                return
            raise
        gone = not wait or kube.wait_for(self._is_gone, 60)
        if not gone:
            raise OpsError(f"Pod {NAME} of an earlier run does not go away: look at it with kubectl describe.")

    def _is_gone(self) -> bool:
        return kube.get(self._core.read_namespaced_pod, NAME, self._namespace) is None

    def _body(self) -> dict[str, Any]:
        settings = self._pods.settings
        mebibytes = (self._memory * 3 // 2 >> 20) + 64
        volumes: list[dict[str, Any]] = [{"name": "data", "emptyDir": {"sizeLimit": self._size + (64 << 20)}}]
        mounts: list[dict[str, Any]] = [{"name": "data", "mountPath": "/data"}]
        if self._claim:
            volumes.append({"name": "claim", "persistentVolumeClaim": {"claimName": self._claim, "readOnly": True}})
            mounts.append({"name": "claim", "mountPath": CLAIM_FOLDER, "readOnly": True})
        container = {
            "name": "redis",
            "image": settings.redis.image,
            "command": ["sh", "-c", SCRIPT],
            "resources": parts.resources("100m", f"{mebibytes}Mi"),
            "securityContext": _camel(parts.container_security()),
            "volumeMounts": mounts,
        }
        return {
            "metadata": {"name": NAME, "labels": parts.labels(NAME, "backup")},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": DEADLINE,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": _camel(parts.pod_security(settings.redis.run_as_user)),
                "containers": [container],
                "volumes": volumes,
            },
        }

    def _until_running(self) -> None:
        def running() -> Any:
            pod = self._core.read_namespaced_pod(NAME, self._namespace, _request_timeout=kube.TIMEOUT)
            if pod.status.phase in ("Failed", "Succeeded"):
                raise OpsError(f"Pod {NAME} ended: {pod.status.message or pod.status.reason or 'see its events'}")
            return pod.status.phase == "Running"

        if not kube.wait_for(running, PULLS):
            pod = self._core.read_namespaced_pod(NAME, self._namespace, _request_timeout=kube.TIMEOUT)
            conditions = [c.message for c in pod.status.conditions or [] if c.message]
            waiting = [s.state.waiting.message for s in pod.status.container_statuses or [] if s.state.waiting]
            why = "; ".join(filter(None, conditions + waiting)) or "its events say why"
            raise OpsError(f"Pod {NAME} does not start: {why}")

    def run(self, script: str, stdin: Iterable[bytes] | None = None) -> str:
        """What a shell script in the pod printed.

        Raises:
            OpsError: it failed.
        """
        command = ["sh", "-c", f"umask 077; {script}"]
        done = pod_exec.run(self._pods.cluster, self._namespace, NAME, "redis", command, stdin)
        if done.code:
            raise OpsError(f"In pod {NAME}: {' '.join((done.err or done.out).split())[-300:] or f'exit {done.code}'}")
        return done.out

    def upload(self, dump: Iterable[bytes], digest: str, progress: Callable[[int], None]) -> None:
        """Bring the dump in.

        Args:
            dump: its pieces.
            digest: their SHA-256.
            progress: told the bytes that were sent.
        """
        encoded = (self._size + 2) // 3 * 4

        def parts_of() -> Iterator[bytes]:
            for piece in _chunks(dump):
                progress(len(piece))
                yield base64.b64encode(piece)

        # exec cannot close stdin: head counts. Text, because not every exec is safe for bytes.
        self.run(f"head -c {encoded} | base64 -d > /data/dump.rdb", parts_of())
        if not self.run("sha256sum /data/dump.rdb").startswith(digest):
            raise OpsError("The backup did not arrive in the cluster as it is here: run it again.")

    def from_claim(self, name: str) -> tuple[str, int]:
        """Take the dump from the claim; `latest` is the newest.

        Returns:
            Its name and its size.

        Raises:
            OpsError: no such backup (the message lists those there are), or it is damaged.
        """
        there = sorted(set(re.findall(r"^redis-[0-9TZ]+\.rdb$", self.run(f"ls {CLAIM_FOLDER}"), re.MULTILINE)))
        if name == "latest" and there:
            name = there[-1]
        if name not in there:
            raise OpsError(f"Claim {self._claim} has no backup {name}; it has: {', '.join(there) or 'none'}.")
        quoted = shlex.quote(name)
        checked = self.run(f"cd {CLAIM_FOLDER} && sha256sum -c {quoted}.sha256 2>&1 || true")
        if not checked.strip().endswith(": OK"):
            raise OpsError(
                f"{name} in claim {self._claim} is damaged: its checksum does not match. Use another backup."
            )
        self.run(f"cp {CLAIM_FOLDER}/{quoted} /data/dump.rdb")
        return name, int(self.run("wc -c < /data/dump.rdb"))

    def start(self) -> None:
        """Start Redis on the dump, and wait until it is loaded.

        Raises:
            OpsError: Redis does not take it; the message holds its words.
        """
        self.run(": > /data/ready")
        end = time.monotonic() + LOADS
        while time.monotonic() < end:
            pod = self._core.read_namespaced_pod(NAME, self._namespace, _request_timeout=kube.TIMEOUT)
            if pod.status.phase != "Running":
                log = self._core.read_namespaced_pod_log(NAME, self._namespace, _request_timeout=kube.TIMEOUT)
                raise OpsError(f"Redis does not load the backup: {' '.join(log.splitlines()[-3:])}")
            with contextlib.suppress(redis.RedisError, OSError, ApiException):
                client = self.client()
                try:
                    if not client.info("persistence")["loading"]:
                        return
                finally:
                    client.close()
            time.sleep(0.3)
        raise OpsError(f"Redis did not load the backup within {LOADS:.0f} s.")

    def client(self, database: int = 0) -> redis.Redis:
        """A binary client of it."""
        return tunnel.redis_over(
            lambda: tunnel.open_port(self._pods.cluster, self._namespace, NAME, PORT), None, None, database, binary=True
        )


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        held += piece
        whole = len(held) // CHUNK * CHUNK
        for start in range(0, whole, CHUNK):
            yield held[start : start + CHUNK]
        held = held[whole:]
    if held:
        yield held


def _camel(value: Any) -> Any:
    """pulumi_kubernetes takes snake_case, the API camelCase."""
    if isinstance(value, dict):
        return {re.sub(r"_([a-z])", lambda m: m[1].upper(), key): _camel(item) for key, item in value.items()}
    return value
