"""The machine we build on: the cache, and programs from Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from images.errors import ImageError

REPO = Path(__file__).resolve().parent.parent
PACKAGES = {"mmdebstrap": "mmdebstrap", "npm": "npm"}


def cache() -> Path:
    """Folder of the built images and of the layers they share; can be deleted at any time."""
    own = os.environ.get("SESSION_STORE_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "session-store"
    folder = base.expanduser().absolute() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Standard output of a program; ImageError with its last lines when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd or REPO,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not installed, and is needed to build images") from None
    if done.returncode:
        last = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise ImageError(f"{Path(command[0]).name} {command[1]} failed (exit {done.returncode}):\n  {last}")
    return done.stdout


def need(program: str) -> None:
    """Install a program's Debian package when it is missing.

    Raises:
        ImageError: it is missing and there is no apt-get, or apt-get failed.
    """
    if shutil.which(program):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise ImageError(
            f"{program} is missing: install the Debian package {PACKAGES[program]} (as root), then run again"
        )
    # RUNLEVEL=1: no package starts a service of its own.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run("apt-get", "update", "-qq", env=quiet)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGES[program], env=quiet)
