"""The machine we build on: the cache, and programs from Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from images.errors import ImageError

REPO = Path(__file__).resolve().parent.parent


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


def prepare() -> None:
    """Have mmdebstrap and apt's lists; installs and updates when they are missing.

    Raises:
        ImageError: this is no Debian, or not root, or apt-get failed.
    """
    listed = any(Path("/var/lib/apt/lists").glob("*_Packages*"))
    if shutil.which("mmdebstrap") and listed:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise ImageError("mmdebstrap is missing: install the Debian package mmdebstrap (as root), then run again")
    # RUNLEVEL=1: no package starts a service of its own.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
    run(*apt, "update", env=quiet)
    run(*apt, "install", "-y", "--no-install-recommends", "mmdebstrap", env=quiet)
