"""Passwords and session secrets, the same in Secret, API pods and Redis: compared by SHA-256, never shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ops.doctor.look import Look, name
from ops.doctor.model import BROKEN, PATH, RISK, SESSIONS, Finding
from ops.foreign import MACHINES

SECRETS = "session-store/secrets"
"""The annotation of the API's pods that tells one generation of what they read from another (`wiring.py`)."""


def _sha(value: bytes | str) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()


def password(look: Look) -> Iterator[Finding]:
    """The API's pods have the Secret's password, and Redis accepts it."""
    secret = look.settings.credentials.password_secret
    content = look.secrets.get(secret)
    if content is None or not content.data.get("password"):
        return
    current = _sha(content.data["password"])
    known = {current: "the Secret's"}
    if content.data.get("previous"):
        known[_sha(content.data["previous"])] = "the Secret's previous one"
    held = {pod: a["password"] for pod, a in look.api.items() if a["env"].get("SESSION_STORE") != "memory"}
    odd = [pod for pod, value in held.items() if value not in known]
    accepted = {pod: one.passwords for pod, one in look.redis.items() if one.passwords}
    behind = [pod for pod, values in accepted.items() if current not in values]
    closed = [pod for pod, one in look.redis.items() if one.logins and all("NOAUTH" in said for said in one.logins)]
    refused = {
        pod: str(a["auth"])
        for pod, a in look.api.items()
        if str(a.get("auth", "+")).startswith(("-WRONGPASS", "-NOAUTH"))
    }
    if not (odd or behind or closed or refused):
        return
    lines = [f"pod {pod}: Redis answers its AUTH with {text}" for pod, text in refused.items()]
    generation = {name(p): (p["metadata"].get("annotations") or {}).get(SECRETS, "none") for p in look.api_pods()}
    for pod, value in held.items():
        which = known.get(value, "another than the Secret's")
        lines.append(f"pod {pod}: its REDIS_PASSWORD is {which} ({SECRETS} {generation.get(pod)})")
    for pod, values in accepted.items():
        says = "accepts the Secret's password" if current in values else "does not accept the Secret's password"
        stale = current not in look.redis[pod].mounted
        lines.append(f"pod {pod}: Redis {says}{'; kubelet has not brought it the Secret of now' if stale else ''}")
    lines += [f"pod {pod}: Redis wants a password that is in none of its files" for pod in closed]
    wrote = content.managers.get("password")
    by_hand = wrote is not None and not MACHINES.fullmatch(wrote.partition(",")[0])
    if wrote:
        lines.append(f"Secret {secret}: data.password was last written by {wrote}")
    back = f"`python -m ops up --stack {look.stack} --refresh` writes the stack's password back"
    restart = f"`{look.kubectl} rollout restart deployment/{look.deployment}`"
    # What is one password in some pods and another in others is a change that stopped half way.
    half = len(set(held.values())) > 1 or (bool(behind) and len(behind) < len(accepted))
    if half:
        what = "Half rotated: not all pods have the same Redis password"
        go_on = f"`python -m ops rotate password --stack {look.stack}` goes on where it stopped"
        fix = f"{back}, then {restart}" if by_hand else f"{go_on}, or {restart}"
    elif closed and not odd:
        what = f"Wrong password: Redis in {', '.join(closed)} has another one than all its files"
        fix = f"`{look.kubectl} delete pod {' '.join(closed)}` starts it with the Secret's"
    elif by_hand:
        what, fix = f"Wrong password: Secret {secret} was edited by hand, and the API and Redis differ from it", back
    else:
        what, fix = "Wrong password: the API's is not the one that Redis accepts", restart
    about = (f"Secret {secret}",)
    yield Finding("half-rotation" if half else "wrong-password", PATH, what, tuple(lines), fix, about=about)


def rotation(look: Look) -> Iterator[Finding]:
    """No rotation was begun and left."""
    names = look.settings.credentials
    newest = names.passwords[0]
    if look.external or names.oldest_password is None or names.oldest_password != newest - 1:
        return
    what = f"The rotation to password {newest} was begun and not finished: the old one is still valid"
    seen = f"credentials.passwordGeneration {newest}, oldestPassword {names.oldest_password}"
    fix = f"`python -m ops rotate password --stack {look.stack}` goes on with it"
    yield Finding("rotation-unfinished", PATH, what, (seen,), fix, RISK, because=("half-rotation",))


def session_secrets(look: Look) -> Iterator[Finding]:
    """Every pod of the API accepts the cookies that every other one signs, and those that the next one will sign."""
    secret = look.settings.credentials.session_secret
    content = look.secrets.get(secret)
    held = {pod: a["sessionSecrets"] for pod, a in look.api.items() if a.get("sessionSecrets")}
    wrong = [
        f"pod {other} does not accept the cookies that pod {pod} signs (API_SESSION_SECRET)"
        for pod, values in held.items()
        for other, theirs in held.items()
        if values[0] not in theirs
    ]
    written = (content.data.get("session-secret", b"") if content else b"").decode(errors="replace")
    listed = [_sha(part.strip()) for part in written.split(",") if part.strip()]
    stale = [
        f"pod {pod} signs with a secret that Secret {secret} does not have"
        for pod, values in held.items()
        if listed and values[0] not in listed
    ]
    if not wrong and not stale:
        return
    wrote = content.managers.get("session-secret") if content else None
    by_hand = wrote is not None and not MACHINES.fullmatch(wrote.partition(",")[0])
    lines = [*wrong, *stale, *([f"Secret {secret}: data.session-secret was last written by {wrote}"] if wrote else [])]
    if wrong:
        what = "The API's pods sign cookies with different secrets: users are logged out by the next pod they meet"
    else:
        what = f"Secret {secret} is not what the API's pods run with: their next restart logs everybody out"
    restart = f"`{look.kubectl} rollout restart deployment/{look.deployment}`"
    back = f"`python -m ops up --stack {look.stack} --refresh` writes the stack's secret back"
    fix = (f"{back}, then {restart}" if wrong else back) if by_hand else restart
    about = (f"Secret {secret}", f"Deployment {look.deployment}")
    yield Finding("session-secret-mismatch", SESSIONS, what, tuple(lines), fix, BROKEN if wrong else RISK, about)
