"""What the cluster is made from, by the command lines of `toolchain` (programs) and `images`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster import host
from cluster.spec import REPO, Cluster, ClusterError, Node

BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
IMAGES = ("pause", "coredns", "local-path-provisioner", "helper")

_SOURCES = (".py", ".txt", ".mod", ".sum")


@dataclass(frozen=True)
class Image:
    """An OCI archive and the name@digest by which pods refer to it."""

    ref: str
    archive: Path


def _module(*arguments: str) -> str:
    """Run one of our sibling packages; its progress goes to the terminal, its standard output is returned."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ClusterError(f"`python -m {' '.join(arguments)}` failed (exit {done.returncode}); see its message above")
    return done.stdout


def binaries() -> Path:
    """Directory of the programs in BINARIES, built if need be."""
    lines = _module("toolchain", "build", *BINARIES).strip().splitlines()
    directory = Path(lines[-1].strip()) if lines else Path()
    if missing := [b for b in BINARIES if not (directory / b).exists()]:
        raise ClusterError(f"`python -m toolchain build` left no {', '.join(missing)} in {directory}")
    return directory


def kubectl() -> Path:
    """Path of kubectl, built if need be."""
    return Path(_module("toolchain", "path", "kubectl").strip().splitlines()[-1])


def images(cluster: Cluster) -> dict[str, Image]:
    """The images in IMAGES, built if need be.

    Asking `images` whether they are up to date takes it seconds, so its last answer stands while what makes images is
    unchanged and the archives are there.
    """
    memory = cluster.home / "images.json"
    sources = [p for d in ("images", "toolchain") for p in sorted((REPO / d).rglob("*")) if p.suffix in _SOURCES]
    key = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()
    found: dict[str, dict[str, str]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        stored = json.loads(memory.read_text())
        if stored["key"] == key and all(Path(i["archive"]).exists() for i in stored["images"].values()):
            found = stored["images"]
    if not found:
        built = build(IMAGES)
        found = {name: {"ref": image.ref, "archive": str(image.archive)} for name, image in built.items()}
        host.write(memory, json.dumps({"key": key, "images": found}))
    return {name: Image(found[name]["ref"], Path(found[name]["archive"])) for name in IMAGES}


def build(names: Sequence[str]) -> dict[str, Image]:
    """Images by name, built if need be."""
    with host.temporary_file(".json") as file:
        _module("images", "build", *names, "--json", str(file))
        found = json.loads(file.read_text())
    return {name: Image(found[name]["ref"], Path(found[name]["archive"])) for name in names}


def read_archive(path: Path) -> Image:
    """The image in an OCI archive; ClusterError when it is none, holds several, or does not say the image's name."""
    try:
        with tarfile.open(path) as archive:
            member = archive.extractfile("index.json")
            manifests = json.load(member)["manifests"] if member else []
    except FileNotFoundError:
        raise ClusterError(f"{path}: no such file") from None
    except (tarfile.TarError, KeyError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ClusterError(
            f"{path} is not an OCI archive ({reason}): `buildah push IMAGE oci-archive:FILE.tar:NAME:TAG` writes one"
        ) from None
    if len(manifests) != 1:
        raise ClusterError(f"{path} holds {len(manifests)} images, one is expected")
    notes = manifests[0].get("annotations", {})
    name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name", "")
    base = name.partition("@")[0]
    if ":" in base.rpartition("/")[2]:
        base = base.rpartition(":")[0]
    if "/" not in base:
        raise ClusterError(
            f"{path} does not say the image's full name (found {name!r}): push it as oci-archive:FILE.tar:HOST/NAME:TAG"
        )
    return Image(f"{base}@{manifests[0]['digest']}", path)


def _ctr(node: Node, *arguments: str | Path, timeout: float = 600) -> str:
    return host.run("ctr", "--address", node.containerd_socket, "--namespace", "k8s.io", *arguments, timeout=timeout)


def loaded(node: Node) -> set[str]:
    """Names of the images in a node's containerd."""
    return set(_ctr(node, "images", "ls", "-q").split())


def load(cluster: Cluster, wanted: list[Image], nodes: list[Node] | None = None) -> list[str]:
    """Import images into nodes that lack them, nodes side by side; returns `node: ref` of each import made."""

    def load_node(node: Node) -> list[str]:
        there, done = loaded(node), []
        for image in wanted:
            if image.ref not in there:
                base = image.ref.partition("@")[0]
                _ctr(node, "images", "import", "--digests", "--base-name", base, image.archive)
                if image.ref not in loaded(node):
                    raise ClusterError(f"{image.archive} holds another image than {image.ref}: build it again")
                done.append(f"{node.name}: {image.ref}")
        return done

    with ThreadPoolExecutor() as pool:
        return [line for lines in pool.map(load_node, nodes or cluster.nodes) for line in lines]
