"""`python -m toolchain`: build and find the pinned programs."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from toolchain import gobuild, installed, paths
from toolchain.display import Display, seconds
from toolchain.errors import ToolchainError
from toolchain.tools import Tool, all_tools, select

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Pinned programs, built from their Go modules into the user's cache.",
)
Names = Annotated[list[str] | None, typer.Argument(metavar="[TOOL]...", help="Default: what the main job needs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]


def _provide(tools: list[Tool], quiet: bool = False) -> dict[str, Path]:
    """Build or find each tool; its program by name."""
    found: dict[str, Path] = {}
    with Display(tools, quiet) as display:
        for tool in tools:
            ready = installed.installed(tool)
            if ready:
                paths.link(tool.name, ready)
                display.done(tool, None, "installed")
            else:
                ready, took = gobuild.build(tool, display)
                display.done(tool, took)
            found[tool.name] = ready
    return found


@app.command()
def build(names: Names = None, quiet: Quiet = False) -> None:
    """Build tools unless the cache has them; the last line printed is the folder for PATH."""
    _provide(select(names or []), quiet)
    typer.echo(paths.bin_dir())


@app.command()
def path(tool: Annotated[str, typer.Argument(help="Name of one tool, see `list`.")], quiet: Quiet = False) -> None:
    """Print the path of one tool's program, building it first if need be."""
    known = all_tools()
    if tool not in known:
        select([tool])  # says what there is
        raise ToolchainError(f"{tool!r} is several tools; name one: {', '.join(known)}", exit_code=2)
    typer.echo(_provide([known[tool]], quiet)[tool])


@app.command(name="list")
def list_() -> None:
    """Show every tool and plugin: version, where it comes from, and what its last build took."""
    table = Table("name", "version", "source", "last build", box=box.SIMPLE)
    trouble = ""
    times = gobuild.timings()
    for tool in all_tools().values():
        took = times.get(tool.name)
        last = seconds(took) if took is not None else f"first time about {seconds(tool.first_time)}"
        source = "installed" if installed.installed(tool) else "not built yet"
        if source != "installed":
            try:
                source = "built" if gobuild.location(tool, gobuild.go_target(tool)).exists() else source
            except ToolchainError as error:
                trouble = trouble or str(error)
        table.add_row(tool.name, tool.version, source, last)
    for name in installed.PLUGINS:
        plugin = installed.plugin(name)
        source = "official plugin" if plugin.official else "stand-in"
        source += "" if plugin.path.exists() else ", install: python -m toolchain plugins"
        table.add_row(f"pulumi-resource-{name}", f"v{plugin.version}", source, "")
    console = Console()
    console.print(table)
    if trouble:
        console.print(f"nothing can be built here: {trouble}", style="yellow", markup=False, highlight=False)


@app.command()
def plugins() -> None:
    """Install the plugins' launchers into the cache, and say which plugin is in use."""
    for name in installed.PLUGINS:
        plugin = installed.install_plugin(name)
        kind = "official plugin" if plugin.official else "stand-in (for development and CI, not for staging or prod)"
        typer.echo(f"pulumi-resource-{name} v{plugin.version}: {kind}, {plugin.path}")


def main() -> None:
    """Run the command line; every expected error is one message on stderr, without a traceback."""
    try:
        app()
    except ToolchainError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("stopped; what was compiled is kept, the next run goes on from there", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
