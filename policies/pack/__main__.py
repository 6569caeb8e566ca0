"""The rules as a policy pack: `pulumi preview --policy-pack policies/pack` (docs/policies.md).

Run by the CLI, in the environment that `make policy-pack` makes beside this file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi_policy as sdk
from pulumi_policy.proxy import UnknownValueError

# The CLI runs this folder as a program; the rules stand two levels higher.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from policies.manifest import Declared
from policies.rules import RULES, Resource, Rule


def plain(value: Any) -> Any:
    """The SDK's view of properties as plain data; what is not known yet stays the engine's mark of it."""
    if isinstance(value, Mapping):
        return {str(key): _at(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_at(value, index) for index in range(len(value))]
    return value


def _at(values: Any, key: Any) -> Any:
    try:
        return plain(values[key])
    except UnknownValueError as error:
        return error.unknown_type_sentinel


def _of_resource(rule: Rule) -> sdk.Policy:
    """A rule over single resources: asked before each of them is applied."""

    def validate(args: sdk.ResourceValidationArgs, report: sdk.ReportViolation) -> None:
        # Secrets come unwrapped here: what a Secret holds cannot be told from plain text.
        declared = Declared([Resource(args.resource_type, args.name, plain(args.props))], masked=False)
        for _, problem, fix in rule.find(declared):
            report(f"{problem}; {fix}", None)

    return sdk.ResourceValidationPolicy(rule.name, rule.why, validate)


def _of_stack(rule: Rule) -> sdk.Policy:
    """A rule over what resources are to each other."""

    def validate(args: sdk.StackValidationArgs, report: sdk.ReportViolation) -> None:
        declared = Declared([Resource(one.resource_type, one.name, plain(one.props)) for one in args.resources], False)
        urns = {id(resource): one.urn for resource, one in zip(declared.resources, args.resources, strict=True)}
        for resource, problem, fix in rule.find(declared):
            report(f"{problem}; {fix}", urns[id(resource)])

    return sdk.StackValidationPolicy(rule.name, rule.why, validate)


def policies() -> list[sdk.Policy]:
    """One policy for each rule, under the rule's name."""
    return [_of_stack(rule) if rule.only_several else _of_resource(rule) for rule in RULES.values()]


if __name__ == "__main__":
    sdk.PolicyPack("session-store", policies(), sdk.EnforcementLevel.MANDATORY)
