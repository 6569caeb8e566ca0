"""What a look at an object says: ready, not yet, or broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One look at an object.

    Attributes:
        ready: nothing left to wait for.
        message: what is awaited, or why it is broken.
        broken: it will not become ready by waiting.
        grace: seconds that `broken` must last before the wait gives up: a pull may work the second time.
    """

    ready: bool
    message: str = ""
    broken: bool = False
    grace: float = 0


READY = Verdict(True)


def pending(message: str) -> Verdict:
    """Not yet."""
    return Verdict(False, message)


def broken(message: str, grace: float = 0) -> Verdict:
    """Not by waiting, if it stays like this for `grace` seconds."""
    return Verdict(False, message, True, grace)


def at(tree: Any, *path: str) -> Any:
    """A nested value, or None."""
    for step in path:
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return tree


def number(tree: Any, *path: str) -> int:
    """A nested count, 0 when it is not there."""
    return int(at(tree, *path) or 0)


def condition(tree: Any, name: str) -> Mapping[str, Any]:
    """A status condition; {} when it is not there."""
    return next((item for item in at(tree, "status", "conditions") or [] if item.get("type") == name), {})


def sentence(*parts: Any) -> str:
    """Parts that are there, joined by `: `, on one line."""
    return ": ".join(" ".join(str(part).split()) for part in parts if part)
