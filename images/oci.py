"""Writing OCI image archives.

A layer is a plain tar, an image is three small JSON files around it, and nothing in them depends on the clock or on a
compressor's version: the same layers always give the same digest. (`buildah commit` adds history, and a gzip whose
bytes change between releases.)
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST = "session-store.local"
EPOCH = 1_700_000_000
"""Every file's time, seconds: any constant will do."""


@dataclass(frozen=True)
class Layer:
    """A tar file and its digest, `sha256:<hex>`."""

    path: Path
    digest: str

    @staticmethod
    def of(path: Path) -> Layer:
        """Its digest, computed once and kept beside the file (which never changes: its name says what is in it)."""
        note = path.with_name(f"{path.name}.digest")
        if not note.exists():
            with path.open("rb") as file:
                note.write_text(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        return Layer(path, note.read_text())


@dataclass(frozen=True)
class Config:
    """What a container of the image starts with."""

    command: list[str]
    user: str
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    """Set where a pod's `args` are arguments of the image's program."""


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes | None = None, mode: int = 0o755, link: str = "") -> Member:
    """A tar member of root's: a file, a symbolic link, or (no content) a directory."""
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = EPOCH, mode
    if link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif content is None:
        info.type = tarfile.DIRTYPE
    info.size = len(content or b"")
    return info, content or b""


def tree(folder: Path, prefix: str) -> Iterator[Member]:
    """A folder's content below `prefix`, sorted, readable by every user."""
    yield member(prefix)
    for path in sorted(folder.rglob("*")):
        name = f"{prefix}/{path.relative_to(folder)}"
        if path.is_symlink():
            yield member(name, link=os.readlink(path))  # noqa: PTH115 - the text of the link, not a path
        elif path.is_dir():
            yield member(name)
        else:
            yield member(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)


def write_layer(path: Path, members: Iterator[Member]) -> Layer:
    """Write a tar of these members, atomically."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return Layer.of(partial.replace(path))


def key(config: Config, layers: list[Layer]) -> str:
    """Names the image that this configuration and these layers make: sixteen hex digits."""
    return hashlib.sha256(repr((config, [layer.digest for layer in layers])).encode()).hexdigest()[:16]


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def write_image(path: Path, name: str, config: Config, layers: list[Layer]) -> str:
    """Write an OCI archive, atomically.

    Args:
        path: where to.
        name: short name; the image is called `session-store.local/<name>`.
        config: what a container starts with.
        layers: bottom first.

    Returns:
        The digest of its manifest, `sha256:<hex>`, which is the image's.
    """
    run = {"Cmd": config.command, "Entrypoint": config.entrypoint, "User": config.user, "WorkingDir": config.workdir}
    run["Env"] = [f"{key}={value}" for key, value in sorted(config.env.items())]
    body = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(body), "size": len(body)},
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar", "digest": layer.digest, "size": layer.path.stat().st_size}
                for layer in layers
            ],
        }
    )
    digest = _digest(manifest)
    reference = f"{HOST}/{name}:{digest.removeprefix('sha256:')[:12]}"
    index = _json(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": f"{kind}.manifest.v1+json",
                    "digest": digest,
                    "size": len(manifest),
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference,
                    },
                }
            ],
        }
    )
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index}
    files |= {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (body, manifest)}
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as archive:
        for name_in_archive, blob in files.items():
            archive.addfile(member(name_in_archive, blob, 0o644)[0], io.BytesIO(blob))
        for layer in layers:
            info, _ = member(f"blobs/sha256/{layer.digest.removeprefix('sha256:')}", b"", 0o644)
            info.size = layer.path.stat().st_size
            with layer.path.open("rb") as file:
                archive.addfile(info, file)
    partial.replace(path)
    return digest
