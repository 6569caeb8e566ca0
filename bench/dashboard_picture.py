"""The dashboard's panels as a picture, from what a real Prometheus answers to each query (docs/dashboard.md).

python -m bench.dashboard_picture http://10.200.0.11:30090 NAMESPACE docs/img/dashboard.png
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer

mpl.use("Agg")
from matplotlib import dates
from matplotlib import pyplot as plt

from infra.panels import ROWS, Panel

COLUMNS = 4
UNITS = {"bytes": (2**20, "MiB"), "s": (1, "s"), "d": (1, "days"), "percentunit": (0.01, "%"), "reqps": (1, "a second")}
Series = list[tuple[str, list[tuple[datetime, float]]]]


def ask(prometheus: str, query: str, minutes: float, step: int = 15) -> list[dict[str, Any]]:
    """Series of a range query up to now."""
    now = time.time()
    wanted = {"query": query, "start": now - minutes * 60, "end": now, "step": step}
    address = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(wanted)}"
    try:
        with urllib.request.urlopen(address, timeout=60) as reply:  # noqa: S310 - the operator's own address
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"Prometheus refuses {query}: {json.load(error)['error']}")
    except OSError as error:
        sys.exit(f"{prometheus} does not answer: {error}. Is it there? `make up OBSERVE=1` starts one.")
    return found


def answers(prometheus: str, namespace: str, panel: Panel, minutes: float) -> Series:
    """Legend and points of every series of a panel, as Grafana would show them."""
    found: Series = []
    for legend, query in panel.queries.items():
        for series in ask(prometheus, concrete(query, namespace), minutes):
            label = re.sub(r"\{\{(\w+)\}\}", lambda name: series["metric"].get(name[1], ""), legend)  # noqa: B023
            points = [(datetime.fromtimestamp(at, UTC), float(value)) for at, value in series["values"]]
            found.append((label, [point for point in points if math.isfinite(point[1])]))
    return found


def concrete(query: str, namespace: str) -> str:
    """The query with the values that Grafana fills in."""
    return query.replace("$__rate_interval", "1m").replace("$namespace", namespace)


def draw(rows: dict[str, list[tuple[Panel, Series]]], title: str, path: Path) -> None:
    """The panels of each question, side by side below it."""
    lines = [
        (question if at == 0 else "", panels[at : at + COLUMNS])
        for question, panels in rows.items()
        for at in range(0, len(panels), COLUMNS)
    ]
    figure, axes = plt.subplots(len(lines), COLUMNS, figsize=(4.4 * COLUMNS, 2.7 * len(lines)), squeeze=False)
    for line, (question, panels) in zip(axes, lines, strict=True):
        line[0].annotate(question, (0, 1.24), xycoords="axes fraction", fontsize=14, fontweight="bold")
        for axis in line[len(panels) :]:
            axis.set_axis_off()
        for axis, (panel, series) in zip(line, panels, strict=False):
            _panel(axis, panel, series)
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.985), h_pad=2)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _panel(axis: Any, panel: Panel, series: Series) -> None:
    scale, unit = UNITS.get(panel.unit, (1, ""))
    for label, points in series[:10]:
        axis.plot([at for at, _ in points], [value / scale for _, value in points], label=label[:40], linewidth=1.2)
    axis.set_title(panel.title + (f", {unit}" if unit else ""), fontsize=10, loc="left")
    low, high = axis.get_ylim()
    # Room for the legend above the lines.
    axis.set_ylim(min(0, low), max(high, 0.01) * 1.35)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    if series:
        axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=4))  # type: ignore[no-untyped-call]
        axis.legend(fontsize=6, loc="upper left", framealpha=0.6, ncols=2)
    else:
        axis.annotate("no data", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#999999")


def main(
    prometheus: Annotated[str, typer.Argument(help="Its address.")],
    namespace: Annotated[str, typer.Argument(help="Of the stack.")],
    path: Annotated[Path, typer.Argument(help="The picture (PNG or SVG).")],
    minutes: Annotated[float, typer.Option(help="How far back.")] = 20,
) -> None:
    """Ask every panel's queries and draw the answers; exit 1 when a query is refused."""
    rows: dict[str, list[tuple[Panel, Series]]] = {}
    for question, panels in ROWS.items():
        rows[question] = [(panel, answers(prometheus, namespace, panel, minutes)) for panel in panels]
    silent = [panel.title for panels in rows.values() for panel, series in panels if not series]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    draw(rows, f"Session store, namespace {namespace}, {when}", path)
    count = sum(len(series) for panels in rows.values() for _, series in panels)
    sys.stdout.write(f"{path}: {count} series; no data: {', '.join(silent) or 'none'}\n")


if __name__ == "__main__":
    typer.run(main)
