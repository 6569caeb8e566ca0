"""The `random` stand-in: values made once, kept in the state, made anew when an input or a keeper changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2

from toolchain.plugins.difference import differences, text
from toolchain.plugins.random.generate import KINDS, Kind, pools
from toolchain.plugins.server import PluginError, Provider
from toolchain.plugins.wire import UNKNOWN, Secret, decode, encode, has_secret, plain, without_nulls


def _type(urn: str) -> str:
    return urn.split("::")[2].rsplit("$", 1)[-1]


def kind_of(urn: str) -> Kind:
    """The resource type that a URN names.

    Raises:
        PluginError: none of ours.
    """
    token = _type(urn)
    try:
        return KINDS[token]
    except KeyError:
        known = ", ".join(sorted(name.rsplit(":", 1)[-1] for name in KINDS))
        raise PluginError(f"The random stand-in has no type {token}. It has: {known}.") from None


def with_defaults(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with every default filled in."""
    return {name: default for name, (_, default) in kind.inputs.items() if default not in (..., None)} | dict(inputs)


def problems(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong, by property; values not yet known pass."""
    wrong = {}
    for name, value in inputs.items():
        if name == "keepers" or value is UNKNOWN:
            continue
        if name not in kind.inputs:
            wrong[name] = f"no such input; there are: {', '.join([*kind.inputs, 'keepers'])}"
        elif not isinstance(value, kind.inputs[name][0]) or (kind.inputs[name][0] is int and isinstance(value, bool)):
            wrong[name] = f"must be {kind.inputs[name][0].__name__}, not {type(value).__name__}"
    for name, (_, default) in kind.inputs.items():
        if default is ... and name not in inputs:
            wrong[name] = "is required"
    if wrong or any(value is UNKNOWN for value in inputs.values()):
        return wrong
    for name in ("length", "byteLength"):
        if name in kind.inputs and inputs[name] < 1:
            wrong[name] = f"must be at least 1, not {inputs[name]}"
    if "min" in kind.inputs and inputs["min"] > inputs["max"]:
        wrong["min"] = f"must not be above max: {inputs['min']} > {inputs['max']}"
    if "lower" in kind.inputs and not wrong:
        on = pools(inputs)
        if not on:
            wrong["length"] = "no characters to choose from: lower, upper, numeric and special are all false"
        elif (least := sum(count for count, _ in on.values())) > inputs["length"]:
            wrong["length"] = f"must be at least {least}, the sum of {' + '.join(on)}"
    return wrong


class RandomProvider(Provider):
    """gRPC ResourceProvider of the `random` stand-in."""

    def __init__(self, engine: str | None = None):
        super().__init__("random", engine)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        kind = kind_of(request.urn)
        news = without_nulls(decode(request.news))
        news = {name: value for name, value in news.items() if name != "__defaults"}
        failures = [
            provider_pb2.CheckFailure(property=name, reason=f"{name} {reason}")
            for name, reason in problems(kind, with_defaults(kind, plain(news))).items()
        ]
        return provider_pb2.CheckResponse(inputs=encode(news), failures=failures)

    def Diff(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        kind = kind_of(request.urn)
        olds = decode(request.old_inputs)
        if not olds:  # a state that an older engine wrote has outputs only
            olds = {name: value for name, value in decode(request.olds).items() if name in {*kind.inputs, "keepers"}}
        old, new = (with_defaults(kind, plain(tree)) for tree in (olds, decode(request.news)))
        ignored = set(request.ignoreChanges)
        changed = [
            text(path)
            for path in differences(old, new)
            if text(path) not in ignored and path[0] not in ignored and path[0] != "__defaults"
        ]
        replace = provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.UPDATE_REPLACE, inputDiff=True)
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            replaces=changed,
            diffs=sorted({path.split(".")[0].split("[")[0] for path in changed}),
            detailedDiff=dict.fromkeys(changed, replace),
            hasDetailedDiff=True,
        )

    def Create(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        kind = kind_of(request.urn)
        inputs = decode(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(
                properties=self._outputs(kind, inputs, dict.fromkeys(kind.computed, UNKNOWN))
            )
        identity, computed = kind.make(with_defaults(kind, plain(inputs)))
        return provider_pb2.CreateResponse(id=identity, properties=self._outputs(kind, inputs, computed))

    def Update(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        # Only reached when all that changed is ignored: the value stays.
        kind = kind_of(request.urn)
        olds = decode(request.olds)
        computed = {name: plain(olds.get(name)) for name in kind.computed}
        return provider_pb2.UpdateResponse(properties=self._outputs(kind, decode(request.news), computed))

    def Read(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        kind = kind_of(request.urn)
        if request.properties.fields:  # refresh: nothing outside the state holds the value
            return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)
        identity, inputs, computed = kind.adopt(request.id)
        return provider_pb2.ReadResponse(
            id=identity, properties=self._outputs(kind, inputs, computed), inputs=encode(inputs)
        )

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        return empty_pb2.Empty()

    @staticmethod
    def _outputs(kind: Kind, inputs: Mapping[str, Any], computed: Mapping[str, Any]) -> Any:
        hidden = has_secret({name: value for name, value in inputs.items() if name != "keepers"})
        marked = {
            name: Secret(value) if value is not None and (hidden or name in kind.secret) else value
            for name, value in computed.items()
        }
        return encode(with_defaults(kind, inputs) | marked)
