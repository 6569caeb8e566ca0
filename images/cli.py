"""`python -m images`: build the images, list them."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from images import host, oci
from images.errors import ImageError
from images.recipes import RECIPES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True, highlight=False)


def build_one(name: str) -> dict[str, str]:
    """Build an image unless the cache has it: {ref: name@digest, archive: path}."""
    config, layers = RECIPES[name]()
    key = oci.key(config, layers)
    archive = host.cache() / f"{name}-{key}.tar"
    note = archive.with_suffix(".digest")
    if not (archive.exists() and note.exists()):
        note.write_text(oci.write_image(archive, name, config, layers))
    return {"ref": f"{oci.HOST}/{name}@{note.read_text()}", "archive": str(archive)}


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Which images; all if none is named.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write {name: {ref, archive}} there.")] = None,
) -> None:
    """Build images that are not in the cache; print `name@digest` of each."""
    wanted = names or list(RECIPES)
    if unknown := sorted(set(wanted) - set(RECIPES)):
        raise ImageError(f"there is no image {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    built = {}
    with (host.cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would do the same work twice
        host.prepare()
        for number, name in enumerate(wanted, 1):
            with console.status(f"[{number} of {len(wanted)}] image {name}"):
                built[name] = build_one(name)
    for entry in built.values():
        typer.echo(entry["ref"])
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(built, indent=2) + "\n")


@app.command("list")
def list_images() -> None:
    """Show the images in the cache: name@digest, megabytes, archive."""
    for note in sorted(host.cache().glob("*.digest")):
        archive = note.with_suffix(".tar")
        if archive.exists():
            name = f"{oci.HOST}/{archive.stem.rsplit('-', 1)[0]}@{note.read_text()}"
            typer.echo(f"{name}\t{archive.stat().st_size / 1e6:.0f} MB\t{archive}")


def main() -> None:
    """Run the command line; a failure is one message and exit code 1."""
    try:
        app()
    except ImageError as error:
        console.print(f"images: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
