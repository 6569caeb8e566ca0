"""Locks of the file backend: whose they are, and whether their owner still lives.

The engine writes a lock file with its process id when it starts and removes it when it ends; `kill -9` leaves it, and
may leave halves of other files too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from infra.settings import PROJECT
from ops.errors import InUseError

ATTRIBUTES = ".attrs"
"""Ends the name of what the engine keeps about each of its files, beside it."""
TORN_SECONDS = 10
"""A lock that is still half written after this long has no engine that would finish it."""


@dataclass(frozen=True)
class Lock:
    """One lock file.

    Attributes:
        path: the file.
        pid: process id of the engine that made it; 0: it is half written and does not say.
        host: the machine that engine runs on.
        user: who started it.
        since: when, as the engine wrote it.
    """

    path: Path
    pid: int
    host: str
    user: str
    since: str

    @property
    def dead(self) -> bool:
        """Its engine ran on this machine and is gone (not reaped yet, or its process id is another program's now)."""
        if not self.pid:
            try:
                return time.time() - self.path.stat().st_mtime > TORN_SECONDS
            except FileNotFoundError:
                return True
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        command = _command(self.pid)
        return command is not None and b"pulumi" not in command

    @property
    def orphan(self) -> bool:
        """Its engine still runs, but nobody answers where it was told to find the program: the run was killed."""
        arguments = (_command(self.pid) or b"").decode(errors="replace").split("\0")
        client = next((a.removeprefix("--client=") for a in arguments if a.startswith("--client=")), None)
        if self.host != socket.gethostname() or client is None:
            return False
        host, _, port = client.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except (OSError, ValueError):
            return True
        return False

    @property
    def abandoned(self) -> bool:
        """Nobody waits for its engine any more: `clear` takes it away. An engine may end between the two questions."""
        return self.orphan or self.dead

    def __str__(self) -> str:
        if not self.pid:
            return "an unnamed run"
        return f"{self.user}@{self.host} (process {self.pid}) since {self.since}"


def _command(pid: int) -> bytes | None:
    """The program and arguments of a process: empty once it ended; None where /proc cannot tell."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None


def _root(environment: Mapping[str, str]) -> Path | None:
    """Where a file backend keeps its files; None for every other backend."""
    url = urlparse(environment.get("PULUMI_BACKEND_URL", ""))
    return Path(unquote(url.netloc + url.path)).expanduser() / ".pulumi" if url.scheme == "file" else None


def read(environment: Mapping[str, str], stack: str) -> list[Lock]:
    """The locks on a stack in a file backend; [] for every other backend, which looks after its own.

    Args:
        environment: holds PULUMI_BACKEND_URL when one is set.
        stack: the stack's name.
    """
    root = _root(environment)
    if root is None:
        return []
    locks = []
    for path in sorted((root / "locks" / "organization" / PROJECT / stack).glob("*.json*")):
        if path.suffix == ATTRIBUTES:
            continue
        try:
            content = json.loads(path.read_text())
            locks.append(
                Lock(path, int(content["pid"]), content["hostname"], content["username"], content["timestamp"])
            )
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            locks.append(Lock(path, 0, "?", "?", "?"))
    return locks


def clear(environment: Mapping[str, str], stack: str, say: Callable[[str], None], patience: float = 60) -> None:
    """Remove locks of dead engines, stop engines whose run was killed, wait for others; mend what those left.

    Args:
        environment: the engine's.
        stack: the stack's name.
        say: told what is done, one line each.
        patience: seconds to wait for a lock whose holder lives.

    Raises:
        InUseError: naming who holds the stack.
    """
    end = time.monotonic() + patience
    told: set[Path] = set()
    while True:
        held = []
        for lock in read(environment, stack):
            if lock.dead:
                say(f"Removed the lock that {lock} left: that engine is gone.")
                lock.path.unlink(missing_ok=True)
                lock.path.with_name(f"{lock.path.name}{ATTRIBUTES}").unlink(missing_ok=True)
                continue
            held.append(lock)
            if lock.path in told:
                continue
            told.add(lock.path)
            if lock.orphan:
                say(f"The engine of a killed run, {lock}, is still at work: asking it to stop.")
                os.kill(lock.pid, signal.SIGINT)
            else:
                say(f"Stack {stack} is in use by {lock}: waiting up to {patience:.0f} s.")
        if not held:
            return _mend(environment)
        if time.monotonic() > end:
            raise InUseError(
                f"Stack {stack} is in use by {held[0]}. Wait until that run ends; if it is gone for good, "
                f"remove its lock with `pulumi cancel --stack {stack}` (file: {held[0].path})."
            )
        time.sleep(0.5)


def _mend(environment: Mapping[str, str]) -> None:
    """Remove attributes that a killed engine left empty.

    It replaces its files as a whole but writes their attributes in place, ends with "failed to load checkpoint: EOF"
    where it reads empty ones, and does without those that are missing (gocloud.dev/blob/fileblob/attrs.go). Only states
    are replaced: whatever else it writes, `history` which only ever grows among it, gets a new name each time.
    """
    if root := _root(environment):
        for path in (root / "stacks").rglob(f"*{ATTRIBUTES}"):
            with contextlib.suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
