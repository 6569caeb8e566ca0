"""Which passwords and session secrets are in which Secret, generation by generation."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from program import DIGEST, Declared, config, declare

from infra.settings import SettingsError

EXTERNAL = {"image": ..., "mode": "external", "host": "cache.example.org"}
SENTINEL = {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}


def values(declared: Declared, secret: str) -> dict[str, list[str]]:
    """Key to the values listed there, each without its padding."""
    data = declared.objects["Secret", secret]["data"]
    texts = {key: base64.b64decode(value).decode() for key, value in data.items()}
    return {key: [part.rstrip("x").rstrip("-") for part in text.split(",")] for key, text in texts.items()}


def generation(**credentials: Any) -> Declared:
    return declare(config(credentials=credentials))


def fingerprint(declared: Declared) -> str:
    """What rolls the API's pods."""
    return str(declared.pod("Deployment", "api")["metadata"]["annotations"]["session-store/secrets"])


@pytest.mark.parametrize(
    ("credentials", "passwords"),
    [
        ({}, {"password": ["redis-password-1"]}),
        ({"passwordGeneration": 2}, {"password": ["redis-password-2"], "previous": ["redis-password-1"]}),
        ({"passwordGeneration": 2, "oldestPassword": 2}, {"password": ["redis-password-2"]}),
        ({"generation": 3}, {"password": ["redis-password-3"], "previous": ["redis-password-2"]}),
    ],
)
def test_at_most_two_passwords_are_valid(credentials: dict[str, Any], passwords: dict[str, list[str]]) -> None:
    assert values(generation(**credentials), "redis-secret") == passwords


@pytest.mark.parametrize(
    ("credentials", "secrets"),
    [
        ({}, [1, 2]),
        ({"sessionGeneration": 2}, [2, 3, 1]),
        ({"generation": 4, "oldestSession": 2}, [4, 5, 3, 2]),
        ({"sessionGeneration": 4, "oldestSession": 4}, [4, 5]),
    ],
)
def test_the_next_session_secret_is_known_in_advance(credentials: dict[str, Any], secrets: list[int]) -> None:
    found = values(generation(**credentials), "api-session-secret")
    assert found == {"session-secret": [f"session-secret-{number}" for number in secrets]}


def test_whoever_signs_next_is_known_to_the_pods_before_and_verifies_theirs() -> None:
    before, after = (
        values(generation(sessionGeneration=number), "api-session-secret")["session-secret"] for number in (3, 4)
    )
    assert after[0] in before
    assert before[0] in after


def test_another_stacks_session_secrets_are_accepted_never_signed_with() -> None:
    declared = declare(config(acceptedSessionSecrets=" theirs-one, theirs-two,"))
    (listed,) = values(declared, "api-session-secret").values()
    assert listed == ["session-secret-1", "session-secret-2", "theirs-one", "theirs-two"]
    assert "theirs-one" not in str(declared.outputs)


def test_accepted_secrets_need_a_secret_of_ours() -> None:
    with pytest.raises(SettingsError, match="acceptedSessionSecrets: Secret helms is not ours"):
        declare(
            config(
                acceptedSessionSecrets="theirs", credentials={"createSessionSecret": False, "sessionSecret": "helms"}
            )
        )


def test_sentinel_mode_has_passwords_that_only_its_own_pods_know() -> None:
    declared = declare(config(redis=SENTINEL, credentials={"passwordGeneration": 3}))
    assert values(declared, "redis-internal") == {
        "internal": ["redis-internal-3"],
        "internal-previous": ["redis-internal-2"],
        "monitor": ["redis-monitor-3"],
        "monitor-previous": ["redis-monitor-2"],
    }
    assert ("Secret", "redis-internal") in declared.secret
    assert ("Secret", "redis-internal") not in generation().objects


def test_the_api_rolls_when_what_it_reads_changes_and_only_then() -> None:
    first, password, session, revoked = (
        fingerprint(generation(**credentials))
        for credentials in (
            {},
            {"passwordGeneration": 2},
            {"sessionGeneration": 2},
            {"passwordGeneration": 2, "oldestPassword": 2},
        )
    )
    assert len({first, password, session}) == 3
    assert revoked == password, "the API has used the new password for long"


def test_redis_pods_are_not_replaced_for_a_password() -> None:
    assert generation().pod("StatefulSet", "redis") == generation(passwordGeneration=2).pod("StatefulSet", "redis")


def test_external_redis_has_its_own_password() -> None:
    declared = declare(config(redis=EXTERNAL))
    assert {name for kind, name in declared.objects if kind == "Secret"} == {"api-session-secret"}
    assert {name for kind, name in declared.objects if kind == "RandomPassword"} == {
        "session-secret-1",
        "session-secret-2",
    }
