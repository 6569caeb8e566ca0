"""The machine below the cluster: running commands, files, root, Debian packages, kernel settings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.spec import RUN_BASE, ClusterError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CNI_DIRS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_PACKAGES = {  # program -> Debian package
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = (
    "#!/bin/sh\n# session-store: no service starts while `python -m cluster up` installs packages\nexit 101\n"
)
_SYSCTLS_BEFORE = RUN_BASE / "sysctls-before.json"
# What we set ourselves, then what every kubelet sets on its own.
_SYSCTLS = {"net/ipv4/ip_forward": "1"}
_KUBELET_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def run(*argv: str | Path, stdin: str | None = None, check: bool = True, timeout: float | None = 120) -> str:
    """Run a program and return its standard output; ClusterError with its message when it fails and `check` is set."""
    try:
        done = subprocess.run(
            [*map(str, argv)], input=stdin, capture_output=True, text=True, check=False, timeout=timeout
        )
    except FileNotFoundError:
        raise ClusterError(f"{argv[0]}: no such program") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"`{' '.join(map(str, argv))}` took longer than {timeout:.0f} s") from None
    if check and done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()
        raise ClusterError(f"`{' '.join(map(str, argv))[:200]}` failed: " + "\n".join(message[-8:]))
    return done.stdout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a kill at any moment leaves the old or the new text, never half of it."""
    with contextlib.suppress(OSError):
        if path.read_text() == text and path.stat().st_mode & 0o777 == mode:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    temporary.replace(path)


def require_root() -> None:
    """Raise ClusterError unless we are root on Linux."""
    if sys.platform != "linux":
        raise ClusterError(
            "the embedded cluster needs Linux: here, set KUBECONFIG to a cluster of your own and leave `cluster` out"
        )
    if os.geteuid() != 0:
        raise ClusterError(
            "the embedded cluster needs root (network namespaces, cgroups, containers): run it with sudo, "
            "or set KUBECONFIG to a cluster of your own and leave `cluster` out"
        )
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{_PATH}"  # sudo and cron leave /usr/sbin out


def which(program: str) -> str:
    """Full path of a program that `install_packages` made sure of."""
    path = shutil.which(program)
    if path is None:
        raise ClusterError(f"{program}: no such program")
    return path


def cni_bin() -> Path | None:
    """The directory of the CNI plugins we use, or None."""
    return next((d for d in CNI_DIRS if all((d / p).exists() for p in ("bridge", "host-local", "loopback"))), None)


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    missing = {package for program, package in _PACKAGES.items() if not shutil.which(program)}
    return sorted(missing | (set() if cni_bin() else {"containernetworking-plugins"}))


def install_packages(progress: Callable[[str], None]) -> None:
    """Install what is missing with apt-get, without starting or enabling a service; else ClusterError names it."""
    if _POLICY.exists() and _POLICY.read_text() == _POLICY_TEXT:
        _POLICY.unlink()  # left by a killed run
    packages = missing_packages()
    if not packages:
        return
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise ClusterError(f"missing programs; this system has no apt-get, install by hand what Debian calls: {names}")
    own_policy = not _POLICY.exists()
    if own_policy:
        write(_POLICY, _POLICY_TEXT, 0o755)
    try:
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
            progress(f"apt-get {step[0]}: {names}")
            done = subprocess.run([*apt, *step], env=environment, capture_output=True, text=True, check=False)
            if done.returncode and step[0] == "install":
                tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
                raise ClusterError(f"apt-get could not install {names}:\n{tail}")
    finally:
        if own_policy:
            _POLICY.unlink(missing_ok=True)
    if "containerd" in packages and shutil.which("systemctl"):
        # The package enables its service for the next boot; nobody asked for that.
        run("systemctl", "disable", "containerd.service", check=False)
    if still := missing_packages():
        raise ClusterError(f"apt-get ran, but these packages still miss their programs: {' '.join(still)}")


def set_sysctls() -> None:
    """Turn on forwarding, remembering what it (and what kubelet is about to change) was before the first cluster."""
    if not _SYSCTLS_BEFORE.exists():
        before = {k: _sysctl(k).read_text().strip() for k in (*_SYSCTLS, *_KUBELET_SYSCTLS) if _sysctl(k).exists()}
        write(_SYSCTLS_BEFORE, json.dumps(before))
    for key, value in _SYSCTLS.items():
        if _sysctl(key).read_text().strip() != value:
            _sysctl(key).write_text(value)


def restore_sysctls() -> None:
    """Put back what `set_sysctls` found, unless another cluster still runs."""
    if _SYSCTLS_BEFORE.exists() and not any(p.is_dir() for p in RUN_BASE.iterdir()):
        for key, value in json.loads(_SYSCTLS_BEFORE.read_text()).items():
            with contextlib.suppress(OSError):
                _sysctl(key).write_text(value)
        _SYSCTLS_BEFORE.unlink()


def _sysctl(key: str) -> Path:
    return Path("/proc/sys", key)


@contextlib.contextmanager
def temporary_file(suffix: str) -> Iterator[Path]:
    """A path for a program to write to; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="session-store-") as directory:
        yield Path(directory, f"file{suffix}")
