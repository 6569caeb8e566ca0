"""Types of single configuration values; each refuses with the value, the rule and the fix."""

from __future__ import annotations

import re
from typing import Annotated

from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, Field

MIB = 1024 * 1024


def _dns_label(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError(f"{value!r} is not a Kubernetes name: use lower case letters, digits and '-', 63 at most")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}", value):
        raise ValueError(
            f"{value!r} is not pinned by digest: write NAME@sha256:<64 hex digits> "
            "(`docker buildx imagetools inspect IMAGE` prints it); a tag can change under a running stack"
        )
    return value


def _memory(value: str) -> str:
    try:
        size = int(parse_quantity(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a Kubernetes memory quantity: write for example 256Mi or 1Gi") from error
    if size < 64 * MIB:
        raise ValueError(f"{value!r} is too small: give at least 64Mi")
    return value


def _cpu(value: str) -> str:
    try:
        cores = parse_quantity(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a Kubernetes CPU quantity: write for example 100m or 1") from error
    if cores <= 0:
        raise ValueError(f"{value!r} is not above zero: write for example 100m or 1")
    return value


def _prefix(value: str) -> str:
    if not value or re.search(r"[\s*?\[\]\\]", value) or not value.isprintable():
        raise ValueError(
            f"{value!r} must be printable, not empty, and free of blanks and of the SCAN pattern signs * ? [ ] \\"
        )
    return value


Name = Annotated[str, AfterValidator(_dns_label)]
Image = Annotated[str, AfterValidator(_image)]
Memory = Annotated[str, AfterValidator(_memory)]
Cpu = Annotated[str, AfterValidator(_cpu)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Port = Annotated[int, Field(ge=1, le=65535)]
