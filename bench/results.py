"""Where results go: JSON for machines, a picture and a table for people."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.stack import REPO, Stack

FOLDER = Path(os.environ.get("SESSION_STORE_BENCH_RESULTS") or REPO / "bench" / "results")


def machine() -> dict[str, Any]:
    """On what it was measured, when."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
    }


def about(stack: Stack, rate: float) -> dict[str, Any]:
    """What was measured, on what, when."""
    return {
        **machine(),
        "mode": stack.mode,
        "wait_replicas": stack.wait_replicas,
        "requests_per_second": rate,
    }


def write(name: str, content: Mapping[str, Any]) -> Path:
    """Write NAME.json into the folder of results; its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(_rounded(content), indent=1) + "\n")
    return path


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value


def show(console: Console, title: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """A table: a line per kind, `columns` from key to heading."""
    table = Table("", *columns.values(), title=title, title_justify="left")
    for label, row in rows.items():
        table.add_row(label, *(_cell(row.get(key)) for key in columns))
    Console(width=max(console.width, 130)).print(table)  # a narrow terminal's table would be in pieces


def _cell(value: Any) -> str:
    if value is None:
        return "[red]never[/red]"
    return f"{value:.2f} s" if isinstance(value, float) else str(value)
