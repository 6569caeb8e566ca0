"""`random` under the real engine."""

from __future__ import annotations

import string
from typing import Any

import pulumi
import pulumi_random as random
import pytest
from engine import Engine
from pulumi.runtime.proto.provider_pb2 import CheckRequest

from toolchain.plugins.random.provider import RandomProvider
from toolchain.plugins.server import PluginError
from toolchain.plugins.wire import encode


def program(**changes: Any) -> Any:
    def run() -> None:
        keepers = changes.get("keepers", {"generation": "1"})
        password = random.RandomPassword("password", length=32, min_upper=4, override_special="_-", keepers=keepers)
        text = random.RandomString("text", length=12, special=False, lower=False, keepers=keepers)
        identity = random.RandomId("id", byte_length=8, prefix="x-", keepers=keepers)
        number = random.RandomInteger("number", min=10, max=20, keepers=keepers)
        pulumi.export("password", password.result)
        pulumi.export("hash", password.bcrypt_hash)
        pulumi.export("text", text.result)
        pulumi.export("hex", identity.hex)
        pulumi.export("decimal", identity.dec)
        pulumi.export("number", number.result)

    return run


def test_values_fit_stay_and_change_with_their_keepers(engine: Engine) -> None:
    assert engine.preview(program()) == {"create": 5}
    assert engine.up(program()) == {"create": 5}
    first = engine.outputs()
    assert len(first["password"]) == 32
    assert set(first["password"]) <= set(string.ascii_letters + string.digits + "_-")
    assert sum(letter.isupper() for letter in first["password"]) >= 4
    assert set(first["text"]) <= set(string.ascii_uppercase + string.digits)
    assert len(first["text"]) == 12
    assert first["decimal"] == f"x-{int(first['hex'].removeprefix('x-'), 16)}"
    assert 10 <= first["number"] <= 20
    assert first["hash"].startswith("$2")

    assert engine.up(program()) == {}
    assert engine.outputs() == first

    assert engine.up(program(keepers={"generation": "2"})) == {"replace": 4}
    second = engine.outputs()
    assert second["password"] != first["password"]

    written = engine.written()
    for secret in (first["password"], second["password"], first["hash"], second["hash"]):
        assert secret not in written


def test_a_password_is_imported_by_value(engine: Engine) -> None:
    def run() -> None:
        opts = pulumi.ResourceOptions(import_="correct-horse")
        pulumi.export("password", random.RandomPassword("imported", length=13, opts=opts).result)

    assert engine.up(run) == {"create": 1, "import": 1}
    assert engine.outputs() == {"password": "correct-horse"}
    # The engine itself keeps the id that an import was given, and here that is the value.
    recorded = engine.resources()["imported"]
    assert recorded.pop("importID") == "correct-horse"
    assert "correct-horse" not in str(recorded)


def test_bad_input_is_named(engine: Engine) -> None:
    said = engine.failure(engine.preview, lambda: random.RandomPassword("bad", length=0) and None)
    assert "length must be at least 1, not 0" in said


@pytest.mark.parametrize(
    ("kind", "inputs", "reason"),
    [
        ("Password", {}, "length is required"),
        ("Password", {"length": "8"}, "length must be int, not str"),
        ("Password", {"length": 3, "minLower": 2, "minUpper": 2}, "length must be at least 4, the sum of"),
        ("String", {"length": 3, "special": False, "lower": False, "upper": False, "numeric": False}, "no characters"),
        ("String", {"length": 3, "lenght": 3}, "lenght no such input; there are: length"),
        ("Id", {"byteLength": 0}, "byteLength must be at least 1, not 0"),
        ("Integer", {"min": 3, "max": 2}, "min must not be above max: 3 > 2"),
    ],
)
def test_checks(kind: str, inputs: dict[str, Any], reason: str) -> None:
    urn = f"urn:pulumi:s::p::random:index/random{kind}:Random{kind}::name"
    answer = RandomProvider().Check(CheckRequest(urn=urn, news=encode(inputs)), None)
    assert any(reason in failure.reason for failure in answer.failures)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(PluginError, match=r"has no type random:index/randomShuffle:RandomShuffle\. It has: RandomId"):
        RandomProvider().Check(
            CheckRequest(urn="urn:pulumi:s::p::random:index/randomShuffle:RandomShuffle::name"), None
        )
