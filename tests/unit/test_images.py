"""Images: same content, same digest; another content, another one; bad input is told."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from images import debian, host, oci
from images.cli import build
from images.errors import ImageError

CONFIG = oci.Config(["node", "app.js"], "1000:1000", "/app", {"B": "2", "A": "1"})


def write(folder: Path, content: bytes = b"hello", config: oci.Config = CONFIG) -> str:
    folder.mkdir()
    layer = oci.write_layer(folder / "app.layer", iter([oci.member("app"), oci.member("app/app.js", content, 0o644)]))
    return oci.write_image(folder / "image.tar", "api", config, [layer])


def test_same_content_gives_the_same_digest_and_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b")
    assert (tmp_path / "a" / "image.tar").read_bytes() == (tmp_path / "b" / "image.tar").read_bytes()


def test_other_content_or_start_gives_another_digest(tmp_path: Path) -> None:
    digests = {
        write(tmp_path / "a"),
        write(tmp_path / "b", b"bye"),
        write(tmp_path / "c", config=oci.Config(["node", "b.js"], "0")),
    }
    assert len(digests) == 3


def test_archive_says_its_name_and_its_manifests_digest(tmp_path: Path) -> None:
    digest = write(tmp_path / "a")
    with tarfile.open(tmp_path / "a" / "image.tar") as archive:
        blobs = {name.rpartition("/")[2] for name in archive.getnames() if name.startswith("blobs/")}
        index = archive.extractfile("index.json")
        assert index is not None
        (manifest,) = json.load(index)["manifests"]
    assert manifest["digest"] == digest
    assert digest.removeprefix("sha256:") in blobs
    assert manifest["annotations"]["io.containerd.image.name"].startswith("session-store.local/api:")


def test_files_of_a_tree_are_readable_by_every_user(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o700)
    (tmp_path / "x" / "secretive.js").write_text("1")
    (tmp_path / "x" / "secretive.js").chmod(0o600)
    (tmp_path / "link").symlink_to("x/secretive.js")
    found = {info.name: info for info, _ in oci.tree(tmp_path, "app")}
    assert oct(found["app/x"].mode) == "0o755"
    assert oct(found["app/x/secretive.js"].mode) == "0o644"
    assert found["app/link"].linkname == "x/secretive.js"
    assert {(info.uid, info.gid, info.mtime) for info in found.values()} == {(0, 0, oci.EPOCH)}


def test_an_image_adds_to_the_base_only_what_the_base_lacks(tmp_path: Path) -> None:
    shared = [oci.member("usr"), oci.member("usr/same", b"1"), oci.member("usr/changed", b"1")]
    oci.write_layer(tmp_path / "base", iter(shared))
    more = [*shared[:2], oci.member("usr/changed", b"2"), oci.member("usr/new", b"3")]
    oci.write_layer(tmp_path / "more", iter(more))
    added = {info.name: data for info, data in debian._added(tmp_path / "base", tmp_path / "more")}
    assert added == {"usr/changed": b"2", "usr/new": b"3"}


def test_unknown_image_is_told_with_what_there_is() -> None:
    with pytest.raises(ImageError, match="there is no image nginx; there are pause, redis, haproxy, api"):
        build(["redis", "nginx"])


def test_a_failing_program_is_named_with_its_last_words() -> None:
    with pytest.raises(ImageError, match=r"sh -c failed \(exit 3\):\n  no space left"):
        host.run("sh", "-c", "echo no space left >&2; exit 3")


def test_no_debian_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError, match="install the Debian package mmdebstrap"):
        host.prepare()
