"""The rules of `policies`, asked about what the engine is about to apply."""

from __future__ import annotations

from ops.changes import mask
from ops.engine import Event
from policies.rules import Resource, Violation, check

DECLARES = {"same", "create", "update", "replace", "create-replacement", "import", "import-replacement"}
"""Steps that stand for a declared resource; the others delete one, or read what others own."""


class Guard:
    """Collects what a preview or an update declares; a listener for `stacks.run`.

    Unchanged resources count too: a rule that is new, or one over several resources, looks at all of them.
    """

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}

    def event(self, event: Event) -> None:
        """Take in one engine event."""
        told = event.resource_pre_event
        step = told.metadata if told else None
        if step and step.new and step.op.value in DECLARES:
            # By URN: a replacement is announced in several steps, an update follows its preview.
            name = step.urn.rpartition("::")[2]
            self._resources[step.urn] = Resource(step.type, name, mask(step.new.inputs or {}))

    @property
    def resources(self) -> list[Resource]:
        """What was declared, secret values masked."""
        return list(self._resources.values())

    def violations(self, several: bool) -> list[Violation]:
        """Every rule that is broken. several: there must be at least two of everything (prod)."""
        return check(self.resources, several)
