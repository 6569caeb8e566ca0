"""Property values as the engine sends them: protobuf structs with marks for secrets and for values not yet known.

A decoded tree is made of dict, list, str, int, float, bool and None, with `Secret` around secret values and `UNKNOWN`
for values that only the real run will know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import struct_pb2

# The engine's marks, the same in all its languages.
SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
SECRET_SIGNATURE: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105
OUTPUT_SIGNATURE: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN_TEXT: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True, repr=False)
class Secret:
    """A value that must be encrypted wherever it is written."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"


class _Unknown:
    def __repr__(self) -> str:
        return "[unknown]"

    def __deepcopy__(self, _: dict[int, Any]) -> _Unknown:
        return self


UNKNOWN: Final = _Unknown()


def decode(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A struct as a tree."""
    return {key: _decode(value) for key, value in struct.fields.items()}


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value == UNKNOWN_TEXT else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item) for item in value.list_value.values]
    if kind == "struct_value":
        tree = decode(value.struct_value)
        mark = tree.get(SIGNATURE)
        if mark == SECRET_SIGNATURE:
            return Secret(tree.get("value"))
        if mark == OUTPUT_SIGNATURE:
            inner = tree.get("value", UNKNOWN)
            return Secret(inner) if tree.get("secret") else inner
        return tree
    return None


def encode(tree: Mapping[str, Any]) -> struct_pb2.Struct:
    """A tree as a struct."""
    struct = struct_pb2.Struct()
    for key, value in tree.items():
        struct.fields[key].CopyFrom(_encode(value))
    return struct


def _encode(value: Any) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, Secret):
        return struct_pb2.Value(struct_value=encode({SIGNATURE: SECRET_SIGNATURE, "value": value.value}))
    if value is UNKNOWN:
        return struct_pb2.Value(string_value=UNKNOWN_TEXT)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, Mapping):
        return struct_pb2.Value(struct_value=encode(value))
    return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_encode(item) for item in value]))


def plain(value: Any) -> Any:
    """The same tree, a copy, without the secret marks; unknowns stay."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def without_nulls(value: Any) -> Any:
    """The same tree without keys whose value is null: to Kubernetes both mean `not set`."""
    if isinstance(value, Secret):
        return Secret(without_nulls(value.value))
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, Secret):
        yield from _walk(value.value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def has_unknown(value: Any) -> bool:
    """Whether anything in the tree is not yet known."""
    return any(item is UNKNOWN for item in _walk(value))


def has_secret(value: Any) -> bool:
    """Whether anything in the tree is secret."""
    return any(isinstance(item, Secret) for item in _walk(value))


def redact(text: str, *trees: Any) -> str:
    """A message without the secret texts (4 characters or more) of these trees: it may quote what is wrong."""
    for tree in trees:
        for item in _walk(tree):
            if isinstance(item, Secret):
                for leaf in _walk(item):
                    if isinstance(leaf, str) and len(leaf) >= 4:
                        text = text.replace(leaf, "[secret]")
    return text
