"""`python -m ops top`."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from ops import deployed, workspace
from ops.console import Console, Json, Stack
from ops.top import gather
from ops.top.look import Look, figures
from ops.top.view import view

WIDTH = 140
"""Columns where no terminal says how many."""


def top(
    stack: Stack = workspace.DEV,
    interval: Annotated[float, typer.Option("--interval", min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Two looks, one picture; so it is without a terminal.")] = False,
    json_file: Json = None,
) -> None:
    """Watch the stack: are people logged in, Redis, the proxies, the API. Ctrl-C ends it. Changes nothing."""
    console = Console()
    if not console.is_terminal:
        console, once = Console(width=WIDTH), True
    with contextlib.suppress(KeyboardInterrupt):
        screen = Screen(deployed.find(console, stack), json_file)
        if once:
            screen.frame()
            time.sleep(interval)
            console.print(screen.frame())
            return
        with Live(screen.frame(), console=console, screen=True, auto_refresh=False) as shown:
            while True:
                time.sleep(interval)
                shown.update(screen.frame(), refresh=True)


class Screen:
    """What is seen of a stack, look by look."""

    def __init__(self, found: deployed.Deployed, json_file: Path | None) -> None:
        self._found, self._json = found, json_file
        self._sources = gather.Sources(found)
        self._before: Look | None = None

    def frame(self) -> RenderableType:
        """The next picture."""
        now, settings = self._sources.look(), self._found.settings
        seen = figures(self._before, now, settings)
        self._before = now
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        if self._json:
            self._json.write_text(
                json.dumps({"stack": self._found.stack, "at": when, **seen.as_json()}, indent=2) + "\n"
            )
        head = f"Stack {self._found.stack} · namespace {settings.namespace} · {when}"
        return view(head, seen, settings.sessions.store)
