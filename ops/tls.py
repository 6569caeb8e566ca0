"""Certificates as pure values: what Redis needs, what is wrong with what there is, and how to make one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.redis import conf
from infra.settings import Settings

FILES = ("tls.crt", "tls.key", "ca.crt")
WARN = timedelta(days=14)


@dataclass(frozen=True)
class Findings:
    """What is wrong with a certificate: `errors` stop a run, `warnings` do not."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def names_of(service: str, namespace: str) -> tuple[str, ...]:
    """The DNS names under which Redis is reached; `localhost` is for probes and port-forwards."""
    base = f"{service}.{namespace}"
    return (service, base, f"{base}.svc", f"{base}.svc.cluster.local", "localhost")


def required_names(settings: Settings) -> tuple[str, ...]:
    """The names without which a stack does not work: `names_of`, and in sentinel mode those of Redis's pods."""
    redis, names = settings.redis, names_of(settings.redis.service, settings.namespace)
    if redis.mode != "sentinel":
        return names
    pods = (f"{conf.stateful_set(settings)}-{i}.{conf.domain(settings)}" for i in range(redis.replicas))
    return (*names, *pods)


def issued_names(service: str, namespace: str, app: str | None = None) -> tuple[str, ...]:
    """The names an issued certificate carries: `names_of` and every pod behind the headless Service of `app`."""
    return (*names_of(service, namespace), f"*.{app or service}-headless.{namespace}.svc.cluster.local")


def examine(data: Mapping[str, bytes], names: Sequence[str], now: datetime) -> Findings:
    """Check a TLS Secret's content.

    Args:
        data: file name to PEM bytes.
        names: DNS names the certificate must cover.
        now: the moment to judge validity at, with a time zone.
    """
    missing = [name for name in FILES if not data.get(name)]
    if missing:
        return Findings((f"lacks {', '.join(missing)}",))
    try:
        leaf, *between = x509.load_pem_x509_certificates(data["tls.crt"])
        roots = x509.load_pem_x509_certificates(data["ca.crt"])
    except ValueError as error:
        return Findings((f"tls.crt or ca.crt is no PEM certificate ({error})",))
    errors, warnings = [], []
    try:
        key = serialization.load_pem_private_key(data["tls.key"], None)
    except (ValueError, TypeError):
        errors.append("tls.key is no unencrypted PEM private key")
    else:
        if _public(key.public_key()) != _public(leaf.public_key()):
            errors.append("tls.key does not belong to tls.crt")
    top = _climb(leaf, between, roots)
    if top is None:
        errors.append("tls.crt was not issued by ca.crt")
    for title, certificate in (("tls.crt", leaf), ("ca.crt", top)):
        if certificate is None:
            continue
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > end:
            errors.append(f"{title} expired on {end:%Y-%m-%d %H:%M} UTC")
        elif now < start:
            errors.append(f"{title} is valid only from {start:%Y-%m-%d %H:%M} UTC")
        elif end - now < WARN:
            warnings.append(f"{title} expires in {(end - now).days} days, on {end:%Y-%m-%d}")
    uncovered = [name for name in names if not _covers(sans(leaf), name)]
    if uncovered:
        errors.append(
            f"tls.crt does not cover {', '.join(uncovered)} (it covers {', '.join(sans(leaf)) or 'no DNS name'})"
        )
    return Findings(tuple(errors), tuple(warnings))


def sans(certificate: x509.Certificate) -> list[str]:
    """The DNS names a certificate carries."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return found.value.get_values_for_type(x509.DNSName)


def _covers(patterns: Iterable[str], name: str) -> bool:
    head, _, rest = name.lower().partition(".")
    return any(p.lower() in (name.lower(), f"*.{rest}" if head and rest else None) for p in patterns)


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _climb(
    leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    """The trusted certificate that the leaf's chain ends at."""
    if leaf in roots:
        return leaf
    for candidates, trusted in ((roots, True), (between, False)):
        for issuer in candidates:
            if issuer == leaf:
                continue
            try:
                leaf.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                continue
            top = issuer if trusted else _climb(issuer, [c for c in between if c != issuer], roots)
            if top is not None:
                return top
    return None


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate)


def make_ca(now: datetime, days: int = 3650) -> Pair:
    """A self-signed certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "session-store redis CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _builder(name, name, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
        usage, critical=True
    )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(ca: Pair, names: Sequence[str], now: datetime, days: int) -> Pair:
    """A server certificate for `names` and 127.0.0.1, which never outlives its CA."""
    key, issuer = ec.generate_private_key(ec.SECP256R1()), ca.parsed
    signer = serialization.load_pem_private_key(ca.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key is not an elliptic curve key")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # replicas are clients of the master
    alternative: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternative.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    builder = _builder(subject, issuer.subject, key.public_key(), now, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
        usage, critical=True
    )
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def utc_now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    # A little early: the clocks of nodes differ.
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(minutes=5))
        .not_valid_after(end)
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Pair(certificate.public_bytes(pem), key.private_bytes(pem, form, serialization.NoEncryption()))
