"""Where things are: this folder, and the user's cache (which can be deleted at any time)."""

import os
from pathlib import Path

TOOLCHAIN = Path(__file__).resolve().parent
REPO = TOOLCHAIN.parent


def cache() -> Path:
    """The cache folder: SESSION_STORE_CACHE, else session-store below the XDG cache home."""
    own = os.environ.get("SESSION_STORE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "session-store"


def bin_dir() -> Path:
    """Folder of links to the current build of each tool; callers put it on PATH."""
    return cache() / "bin"


def link(name: str, target: Path) -> Path:
    """Point CACHE/bin/<name> at `target`, atomically, and return the link's path."""
    path = bin_dir() / name
    if path.is_symlink() and path.readlink() == target:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{name}.{os.getpid()}")
    temp.unlink(missing_ok=True)
    temp.symlink_to(target)
    return temp.replace(path)
