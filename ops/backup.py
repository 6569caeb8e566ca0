"""`ops backup`: a stack's sessions, taken from a replica, into one local file; its name is noted in the cluster."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import redis
from kubernetes.client import ApiException
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ops import archive, backup_stream
from ops.errors import OpsError
from ops.kube import TIMEOUT
from ops.redis_pods import RedisPod, RedisPods
from ops.stacks import Target

MANAGER = "session-store-backup"
RECORD = "redis-backups"
"""ConfigMap whose key `latest` tells a damaged Redis which backup to name: what it is, and the command."""


def to_file(target: Target, pods: RedisPods, release: dict[str, Any], to: Path | None, with_secret: bool) -> Path:
    """Back a stack up.

    Args:
        target: the stack.
        pods: its Redis.
        release: what it runs, for the manifest.
        to: file or folder; None: a name of its own in this folder.
        with_secret: put the session-signing secret in, so that the cookies work in another stack.

    Returns:
        The file.

    Raises:
        OpsError: the message says what is wrong; nothing half done is left.
    """
    begun = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun))
    path = to or Path()
    if path.is_dir():
        path = path / archive.default_name(target.stack, stamp)
    path = path.absolute()
    if not path.parent.is_dir():
        raise OpsError(f"There is no folder {path.parent}: make it, or write elsewhere with --to.")
    archive.sweep(path.parent, target.stack)
    source = _source(target, pods)
    archive.check_space(path.parent, source.dataset)
    secret = _session_secret(target, pods) if with_secret else None
    with stoppable(), archive.Writer(path) as writer:
        with bytes_bar(target, "Backup", None) as bar:
            try:
                _stream(pods, source, writer, bar)
            except (OSError, redis.RedisError) as error:
                raise OpsError(f"The backup from {source.name} broke off ({error}): run it again.") from None
        manifest = {
            "stack": target.stack,
            "namespace": pods.namespace,
            "time": stamp,
            "release": release,
            "redis": {"version": source.info["redis_version"], "pod": source.name, "role": source.info["role"]},
            "prefix": pods.settings.sessions.prefix,
            "database": pods.settings.redis.database,
            "keys": source.keys,
            "memory": source.dataset,
        }
        digest = writer.finish(manifest, secret, begun)
    keys = sum(source.keys.values())
    target.say(f"Backup: {path}, {keys} keys, {path.stat().st_size} bytes, {time.time() - begun:.0f} s")
    target.say(f"SHA-256 of its dump: {digest}")
    if secret is not None:
        target.say(
            "! The file holds the sessions and the secret that signs their cookies: keep it as secret as the store."
        )
    else:
        target.say(
            "! The file holds the sessions, without the secret that signs their cookies: keep it as secret as those."
        )
    what = f"{path.name}, made {stamp}, {keys} keys, sha256 {digest} (on {socket.gethostname()}: {path})"
    record(target, pods, what, f"python -m ops restore {path.name} --stack {target.stack}")
    return path


def _source(target: Target, pods: RedisPods) -> RedisPod:
    found = list(pods.answering())
    if not found:
        raise OpsError(f"No Redis answers in namespace {pods.namespace}: nothing to back up.")
    replica = max((pod for pod in found if pod.in_sync), key=_offset, default=None)
    source = replica or next((pod for pod in found if pod.master), None)
    if source is None:
        raise OpsError(
            f"{', '.join(pod.name for pod in found)}: no master and no replica in sync; nothing is complete."
        )
    if replica:
        target.say(f"From replica {source.name}")
    elif pods.settings.redis.mode == "sentinel":
        target.say(f"! No replica is in sync: from master {source.name}, which does the work beside its own")
    else:
        target.say(f"From {source.name}, the only one")
    return source


def _offset(pod: RedisPod) -> int:
    return int(pod.info.get("slave_repl_offset", 0))


def _session_secret(target: Target, pods: RedisPods) -> str | None:
    name = pods.settings.credentials.session_secret
    found = pods.secret(name).get("session-secret")
    if not found:
        target.say(f"! Secret {name} has no key session-secret: the backup goes without it.")
    return found or None


def _stream(pods: RedisPods, source: RedisPod, writer: archive.Writer, bar: Any) -> None:
    with contextlib.closing(pods.connection(source.name)) as talk:
        for piece in backup_stream.rdb(talk):
            writer.write(piece)
            bar(len(piece))


@contextlib.contextmanager
def bytes_bar(target: Target, what: str, total: int | None) -> Iterator[Any]:
    """A progress bar in bytes; gives the function that moves it on."""
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=target.console, transient=True, disable=not target.console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


@contextlib.contextmanager
def stoppable(say: str = "Stopped on request; nothing half done is left.") -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, with everything cleaned up."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise OpsError(say, 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def record(target: Target, pods: RedisPods, what: str, command: str) -> None:
    """Note a backup where a damaged Redis reads it (`infra/redis/scripts/aof.sh`)."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": RECORD, "labels": {"app.kubernetes.io/part-of": "session-store"}},
        "data": {"latest": f"{what}\n{command}\n"},
    }
    try:
        # Server-side apply, which the client's own methods do not offer.
        pods.cluster.api.call_api(
            "/api/v1/namespaces/{namespace}/configmaps/{name}",
            "PATCH",
            {"namespace": pods.namespace, "name": RECORD},
            [("fieldManager", MANAGER), ("force", "true")],
            {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _request_timeout=TIMEOUT,
        )
    except ApiException as error:
        target.say(
            f"! ConfigMap {RECORD} could not be written ({error.reason}): a damaged Redis cannot name this backup."
        )
