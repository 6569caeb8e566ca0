"""Inputs against the server's own OpenAPI schema, before anything is sent: unknown and missing fields, wrong types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from toolchain.plugins.difference import Path
from toolchain.plugins.wire import UNKNOWN

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (Mapping,),
    "array": (list,),
}


def problems(
    schemas: Mapping[str, Any], group: str, version: str, kind: str, tree: Mapping[str, Any]
) -> Iterator[tuple[Path, str]]:
    """What is wrong with a manifest.

    Args:
        schemas: OpenAPI v3 component schemas.
        group: API group, empty for core.
        version: its version.
        kind: the manifest's kind.
        tree: the manifest, without secret marks; unknown values pass.

    Yields:
        Where, and a sentence about it that holds no value.
    """
    wanted = {"group": group, "version": version, "kind": kind}
    for schema in schemas.values():
        if wanted in schema.get("x-kubernetes-group-version-kind", []):
            yield from _check(schemas, schema, tree, ())
            return


def _resolve(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while True:
        if "$ref" in schema:
            schema = schemas.get(schema["$ref"].rpartition("/")[2], {})
        elif len(schema.get("allOf", [])) == 1 and "properties" not in schema:
            schema = schema["allOf"][0]
        else:
            return schema


def _check(schemas: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    schema = _resolve(schemas, schema)
    if value is UNKNOWN or value is None or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    expected = schema.get("type")
    if expected in _TYPES and not schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, _TYPES[expected]) and (expected == "boolean" or not isinstance(value, bool))
        if not fits:
            yield path, f"must be {expected}, not {_name(value)}"
            return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check(schemas, schema.get("items", {}), item, (*path, index))
    elif isinstance(value, Mapping):
        yield from _check_fields(schemas, schema, value, path)


def _check_fields(
    schemas: Mapping[str, Any], schema: Mapping[str, Any], value: Mapping[str, Any], path: Path
) -> Iterator[tuple[Path, str]]:
    fields, others = schema.get("properties"), schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield (*path, name), "is required"
    for name, item in value.items():
        if fields and name in fields:
            yield from _check(schemas, fields[name], item, (*path, name))
        elif isinstance(others, Mapping):
            yield from _check(schemas, others, item, (*path, name))
        elif fields and not others:
            close = get_close_matches(name, fields, 1)
            yield (*path, name), "no such field" + (f"; did you mean {close[0]}?" if close else "")


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        return "object"
    return {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}.get(type(value), "null")
