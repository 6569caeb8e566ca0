"""The figures, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.top.look import ApiFigures, Figures, ProxyFigures, RedisFigures

UNKNOWN = "-"
FULL = 0.8
"""Share of maxmemory from which on it is told in red, as SessionStoreMemoryHigh does."""


def view(head: str, seen: Figures, store: str = "redis") -> RenderableType:
    """All of it.

    Args:
        head: which stack, and when.
        seen: the figures.
        store: where sessions are (`sessions.store`).
    """
    parts: list[RenderableType] = [Text(head, style="bold"), _people(seen, store)]
    if seen.redis:
        parts.append(_table("Redis", REDIS, [_redis(one) for one in seen.redis]))
    if seen.proxies:
        parts.append(_table("HAProxy", ("pod", "leads to", "sees"), [_proxy(one) for one in seen.proxies]))
    if seen.api:
        parts.append(_table("API", API, [_api(one) for one in seen.api]))
    asked: list[RedisFigures | ProxyFigures | ApiFigures] = [*seen.redis, *seen.proxies, *seen.api]
    silent = [f"{one.pod}: {one.trouble}" for one in asked if one.trouble]
    parts += [Text(f"not seen: {line}", style="red") for line in (*silent, *seen.unseen)]
    return Group(*parts)


def _people(seen: Figures, store: str) -> Text:
    sessions = (
        "in the API's memory" if store == "memory" else UNKNOWN if seen.sessions is None else f"{seen.sessions:,}"
    )
    line = Text.assemble("sessions ", (sessions, "bold"), f" · logins/s {_number(seen.logins)}")
    line.append(f" · requests/s {_number(seen.requests)} · ")
    line.append(f"5xx/s {_number(seen.failures)}", style="red" if seen.failures else "")
    line.append(" · ")
    line.append(f"session errors/s {_number(seen.errors)}", style="red" if seen.errors else "")
    line.append(f" · p99 of a session operation {_milliseconds(seen.p99)}")
    return line


def _table(title: str, columns: Sequence[str], rows: list[list[Text]]) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        shown.add_column(column, justify="right" if i > 1 else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*row)
    return shown


REDIS = ("pod", "role", "link", "memory", "ops/s", "clients", "hits", "evicted", "AOF", "keys")
API = ("pod", "state", "requests/s", "5xx/s", "logins/s", "errors/s", "p99", "heap")


def _redis(one: RedisFigures) -> list[Text]:
    if one.trouble:
        return [Text(one.pod), Text("silent", style="red")]
    bad_link = one.role == "replica" and one.link != "up"
    behind = f"{one.link}, {_bytes(one.behind)} behind" if one.behind else str(one.link)
    full = one.memory_limit and one.memory and one.memory > FULL * one.memory_limit
    share = f", {one.memory / one.memory_limit:.0%}" if one.memory_limit and one.memory else ""
    return [
        Text(one.pod),
        Text(str(one.role), style="green" if one.role == "master" else ""),
        Text(behind, style="red" if bad_link else ""),
        Text(_bytes(one.memory) + share, style="red" if full else ""),
        Text(_number(one.operations)),
        Text(UNKNOWN if one.clients is None else str(one.clients)),
        Text(UNKNOWN if one.hit_rate is None else f"{one.hit_rate:.0%}"),
        Text(UNKNOWN if one.evicted is None else str(one.evicted), style="red" if one.evicted else ""),
        Text(str(one.aof), style="red" if str(one.aof).endswith("fails") else ""),
        Text(", ".join(f"{number}: {count:,}" for number, count in sorted(one.keys.items())) or "none"),
    ]


def _api(one: ApiFigures) -> list[Text]:
    if one.trouble:
        return [Text(one.pod), Text("silent", style="red")]
    state = "ready" if one.ready else "not ready"
    if one.connected is False:
        state += ", no Redis"
    return [
        Text(one.pod),
        Text(state, style="" if state == "ready" else "red"),
        Text(_number(one.requests)),
        Text(_number(one.failures), style="red" if one.failures else ""),
        Text(_number(one.logins)),
        Text(_number(one.errors), style="red" if one.errors else ""),
        Text(_milliseconds(one.p99)),
        Text(_bytes(one.heap)),
    ]


def _proxy(one: ProxyFigures) -> list[Text]:
    if one.trouble:
        return [Text(one.pod), Text("silent", style="red")]
    leads = Text(", ".join(one.leads_to) or "nobody", style="green" if len(one.leads_to) == 1 else "red")
    sees = [
        f"{pod}: {'master' if pod in one.masters else 'no master'}, named by {one.named.get(pod, 0)}"
        for pod in sorted({*one.masters, *one.named})
    ]
    return [Text(one.pod), leads, Text("; ".join(sees) or "nobody")]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.1f}"


def _milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds * 1000:,.1f} ms"


def _bytes(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
