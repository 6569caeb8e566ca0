"""Checks of Redis itself: who gets in, how it keeps data, what it does when it is full."""

from __future__ import annotations

import ssl
from typing import Any

import redis

from ops import tls, tunnel
from ops.verify.live import Live
from ops.verify.model import Check, Failed, Skipped, Unseen


def wrong_password(live: Live) -> str:
    """A wrong password opens nothing."""
    username = live.settings.redis.username
    answer = live.raw(f"AUTH {f'{username} ' if username else ''}not-the-password", live.trust())
    if not answer.startswith("-WRONGPASS"):
        raise Failed(f"Redis answered a wrong password with: {answer or 'nothing'}")
    return answer


def no_password(live: Live) -> str:
    """Nor does none."""
    answer = live.raw("PING", live.trust())
    if not answer.startswith("-NOAUTH"):
        raise Failed(f"Redis answered a client without password: {answer or 'nothing'}")
    return answer


def plaintext(live: Live) -> str:
    """With TLS on, nobody is served in plaintext."""
    _needs_tls(live)
    answer = live.raw("PING", None)
    if answer.startswith(("+", "-")):
        raise Failed(f"Redis answered in plaintext: {answer}")
    return "a client without TLS got no answer"


def old_tls(live: Live) -> str:
    """TLS 1.1 and older are refused."""
    _needs_tls(live)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    except (ssl.SSLError, ValueError):
        raise Unseen("this machine's OpenSSL cannot speak TLS 1.1") from None
    try:
        answer = live.raw("PING", context)
    except ssl.SSLError as error:
        if "NO_PROTOCOLS_AVAILABLE" in str(error):
            raise Unseen("this machine's OpenSSL cannot speak TLS 1.1") from None
        return f"TLS 1.1: {error.reason or 'refused'}"
    if answer:
        raise Failed("Redis speaks TLS 1.1 or older")
    return "TLS 1.1: refused"


def authority(live: Live) -> str:
    """The certificate is the one the API's CA vouches for; any other CA fails."""
    _needs_tls(live)
    live.redis().ping()
    stranger = tls.make_ca(tls.utc_now(), days=1).certificate.decode()
    try:
        live.raw("PING", tunnel.trust(stranger))
    except ssl.SSLCertVerificationError as error:
        refused = error.verify_message
    else:
        raise Failed("a client that trusts another CA was served: certificates are not verified")
    container = _api_container(live)
    env = {item.name: item.value for item in container.env or []}
    if env.get("REDIS_TLS") != "true":
        raise Failed(f"the API's REDIS_TLS is {env.get('REDIS_TLS')!r}")
    if live.outputs["secrets"].get("tls") and not env.get("REDIS_TLS_CA"):
        raise Failed("the API has no REDIS_TLS_CA to verify Redis with")
    return f"verified as {live.server_name}; with another CA: {refused}"


def eviction(live: Live) -> str:
    """A login is never evicted silently, and Redis stops before its container does."""
    config = _config(live, "maxmemory*")
    if config.get("maxmemory-policy") != "noeviction":
        raise Failed(f"maxmemory-policy is {config.get('maxmemory-policy')}, not noeviction: logins can be evicted")
    limit = int(config.get("maxmemory", 0))
    if limit <= 0:
        raise Failed("maxmemory is not set: the container is killed before Redis refuses a write")
    return f"noeviction, maxmemory {limit // 1024 // 1024} MiB"


def persistence(live: Live) -> str:
    """AOF as configured, and it can write."""
    if live.outputs["endpoint"]["mode"] == "external":
        raise Skipped("external mode: the service that runs Redis decides")
    config, wanted = _config(live, "append*"), live.settings.redis.appendonly
    if config.get("appendonly") != ("yes" if wanted else "no"):
        raise Failed(f"appendonly is {config.get('appendonly')}; redis.appendonly is {str(wanted).lower()}")
    if not wanted:
        return "appendonly no, as configured"
    if config.get("appendfsync") != "everysec":
        raise Failed(f"appendfsync is {config.get('appendfsync')}, not everysec")
    state = live.redis().info("persistence")
    if state["aof_last_write_status"] != "ok":
        raise Failed("the last write to the AOF failed: is the volume full?")
    return "appendonly yes, everysec, last write ok"


def _needs_tls(live: Live) -> None:
    if not live.outputs["endpoint"]["tls"]:
        raise Skipped("TLS is off, as configured")


def _config(live: Live, pattern: str) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in live.redis().config_get(pattern).items()}
    except redis.ResponseError as error:
        raise Unseen(f"Redis does not let this user read its configuration ({error})") from None


def _api_container(live: Live) -> Any:
    containers = live.deployment().spec.template.spec.containers
    name = live.settings.api.container
    return next((c for c in containers if c.name == name), containers[0])


CHECKS = (
    Check("wrong-password", "A wrong password is refused", "Security: Redis password authentication", wrong_password),
    Check("no-password", "No password is refused", "Security: Redis password authentication", no_password),
    Check("plaintext", "Plaintext is refused", "Security: TLS for the Redis connection", plaintext),
    Check("tls-version", "Old TLS is refused", "Security: TLS for the Redis connection", old_tls),
    Check("tls-ca", "The certificate is verified", "Security: TLS for the Redis connection", authority),
    Check("eviction", "No login is evicted", "Monitoring: Redis memory usage", eviction),
    Check("persistence", "Persistence as configured", "Q&A: should we enable Redis persistence", persistence),
)
