"""Where `ops` prints, and the options that many of its commands take."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import rich.console
import typer

from ops.errors import OpsError

Stack = Annotated[str, typer.Option("--stack", "-s", help="Which stack: the name in Pulumi.<stack>.yaml.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result there too, for machines.")]


class Console(rich.console.Console):
    """One that falls silent when nobody reads any more (`| head`, a terminal that is gone) and lets the work go on.

    Rich's own ends the thread that prints; the engine would wait for it for ever, with the stack locked.
    """

    def on_broken_pipe(self) -> None:
        """Called by Rich for a BrokenPipeError."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def confirm(yes: bool, what: str, question: str) -> None:
    """Ask before something is changed.

    Args:
        yes: it was said on the command line.
        what: what the command does, for when nobody is there to ask.
        question: for people.

    Raises:
        OpsError: nobody is there to ask.
        typer.Abort: they said no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise OpsError(f"{what}: repeat it with --yes when nobody is there to ask.")
    typer.confirm(question, abort=True)
