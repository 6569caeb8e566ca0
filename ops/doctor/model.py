"""What is wrong: findings, what follows from what, and how people and machines read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

BROKEN, RISK = "broken", "risk"
LOOKS = {BROKEN: ("✗", "red"), RISK: ("!", "yellow")}
CLUSTER, REDIS, PATH, API, SESSIONS, STACK = "cluster", "redis", "path", "api", "sessions", "stack"
"""Parts of a stack; `path` is all that lies between the API and Redis: names, Services, certificates, passwords."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        id: for machines; stable, and the heading in docs/doctor.md.
        part: of the stack, as listed above.
        what: is wrong, in one sentence.
        evidence: the very fields and lines that were seen.
        fix: the command that mends it, or what to do.
        severity: `broken`: users notice; `risk`: they will.
        about: objects it speaks of, `Kind name`.
        because: ids and parts; a broken finding of one of these that was found before explains this one.
        follows: what this one explains.
    """

    id: str
    part: str
    what: str
    evidence: tuple[str, ...]
    fix: str
    severity: str = BROKEN
    about: tuple[str, ...] = ()
    because: tuple[str, ...] = ()
    follows: tuple[Finding, ...] = ()

    def explains(self, other: Finding) -> bool:
        """Whether the other one, found after this one, would be gone with it."""
        if self.id == NAMESPACE and other.part != STACK:
            return True  # all was in it
        if self.id in other.because or (self.severity == BROKEN and self.part in other.because):
            return True
        return other.id == CHANGED and self.id != CHANGED and bool(set(self.about) & set(other.about))

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        keys = ("id", "part", "severity", "what", "evidence", "fix", "about")
        return {**{key: getattr(self, key) for key in keys}, "follows": [each.as_json() for each in self.follows]}


NAMESPACE = "namespace-missing"
CHANGED = "changed-by-hand"
"""A change by hand is told under what it broke."""


def sort(found: Iterable[Finding]) -> list[Finding]:
    """Causes, each with all that follows from it; what is broken first.

    Args:
        found: in causal order: nothing follows from what comes after it.
    """
    roots: list[Finding] = []
    for one in found:
        for at, root in enumerate(roots):
            if root.id == one.id and set(root.about) & set(one.about) and one.id != CHANGED:
                roots[at] = replace(root, evidence=(*root.evidence, *one.evidence))  # the next pod of the same workload
                break
            if root.explains(one) or any(each.explains(one) for each in root.follows):
                severity = BROKEN if BROKEN in (root.severity, one.severity) else RISK
                roots[at] = replace(root, severity=severity, follows=_with(root.follows, one))
                break
        else:
            roots.append(one)
    return sorted(roots, key=lambda one: one.severity != BROKEN)


def _with(follows: tuple[Finding, ...], one: Finding) -> tuple[Finding, ...]:
    """What is the same in several pods is told once."""
    for at, each in enumerate(follows):
        if (each.id, each.what) == (one.id, one.what):
            return (*follows[:at], replace(each, evidence=(*each.evidence, *one.evidence)), *follows[at + 1 :])
    return (*follows, one)


@dataclass
class Report:
    """What a look at a stack came to.

    Attributes:
        unseen: what could not be looked at, and why.
    """

    stack: str
    cluster: str
    namespace: str
    time: datetime
    findings: list[Finding] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.findings:
            broken = sum(one.severity == BROKEN for one in self.findings)
            counts = [f"{broken} broken"] * bool(broken)
            if risks := len(self.findings) - broken:
                counts.append(f"{risks} at risk")
            return f"Stack {self.stack}: {', '.join(counts)}"
        seen = ", as far as can be seen from here" if self.unseen else ""
        return f"Stack {self.stack} is well: nothing found{seen}"

    @property
    def next(self) -> str:
        """What to do now."""
        again = f"`python -m ops doctor --stack {self.stack}`"
        if not self.findings:
            return f"Next: `python -m ops verify --stack {self.stack}` proves it with a login"
        first = self.findings[0]
        rest = ", then this again" if len(self.findings) == 1 else ", the first one first, then this again"
        return f"Next: {first.fix}\n      {again}{rest}. docs/doctor.md#{first.id} tells more."

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "stack": self.stack,
            "cluster": self.cluster,
            "namespace": self.namespace,
            "time": self.time.isoformat(timespec="seconds"),
            "ok": not self.findings,
            "findings": [one.as_json() for one in self.findings],
            "unseen": self.unseen,
        }

    def show(self, console: Console) -> None:
        """For people."""
        for one in self.findings:
            mark, style = LOOKS[one.severity]
            console.print(Text(f"{mark} {one.what}", style), soft_wrap=True)
            for line in one.evidence:
                console.print(Text(f"    seen: {line}"), soft_wrap=True)
            for each in one.follows:
                seen = f" ({each.evidence[0]})" if each.evidence else ""
                console.print(Text(f"    so:   {each.what}{seen}", "dim"), soft_wrap=True)
            console.print(Text(f"    fix:  {one.fix}", "bold"), soft_wrap=True)
        for line in self.unseen:
            console.print(Text(f"? not seen: {line}", "yellow"), soft_wrap=True)
        console.print(Text(self.verdict, "red" if self.findings else "green"), soft_wrap=True)
        console.print(Text(self.next), soft_wrap=True)
