"""Rotations against a stack of fakes: what each step does, and that a killed run is finished by the next."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from program import DIGEST, config
from rich.console import Console

from infra.settings import Settings, parse
from ops import certificates, tls
from ops.errors import OpsError
from ops.rotate import certificates as certificate_rotation
from ops.rotate import fleet, password, session, steps

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SENTINEL = {"redis": {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}}


class Killed(BaseException):
    """SIGKILL: nothing of the run goes on."""


@dataclass
class Stack:
    """A stack file, its Secrets, and pods that follow them."""

    changes: dict[str, Any] = field(default_factory=dict)
    credentials: dict[str, int] = field(default_factory=dict)
    now: datetime = NOW
    kill_at: int = 0
    """The number of the call that kills the run; 0: none."""
    calls: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """What does not happen."""
    both: set[str] = field(default_factory=set)
    """Password pairs that were valid at once."""

    def __post_init__(self) -> None:
        self.applied: list[int] = []
        self.redis: list[int] = []
        self.api: list[int] = [self.settings.credentials.passwords[0]]
        self.certs: dict[str, Any] = {}
        self.shown: dict[tuple[str, int], str] = {}
        self.files: dict[str, str] = {}
        self.signing: list[int] = []
        self.up()
        self.calls.clear()

    @property
    def settings(self) -> Settings:
        return parse(config(**self.changes, credentials=self.credentials))

    def call(self, what: str) -> None:
        self.calls.append(what)
        if len(self.calls) == self.kill_at:
            raise Killed

    # what a rotation changes

    def edit(self, changes: dict[str, int]) -> str:
        self.call(f"edit {changes}")
        self.credentials |= changes
        return "edited"

    def up(self) -> str:
        self.call("up")
        names = self.settings.credentials
        assert set(self.api) & set(names.passwords), "the API was cut off"
        self.applied, self.signing = names.passwords, names.session_secrets
        self.redis = list(self.applied)  # kubelet, nudged
        if "rollout" not in self.broken:
            self.api = [self.applied[0]]
        self.call("up done")
        return "1 updated"

    # what it looks at

    def secret(self, name: str) -> dict[str, str]:
        keys = ("internal", "internal-previous") if name.endswith("-internal") else ("password", "previous")
        return dict(zip(keys, (f"p{number}" for number in self.applied), strict=False))

    def note(self, secret: str, key: str) -> dict[str, Any]:
        return dict(self.notes)

    def write_note(self, secret: str, key: str, value: dict[str, Any]) -> None:
        self.call("note")
        self.notes = value

    def redis_pods(self) -> list[str]:
        return ["redis-ha-0", "redis-ha-1"] if self.settings.redis.mode == "sentinel" else ["redis-0"]

    def proxy_pods(self) -> list[str]:
        return ["redis-proxy-a"] if self.settings.redis.mode == "sentinel" else []

    def nudge(self, now: datetime, api_too: bool = False) -> None:
        """Kubelet and the watchers do their work."""
        self.call("nudge")
        if self.certs and "watcher" not in self.broken:
            served = fleet.fingerprint(self.certs["redis-tls"]["data"]["tls.crt"].decode())
            for pod in [*self.redis_pods(), *self.proxy_pods()]:
                for port in (6379, 26379):
                    self.shown[pod, port] = served
                self.files[pod] = self.certs["redis-tls"]["data"]["ca.crt"].decode()

    def rolled_out(self) -> str | None:
        return "0 of 2 API pods are new" if "rollout" in self.broken else None

    def accepts(self, pod: str, password: str, port: int | None = None) -> bool:
        self.both.add(str(sorted(self.redis)))
        return "redis" not in self.broken and int(password[1:]) in self.redis

    def only(self, pod: str, password: str) -> bool:
        return self.redis == [int(password[1:])]

    def served(self, pod: str, port: int) -> str:
        return self.shown[pod, port]

    def trusted(self) -> list[tuple[str, str | None]]:
        return list(self.files.items())

    # as Secrets

    def read(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.certs.get(name)
        return found

    def write(self, name: str, kind: str, data: dict[str, bytes]) -> None:
        self.call(f"write {name}")
        labels = {"app.kubernetes.io/managed-by": certificates.MANAGER}
        self.certs[name] = {"labels": labels, "annotations": {}, "owners": [], "data": dict(data)}
        if name == "redis-tls" and self.files:
            leaf = tls.Pair(data["tls.crt"], b"")
            for trusted in self.files.values():
                findings = tls.examine({**data, "ca.crt": trusted.encode()}, ["redis"], NOW)
                assert not findings.errors, f"a pod would not trust {leaf.parsed.subject}: {findings.errors}"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**9, 5))
    for module in (steps, certificate_rotation):
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(steps.time, "monotonic", lambda: float(next(clock)))


Run = Callable[[Stack], str]


def shown(stack: Stack, rotate: Callable[[steps.Steps], None]) -> str:
    text = io.StringIO()
    rotate(steps.Steps(Console(file=text, width=500), "ops rotate it", lambda: stack.now))
    return text.getvalue()


def rotate_password(stack: Stack) -> str:
    return shown(stack, lambda list_: password.rotate(stack, list_, stack.edit, stack.up))


def rotate_session(stack: Stack) -> str:
    return shown(stack, lambda list_: session.rotate(stack, list_, stack.edit, stack.up))


def revoke_session(stack: Stack, force: bool = False) -> str:
    return shown(stack, lambda list_: session.revoke(stack, list_, stack.edit, stack.up, force))


def rotate_certificates(stack: Stack, authority: bool = False) -> str:
    return shown(stack, lambda list_: certificate_rotation.rotate(stack, list_, stack, authority=authority))


def killed_at_every_call(make: Callable[[], Stack], run: Run) -> Iterator[tuple[Stack, str]]:
    """The stack after a run that was killed at its n-th call and another that finished it, and what that one said."""
    for kill_at in range(1, 200):
        stack = make()
        stack.kill_at = kill_at
        try:
            run(stack)
        except Killed:
            stack.kill_at = 0
            yield stack, run(stack)
        else:
            return


# -- password


@pytest.mark.parametrize("changes", [{}, SENTINEL])
def test_a_password_is_rotated_with_both_valid_in_between(changes: dict[str, Any]) -> None:
    stack = Stack(changes)
    text = rotate_password(stack)
    assert stack.credentials == {"passwordGeneration": 2, "oldestPassword": 2}
    assert (stack.redis, stack.api) == ([2], [2])
    assert "[1, 2]" in stack.both
    assert [line[:2] for line in text.splitlines() if line[0].isdigit()] == [f"{n}." for n in range(1, 9)]
    rotate_password(stack)
    assert (stack.credentials["passwordGeneration"], stack.redis) == (3, [3])


def test_a_killed_password_rotation_is_finished_not_begun_again() -> None:
    ends = []
    for stack, _ in killed_at_every_call(Stack, rotate_password):
        assert stack.redis == stack.api == [stack.credentials["passwordGeneration"]]
        ends.append(stack.redis)
    # Killed before anything was written down, or when all was done: a new one.
    assert ends.count([2]) > len(ends) - 3


def test_a_password_raised_by_hand_is_in_use_before_the_one_before_it_goes() -> None:
    stack = Stack(credentials={"generation": 3})
    stack.api = [2]  # `pulumi up` was killed in the middle
    text = rotate_password(stack)
    assert "Password 3 is in use everywhere" in text
    assert stack.credentials == {"generation": 3, "passwordGeneration": 4, "oldestPassword": 4}
    assert stack.redis == [4]


@pytest.mark.parametrize(
    ("broken", "said"), [("redis", "redis-0 does not accept it yet"), ("rollout", "0 of 2 API pods are new")]
)
def test_the_old_password_stays_valid_when_somebody_does_not_follow(broken: str, said: str) -> None:
    stack = Stack()
    stack.broken.add(broken)
    with pytest.raises(OpsError, match=f"after 180 s still: {said}") as stopped:
        rotate_password(stack)
    assert "`ops rotate it` goes on from here" in str(stopped.value)
    assert stack.redis == [2, 1]
    stack.broken.clear()
    assert "going on with it" in rotate_password(stack)
    assert stack.redis == [2]


def test_an_external_redis_has_its_owners_password() -> None:
    stack = Stack({"redis": {"image": ..., "mode": "external", "host": "cache.example.org"}})
    with pytest.raises(OpsError, match=r"owner's to change.* rollout restart deployment/api"):
        rotate_password(stack)


# -- session secret


def test_a_session_secret_is_rotated_and_the_old_one_stays_as_long_as_its_cookies() -> None:
    stack = Stack()
    text = rotate_session(stack)
    assert stack.credentials == {"sessionGeneration": 2, "oldestSession": 1}
    assert "stay valid until they expire, at the latest 2026-11-25 00:00:00 UTC" in text
    stack.now += timedelta(hours=1)
    rotate_session(stack)
    assert stack.signing == [3, 2, 1], "people who logged in with the first are not logged out by the third"
    stack.now += timedelta(hours=11, minutes=30)
    rotate_session(stack)
    assert stack.signing == [4, 3, 2], "the first one's cookies have expired"
    stack.now += timedelta(hours=30)
    rotate_session(stack)
    assert stack.signing == [5, 4]


def test_a_killed_session_rotation_is_finished_not_begun_again() -> None:
    ends = []
    for stack, _ in killed_at_every_call(Stack, rotate_session):
        newest = stack.credentials["sessionGeneration"]
        assert stack.signing == list(range(newest, 0, -1)), "nobody is logged out"
        ends.append(newest)
    # Killed when all was done: a new one.
    assert ends.count(2) > len(ends) - 2


def test_a_session_secret_is_revoked_once_its_cookies_are_over() -> None:
    stack = Stack()
    rotate_session(stack)
    with pytest.raises(OpsError, match=r"session secret 1 signed cookies that are valid until 2026-11-25 00:00:00 UTC"):
        revoke_session(stack)
    stack.now += timedelta(hours=12, minutes=1)
    revoke_session(stack)
    assert stack.signing == [2]


def test_a_leaked_session_secret_is_revoked_at_once() -> None:
    stack = Stack()
    rotate_session(stack)
    assert "Revoked: 1." in revoke_session(stack, force=True)
    assert stack.signing == [2]


def test_a_session_secret_raised_by_hand_counts_from_when_it_is_first_seen() -> None:
    stack = Stack(credentials={"generation": 2})
    with pytest.raises(OpsError, match="valid until 2026-11-25 00:00:00 UTC"):
        revoke_session(stack)
    stack.now += timedelta(hours=12, minutes=1)
    revoke_session(stack)
    assert stack.signing == [2]


def test_a_session_secret_of_helm_is_its_owners() -> None:
    stack = Stack(credentials={"createSessionSecret": False})  # type: ignore[dict-item]
    with pytest.raises(OpsError, match="Secret api-session-secret is its owner's to change"):
        rotate_session(stack)


# -- certificates


def with_certificate(changes: dict[str, Any] | None = None) -> Stack:
    stack = Stack(changes or {})
    certificates.issue(stack, stack.settings, NOW)
    stack.nudge(NOW)
    stack.calls.clear()
    return stack


@pytest.mark.parametrize("changes", [{}, SENTINEL])
def test_a_certificate_is_renewed_under_the_same_ca(changes: dict[str, Any]) -> None:
    stack = with_certificate(changes)
    before = dict(stack.shown), stack.certs["redis-ca"]
    rotate_certificates(stack)
    assert set(stack.shown.values()).isdisjoint(before[0].values())
    assert stack.certs["redis-ca"] == before[1]


def test_a_certificate_that_a_pod_does_not_serve_yet_is_waited_for_not_renewed_again() -> None:
    stack = with_certificate()
    stack.broken.add("watcher")
    with pytest.raises(OpsError, match="redis-0:6379 serves another certificate"):
        rotate_certificates(stack)
    waiting = stack.certs["redis-tls"]
    stack.broken.clear()
    assert "was renewed before" in rotate_certificates(stack)
    assert stack.certs["redis-tls"] == waiting


def test_a_new_ca_is_trusted_before_it_signs_and_the_old_one_until_nobody_needs_it() -> None:
    stack = with_certificate(SENTINEL)
    old = stack.certs["redis-ca"]["data"]["tls.crt"]
    rotate_certificates(stack, authority=True)
    new = stack.certs["redis-ca"]["data"]
    assert new["tls.crt"] != old
    assert "next.crt" not in new
    assert set(stack.files.values()) == {new["tls.crt"].decode()}


def test_a_killed_rotation_of_the_ca_is_finished_without_asking_for_it() -> None:
    def run(stack: Stack) -> str:
        return rotate_certificates(stack, authority=not stack.calls)

    for stack, _ in killed_at_every_call(with_certificate, run):
        held = stack.certs["redis-ca"]["data"]
        assert "next.crt" not in held
        assert set(stack.files.values()) == {held["tls.crt"].decode()}
        assert not tls.examine(stack.certs["redis-tls"]["data"], ["redis"], NOW).errors


def test_a_ca_that_ends_before_the_new_certificate_is_replaced_in_the_same_steps() -> None:
    stack = with_certificate()
    ca = tls.make_ca(NOW, days=30)
    leaf = tls.make_leaf(ca, ["redis"], NOW, 30)
    stack.files.clear()
    stack.write("redis-ca", "", {"tls.crt": ca.certificate, "tls.key": ca.key})
    stack.write("redis-tls", "", {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate})
    stack.nudge(NOW)
    assert "Everybody trusts both CAs" in rotate_certificates(stack)
    assert stack.certs["redis-ca"]["data"]["tls.crt"] != ca.certificate


@pytest.mark.parametrize(
    ("owners", "said"), [(["Certificate"], "cert-manager renews Secret redis-tls"), ([], "made by a person")]
)
def test_a_certificate_of_somebody_else_is_only_checked(owners: list[str], said: str) -> None:
    stack = with_certificate()
    stack.certs["redis-tls"] |= {"labels": {}, "owners": owners}
    before = dict(stack.certs["redis-tls"])
    assert said in rotate_certificates(stack)
    assert stack.certs["redis-tls"] == before
    with pytest.raises(OpsError, match="to renew, and so is its CA"):
        rotate_certificates(stack, authority=True)
