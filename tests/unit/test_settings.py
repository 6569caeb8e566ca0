"""Every bad setting is refused with one line that names its key and the fix."""

from __future__ import annotations

from typing import Any

import pytest
from program import REDIS_IMAGE, config, declare

from infra.settings import SettingsError, parse

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("image by tag", config(redis={"image": "redis:7.4"}), "redis.image: 'redis:7.4' is not pinned by digest"),
    ("short digest", config(api={"image": "api@sha256:abc"}), "api.image: 'api@sha256:abc' is not pinned by digest"),
    ("no redis image", config(redis={"image": ...}), "redis.image: is missing; set it to NAME@sha256:<digest>"),
    ("no api image", config(api={"image": ...}), "api.image: is missing; set it to NAME@sha256:<digest>"),
    ("no redis", {"api": {"image": REDIS_IMAGE}}, "redis: is missing: set it in Pulumi.<stack>.yaml"),
    ("misspelt key", config(redis={"memroy": "1Gi"}), "redis.memroy: unknown key; did you mean memory?"),
    ("misspelt top key", config(sesions={"ttlSeconds": 60}), "sesions: unknown key; did you mean sessions?"),
    ("unknown key", config(tls={"zzz": 1}), "tls.zzz: unknown key; known here: enabled, issuer"),
    ("nested misspelt key", config(tls={"issuer": {"nam": "ca"}}), "tls.issuer.nam: unknown key; did you mean name?"),
    ("unknown mode", config(redis={"mode": "cluster"}), "redis.mode: 'cluster': input should be 'standalone'"),
    ("text for an object", config(redis="fast"), "redis: 'fast': input should be a valid dictionary"),
    ("not a memory size", config(redis={"memory": "lots"}), "redis.memory: 'lots' is not a Kubernetes memory quantity"),
    ("too little memory", config(redis={"memory": "1Mi"}), "redis.memory: '1Mi' is too small: give at least 64Mi"),
    ("no cpu", config(api={"cpu": "0"}), "api.cpu: '0' is not above zero"),
    ("not a cpu", config(api={"cpu": "fast"}), "api.cpu: 'fast' is not a Kubernetes CPU quantity"),
    ("database out of range", config(redis={"database": 16}), "redis.database: 16: input should be less than or equal"),
    ("no replicas", config(api={"replicas": 0}), "api.replicas: 0: input should be greater than or equal to 1"),
    ("ttl too short", config(sessions={"ttlSeconds": 5}), "sessions.ttlSeconds: 5: input should be greater than"),
    ("prefix that SCAN reads", config(sessions={"prefix": "s:*"}), "sessions.prefix: 's:*' must be printable"),
    ("sameSite none", config(sessions={"sameSite": "none"}), "sessions.sameSite: 'none': input should be 'lax' or"),
    ("memory store shared", config(sessions={"store": "memory"}), "sessions.store: memory cannot be shared by several"),
    ("namespace", config(namespace="My Shop"), "namespace: 'My Shop' is not a Kubernetes name"),
    ("node port", config(api={"nodePort": 80}), "api.nodePort: 80: input should be greater than or equal to 30000"),
    ("wired env", config(api={"env": {"REDIS_HOST": "x"}}), "api.env: may not set REDIS_HOST, which the wiring sets"),
    ("two owners", config(api={"existingDeployment": "api"}), "api.image: excludes api.existingDeployment"),
    (
        "scaling somebody else's",
        config(api={"image": ..., "existingDeployment": "api", "nodePort": 30030}),
        "api.existingDeployment: leaves autoscaling and nodePort to the Deployment's owner",
    ),
    (
        "scaling upside down",
        config(api={"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}),
        "api.autoscaling.maxReplicas: 2 is below minReplicas 5; raise it",
    ),
    (
        "external without host",
        config(redis={"image": ..., "mode": "external"}),
        "redis.host: is missing; external mode",
    ),
    (
        "external with an image",
        config(redis={"mode": "external", "host": "r"}),
        "redis.image: is not for mode external",
    ),
    ("host without external", config(redis={"host": "cache"}), "redis.host: is for mode external only"),
    (
        "issuer for an external Redis",
        config(redis={"image": ..., "mode": "external", "host": "r"}, tls={"issuer": {"name": "ca"}}),
        "tls.issuer: an external Redis brings its own certificate",
    ),
    ("Secret while TLS is off", config(tls={"enabled": False, "secretName": "t"}), "tls.secretName: TLS is off"),
]


@pytest.mark.parametrize(("values", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_setting_is_named_with_its_fix(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        parse(values)
    assert f"  - session-store:{message}" in str(refusal.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        parse(config(redis={"memory": "lots"}, api={"replicas": 0}, namespace="NO"))
    assert [line.split(": ")[0] for line in str(refusal.value).splitlines()[1:]] == [
        "  - session-store:namespace",
        "  - session-store:redis.memory",
        "  - session-store:api.replicas",
    ]


def test_program_declares_nothing_under_a_bad_setting() -> None:
    with pytest.raises(SettingsError, match=r"session-store:redis\.memory"):
        declare(config(redis={"memory": "lots"}))


def test_defaults_are_the_plans() -> None:
    settings = parse(config())
    assert settings.sessions.prefix == "ctmd:sess:"
    assert settings.sessions.ttl_seconds == 12 * 60 * 60
    assert settings.api.port == 3030
    assert settings.credentials.password_secret == "redis-secret"
    assert settings.cookie_secure
    assert parse(config(api={"nodeEnv": "development"})).cookie_secure is False


def test_settings_survive_the_trip_through_a_stack_output() -> None:
    settings = parse(config(redis={"memory": "1Gi"}, sessions={"secureCookie": False}))
    assert parse(settings.model_dump(mode="json", by_alias=True)) == settings
