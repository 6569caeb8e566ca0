"""The engine's messages, reduced to what matters: the resource, the reason, the fix."""

from __future__ import annotations

import re

COLOR = re.compile(r"<\{%.*?%\}>|\x1b\[[0-9;]*m")
NOISE = (
    re.compile(r"^(update|preview|destroy) failed$"),
    re.compile(r"^(\d+ errors? occurred:|Diagnostics:|stdout:.*|stderr:\s*|code: -?\d+)$"),
    re.compile(r"^(Updating|Previewing|Destroying) \(.*\):?$"),
    re.compile(r"^warning: .*(dotnet|update check)", re.IGNORECASE),
)
FIXES: tuple[tuple[str, str], ...] = (
    (
        r"ErrImageNeverPull|ImagePullBackOff|ErrImagePull",
        "the nodes cannot get the image: check its name and digest, and the registry's credentials "
        "(the embedded cluster: `python -m cluster load-image ARCHIVE`)",
    ),
    (r"CrashLoopBackOff", "the container ends right after its start: `kubectl logs --previous` says why"),
    (
        r"Unschedulable|Insufficient (cpu|memory)|didn't match",
        "no node has room: lower redis.memory or api.replicas, or add nodes",
    ),
    (
        r"unbound immediate PersistentVolumeClaims|no persistent volumes",
        "the volume cannot be made: check redis.storage.className",
    ),
    (
        r"violates PodSecurity",
        "the namespace refuses the pod: compare its pod-security labels with the pod's securityContext",
    ),
    (
        r"conflict with|Apply failed with \d+ conflict",
        "another owner set that field: let it go there, or set pulumi.com/patchForce on the object",
    ),
    (r"is forbidden|Forbidden", "this kubeconfig lacks the right: ask for it, or use another one"),
    (r"incorrect passphrase", "set PULUMI_CONFIG_PASSPHRASE to the passphrase the stack was made with"),
    (r"passphrase must be set", "set PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE"),
    (r"currently locked by", "wait for that run to end, or remove its lock with `pulumi cancel`"),
    (
        r"connection refused|no such host|i/o timeout|Max retries",
        "the cluster cannot be reached: check that it runs and that KUBECONFIG names it",
    ),
    (r"no resource plugin|could not load plugin|failed to load plugin", "run `python -m toolchain plugins`"),
    (
        r"no matches for kind|could not find the requested resource",
        "the cluster does not know this kind: install its CRDs (cert-manager, for tls.issuer)",
    ),
)


def plain(text: str) -> str:
    """Text without the engine's colour marks."""
    return COLOR.sub("", text)


def reduce_text(text: str) -> str:
    """An engine message without traceback, headings and repeats.

    Args:
        text: raw text, with the engine's colour marks.
    """
    lines: list[str] = []
    skipping = False
    for raw in plain(text).splitlines():
        line = raw.rstrip()
        bare = re.sub(r"^\s*(stderr: |stdout: )?((error|resource|\*): ?|\* )*", "", line.strip())
        if "Traceback (most recent call last)" in line:
            skipping = True
            bare = bare.partition("Traceback (most")[0]
            if not bare:
                continue
        elif skipping and (line.startswith(" ") or not bare):
            continue
        elif skipping:
            # The traceback's last line repeats the message, which stood before it, unless nothing did.
            skipping = False
            name, _, rest = bare.partition(": ")
            bare = rest if rest and re.fullmatch(r"[\w.]+", name) else bare
            if bare and any(bare in known for known in lines):
                continue
        bare = bare.removeprefix("python inline source runtime error: ")
        if not bare or any(pattern.match(bare) for pattern in NOISE) or bare in (known.strip() for known in lines):
            continue
        lines.append(("  " if line.startswith("  - ") else "") + bare)
    return "\n".join(lines)


def fix(text: str) -> str | None:
    """What to do about an error, where a common one is recognised."""
    return next((advice for pattern, advice in FIXES if re.search(pattern, text)), None)


def resource(urn: str | None) -> str:
    """`Deployment api` for a resource's URN, `the program` for none and for the stack itself."""
    if not urn or "::pulumi:pulumi:Stack::" in urn:
        return "the program"
    kind, _, name = urn.split("::", 2)[-1].rpartition("::")
    return f"{kind.rsplit(':', 1)[-1]} {name}"
