"""Certificates: what is wrong with one, and making one that is right."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from program import DIGEST, config

from infra.settings import Settings, parse
from ops import certificates, preflight, tls
from ops.errors import OpsError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
NAMES = tls.issued_names("redis", "session-store")
SETTINGS = parse(config())


def files(names: tuple[str, ...] = NAMES, days: int = 90, now: datetime = NOW) -> dict[str, bytes]:
    ca = tls.make_ca(now)
    leaf = tls.make_leaf(ca, names, now, days)
    return {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate}


def problems(data: dict[str, bytes], now: datetime = NOW) -> list[str]:
    return list(preflight.certificate(data, SETTINGS, "dev", now))


def test_an_issued_certificate_passes() -> None:
    assert problems(files()) == []


def test_a_chain_with_an_intermediate_passes() -> None:
    """tls.crt may carry the chain; ca.crt holds the root."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    root, data = tls.make_ca(NOW), files()
    middle = x509.load_pem_x509_certificate(data["ca.crt"])
    key = serialization.load_pem_private_key(root.key, None)
    builder = x509.CertificateBuilder().subject_name(middle.subject).issuer_name(root.parsed.subject)
    builder = builder.public_key(middle.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=99))
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    pem = signed.public_bytes(serialization.Encoding.PEM)
    assert problems({**data, "tls.crt": data["tls.crt"] + pem, "ca.crt": root.certificate}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ca.crt": b""}, "TLS Secret redis-tls: lacks ca.crt: renew it"),
        ({"tls.key": b"", "ca.crt": b""}, "lacks tls.key, ca.crt"),
        ({"tls.crt": b"rubbish"}, "tls.crt or ca.crt is no PEM certificate"),
        ({"tls.key": b"rubbish"}, "tls.key is no unencrypted PEM private key"),
        ({"tls.key": files()["tls.key"]}, "tls.key does not belong to tls.crt"),
        ({"ca.crt": files()["ca.crt"]}, "tls.crt was not issued by ca.crt"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, bytes], message: str) -> None:
    (problem,) = problems({**files(), **change})
    assert message in problem
    assert "`python -m ops certificates issue --stack dev --renew` if it is ours" in problem
    assert not isinstance(problem, preflight.Warn)


def test_expired_and_soon_expired() -> None:
    data = files(days=90)
    (expired,) = problems(data, NOW + timedelta(days=91))
    assert "tls.crt expired on 2027-02-22 00:00 UTC" in expired
    (soon,) = problems(data, NOW + timedelta(days=80))
    assert "tls.crt expires in 10 days, on 2027-02-22" in soon
    assert isinstance(soon, preflight.Warn)
    (early,) = problems(data, NOW - timedelta(days=1))[:1]
    assert "tls.crt is valid only from" in early


def test_names_that_are_missing_are_listed() -> None:
    (problem,) = problems(files(("redis", "localhost", "*.session-store.svc")))
    assert "does not cover redis.session-store, redis.session-store.svc.cluster.local" in problem
    assert "it covers redis, localhost, *.session-store.svc" in problem


def test_every_problem_at_once() -> None:
    data = {**files(("other",)), "tls.key": files()["tls.key"], "ca.crt": files()["ca.crt"]}
    assert len(problems(data, NOW + timedelta(days=200))) == 4


class FakeSecrets:
    """A namespace's Secrets in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    def write(self, name: str, kind: str, data: Mapping[str, bytes]) -> None:
        assert kind == "kubernetes.io/tls"
        self.kept[name] = {"labels": certificates.OWNED_BY, "annotations": {}, "owners": [], "data": dict(data)}


def issue(secrets: FakeSecrets, days_later: int = 0, settings: Settings = SETTINGS, **options: Any) -> str:
    return certificates.issue(secrets, settings, NOW + timedelta(days=days_later), **options)


def test_issue_makes_what_preflight_accepts_and_keeps_the_cas_key_apart() -> None:
    secrets = FakeSecrets()
    assert issue(secrets).startswith("Made Secret redis-tls for redis.session-store, good until 2027-02-22")
    assert problems(secrets.kept["redis-tls"]["data"]) == []
    assert set(secrets.kept["redis-tls"]["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert set(secrets.kept) == {"redis-tls", "redis-ca"}
    assert secrets.kept["redis-ca"]["data"]["tls.key"] not in secrets.kept["redis-tls"]["data"].values()


def test_issue_does_nothing_while_the_certificate_is_good() -> None:
    secrets = FakeSecrets()
    issue(secrets)
    before = dict(secrets.kept)
    assert "nothing to do" in issue(secrets, days_later=59)
    assert secrets.kept == before
    assert issue(secrets, days_later=61).startswith("Renewed")
    assert secrets.kept["redis-ca"] == before["redis-ca"], "the same CA: whoever trusts it stays connected"


def test_issue_again_when_asked_or_when_names_changed() -> None:
    secrets = FakeSecrets()
    issue(secrets)
    assert issue(secrets, renew=True, days=10).startswith(
        "Renewed Secret redis-tls for redis.session-store, good until 2"
    )
    assert "nothing to do" in issue(secrets, days=10)
    moved = parse(config(namespace="elsewhere"))
    assert issue(secrets, settings=moved).startswith("Renewed Secret redis-tls for redis.elsewhere")


def test_a_certificate_never_outlives_its_ca() -> None:
    ca = tls.make_ca(NOW, days=5)
    assert tls.make_leaf(ca, NAMES, NOW, 90).parsed.not_valid_after_utc == ca.parsed.not_valid_after_utc


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ({"labels": {}}, "was not made by this command"),
        ({"owners": ["Certificate"]}, "belongs to cert-manager"),
        ({"annotations": {"cert-manager.io/certificate-name": "redis"}}, r"belongs to cert-manager \(redis\)"),
    ],
)
@pytest.mark.parametrize("name", ["redis-tls", "redis-ca"])
def test_other_peoples_secrets_are_left_alone(foreign: dict[str, Any], message: str, name: str) -> None:
    secrets = FakeSecrets()
    secrets.kept[name] = {"labels": certificates.OWNED_BY, "annotations": {}, "owners": [], "data": {}, **foreign}
    before = dict(secrets.kept)
    with pytest.raises(OpsError, match=f"Secret {name} {message}"):
        issue(secrets, renew=True)
    assert secrets.kept == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls": {"enabled": False}}, "session-store:tls.enabled is false"),
        ({"tls": {"issuer": {"name": "ca"}}}, "cert-manager issues Secret redis-tls"),
        (
            {"redis": {"mode": "external", "host": "r.example.org", "image": ...}, "tls": {"secretName": "their-ca"}},
            "that Redis brings its certificate; put its CA into Secret their-ca",
        ),
    ],
)
def test_stacks_whose_certificate_is_not_ours_to_make(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OpsError, match=message):
        issue(FakeSecrets(), settings=parse(config(**changes)))


def test_in_sentinel_mode_a_certificate_must_cover_every_pod() -> None:
    settings = parse(config(redis={"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}))
    names = tls.required_names(settings)

    def errors(*covered: str) -> list[str]:
        return list(preflight.certificate(files(covered), settings, "dev", NOW))

    assert errors(*NAMES) == [], "our own has a wildcard"
    assert errors(*names) == [], "one by one will do"
    missing = "does not cover redis-ha-0.redis-headless.session-store.svc.cluster.local"
    assert missing in errors(*tls.names_of("redis", "session-store"))[0]
