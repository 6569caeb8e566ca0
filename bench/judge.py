"""What a stretch of the load was like for its users."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.load import Record

BEFORE = 2.0
"""Seconds before an event in which the last success is looked for."""
UNDER_WAY = 1.0
"""Seconds without a success at the end of a stretch that are no silence yet: requests are under way."""


@dataclass(frozen=True)
class Verdict:
    """A stretch of the load. Times in seconds.

    Attributes:
        requests: scheduled in the stretch.
        failed: of those, without the reply they asked for.
        errors: reason -> how often.
        unavailable: the longest time from one success to the next, of reads or of logins, whichever was longer;
            None: one of the two never succeeded again.
        p50, p99, worst: how long users waited for a good reply.
    """

    requests: int
    failed: int
    errors: dict[str, int]
    unavailable_reads: float | None
    unavailable_logins: float | None
    p50: float | None
    p99: float | None
    worst: float | None

    @property
    def unavailable(self) -> float | None:
        """See the class."""
        if self.unavailable_reads is None or self.unavailable_logins is None:
            return None
        return max(self.unavailable_reads, self.unavailable_logins)


def judge(records: Iterable[Record], begin: float, end: float) -> Verdict:
    """The stretch from `begin` to `end`; a silence counts as far as it reaches into it."""
    near = [r for r in records if r.end >= begin - BEFORE and r.scheduled <= end]
    inside = [r for r in near if r.scheduled >= begin]
    bad = [r for r in inside if not r.good]
    waits = sorted(r.end - r.scheduled for r in inside if r.good)
    return Verdict(
        requests=len(inside),
        failed=len(bad),
        errors=dict(Counter(f"{r.kind}: {r.status or r.error}" for r in bad)),
        unavailable_reads=silence([r.end for r in near if r.good and r.kind == "read"], begin, end),
        unavailable_logins=silence([r.end for r in near if r.good and r.kind == "login"], begin, end),
        p50=percentile(waits, 50),
        p99=percentile(waits, 99),
        worst=waits[-1] if waits else None,
    )


def silence(successes: Iterable[float], begin: float, end: float) -> float | None:
    """The longest time between two successive successes of which a part is between `begin` and `end`."""
    times = sorted(successes)
    gaps = [later - earlier for earlier, later in pairwise(times) if later > begin and earlier < end]
    longest = max(gaps, default=None)
    # A silence that was not broken by the end is no number: nobody knows how long it went on.
    return longest if longest is not None and end - times[-1] <= max(longest, UNDER_WAY) else None


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """By nearest rank, of numbers in order; None of none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None
