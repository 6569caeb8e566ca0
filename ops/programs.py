"""Which program an operation runs: the one that is checked out, or the one that the stack's release pins."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import infra
from infra import release as releases
from infra.release import Release
from ops.errors import OpsError

FOLDER = Path(infra.__file__).resolve().parent
REPO = FOLDER.parent


def git(*args: str) -> bytes:
    """What git printed, about the repository that the program is in.

    Raises:
        OpsError: with git's own words.
    """
    try:
        done = subprocess.run(["git", "-C", str(REPO), *args], capture_output=True, check=False)
    except OSError as error:
        raise OpsError(f"git cannot be run ({error.strerror}): releases are commits, install it.") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise OpsError(f"`git {' '.join(args)}` in {REPO}: {reason}")
    return done.stdout


def commit() -> str:
    """The commit that holds the program that is checked out.

    Raises:
        OpsError: none does, because it was changed since.
    """
    if changed := git("status", "--porcelain", "--", FOLDER.name).decode().split("\n")[:-1]:
        names = ", ".join(line[3:] for line in changed[:5])
        raise OpsError(
            f"No commit holds this program ({names} changed since): commit it, so that going back to it is possible."
        )
    return git("rev-parse", "HEAD").decode().strip()


def program(folder: Path = FOLDER) -> Callable[[], None]:
    """The program of a folder as the engine runs it, inline. Its modules are its own, whatever was imported before."""

    def run() -> None:
        ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "infra"}
        for name in ours:
            del sys.modules[name]
        sys.path.insert(0, str(folder.parent))
        try:
            runpy.run_module("infra", run_name="__main__")
        finally:
            sys.path.remove(str(folder.parent))
            for name in [name for name in sys.modules if name.partition(".")[0] == "infra"]:
                del sys.modules[name]
            sys.modules.update(ours)

    return run


def pinned(release: Release | None, state: Path) -> Callable[[], None]:
    """The program that a release pins; without one, or when it is the one that is checked out, that one.

    Args:
        release: the stack's.
        state: where programs of other commits are put.

    Raises:
        OpsError: git does not have the commit, or the commit holds another program than the release says.
    """
    if release is None or release.program == releases.program(FOLDER):
        return program()
    folder = state / "programs" / release.commit / FOLDER.name
    if not folder.exists():
        try:
            archive = git("archive", release.commit, FOLDER.name)
        except OpsError as error:
            fetch = f"`git fetch origin {release.commit}` brings it"
            raise OpsError(f"The program of the pinned release is commit {release.commit}: {error} ({fetch})") from None
        partial = folder.parent.with_suffix(".new")
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(partial, filter="data")
        partial.rename(folder.parent)
    if releases.program(folder) != release.program:
        raise OpsError(
            f"Commit {release.commit} holds program {releases.program(folder)}, not {release.program} as pinned: "
            "that release was not written by `python -m ops promote`."
        )
    return program(folder)
