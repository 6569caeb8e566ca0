"""Figures of rounds as a picture: a dot each, the median and the worst marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def dots(path: Path, title: str, axis: str, series: Mapping[str, Sequence[float]], least: float | None = None) -> None:
    """Write a picture (PNG or SVG, by the name).

    Args:
        path: where to.
        title: above.
        axis: what is measured, with its unit.
        series: label -> values, one row each.
        least: what a value should be at least, drawn as a line; the worst is the highest one where there is none.
    """
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.7 * len(series)), layout="constrained")
    for row, values in enumerate(series.values()):
        if not values:
            continue
        ordered = sorted(values)
        # Spread a little, in a fixed pattern, so that equal values stay visible.
        heights = [row + 0.12 * ((index % 5) - 2) / 2 for index in range(len(values))]
        axes.scatter(values, heights, s=22, color="#4477aa", alpha=0.7, linewidths=0)
        middle, worst = ordered[(len(ordered) - 1) // 2], ordered[-1 if least is None else 0]
        axes.plot([middle, middle], [row - 0.3, row + 0.3], color="#228833", linewidth=2)
        axes.plot([worst, worst], [row - 0.3, row + 0.3], color="#cc3311", linewidth=2)
        axes.annotate(f"p50 {middle:.2f}", (middle, row + 0.32), ha="center", va="top", fontsize=8, color="#228833")
        if worst != middle:
            axes.annotate(f"worst {worst:.2f}", (worst, row - 0.45), ha="center", fontsize=8, color="#cc3311")
    if least is not None:
        axes.axvline(least, color="#999999", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(series)), [f"{label}  (n={len(values)})" for label, values in series.items()])
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(axis)
    figure.suptitle(title, fontsize=10)  # over the whole picture: the axes are narrower
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def timeline(
    path: Path,
    title: str,
    answers: Sequence[tuple[float, float]],
    failures: Sequence[float],
    acts: Sequence[tuple[str, float, float]],
) -> None:
    """Write a picture of a stretch of load and of what was done meanwhile.

    Args:
        path: where to.
        title: above.
        answers: (second, seconds it took) of each good reply.
        failures: seconds at which a request failed.
        acts: (what was done, first second, last second).
    """
    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    when, took = zip(*answers, strict=True) if answers else ((), ())
    axes.scatter(when, took, s=2, color="#4477aa", alpha=0.4, linewidths=0, label="answered")
    axes.scatter(failures, [0.0] * len(failures), s=40, marker="x", color="#cc3311", label=f"failed: {len(failures)}")
    top = max(took, default=1.0) * 1.15
    for number, (what, begin, end) in enumerate(acts):
        axes.axvspan(begin, end, color="#dddddd" if number % 2 else "#eeeeee", zorder=0)
        axes.annotate(what, (begin, top), rotation=90, fontsize=8, va="top", ha="left")
    axes.set_ylim(0, top)
    axes.set_xlabel("seconds")
    axes.set_ylabel("seconds a request to prod took")
    axes.legend(loc="center right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


Curve = tuple[Sequence[float], Sequence[float]]


def curves(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, Curve]],
    x: str,
    y: str,
    log: bool = False,
    marker: str = "",
) -> None:
    """Write a picture of lines.

    Args:
        path: where to.
        title: above.
        panels: heading -> label -> (xs, ys); one beside the other.
        x: what is along.
        y: what is up.
        log: whether `x` is logarithmic.
        marker: of each point; none of lines of many.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4.2), layout="constrained", squeeze=False)
    for axes, (heading, lines) in zip(row[0], panels.items(), strict=True):
        for label, (xs, ys) in lines.items():
            axes.plot(xs, ys, linewidth=1.5, label=label, marker=marker)
        if log:
            axes.set_xscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(heading, fontsize=9)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
