"""Build one tool with Go into a content-addressed cache, once, whoever asks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.tools import Tool

TAIL_LINES = 12
_NETWORK = re.compile(
    r"dial tcp|i/o timeout|proxyconnect|connection re(fused|set)|no such host|TLS handshake|x509:"
    r"|: (403|404|407|410|429|50\d) |unexpected EOF|module lookup disabled|server misbehaving",
)


class Reporter(Protocol):
    """Who is told how a build goes."""

    def waiting(self, tool: Tool, holder: str) -> None:
        """Another process, described by `holder`, builds; called about twice a second while that lasts."""

    def building(self, tool: Tool, detail: str) -> None:
        """The build runs; `detail` is Go's newest line. Called at least once a second."""


def go_environment() -> dict[str, str]:
    """Environment of every Go command: no C compiler, no workspace of the user's."""
    return os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}


def go_target(tool: Tool) -> str:
    """What Go would build for: `go1.26.8 linux amd64 v1`.

    Raises:
        ToolchainError: Go is missing or too old for the tool's go.mod.
    """
    command = ["go", "env", "GOVERSION", "GOOS", "GOARCH", "GOAMD64"]
    need = f"building {tool.name} {tool.version} needs Go {tool.go} or newer"
    try:
        done = subprocess.run(
            command, cwd=tool.directory, env=go_environment(), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ToolchainError(
            f"{need}, and no `go` is on PATH.\nInstall it (https://go.dev/dl/ or your system's package golang); "
            "a Go from 1.21 on fetches the right version by itself unless GOTOOLCHAIN=local is set."
        ) from None
    if done.returncode != 0:
        raise ToolchainError(
            f"{need}: {done.stderr.strip()}\nInstall a newer Go, or let this one fetch it: "
            "`go env -w GOTOOLCHAIN=auto` (and unset GOTOOLCHAIN in the environment)."
        )
    return " ".join(done.stdout.split())


def flags(tool: Tool) -> list[str]:
    """Arguments of `go build` that shape the program."""
    return ["-trimpath", "-buildvcs=false", "-tags", tool.tags, "-ldflags", f"-s -w {tool.stamp}"]


def cache_key(tool: Tool, target: str) -> str:
    """Hash (16 hex digits) of all that decides the program's bytes: sources, flags, Go, platform."""
    sources = [(tool.directory / name).read_text() for name in ("go.mod", "go.sum")]
    material = json.dumps([tool.package, flags(tool), target, *sources])
    return hashlib.sha256(material.encode()).hexdigest()[:16]


def location(tool: Tool, target: str) -> Path:
    """Where the built program is, or will be."""
    return paths.cache() / "tools" / f"{tool.name}-{cache_key(tool, target)}" / tool.name


def timings() -> dict[str, float]:
    """Seconds that the last build of each tool took; empty when none is known."""
    try:
        read = json.loads((paths.cache() / "timings.json").read_text())
        return {str(name): float(seconds) for name, seconds in read.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def expected(tool: Tool) -> float:
    """Seconds to expect: the last build's, else the shipped first-time estimate."""
    return timings().get(tool.name, tool.first_time)


def _write_timing(tool: Tool, seconds: float) -> None:
    file = paths.cache() / "timings.json"
    temp = file.with_suffix(f".{os.getpid()}")
    temp.write_text(json.dumps(timings() | {tool.name: round(seconds, 1)}, indent=1, sort_keys=True))
    temp.replace(file)


@contextlib.contextmanager
def build_lock(tool: Tool, reporter: Reporter) -> Iterator[int]:
    """Hold the one build lock: two Go builds at once would only compile the same packages twice.

    Yields:
        The lock's file descriptor. It is handed to Go, so that a Go left behind by a killed builder keeps
        the lock until its (useful: cached) work is done.
    """
    path = paths.cache() / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                reporter.waiting(tool, path.read_text().strip() or "another build")
                time.sleep(0.5)
        file.truncate(0)
        file.write(f"pid {os.getpid()}, which builds {tool.name}")
        file.flush()
        try:
            yield file.fileno()
        finally:
            file.truncate(0)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines of `stream` as they come, and an empty one after each silent second."""
    pending = b""
    while True:
        if not select.select([stream], [], [], 1)[0]:
            yield ""
            continue
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            break
        *whole, pending = (pending + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    yield pending.decode(errors="replace")


def failure(tool: Tool, tail: list[str], log: Path) -> ToolchainError:
    """Turn the end of a failed build's output into an error that says what to do.

    Args:
        tool: What was being built.
        tail: Last lines of Go's output.
        log: File with the whole output.
    """
    text = "\n".join(tail)
    if "no space left on device" in text or "disk quota exceeded" in text:
        fix = (
            f"The disk is full. Free about 6 GB for Go's caches (`go env GOCACHE GOMODCACHE`) and {paths.cache()}, "
            "or point GOCACHE, GOMODCACHE and SESSION_STORE_CACHE at a larger disk; the next run goes on from here."
        )
    elif "missing go.sum entry" in text or "updates to go.mod needed" in text:
        fix = f"go.mod and go.sum disagree: run `go mod tidy` in {tool.directory} and commit both files."
    elif "requires go >=" in text:
        fix = f"This Go is too old: {tool.go} or newer is needed (GOTOOLCHAIN=auto lets Go fetch it)."
    elif _NETWORK.search(text):
        fix = (
            "A module could not be downloaded. Check the network, HTTPS_PROXY and `go env GOPROXY`, then run the "
            "same command again: what was downloaded and compiled is kept."
        )
    elif "signal: killed" in text:
        fix = "A compiler was killed, most likely for lack of memory: free some, or set GOFLAGS=-p=1, and run again."
    else:
        fix = f"The whole output is in {log}."
    return ToolchainError(f"building {tool.name} {tool.version} failed:\n{text}\n{fix}")


def _run(tool: Tool, output: Path, lock: int, reporter: Reporter) -> None:
    log = paths.cache() / "logs" / f"{tool.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    command = ["go", "build", "-v", *flags(tool), "-o", str(output), tool.package]
    process = subprocess.Popen(
        command,
        cwd=tool.directory,
        env=go_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        pass_fds=[lock],
    )
    detail = "starting"
    try:
        assert process.stdout is not None  # noqa: S101  (PIPE above)
        with log.open("w") as file:
            for line in _lines(process.stdout):
                if line:
                    file.write(f"{line}\n")
                    # `-v` prints bare import paths: progress, not news for an error's last lines.
                    if " " in line and not line.startswith("go: downloading"):
                        tail.append(line)
                    else:
                        detail = line.removeprefix("go: ")
                reporter.building(tool, detail)
        if process.wait() != 0:
            raise failure(tool, list(tail) or [f"go exited with {process.returncode}"], log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def build(tool: Tool, reporter: Reporter) -> tuple[Path, float | None]:
    """Build a tool unless the cache has it, and link it into CACHE/bin.

    Returns:
        The program's path in the cache, and the seconds that the build took (None: it was cached).

    Raises:
        ToolchainError: Go is missing or too old, a download or the build failed, or the disk is full.
    """
    target = go_target(tool)
    path = location(tool, target)
    seconds = None
    try:
        if not path.exists():
            with build_lock(tool, reporter) as lock:
                tools = path.parent.parent
                for stale in tools.glob(".tmp-*"):  # a killed builder's; under the lock none is in use
                    stale.unlink()
                if not path.exists():  # else: it was built while we waited
                    start = time.monotonic()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    temp = tools / f".tmp-{tool.name}"
                    _run(tool, temp, lock, reporter)
                    temp.replace(path)
                    seconds = time.monotonic() - start
                    _write_timing(tool, seconds)
        paths.link(tool.name, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise failure(tool, [f"{error.filename or paths.cache()}: no space left on device"], path) from None
        raise ToolchainError(
            f"cannot write {error.filename}: {error.strerror}; set SESSION_STORE_CACHE to a folder of yours"
        ) from None
    return path, seconds
