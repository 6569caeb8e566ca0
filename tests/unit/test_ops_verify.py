"""`verify`: outcomes, reports, exit codes; the checks of Redis against a real redis-server, good and bad."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from program import config
from rich.console import Console

from infra.settings import parse
from ops import stacks, tls, tunnel
from ops import verify as verification
from ops.errors import OpsError
from ops.tunnel import Reply
from ops.verify import model, pods, sessions, store
from ops.verify.live import Live, Session
from ops.verify.model import FAIL, PASS, SKIP, UNSEEN, Check, Failed, Report, Skipped, Unseen

PASSWORD = "a-generated-password"
OUTPUTS: dict[str, Any] = {
    "namespace": "session-store",
    "endpoint": {"host": "redis", "port": 6379, "tls": True, "database": 2, "mode": "standalone"},
    "secrets": {"password": "redis-secret", "session": "api-session-secret", "tls": "redis-tls"},
    "api": {"deployment": "api", "service": "api", "port": 3030, "nodePort": None},
    "release": {"images": {}, "settings": "abc", "program": "0.1.0"},
}


class FakeLive(Live):
    """A stack whose Redis is a real one on this machine and whose API answers from a table."""

    def __init__(self, port: int, ca: str | None, **changes: Any) -> None:
        self.port = port
        self.answers: dict[str, Reply] = {}
        endpoint = {**OUTPUTS["endpoint"], "tls": ca is not None, **changes.pop("endpoint", {})}
        super().__init__(None, parse(config(**changes)), {**OUTPUTS, "endpoint": endpoint})  # type: ignore[arg-type]
        self._secrets = {("redis-secret", "password"): PASSWORD, ("redis-tls", "ca.crt"): ca}

    def opener(self) -> tunnel.Opener:
        return tunnel.direct("127.0.0.1", self.port)

    def an_api_pod(self) -> str:
        return "api-1"

    def http(self, pod: str, method: str, path: str, cookie: str | None = None, body: bytes | None = None) -> Reply:
        return self.answers[f"{method} {path}"]


def reply(status: int, *cookies: str, body: Any = "", date: str = "Tue, 24 Nov 2026 08:00:00 GMT") -> Reply:
    headers = http.client.HTTPMessage()
    headers["date"] = date
    for cookie in cookies:
        headers["set-cookie"] = cookie
    return Reply(status, headers, body)


Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a redis-server with these lines; gives its port."""
    running: list[subprocess.Popen[bytes]] = []

    def run(*lines: str, tls_on: bool = False) -> int:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        listen = [f"port {0 if tls_on else port}", f"{'tls-port ' + str(port) if tls_on else ''}"]
        text = "\n".join([*listen, "bind 127.0.0.1", 'save ""', f"dir {tmp_path}", *lines])
        server = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        running.append(server)
        assert server.stdin is not None
        server.stdin.write(text.encode())
        server.stdin.close()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                assert server.poll() is None, "redis-server did not start"
                continue
            return port
        raise AssertionError("redis-server does not listen")

    yield run
    for server in running:
        server.kill()
        server.wait()


RULES = (f"requirepass {PASSWORD}", "maxmemory 64mb", "maxmemory-policy noeviction", "appendonly yes")


@pytest.fixture
def with_tls(tmp_path: Path) -> tuple[str, tuple[str, ...]]:
    """(ca.crt, redis.conf lines)."""
    ca = tls.make_ca(tls.utc_now())
    leaf = tls.make_leaf(ca, tls.issued_names("redis", "session-store"), tls.utc_now(), 5)
    for name, content in (("crt", leaf.certificate), ("key", leaf.key), ("ca", ca.certificate)):
        (tmp_path / name).write_bytes(content)
    files = f"tls-cert-file {tmp_path}/crt", f"tls-key-file {tmp_path}/key", f"tls-ca-cert-file {tmp_path}/ca"
    return ca.certificate.decode(), (*files, "tls-auth-clients no")


def test_redis_as_it_should_be(start: Start, with_tls: tuple[str, tuple[str, ...]]) -> None:
    ca, lines = with_tls
    live = FakeLive(start(*RULES, *lines, 'tls-protocols "TLSv1.2 TLSv1.3"', tls_on=True), ca)
    assert "WRONGPASS" in store.wrong_password(live)
    assert "NOAUTH" in store.no_password(live)
    assert store.plaintext(live) == "a client without TLS got no answer"
    assert store.old_tls(live).startswith("TLS 1.1")
    assert store.eviction(live) == "noeviction, maxmemory 64 MiB"
    assert store.persistence(live) == "appendonly yes, everysec, last write ok"


def test_redis_without_a_password(start: Start) -> None:
    live = FakeLive(start("maxmemory 64mb", "appendonly yes"), None)
    with pytest.raises(Failed, match="answered a wrong password with: -ERR AUTH <password> called without any"):
        store.wrong_password(live)
    with pytest.raises(Failed, match=r"answered a client without password: \+PONG"):
        store.no_password(live)
    assert "appendonly yes" in store.persistence(live), "the other checks can still look"


