"""Cron text, as Kubernetes reads it: how far apart two runs can be."""

from __future__ import annotations

import itertools
from datetime import date, timedelta

DAY = 24 * 60
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))


def longest_gap(schedule: str) -> int:
    """Minutes between the two runs that are farthest apart; leap years are in it.

    Raises:
        ValueError: it is no cron text, or no day fits it.
    """
    try:
        fields = [_values(text, low, high) for text, (_, low, high) in zip(schedule.split(), FIELDS, strict=True)]
    except ValueError:
        raise ValueError(f"{schedule!r} is no cron text: {', '.join(name for name, _, _ in FIELDS)}") from None
    minutes, hours, monthdays, months, weekdays = fields
    # Cron's oddity: where both kinds of day are restricted, either is enough.
    either = not any(schedule.split()[i][0] in "*?" for i in (2, 4))
    times = sorted(hour * 60 + minute for hour in hours for minute in minutes)
    gap = max((after - before for before, after in itertools.pairwise(times)), default=0)
    last: int | None = None
    for number in range(9 * 366):
        day = date(2020, 1, 1) + timedelta(number)
        fits = [day.day in monthdays, day.isoweekday() % 7 in {weekday % 7 for weekday in weekdays}]
        if day.month in months and (any(fits) if either else all(fits)):
            gap = max(gap, number * DAY + times[0] - last) if last is not None else gap
            last = number * DAY + times[-1]
    if not gap:
        raise ValueError(f"{schedule!r}: no day fits")
    return gap


def _values(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin, end = (low, high) if span in {"*", "?"} else (_number(first), _number(last or first))
        if step and not last and span not in {"*", "?"}:
            end = high
        if not low <= begin <= end <= high:
            raise ValueError(text)
        found.update(range(begin, end + 1, int(step or 1)))
    return found


def _number(text: str) -> int:
    name = text.lower()
    if name in MONTHS:
        return MONTHS.index(name) + 1
    return WEEKDAYS.index(name) if name in WEEKDAYS else int(text)
