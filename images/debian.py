"""Layers of Debian packages. A base is shared by the images; what an image adds to it is a layer of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
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
    """Names what these packages give; a newer version of one in the machine's package list gives another key."""
    versions = [line for line in host.run("apt-cache", "policy", *packages).splitlines() if "Candidate" in line]
    return hashlib.sha256(json.dumps([SUITE, packages, versions, LEFT_OUT, oci.EPOCH]).encode()).hexdigest()[:16]


def _rootfs(packages: tuple[str, ...]) -> Path:
    """A tar of Debian's essential packages and these, bit for bit the same for the same package versions.

    Its name covers all packages in it, dependencies too, so that a security update of any of them arrives. Which those
    are is known once it was made, and noted.
    """
    note = host.cache() / f"debian-{'-'.join(packages)}.packages"
    if note.exists():
        path = host.cache() / f"debian-{key(tuple(note.read_text().split()))}.layer"
        if path.exists():
            return path
    partial = host.cache() / f"debian.{os.getpid()}.tar"
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
    with tarfile.open(partial) as archive:
        status = archive.extractfile("./var/lib/dpkg/status")
        installed = re.findall(r"^Package: (\S+)$", status.read().decode(), re.MULTILINE) if status else []
    note.write_text(" ".join(sorted(installed)))
    return partial.replace(host.cache() / f"debian-{key(tuple(sorted(installed)))}.layer")


def base_layer() -> oci.Layer:
    """The layer that every Debian image starts from."""
    return oci.Layer.of(_rootfs(BASE))


def layers(*packages: str) -> list[oci.Layer]:
    """The base, and a layer with what these packages add to it."""
    base, more = _rootfs(BASE), _rootfs((*BASE, *packages))
    path = more.with_suffix(f".over-{base.stem}.layer")
    layer = oci.Layer.of(path) if path.exists() else oci.write_layer(path, _added(base, more))
    return [oci.Layer.of(base), layer]


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
