"""Where `ops` prints."""

from __future__ import annotations

import os

import rich.console


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
