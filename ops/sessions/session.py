"""A session as people may see it. Its id, signed, is a login, and what it holds is somebody's: neither is shown."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

HEAD = 6
"""Characters of an id that may be shown, as `ops doctor` and `ops verify` do; and the fewest that name a session."""
NAME = 12
"""Characters of a name."""
FOR_EVER = -1


def escape(text: bytes) -> bytes:
    r"""A text as a SCAN pattern that matches it only: `*?[]\` lose their meaning."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", text)


def printable(text: str) -> str:
    """Somebody else's text without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def masked(word: str) -> str:
    """What somebody typed for a session: it may be a whole id."""
    return printable(word if len(word) <= NAME else word[:HEAD] + "…")


def duration(seconds: float) -> str:
    """In the two units that matter: `11 h 58 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


@dataclass(frozen=True)
class Session:
    """A key of a session.

    Attributes:
        prefix: of the stack's keys.
        key: whole.
        left: milliseconds until it ends; FOR_EVER: it does not.
        content: as stored; None: not read, or no string.
    """

    prefix: bytes
    key: bytes
    left: int
    content: bytes | None = None

    @property
    def id(self) -> bytes:
        """What the cookie carries: never shown."""
        return self.key[len(self.prefix) :]

    @property
    def name(self) -> str:
        """What it is called here: from a hash, so that it is worth nothing to a reader and tells a million apart."""
        return hashlib.sha256(self.id).hexdigest()[:NAME]

    @property
    def shown(self) -> str:
        """Its key, as `ops doctor` and `ops verify` show it."""
        return printable((self.prefix + self.id[: min(HEAD, len(self.id) // 2)]).decode(errors="replace")) + "…"

    def called(self, word: bytes) -> bool:
        """Whether a word of HEAD signs or more means it: the beginning of its name or of its id."""
        return self.name.encode().startswith(word) or self.id.startswith(word)

    @property
    def data(self) -> Any:
        """Its JSON; None when it holds none."""
        try:
            return json.loads(self.content or b"")
        except (ValueError, RecursionError):
            return None

    @property
    def user(self) -> str | None:
        """Who is logged in (`auth_info`, where the API keeps it); None: nobody, or not told."""
        data = self.data
        info = data.get("auth_info") if isinstance(data, dict) else None
        told = (info.get("username") or info.get("email")) if isinstance(info, dict) else None
        return None if told is None or isinstance(told, dict | list) else str(told)

    @property
    def written(self) -> datetime | None:
        """When its content was last written, mostly at the login: its cookie tells."""
        data = self.data
        try:
            ends, lasts = data["cookie"]["expires"], data["cookie"]["originalMaxAge"]
            return datetime.fromisoformat(ends) - timedelta(milliseconds=lasts)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def idle(self, lifetime: int) -> float | None:
        """Seconds since its last use, each of which gives it `lifetime` seconds anew; None: it does not end."""
        return None if self.left == FOR_EVER else max(lifetime - self.left / 1000, 0)


def outline(data: Any, indent: str = "  ", depth: int = 4) -> Iterator[str]:
    """Names, kinds and lengths in what a session holds, a line each; values of the cookie's attributes only."""
    for key, value in data.items() if isinstance(data, dict) else ():
        name = printable(str(key))[:60]
        if key == "cookie" and indent == "  " and isinstance(value, dict):
            flags = ", ".join(f"{printable(str(flag))} {_flag(told)}" for flag, told in value.items())
            yield f"{indent}{name}: {flags or 'empty'}"
            continue
        yield f"{indent}{name}: {_kind(value)}"
        if depth:
            yield from outline(value, indent + "  ", depth - 1)


def _flag(value: Any) -> str:
    return printable(value)[:60] if isinstance(value, str) else json.dumps(value)[:60]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"text of {len(value)}"
    if isinstance(value, list | dict):
        return f"{'list' if isinstance(value, list) else 'object'} of {len(value)}"
    return "empty" if value is None else "yes or no" if isinstance(value, bool) else "number"