def test_redis_that_forgets(start: Start) -> None:
    live = FakeLive(start(f"requirepass {PASSWORD}", "maxmemory-policy allkeys-lru", "appendonly no"), None)
    with pytest.raises(Failed, match="maxmemory-policy is allkeys-lru, not noeviction: logins can be evicted"):
        store.eviction(live)
    live.redis().config_set("maxmemory-policy", "noeviction")
    with pytest.raises(Failed, match="maxmemory is not set"):
        store.eviction(live)
    with pytest.raises(Failed, match=r"appendonly is no; redis.appendonly is true"):
        store.persistence(live)


def test_plaintext_redis_where_tls_was_promised(start: Start) -> None:
    live = FakeLive(start(*RULES), tls.make_ca(tls.utc_now()).certificate.decode())
    with pytest.raises(Failed, match="Redis answered in plaintext: -NOAUTH"):
        store.plaintext(live)


def test_tls_checks_are_skipped_where_tls_is_off(start: Start) -> None:
    live = FakeLive(start(*RULES), None)
    for check in (store.plaintext, store.old_tls, store.authority):
        with pytest.raises(Skipped, match="TLS is off, as configured"):
            check(live)


def test_redis_with_another_password(start: Start) -> None:
    live = FakeLive(start("requirepass other"), None)
    line = model.judge(Check("x", "x", "x", store.eviction), live, False)
    assert line.status == FAIL
    assert line.evidence.startswith("Redis refuses the password of Secret redis-secret")


def session(live: FakeLive, name: str = "abcdefghijkl") -> Session:
    made = Session(f"connect.sid=s%3A{name}.sig", name, f"ctmd:sess:{name}", live.answers["POST /auth"])
    live.session = made
    return made


COOKIE = "connect.sid=s%3Aabcdefghijkl.sig; Path=/; Expires=Tue, 24 Nov 2026 20:00:00 GMT; HttpOnly; SameSite=Lax"


def test_login_reads_the_session_id_and_hides_it() -> None:
    live = FakeLive(0, None, sessions={"secureCookie": False})
    live.answers = {"POST /auth": reply(200, COOKIE), "GET /auth_status": reply(200)}
    assert "POST /auth 200 through api-1" in sessions.login(live)
    assert live.session is not None
    assert (live.session.id, live.session.key) == ("abcdefghijkl", "ctmd:sess:abcdefghijkl")
    assert live.session.shown == "ctmd:sess:abcdef…"


def test_login_that_gives_no_cookie_says_why() -> None:
    live = FakeLive(0, None)
    live.answers = {"POST /auth": reply(200)}
    with pytest.raises(Failed, match=r"without a cookie connect.sid .*set session-store:api.trustProxy"):
        sessions.login(live)
    live.answers = {"POST /auth": reply(503, body={"error": "Redis is down"})}
    with pytest.raises(Failed, match=r"POST /auth answered 503: .*Redis is down"):
        sessions.login(live)


def test_session_in_redis_with_its_ttl(start: Start) -> None:
    live = FakeLive(start(*RULES), None)
    live.answers = {"POST /auth": reply(200, COOKIE)}
    made = session(live)
    with pytest.raises(Failed, match=r"ctmd:sess:abcdef… is not in database 2 of Redis \(0 other keys"):
        sessions.key(live)
    live.redis().set(made.key, "{}")
    assert sessions.key(live) == "ctmd:sess:abcdef… in database 2"
    with pytest.raises(Failed, match="never expires; 43200 s were configured"):
        sessions.ttl(live)
    live.redis().expire(made.key, 100)
    with pytest.raises(Failed, match=r"expires in \d+ s"):
        sessions.ttl(live)
    live.redis().expire(made.key, 43200)
    assert sessions.ttl(live).endswith("of 43200")


@pytest.mark.parametrize(
    ("cookie", "message"),
    [
        (COOKIE, "HttpOnly, SameSite=lax, not Secure"),
        (COOKIE.replace("Expires=Tue, 24 Nov 2026 20:00:00 GMT", "Max-Age=43200"), "43200 s"),
        (COOKIE.replace(" HttpOnly;", ""), "HttpOnly is missing"),
        (COOKIE.replace("Lax", "None"), "SameSite is None, not lax"),
        (COOKIE + "; Secure", "Secure is set, but was not configured"),
        (COOKIE.replace("20:00", "09:00"), "it lasts 3600 s, not 43200 s"),
    ],
)
def test_cookie_flags(cookie: str, message: str) -> None:
    live = FakeLive(0, None, sessions={"secureCookie": False})
    live.answers = {"POST /auth": reply(200, cookie)}
    session(live)
    assert message in model.judge(Check("c", "c", "c", sessions.cookie), live, False).evidence


def test_anonymous() -> None:
    live = FakeLive(0, None)
    live.answers = {"GET /auth_status": reply(401)}
    assert sessions.anonymous(live) == "401, no cookie"
    live.answers = {"GET /auth_status": reply(401, COOKIE)}
    with pytest.raises(Failed, match="saveUninitialized"):
        sessions.anonymous(live)


