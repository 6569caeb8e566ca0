"""Layers of Debian packages. A base is shared by the images; what an image adds to it is a layer of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from images import host, oci
from images.errors import ImageError

SUITE = "bookworm"
BASE = ("ca-certificates", "libstdc++6")
SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
LEFT_OUT = ("doc", "man", "locale", "info", "lintian")


def sources() -> Path:
    """This machine's own list of Debian mirrors.

    Raises:
        ImageError: it has none.
    """
    for name in SOURCES:
        path = Path(name)
        if path.is_file() and path.read_text().strip():
            return path
    raise ImageError(f"no Debian package source is configured on this machine ({' or '.join(SOURCES)})")


@functools.cache
def key(packages: tuple[str, ...]) -> str:
    """Names what these packages give. A newer version in the machine's package list gives a new key: updates arrive."""
    versions = [line for line in host.run("apt-cache", "policy", *packages).splitlines() if "Candidate" in line]
    return hashlib.sha256(json.dumps([SUITE, packages, versions, LEFT_OUT, oci.EPOCH]).encode()).hexdigest()[:16]


def _rootfs(packages: tuple[str, ...]) -> Path:
    """A tar of Debian's essential packages and these, bit for bit the same for the same package versions."""
    path = host.cache() / f"debian-{key(packages)}.layer"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.tar")
        host.run(
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            "--format=tar",
            f"--include={','.join(packages)}",
            "--aptopt=APT::Install-Recommends false",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            SUITE,
            partial,
            sources(),
            env={"SOURCE_DATE_EPOCH": str(oci.EPOCH)},
        )
        partial.replace(path)
    return path


def _added(base: Path, more: Path) -> Iterator[oci.Member]:
    """Members of `more` that `base` lacks or has with another content."""

    def content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(info) if info.isreg() else None
        return file.read() if file else b""

    def facts(info: tarfile.TarInfo, data: bytes) -> tuple[object, ...]:
        return info.type, info.mode, info.uid, info.gid, info.linkname, hashlib.sha256(data).digest()

    with tarfile.open(base) as archive:
        known = {info.name: facts(info, content(archive, info)) for info in archive}
    with tarfile.open(more) as archive:
        for info in archive:
            data = content(archive, info)
            if not (info.isdir() and info.name in known) and known.get(info.name) != facts(info, data):
                yield info, data


def base_layer() -> oci.Layer:
    """The layer that every Debian image starts from."""
    return oci.Layer.of(_rootfs(BASE))


def layers(*packages: str) -> list[oci.Layer]:
    """The base, and a layer with what these packages add to it."""
    base, more = _rootfs(BASE), _rootfs((*BASE, *packages))
    path = more.with_suffix(f".over-{base.stem}.layer")
    layer = oci.Layer.of(path) if path.exists() else oci.write_layer(path, _added(base, more))
    return [oci.Layer.of(base), layer]
