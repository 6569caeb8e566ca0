"""Where a password could stand in plain text, and what tells one from its name, its file or a reference to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from policies.manifest import SECRET, UNKNOWN, Declared, Resource, items, mapping, texts

NAMED = re.compile(
    r"PASS(WORD|WD|PHRASE)|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY|(^|_)(KEYS?|PASS|PWD|AUTH)$", re.I
)
"""Names of variables, options and files whose value is secret ..."""
ABOUT = re.compile(
    r"PUBLIC|_(FILES?|PATH|DIR|NAME|TTL|SECONDS|MS|LENGTH|GENERATION|HEADER|ALGORITHM|UR[IL]|HOST|PORT|ISSUER)$", re.I
)
"""... unless they say that it only tells something about one."""
HARMLESS = re.compile(r"(?i:true|false|yes|no|on|off|none)?|\$\([A-Za-z_]\w*\)|((/[a-z0-9._-]+){2,}\s*)+")
"""No value, a switch, a reference to another variable, paths of files."""
LITERAL = r"""["']?(?![$%@<`'"\\]|\$?\{)[^\s"'\\$`]{3,}"""
"""A text that stands for itself: not what a shell or a template fills in."""
PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (
        re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']*:" + LITERAL.replace(r"[^\s", r"[^\s@/") + "@", re.I),
        "a URL with a password",
    ),
    (re.compile(r"^\s*(requirepass|masterauth|tls-key-file-pass)\s+" + LITERAL, re.M), "a password of Redis"),
    (re.compile(r"^\s*sentinel\s+(auth-pass\s+\S+|sentinel-pass)\s+" + LITERAL, re.M), "a password of Sentinel"),
    (re.compile(r"^\s*user\s+\S+\s.*(?<=\s)[>]" + LITERAL, re.M), "a password of a Redis user"),
    (re.compile(r"\bACL\s+SETUSER\s.*\s>" + LITERAL, re.I), "a password of a Redis user"),
    (re.compile(r"^\s*user\s+\S+\s+(insecure-)?password\s+" + LITERAL, re.M), "a password of HAProxy"),
    (re.compile(r"--(requirepass|masterauth|pass|password|passphrase|token|secret)[= ]" + LITERAL), "a password"),
    (re.compile(r"\bredis-cli\b.*\s-a\s+" + LITERAL), "a password of Redis"),
    (re.compile(r"""^\s*["']?\w*(password|passwd|secret)["']?\s*[:=]\s*""" + LITERAL, re.M | re.I), "a password"),
    (re.compile(r"\b(\w*(PASSWORD|SECRET|TOKEN)|REDISCLI_AUTH)=" + LITERAL), "a password"),
)
KEEP = "keep it in a Secret that the pod reads (`valueFrom.secretKeyRef` or a mounted file)"


def found_in(text: str) -> str | None:
    """What a text gives away; None: nothing."""
    return next((what for pattern, what in PATTERNS if pattern.search(text)), None)


def check(declared: Declared) -> Iterator[tuple[Resource, str, str]]:
    """(resource, problem, fix) for everything secret that stands in plain text."""
    for workload in declared.workloads:
        for container in workload.containers:
            yield from ((workload.resource, f"{container.path} {said}", KEEP) for said in _container(container.spec))
    for resource in declared.of_kind("ConfigMap"):
        for key, value in _data(resource):
            what = "a password" if "\n" not in value and _gives_away(key, value) else found_in(value)
            if what:
                fix = "render it from a mounted Secret when the container starts"
                yield resource, f"`{key}` holds {what} in plain text", fix
    if declared.masked:
        for resource in declared.of_kind("Secret"):
            for key, value in _data(resource):
                if value not in ("", SECRET) and value not in UNKNOWN and not key.endswith(".crt"):
                    fix = "make it with pulumi_random, or read it with `require_secret`, so that the state encrypts it"
                    yield resource, f"the value of `{key}` is plain text for the engine", fix
    for resource in declared.resources:
        if resource.kind and resource.kind != "Secret":
            for path, value in texts(resource.props):
                if value == SECRET:
                    yield resource, f"a secret value would stand in plain text at `{path}`", KEEP


def _data(resource: Resource) -> Iterator[tuple[str, str]]:
    for section in ("data", "stringData"):
        value = resource.props.get(section)
        for key, text in mapping(value).items():
            yield str(key), text if isinstance(text, str) else repr(text)


def _gives_away(name: str, value: str) -> bool:
    return bool(NAMED.search(name)) and not ABOUT.search(name) and not HARMLESS.fullmatch(value)


def _container(spec: Any) -> Iterator[str]:
    for variable in items(spec.get("env")):
        name, value = str(variable.get("name", "")), variable.get("value")
        if not isinstance(value, str) or value in UNKNOWN or value == SECRET:
            continue
        if _gives_away(name, value):
            yield f"has the value of {name} in plain text"
        elif what := found_in(value):
            yield f"has {what} in plain text in {name}"
    for field, command in _commands(spec):
        if what := found_in(command):
            yield f"has {what} in plain text in its {field}"


def _commands(spec: Any) -> Iterator[tuple[str, str]]:
    """(where it stands, command line) of a container: its own, and those of its probes and hooks."""
    own = [*(spec.get("command") or []), *(spec.get("args") or [])]
    yield "command", " ".join(map(str, own))
    probes = {name: mapping(spec.get(name)) for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    hooks = {name: mapping(mapping(spec.get("lifecycle")).get(name)) for name in ("postStart", "preStop")}
    for name, action in {**probes, **hooks}.items():
        yield name, " ".join(map(str, mapping(action.get("exec")).get("command") or []))
