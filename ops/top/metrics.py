"""The text of a /metrics as figures, and what happened between two of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Labels = Mapping[str, str]
Which = Callable[[Labels], bool]
OPERATION = "session_store_operation_duration_seconds"
REQUESTS = "http_request_duration_seconds_count"


class Metrics:
    """What a /metrics said."""

    def __init__(self, text: str) -> None:
        self._found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in _LINE.findall(text):
            try:
                self._found.setdefault(name, []).append((dict(_LABEL.findall(labels)), float(value)))
            except ValueError:
                continue

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series of that name."""
        return self._found.get(name, [])

    def value(self, name: str, which: Which = lambda _: True) -> float | None:
        """Sum of the series of that name that are meant; None where there is none of that name at all."""
        series = self.series(name)
        return sum(value for labels, value in series if which(labels)) if series else None

    def buckets(self, name: str) -> dict[float, float]:
        """Upper bound to count, of a histogram's series together."""
        found: dict[float, float] = {}
        for labels, value in self.series(f"{name}_bucket"):
            bound = float(labels.get("le", "+Inf"))
            found[bound] = found.get(bound, 0) + value
        return found


def since(before: float | None, after: float | None) -> float | None:
    """How much a counter grew; one that was started anew meanwhile began with nothing."""
    if before is None or after is None:
        return None
    return after - before if after >= before else after


def quantile(share: float, before: Mapping[float, float], after: Mapping[float, float]) -> float | None:
    """A quantile of what a histogram took between two looks, as Prometheus reckons it; None: it took nothing."""
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    rank, low, below = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
