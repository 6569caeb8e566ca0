"""`ops restore`: a backup's sessions into the running store, after saying what would change."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ops import archive, backup, kube, pod_exec, restore_compare, restore_secret
from ops.errors import OpsError
from ops.master import Store
from ops.redis_pods import CONTAINER, RedisPods
from ops.restore_scratch import Scratch
from ops.stacks import Target

PATIENCE = 60.0
"""Seconds the store may be without a master in the middle of it."""
READY = 180.0
REFUSED = "/run/redis/refused"
SET_ASIDE = "/data/set-aside"


@dataclass(frozen=True)
class Wish:
    """What the operator asked for.

    Attributes:
        dry_run: only say what would change.
        overwrite: the backup's value wins over a different one.
        replace: the store becomes the backup.
        yes: do not ask.
    """

    dry_run: bool = False
    overwrite: bool = False
    replace: bool = False
    yes: bool = False


def restore(target: Target, pods: RedisPods, file: Path | None, claimed: str | None, wish: Wish) -> None:
    """Restore a file, or a backup of the CronJob's claim.

    Raises:
        OpsError: the message says what is wrong. A run that was stopped is finished by running it again.
    """
    if (file is None) == (claimed is None):
        raise OpsError("Which backup? Give a file, or --from-claim NAME (--from-claim latest: the newest).")
    saved = _read(target, file) if file else None
    claim = f"{pods.settings.redis.app}-backup" if claimed else None
    if claim and kube.get(pods.cluster.core.read_namespaced_persistent_volume_claim, claim, pods.namespace) is None:
        raise OpsError(f"There is no claim {claim} in namespace {pods.namespace}: no backup was ever scheduled here.")
    refused = _refused(pods)
    if refused:
        target.say(refused)
        target.say("Redis refuses to start: what follows compares the backup with an empty store.")
    memory = int(saved.manifest["memory"]) if saved else pods_memory(pods)
    size = saved.size if saved else memory
    with backup.stoppable("Stopped on request. Run it again: it goes on from here."):
        target.say("Loading the backup into a Redis of its own")
        with Scratch(pods, size, memory, claim) as scratch:
            if saved:
                with backup.bytes_bar(target, "Upload", saved.size) as moved:
                    scratch.upload(saved.dump(), saved.manifest["sha256"][archive.DUMP], moved)
            else:
                found, size = scratch.from_claim(claimed or "")
                target.say(f"Backup {found} of claim {claim}: {size} bytes, checksum right")
            scratch.start()
            _bring(target, pods, scratch, wish, refused)
    if saved and not wish.dry_run:
        restore_secret.accept(target, pods, saved.session_secret, wish.yes)


def pods_memory(pods: RedisPods) -> int:
    """What a backup of unknown size may take: what the store may."""
    from infra.redis.conf import maxmemory

    return maxmemory(pods.settings)


def _read(target: Target, file: Path) -> archive.Backup:
    if not file.is_file():
        raise OpsError(f"There is no file {file}.")
    with backup.bytes_bar(target, "Checking", file.stat().st_size) as moved:
        saved = archive.read(file, moved)
    about = saved.manifest
    keys = sum(about["keys"].values())
    release = ", ".join(f"{name} {image}" for name, image in about["release"].get("images", {}).items())
    target.say(
        f"Backup {file}: stack {about['stack']}, namespace {about['namespace']}, made {about['time']}, {keys} keys"
    )
    target.say(f"Of Redis {about['redis']['version']}; release: {release or 'without images'}; checksums right")
    return saved


def _bring(target: Target, pods: RedisPods, scratch: Scratch, wish: Wish, refused: str | None) -> None:
    stores: dict[int, Store] = {}

    def store(database: int) -> Store:
        if database not in stores:
            stores[database] = Store(lambda: pods.client(pods.master().name, database))
        return stores[database]

    live = None if refused else lambda database: store(database).client()
    found = restore_compare.compare(scratch.client, live)
    target.console.print(restore_compare.table(found))
    totals = [counts.changes(wish.overwrite, wish.replace) for counts in found.values()]
    added, overwritten, deleted = (sum(column) for column in zip(*totals, strict=True)) if totals else (0, 0, 0)
    would = f"{added} keys added, {overwritten} overwritten, {deleted} deleted"
    kept = sum(counts.different for counts in found.values()) - overwritten
    note = f"; {kept} that differ stay as the store has them (--overwrite: the backup's)" if kept else ""
    if not refused:
        _fits(pods, scratch, found, wish)
    if wish.dry_run:
        target.say(f"Would be: {would}{note}. Nothing was changed.")
        return
    if not refused and not added + overwritten + deleted:
        target.say(f"Nothing to do: the store has it all{note}.")
        return
    _ask(target, would + note, wish, refused)
    if refused:
        _start_empty(target, pods)
    _copy(target, scratch, store, found, wish)


def _fits(pods: RedisPods, scratch: Scratch, found: dict[int, restore_compare.Counts], wish: Wish) -> None:
    """Refuse what the store has no memory for, before anything is changed."""
    master = pods.master()
    limit = int(master.info.get("maxmemory", 0))
    living = sum(c.missing + c.different + c.same for c in found.values())
    info: dict[str, Any] = scratch.client().info("memory")
    whole = max(int(info["used_memory"]) - int(info["used_memory_startup"]), 0)
    share = sum(c.missing for c in found.values()) / living if living else 0
    present = int(master.info["used_memory"])
    if wish.replace:
        share, present = 1, present - master.dataset
    needed = int(present + whole * share)
    if limit and needed > limit:
        raise OpsError(
            f"The store has too little memory for this backup: about {needed >> 20} MiB are needed, maxmemory is "
            f"{limit >> 20} MiB. Nothing was changed. Raise session-store:redis.memory, run `ops up`, then restore."
        )


def _ask(target: Target, would: str, wish: Wish, refused: str | None) -> None:
    if wish.yes:
        return
    if not sys.stdin.isatty():
        raise OpsError(
            f"This changes a running session store ({would}): repeat it with --yes when nobody is there to ask."
        )
    target.say(f"To do: {would}.")
    if refused:
        typer.confirm("Set the damaged files aside (they are kept), start Redis empty and restore?", abort=True)
        return
    typer.confirm(f"Restore into stack {target.stack} on {target.cluster.context}?", abort=True)
    if wish.replace:
        typer.confirm("Sessions that are newer than the backup are logged out. Go on?", abort=True)


def _copy(target: Target, scratch: Scratch, store: Any, found: dict[int, restore_compare.Counts], wish: Wish) -> None:
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    written = deleted = 0
    total = sum(c.backup - c.expired for c in found.values())
    with Progress(*columns, console=target.console, transient=True, disable=not target.console.is_terminal) as shown:
        task = shown.add_task("Keys", total=total)
        for database in found:
            theirs, ours = scratch.client(database), store(database)
            if wish.replace:  # first, so that there is room
                deleted += restore_compare.prune(theirs, ours, PATIENCE)
            moved = partial(shown.advance, task)
            written += restore_compare.copy(theirs, ours, wish.overwrite or wish.replace, moved, PATIENCE)
    target.say(f"Restored: {written} keys written, {deleted} deleted")


def _refused(pods: RedisPods) -> str | None:
    """What a standalone Redis says that does not start because its append-only file is damaged."""
    if pods.settings.redis.mode != "standalone":
        return None
    for pod in pods.running():
        if kube.is_ready(pod):
            continue
        with contextlib.suppress(TimeoutError, *kube.API_ERRORS):
            command = ["sh", "-c", f"cat {REFUSED} 2>/dev/null"]
            if said := pod_exec.run(pods.cluster, pods.namespace, pod.metadata.name, CONTAINER, command).out.strip():
                return said
    return None


def _start_empty(target: Target, pods: RedisPods) -> None:
    for pod in pods.running():
        pod_exec.run(pods.cluster, pods.namespace, pod.metadata.name, CONTAINER, ["sh", "-c", f": > {SET_ASIDE}"])

    def answers() -> bool:
        with contextlib.suppress(OpsError, redis.RedisError, *kube.API_ERRORS):
            return bool(pods.master())
        return False

    target.say("Redis moves the damaged files aside and starts empty")
    if not kube.wait_for(answers, READY, every=1):
        raise OpsError(f"Redis did not start within {READY:.0f} s: its log says why. Then run this again.")
