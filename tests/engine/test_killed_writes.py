"""The real engine's state folder as a run leaves it that is killed while it writes."""

from __future__ import annotations

import pulumi_random as random
from engine import Engine

from ops import locks


def password() -> None:
    random.RandomPassword("password", length=32)


def test_attributes_that_were_left_empty_stop_nobody(engine: Engine) -> None:
    engine.up(password)
    attributes = engine.state_file.with_name(f"{engine.state_file.name}.attrs")
    assert attributes.read_text()
    attributes.write_text("")
    assert "failed to load checkpoint: EOF" in engine.failure(engine.up, password), "or `locks` has nothing to mend"
    locks.clear(engine.variables(), "test", lambda _line: None)
    assert engine.up(password) == {}
