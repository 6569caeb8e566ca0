"""What users meet: sessions in a pod's memory, cookies that browsers do not get, sessions that never end."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ops.doctor.look import Look
from ops.doctor.model import BROKEN, RISK, SESSIONS, Finding
from ops.verify.pods import WARNING

NOT_SENT = "Session cookie NOT sent"
SKEW, MUCH = 5.0, 60.0
"""Seconds between clocks that are told, and that break things."""


def memory_store(look: Look) -> Iterator[Finding]:
    """Sessions are in Redis, not in the memory of a pod."""
    about, seen = (f"Deployment {look.deployment}",), []
    for pod, answer in look.api.items():
        if answer["env"].get("SESSION_STORE") == "memory":
            seen.append(f"pod {pod}: env SESSION_STORE=memory")
    for key, text in look.logs.items():
        if key.partition(" ")[0] in look.api and WARNING in " ".join(text.split()):
            seen.append(f"log of {key.partition(' ')[0]}: {WARNING}")
    if not seen:
        return
    count = len(look.api_pods())
    what = "Sessions are in the API's memory (MemoryStore): it grows, and a restart logs everybody out"
    if count > 1:
        what = f"Sessions are in the memory of {count} API pods (MemoryStore): each knows its own users only"
    declared = look.settings.sessions.store == "memory"
    put = f"set session-store:sessions.store to redis, then `python -m ops up --stack {look.stack}`"
    yield Finding(
        "memory-store",
        SESSIONS,
        what,
        tuple(seen),
        put if declared else look.mend,
        BROKEN if count > 1 else RISK,
        about,
    )


def cookie(look: Look) -> Iterator[Finding]:
    """A browser gets the cookie by the way that it comes."""
    unsent = [
        f"log of {key.partition(' ')[0]}: {line.strip()[:140]}"
        for key, text in look.logs.items()
        for line in text.splitlines()
        if NOT_SENT in line and key.partition(" ")[0] in look.api
    ][-1:]
    secure = [pod for pod, a in look.api.items() if a["env"].get("SESSION_COOKIE_SECURE") == "true"]
    trusting = [pod for pod in secure if look.api[pod]["env"].get("TRUST_PROXY", "false") != "false"]
    # Somebody else's API may trust its proxy in its own code.
    sure = bool(secure) and len(trusting) < len(secure) and not look.settings.api.existing_deployment
    if not sure and not unsent:
        return
    service = look.named("services", "api")
    way = [
        f"Service api: type NodePort, http on node port {port['nodePort']}"
        for port in (service["spec"].get("ports") or [] if service else [])
        if port.get("nodePort")
    ]
    env = [
        f"pod {pod}: SESSION_COOKIE_SECURE=true, TRUST_PROXY {look.api[pod]['env'].get('TRUST_PROXY', 'not set')}"
        for pod in secure
    ][:1]
    what = "Users are logged out at once: the cookie is Secure, and the API takes every request for plain http"
    if trusting and not sure:
        what = "Somebody came by plain http and got no cookie: it is Secure"
    declared = look.settings.cookie_secure
    fix = (
        f"behind a proxy that ends TLS set session-store:api.trustProxy, without TLS set "
        f"session-store:sessions.secureCookie to false; then `python -m ops up --stack {look.stack}`"
    )
    about = (f"Deployment {look.deployment}",)
    severity = RISK if trusting and not sure else BROKEN
    yield Finding(
        "cookie-secure", SESSIONS, what, (*env, *way, *unsent), fix if declared else look.mend, severity, about
    )


def endless(look: Look) -> Iterator[Finding]:
    """Every session ends, and only those who log in have one."""
    prefix = look.settings.sessions.prefix
    sample = next((one.sessions for one in look.redis.values() if one.sessions), [])
    forever = [key for key, ttl, _ in sample if ttl == -1]
    if forever:
        what = "Sessions without an end are in Redis: they stay for ever and fill it"
        seen = f"{len(forever)} of {len(sample)} keys looked at have TTL -1, as {_masked(forever[0], prefix)}"
        put = f"`python -m ops sessions drop --without-end --stack {look.stack}`"
        fix = f"find who writes them (session-store.js gives each one an end), then {put}"
        yield Finding("session-without-end", SESSIONS, what, (seen,), fix, RISK)
    empty = [key for key, _, content in sample if _bare(content)]
    if empty:
        what = "Visitors who never logged in have sessions (saveUninitialized is on): Redis fills with them"
        seen = f"{len(empty)} of {len(sample)} sessions looked at hold only a cookie, as {_masked(empty[0], prefix)}"
        fix = "set saveUninitialized to false in the API's session(), as session-store.js does; they end by their TTL"
        yield Finding("save-uninitialized", SESSIONS, what, (seen,), fix, RISK)


def _bare(content: str) -> bool:
    try:
        return set(json.loads(content)) == {"cookie"}
    except (ValueError, TypeError):
        return False


def _masked(key: str, prefix: str) -> str:
    """A session id, with its signature, is as good as a login."""
    return f"{prefix}{key.removeprefix(prefix)[:6]}…"


def clocks(look: Look) -> Iterator[Finding]:
    """All clocks tell the same time."""
    if not look.clocks:
        return
    # Ours may be the wrong one: what most say is right.
    middle = sorted(look.clocks.values())[len(look.clocks) // 2]
    off = {who: apart - middle for who, apart in look.clocks.items() if abs(apart - middle) > SKEW}
    if not off:
        return
    seen = [f"{who}: {apart - middle:+.0f} s" for who, apart in sorted(look.clocks.items())]
    worst = max(off.values(), key=abs)
    what = f"Clocks differ: {', '.join(f'{who} by {apart:+.0f} s' for who, apart in off.items())}"
    pods = {f"pod {pod}" for pod in look.api}
    about = (f"Deployment {look.deployment}",) if off.keys() <= pods else ()
    fix = "have the node keep time: `timedatectl set-ntp true`, chrony"
    if about:  # the nodes are right
        fix = look.mend if look.by_hand(about) else f"look at what sets a clock in `{look.kubectl} get pods -o yaml`"
    severity = BROKEN if abs(worst) > MUCH else RISK
    yield Finding("clock-skew", SESSIONS, what, tuple(seen), fix, severity, about)