def test_logs_tell_the_memory_store_however_it_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Warning: connect.session() MemoryStore is not\ndesigned for a production environment, as"
    monkeypatch.setattr(pods, "_logs", lambda _live: {"api-1": text, "api-2": pods.CONNECTED})
    with pytest.raises(Failed, match=r"warning is in the log of api-1$"):
        pods.memory_warning(FakeLive(0, None))
    with pytest.raises(Failed, match=r"is not in the log of api-1$"):
        pods.connection_line(FakeLive(0, None))


def outcome(error: BaseException | None) -> Callable[[Live], str]:
    def run(_live: Live) -> str:
        if error:
            raise error
        return f"fine, {PASSWORD}"

    return run


@pytest.mark.parametrize(
    ("error", "status", "evidence"),
    [
        (None, PASS, "fine, [redis-secret/password]"),
        (Failed("broken"), FAIL, "broken"),
        (Skipped("off"), SKIP, "off"),
        (Unseen("far away"), UNSEEN, "far away"),
        (ZeroDivisionError("odd\nthing"), FAIL, "the check broke down: ZeroDivisionError: odd thing"),
    ],
)
def test_every_outcome_is_a_line_without_secrets(error: BaseException | None, status: str, evidence: str) -> None:
    line = model.judge(Check("a", "A", "plan", outcome(error)), FakeLive(0, None), False)
    assert (line.status, line.evidence) == (status, evidence)


def test_what_needs_login_fails_without_it_and_read_only_leaves_pods_alone() -> None:
    live = FakeLive(0, None)
    needs = Check("a", "A", "plan", outcome(None), login=True)
    replaces = Check("b", "B", "plan", outcome(AssertionError("was run")), login=True, disruptive=True)
    assert model.judge(needs, live, False).evidence == "needs login"
    assert model.judge(needs, live, False).status == FAIL
    assert model.judge(replaces, live, True).status == SKIP


@pytest.mark.parametrize("terminal", [True, False])
def test_report_for_people_and_machines(terminal: bool) -> None:
    out = StringIO()
    report = Report("dev", OUTPUTS["release"], True, "c", "ns")
    checks = [Check("ok", "It works", "p", outcome(None)), Check("no", "It breaks", "p", outcome(Failed("see [this]")))]
    model.run(checks, FakeLive(0, None), report, Console(file=out, width=160, force_terminal=terminal))
    assert "It works" in out.getvalue()
    assert "see [this]" in out.getvalue()
    content = json.loads(json.dumps(report.as_json()))
    assert (content["stack"], content["ok"], content["readOnly"]) == ("dev", False, True)
    assert content["counts"] == {"pass": 1, "fail": 1, "skip": 0, "not seen": 0}
    assert [line["id"] for line in content["lines"]] == ["ok", "no"]
    assert "does NOT keep its promises: 1 pass, 1 fail" in report.verdict


def test_not_seen_is_no_failure_and_no_clean_bill() -> None:
    report = Report("prod", {}, True)
    report.lines.append(model.Line("a", "A", "p", UNSEEN, "far away", 0.1))
    assert not report.failed
    assert "as far as can be seen from here: 1 not seen" in report.verdict


def test_check_ids_are_unique_and_login_comes_before_what_needs_it() -> None:
    ids = [check.id for check in verification.CHECKS]
    assert len(ids) == len(set(ids))
    first = next(i for i, check in enumerate(verification.CHECKS) if check.login)
    assert ids.index("login") < first


class FakeTarget:
    """A target that was never deployed."""

    stack = "dev"

    def __init__(self, outputs: dict[str, Any] | None) -> None:
        self.found = outputs
        self.engine = self

    def say(self, _line: str) -> None: ...

    def open(self, _say: Any, create: bool) -> Any:
        assert not create
        return None if self.found is None else object()

    def outputs(self) -> dict[str, Any]:
        return self.found or {}


@pytest.mark.parametrize("outputs", [None, {}, {"namespace": "x"}])
def test_a_stack_that_is_not_deployed_is_exit_2(outputs: dict[str, Any] | None) -> None:
    with pytest.raises(OpsError, match="Stack dev is not deployed: run `python -m ops up --stack dev`") as error:
        stacks.deployed(FakeTarget(outputs))  # type: ignore[arg-type]
    assert error.value.code == 2


def test_external_redis_out_of_reach_is_not_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = parse(config(redis={"mode": "external", "host": "127.0.0.1", "image": ...}, tls={"enabled": False}))
    endpoint = {"host": "127.0.0.1", "port": port, "mode": "external", "tls": False, "database": 0}
    live = Live(None, settings, {**OUTPUTS, "endpoint": endpoint})  # type: ignore[arg-type]
    line = model.judge(Check("a", "A", "p", store.no_password), live, False)
    assert line.status == UNSEEN
    assert f"127.0.0.1:{port} cannot be reached from here" in line.evidence
