"""A backup's file: a tar with `dump.rdb`, `session-secret` (where wanted), `manifest.json` and the manifest's checksum.

It is written while the dump streams in, whose length is known at the end only: the dump's header is filled in last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ops.errors import OpsError

FORMAT = 1
DUMP, SECRET, MANIFEST, CHECKSUM = "dump.rdb", "session-secret", "manifest.json", "manifest.sha256"
BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20
RESERVE = 16 * PIECE
"""Disk space that stays free."""


@dataclass(frozen=True)
class Backup:
    """A checked backup.

    Attributes:
        path: the file.
        manifest: what it holds (docs/backup.md).
        session_secret: a comma list, newest first; None: it was left out.
        offset: where the dump begins.
        size: the dump's bytes.
    """

    path: Path
    manifest: dict[str, Any]
    session_secret: str | None
    offset: int
    size: int

    def dump(self) -> Iterator[bytes]:
        """The dump, piece by piece."""
        with self.path.open("rb") as file:
            yield from _pieces(file, self.offset, self.size)


def default_name(stack: str, time: str) -> str:
    """A new backup's file name; time: `YYYY-MM-DDTHH:MM:SSZ`."""
    return f"session-store-{stack}-{time.translate({ord('-'): None, ord(':'): None})}.tar"


def check_space(folder: Path, expected: int) -> None:
    """Refuse early what would not fit.

    Raises:
        OpsError: naming what is needed and what there is.
    """
    free = shutil.disk_usage(folder).free
    if free < expected + RESERVE:
        raise _full(folder, f"about {(expected + RESERVE) >> 20} MiB are needed, {free >> 20} MiB are free")


def _full(folder: Path, what: str) -> OpsError:
    return OpsError(f"No room for the backup in {folder}: {what}. Make room, or write elsewhere with --to.")


class Writer:
    """A backup that is being written, as `<path>.partial`; `finish` makes it whole. Left without, it is removed.

    Raises:
        OpsError: it exists, another run writes it, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._hash, self.size, self._finished = hashlib.sha256(), 0, False

    def __enter__(self) -> Writer:
        if self.path.exists():
            raise OpsError(f"{self.path} exists: a backup is never overwritten; give another name with --to.")
        try:
            self._file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise OpsError(f"{self.path} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise OpsError(f"Another run is writing {self.path}.") from None
        os.fchmod(self._file.fileno(), 0o600)
        self._file.truncate(0)
        self._file.write(bytes(BLOCK))
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what a full disk did not take in
            self._file.close()

    def write(self, piece: bytes) -> None:
        """The next piece of the dump."""
        with self._room():
            self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def finish(self, manifest: dict[str, Any], session_secret: str | None, time: float) -> str:
        """Complete the file and give it its name.

        Returns:
            The dump's SHA-256.
        """
        digest = self._hash.hexdigest()
        hashes, extra = {DUMP: digest}, {}
        if session_secret is not None:
            extra[SECRET] = session_secret.encode()
            hashes[SECRET] = hashlib.sha256(extra[SECRET]).hexdigest()
        content = {"format": FORMAT, **manifest, "size": self.size, "sha256": hashes}
        extra[MANIFEST] = (json.dumps(content, indent=2) + "\n").encode()
        extra[CHECKSUM] = f"{hashlib.sha256(extra[MANIFEST]).hexdigest()}  {MANIFEST}\n".encode()
        with self._room():
            self._file.write(bytes(-self.size % BLOCK))
            for name, text in extra.items():
                self._file.write(_header(name, len(text), time) + text + bytes(-len(text) % BLOCK))
            self._file.write(bytes(2 * BLOCK))
            self._file.seek(0)
            self._file.write(_header(DUMP, self.size, time))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._partial.rename(self.path)
        self._finished = True
        return digest

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _full(self.path.parent, f"the disk is full after {self.size >> 20} MiB") from None
            raise


def _header(name: str, size: int, time: float) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(time), 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def sweep(folder: Path, stack: str) -> None:
    """Remove what killed runs left in a folder."""
    for path in folder.glob(f"session-store-{stack}-*.tar.partial"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read(path: Path, progress: Callable[[int], None] = lambda _: None) -> Backup:
    """Check a backup from end to end.

    Args:
        path: the file.
        progress: told the bytes that were read.

    Raises:
        OpsError: it is not a whole and sound backup; the message says what is wrong.
    """
    damaged = f"{path} is damaged"
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file) as tar:
            members = {item.name: item for item in tar.getmembers()}
            if missing := [name for name in (DUMP, MANIFEST, CHECKSUM) if name not in members]:
                raise OpsError(f"{path} is not a whole backup: it has no {', '.join(missing)}.")
            text = _small(tar, members[MANIFEST])
            if hashlib.sha256(text).hexdigest() != _small(tar, members[CHECKSUM]).decode().split()[0]:
                raise OpsError(f"{damaged}: the checksum of its manifest does not match. Use another backup.")
            manifest = json.loads(text)
            if manifest["format"] != FORMAT:
                raise OpsError(f"{path} has format {manifest['format']}: a newer version of this program made it.")
            secret = _small(tar, members[SECRET]) if SECRET in members else None
            dump, total = members[DUMP], hashlib.sha256()
            for piece in _pieces(file, dump.offset_data, dump.size):
                total.update(piece)
                progress(len(piece))
    except FileNotFoundError:
        raise OpsError(f"There is no file {path}.") from None
    except (tarfile.TarError, ValueError, KeyError, IndexError, EOFError) as error:
        raise OpsError(f"{path} is not a backup, or damaged: {error}.") from None
    found = {DUMP: total.hexdigest(), **({SECRET: hashlib.sha256(secret).hexdigest()} if secret is not None else {})}
    for name, digest in found.items():
        if manifest["sha256"].get(name) != digest:
            raise OpsError(f"{damaged}: the checksum of its {name} does not match. Use another backup.")
    return Backup(path, manifest, secret.decode() if secret is not None else None, dump.offset_data, dump.size)


def _small(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member) if member.size < PIECE else None
    return (content or io.BytesIO()).read()


def _pieces(file: IO[bytes], offset: int, size: int) -> Iterator[bytes]:
    file.seek(offset)
    while size:
        piece = file.read(min(PIECE, size))
        if not piece:
            raise EOFError("it ends too early")
        size -= len(piece)
        yield piece
