"""How each random resource is declared, made and imported."""

from __future__ import annotations

import base64
import binascii
import ctypes
import random
import secrets
import string
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.plugins.server import PluginError

SPECIAL = "!@#$%&*()-_=+[]{}<>:?"
# Which setting switches a class of characters on, which gives its smallest count, and its characters.
CLASSES = (
    ("lower", "minLower", string.ascii_lowercase),
    ("upper", "minUpper", string.ascii_uppercase),
    ("numeric", "minNumeric", string.digits),
    ("special", "minSpecial", SPECIAL),
)
TEXT_INPUTS: dict[str, tuple[type, Any]] = {
    "length": (int, ...),
    "overrideSpecial": (str, None),
    "number": (bool, None),
    **{switch: (bool, True) for switch, _, _ in CLASSES},
    **{least: (int, 0) for _, least, _ in CLASSES},
}
PETS = (
    "amber brave calm clever eager fair gentle happy jolly keen lively mellow noble proud quick swift tidy warm wise",
    "badger crane dolphin eagle falcon gecko heron ibex jackal koala lynx marten newt otter panda quail raven seal",
)


@dataclass(frozen=True)
class Kind:
    """One resource type.

    Attributes:
        inputs: per property its type and default; `...`: required, None: no default.
        computed: properties known only after creation.
        make: checked inputs to (id, computed properties).
        adopt: an import's id to (id, inputs, computed properties).
        secret: computed properties that are secret.
    """

    inputs: Mapping[str, tuple[type, Any]]
    computed: tuple[str, ...]
    make: Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]
    adopt: Callable[[str], tuple[str, dict[str, Any], dict[str, Any]]]
    secret: tuple[str, ...] = ()


def pools(inputs: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Classes of characters that are on: smallest count and characters, by the name of the count's setting."""
    on = {}
    for switch, least, characters in CLASSES:
        wanted = inputs.get(switch)
        if switch == "numeric" and inputs.get("number") is not None:
            wanted = inputs["number"]
        if wanted:
            chosen = inputs.get("overrideSpecial") if switch == "special" else None
            on[least] = (int(inputs.get(least) or 0), chosen or characters)
    return on


def _text(inputs: Mapping[str, Any]) -> str:
    on = pools(inputs)
    picked = [secrets.choice(characters) for least, characters in on.values() for _ in range(least)]
    everything = "".join(characters for _, characters in on.values())
    picked += [secrets.choice(everything) for _ in range(inputs["length"] - len(picked))]
    random.SystemRandom().shuffle(picked)
    return "".join(picked)


def bcrypt(password: str) -> str | None:
    """The bcrypt hash, by the system's libcrypt; None where that has no bcrypt."""
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError:
        return None
    library.crypt.restype = ctypes.c_char_p
    alphabet = "./" + string.ascii_uppercase + string.ascii_lowercase + string.digits
    salt = "$2b$10$" + "".join(secrets.choice(alphabet) for _ in range(21)) + "e"
    digest = library.crypt(password.encode()[:72], salt.encode())
    return digest.decode() if digest and digest.startswith(b"$2b$") else None


def _password(inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    value = _text(inputs)
    return "none", {"result": value, "bcryptHash": bcrypt(value)}


def _string(inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    value = _text(inputs)
    return value, {"result": value}


def _id_outputs(raw: bytes, prefix: str) -> tuple[str, dict[str, Any]]:
    url = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return url, {
        "b64Std": prefix + base64.b64encode(raw).decode(),
        "b64Url": prefix + url,
        "dec": prefix + str(int.from_bytes(raw, "big")),
        "hex": prefix + raw.hex(),
    }


def _adopt_id(given: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    prefix, _, url = given.rpartition(",")
    try:
        raw = base64.urlsafe_b64decode(url + "=" * (-len(url) % 4))
    except (binascii.Error, ValueError):
        raise PluginError(f"{given!r} is no RandomId: import by its b64Url value, or `PREFIX,B64URL`.") from None
    made, outputs = _id_outputs(raw, prefix)
    return made, {"byteLength": len(raw), **({"prefix": prefix} if prefix else {})}, outputs


def _integer(inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    seed = inputs.get("seed")
    source = random.Random(seed) if seed else random.SystemRandom()  # noqa: S311 - a seed asks for a repeatable number
    value = source.randint(inputs["min"], inputs["max"])
    return str(value), {"result": value}


def _adopt_integer(given: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    parts = given.split(",")
    try:
        value, low, high = (int(part) for part in parts[:3])
    except ValueError:
        raise PluginError(
            f"{given!r} is no RandomInteger: import by `RESULT,MIN,MAX` or `RESULT,MIN,MAX,SEED`."
        ) from None
    return str(value), {"min": low, "max": high, **({"seed": parts[3]} if parts[3:] else {})}, {"result": value}


def _uuid(_: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    value = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    return value, {"result": value}


def _pet(inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    *before, last = [PETS[0]] * (inputs["length"] - 1) + [PETS[1]]
    words = [secrets.choice(words.split()) for words in [*before, last]]
    name = inputs["separator"].join([inputs["prefix"], *words] if inputs.get("prefix") else words)
    return name, {}


def _no_import(given: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    raise PluginError(f"{given!r} cannot be imported: this type has no import.")


KINDS: dict[str, Kind] = {
    "random:index/randomPassword:RandomPassword": Kind(
        TEXT_INPUTS,
        ("result", "bcryptHash"),
        _password,
        lambda value: ("none", {"length": len(value)}, {"result": value, "bcryptHash": bcrypt(value)}),
        ("result", "bcryptHash"),
    ),
    "random:index/randomString:RandomString": Kind(
        TEXT_INPUTS, ("result",), _string, lambda value: (value, {"length": len(value)}, {"result": value})
    ),
    "random:index/randomId:RandomId": Kind(
        {"byteLength": (int, ...), "prefix": (str, None)},
        ("b64Std", "b64Url", "dec", "hex"),
        lambda inputs: _id_outputs(secrets.token_bytes(inputs["byteLength"]), inputs.get("prefix") or ""),
        _adopt_id,
    ),
    "random:index/randomInteger:RandomInteger": Kind(
        {"min": (int, ...), "max": (int, ...), "seed": (str, None)}, ("result",), _integer, _adopt_integer
    ),
    "random:index/randomUuid:RandomUuid": Kind({}, ("result",), _uuid, lambda value: (value, {}, {"result": value})),
    "random:index/randomPet:RandomPet": Kind(
        {"length": (int, 2), "separator": (str, "-"), "prefix": (str, None)}, (), _pet, _no_import
    ),
}
