"""TLS between the API and Redis: what the Secret holds, what Redis shows, what the API's pods say to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ops import tls
from ops.doctor.look import Look
from ops.doctor.model import BROKEN, CLUSTER, PATH, REDIS, RISK, Finding

EXPIRED, NAME, CA, KEY, INVALID = "tls-expired", "tls-name", "tls-ca", "tls-key", "tls-invalid"
SAID = (
    ("expired on", EXPIRED),
    ("valid only from", EXPIRED),
    ("does not cover", NAME),
    ("not issued by", CA),
    ("does not belong", KEY),
)
"""Words of `tls.examine`, and what they mean."""
CODES = {"ERR_TLS_CERT_ALTNAME_INVALID": NAME, "CERT_HAS_EXPIRED": EXPIRED, "CERT_NOT_YET_VALID": EXPIRED}
CODES |= dict.fromkeys(
    (
        "SELF_SIGNED_CERT_IN_CHAIN",
        "DEPTH_ZERO_SELF_SIGNED_CERT",
        "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
        "UNABLE_TO_GET_ISSUER_CERT",
        "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        "CERT_SIGNATURE_FAILURE",
    ),
    CA,
)
"""What OpenSSL says in a pod of the API."""
TITLES = {
    EXPIRED: "Redis's certificate is not valid now",
    NAME: "Redis's certificate does not have the name by which the API calls it",
    CA: "The API does not trust Redis's certificate: another CA issued it",
    KEY: "The private key in the TLS Secret does not belong to its certificate",
    INVALID: "The TLS Secret holds no usable certificate",
}


def certificate(look: Look) -> Iterator[Finding]:
    """Valid, of the right name, of the CA that the API knows."""
    secret = look.settings.tls_secret
    about = (f"Secret {secret}",) if secret else ()
    content = look.secrets.get(secret) if secret else None
    seen: dict[str, list[str]] = {}
    soon: tuple[str, ...] = ()
    if content and not look.external and all(content.data.get(file) for file in tls.FILES):
        found = tls.examine(content.data, tls.required_names(look.settings), look.now)
        soon = found.warnings
        for text in found.errors:
            kind = next((kind for words, kind in SAID if words in text), INVALID)
            seen.setdefault(kind, []).append(f"Secret {secret}: {text}")
    for pod, answer in look.api.items():
        shown = answer.get("tls") or {}
        if pods_kind := CODES.get(shown.get("code", "")):
            told = f"asked for {shown.get('servername')}, it is {shown.get('names')}, until {shown.get('until')}"
            seen.setdefault(pods_kind, []).append(f"pod {pod}: {shown['code']} ({told})")
    last = (f"Secret {secret} was last written by {content.last}",) if content and content.last else ()
    for kind, lines in seen.items():
        yield Finding(kind, PATH, TITLES[kind], (*lines, *last), _renewal(look), about=about)
    for text in soon if EXPIRED not in seen else ():
        what = f"Redis's certificate is near its end: {text}"
        yield Finding("tls-expiring", PATH, what, (f"Secret {secret}: {text}", *last), _renewal(look), RISK, about)


def reloaded(look: Look) -> Iterator[Finding]:
    """Redis shows, and the API trusts, what the Secret holds now."""
    secret = look.settings.tls_secret
    content = look.secrets.get(secret) if secret else None
    if content is None or look.external:
        return
    wanted, trusted = (_fingerprint(content.data.get(file)) for file in ("tls.crt", "ca.crt"))
    lines, works = [], True
    for pod, answer in look.api.items():
        shown = answer.get("tls") or {}
        if wanted and shown.get("fingerprint") and _bare(shown["fingerprint"]) != wanted:
            lines.append(f"pod {pod}: Redis shows {_short(shown['fingerprint'])}, the Secret has {wanted[:12]}")
            works &= bool(shown.get("ok"))
        if trusted and isinstance(answer.get("ca"), str) and _bare(answer["ca"]) != trusted:
            lines.append(f"pod {pod}: its CA is {_short(answer['ca'])}, the Secret has {trusted[:12]}")
            works &= bool(shown.get("ok"))
    if lines:
        what = f"Not every pod has the certificate that Secret {secret} holds now"
        fix = f"`python -m ops rotate certificates --stack {look.stack}` brings it to all of them"
        because = (EXPIRED, NAME, CA, KEY, INVALID, "tls-expiring")
        about = (f"Secret {secret}",)
        yield Finding("tls-not-reloaded", PATH, what, tuple(lines), fix, RISK if works else BROKEN, about, because)


def speech(look: Look) -> Iterator[Finding]:
    """Both ends speak TLS, or neither does."""
    for pod, answer in look.api.items():
        shown, code = answer.get("tls") or {}, (answer.get("tls") or {}).get("code", "")
        refused = code in ("EPROTO", "ERR_SSL_WRONG_VERSION_NUMBER", "TIMEOUT") or "WRONG_VERSION" in code
        spoken = answer["env"].get("REDIS_TLS") == "true"
        plain = not spoken and isinstance(answer.get("auth"), dict) and look.settings.tls.enabled
        if not refused and not plain:
            continue
        what = f"The API speaks {'TLS' if spoken else 'plaintext'} to a Redis that does not"
        reason = shown.get("message") or answer["auth"]["message"]
        seen = f"pod {pod}: REDIS_TLS={answer['env'].get('REDIS_TLS')}: {code} {reason}"
        yield Finding("tls-one-sided", PATH, what, (seen,), look.mend, because=(CLUSTER, REDIS, PATH))


def _renewal(look: Look) -> str:
    if issuer := look.settings.tls.issuer:
        return (
            f"`{look.kubectl} describe certificate` tells why {issuer.kind} {issuer.name} did not renew it; "
            f"then `python -m ops rotate certificates --stack {look.stack}`"
        )
    if look.external:
        return f"put the CA of {look.settings.redis.host} into Secret {look.settings.tls_secret} (key ca.crt)"
    return f"`python -m ops certificates issue --stack {look.stack} --renew`"


def _fingerprint(pem: bytes | None) -> str | None:
    try:
        return x509.load_pem_x509_certificate(pem or b"").fingerprint(hashes.SHA256()).hex()
    except ValueError:
        return None


def _bare(text: Any) -> str:
    return str(text).replace(":", "").lower()


def _short(text: Any) -> str:
    return _bare(text)[:12]
