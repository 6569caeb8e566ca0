"""Checks of what a user meets: login, cookie, sharing, logout, expiry."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

from ops.kube import wait_for
from ops.verify.live import Live
from ops.verify.model import Check, Failed, Skipped

MANY = 200_000
"""Keys beyond which the database is not listed."""


def anonymous(live: Live) -> str:
    """Nobody is let in without a session, and nothing is stored for them."""
    reply = live.http(live.an_api_pod(), "GET", "/auth_status")
    if reply.status != 401:
        raise Failed(f"GET /auth_status without a cookie answered {reply.status}, not 401")
    if any(c.startswith(live.settings.sessions.cookie_name) for c in reply.cookies):
        raise Failed("a visitor without a login got a session cookie (saveUninitialized is on)")
    return "401, no cookie"


def login(live: Live) -> str:
    """A user logs in."""
    pod = live.an_api_pod()
    session = live.login(pod)
    if (status := live.status(pod, session)) != 200:
        raise Failed(f"logged in, but /auth_status answers {status}")
    live.session = session
    return f"POST {live.settings.verify.login_path} {session.reply.status} through {pod}, then /auth_status 200"


def key(live: Live) -> str:
    """The session is a key in the right database under the prefix."""
    session, client = live.main_session(), live.redis()
    database = live.outputs["endpoint"]["database"]
    if not client.exists(session.key):
        count = sum(1 for _ in client.scan_iter(f"{live.settings.sessions.prefix}*", count=1000))
        raise Failed(f"{session.shown} is not in database {database} of Redis ({count} other keys have the prefix)")
    return f"{session.shown} in database {database}"


def ttl(live: Live) -> str:
    """It expires when the plan says."""
    session, wanted = live.main_session(), live.settings.sessions.ttl_seconds
    left = live.redis().ttl(session.key)
    if not wanted - 60 < left <= wanted:
        meaning = {-1: "never expires", -2: "is not in Redis"}.get(left, f"expires in {left} s")
        raise Failed(f"{session.shown} {meaning}; {wanted} s were configured")
    return f"TTL {left} s of {wanted}"


def one_key(live: Live) -> str:
    """One login is one key; a visitor is none (saveUninitialized: false)."""
    client, pod = live.redis(), live.an_api_pod()
    if client.dbsize() > MANY:
        raise Skipped(f"the database holds more than {MANY} keys")
    pattern = f"{live.settings.sessions.prefix}*"
    before = set(client.scan_iter(pattern, count=1000))
    live.http(pod, "GET", "/auth_status")
    extra = live.login(pod)
    new = set(client.scan_iter(pattern, count=1000)) - before
    if extra.key not in new:
        raise Failed("a second login made no key in Redis")
    # Others may log in at the same moment. A session in which nobody is logged in holds a cookie and nothing else.
    contents = [json.loads(client.get(name) or "{}") for name in new - {extra.key}]
    if any(set(content) == {"cookie"} for content in contents):
        raise Failed("a visitor without a login got a key in Redis (saveUninitialized is on)")
    others = f" (others made {len(contents)} meanwhile)" if contents else ""
    return f"a visit made no key, a login made one{others}"


def cookie(live: Live) -> str:
    """The cookie's flags."""
    session, wanted = live.main_session(), live.settings.sessions
    line = next(c for c in session.reply.cookies if c.startswith(f"{wanted.cookie_name}="))
    flags = {}
    for part in line.split(";")[1:]:
        name, _, value = part.strip().partition("=")
        flags[name.lower()] = value
    problems = []
    if "httponly" not in flags:
        problems.append("HttpOnly is missing")
    if flags.get("samesite", "").lower() != wanted.same_site:
        problems.append(f"SameSite is {flags.get('samesite') or 'missing'}, not {wanted.same_site}")
    if ("secure" in flags) != live.settings.cookie_secure:
        problems.append("Secure is set, but was not configured" if "secure" in flags else "Secure is missing")
    if "max-age" in flags:
        age = int(flags["max-age"])
    elif "expires" in flags and session.reply.headers["date"]:
        sent = parsedate_to_datetime(session.reply.headers["date"])
        age = int((parsedate_to_datetime(flags["expires"]) - sent).total_seconds())
    else:
        age = 0
    if abs(age - wanted.ttl_seconds) > 60:
        problems.append(f"it lasts {age} s, not {wanted.ttl_seconds} s")
    if problems:
        raise Failed("; ".join(problems))
    secure = "Secure" if live.settings.cookie_secure else "not Secure (as configured)"
    return f"HttpOnly, SameSite={wanted.same_site}, {secure}, {age} s"


def shared(live: Live) -> str:
    """A session made through one pod is read through each other one."""
    session = live.main_session()
    pods = [pod.metadata.name for pod in live.api_pods()]
    if len(pods) < 2:
        raise Skipped("the API has one pod")
    answers = {name: live.status(name, session) for name in pods}
    if wrong := [f"{name} answers {status}" for name, status in answers.items() if status != 200]:
        raise Failed(f"{'; '.join(wrong)} to a session that was made through another pod")
    return f"one session, {len(pods)} pods: 200 from each"


def logout(live: Live) -> str:
    """Logout ends the session everywhere, at once."""
    pod = live.an_api_pod()
    session = live.login(pod)
    reply = live.http(pod, "POST", "/logout", session.cookie)
    if reply.status >= 400:
        raise Failed(f"POST /logout answered {reply.status}")
    if (status := live.status(pod, session)) != 401:
        raise Failed(f"after logout /auth_status still answers {status}")
    if live.redis().exists(session.key):
        raise Failed(f"after logout {session.shown} is still in Redis")
    return "the key is gone, /auth_status 401"


def expiry(live: Live) -> str:
    """A session whose time is over is no session: a short one, so that nobody waits for twelve hours."""
    pod, client = live.an_api_pod(), live.redis()
    session = live.login(pod)
    if not client.pexpire(session.key, 1000):
        raise Failed(f"{session.shown} is not in Redis, so nothing can expire")
    if not wait_for(lambda: not client.exists(session.key), 15, every=0.1):
        raise Failed(f"{session.shown} outlived its time")
    if (status := live.status(pod, session)) != 401:
        raise Failed(f"the key has expired, but /auth_status answers {status}")
    return "set to expire in 1 s; once the key was gone: 401"


CHECKS = (
    Check("anonymous", "Anonymous is refused", "Security: a session needs a login", anonymous),
    Check("login", "Users can log in", "Phase 4: users can log in successfully", login),
    Check("session-key", "The session is in Redis", "Step 5: redis-cli keys ctmd:sess:*", key, login=True),
    Check(
        "session-ttl", "The session expires as configured", "Phase 4: session expires after 12 hours", ttl, login=True
    ),
    Check("one-key", "One key per login, none per visit", "Key changes: saveUninitialized false", one_key, login=True),
    Check("cookie", "The cookie's flags", "Key changes: cookie security flags", cookie, login=True),
    Check("shared", "Pods share sessions", "Phase 4: multiple API replicas can share sessions", shared, login=True),
    Check("logout", "Logout ends the session", "Phase 4: no user login issues", logout, login=True),
    Check("expiry", "An expired session is refused", "Phase 4: session expires after 12 hours", expiry, login=True),
)
