"""`ops sessions`: what it counts, shows and drops, with a real Redis; what it never touches and never shows."""

from __future__ import annotations

import contextlib
import json
import time
import types
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pods
import pytest
import redis
from program import DIGEST, config
from rich.console import Console
from typer.testing import CliRunner

from infra.settings import parse
from ops import cli, deployed, master
from ops.deployed import Deployed
from ops.errors import OpsError
from ops.sessions import cli as commands
from ops.sessions import find, store
from ops.sessions.find import Wish
from ops.sessions.session import Session, duration, escape, outline
from ops.sessions.store import Dropped, Sessions

DATABASE, PREFIX = 3, "ctmd:sess:"
HOUR = 3600_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pods.Pod]:
    with pods.standalone(tmp_path_factory.mktemp("redis"), "pw", redis={"appendonly": False}) as pod:
        yield pod


@pytest.fixture
def live(server: pods.Pod) -> Any:
    """The sessions' database, empty like all others."""
    client = server.client(db=DATABASE)
    client.flushall()
    return client


@pytest.fixture
def sessions(server: pods.Pod, live: Any) -> Sessions:
    return Sessions(lambda: server.client(db=DATABASE), PREFIX)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))


def content(user: Any = "demo", **more: Any) -> bytes:
    cookie = {"originalMaxAge": 43200000, "expires": "2026-11-25T20:00:00.000Z", "httpOnly": True, "path": "/"}
    return json.dumps({"cookie": cookie, "auth_info": {"username": user, "authenticated": True, **more}}).encode()


def put(live: Any, identity: str | bytes, user: Any = "demo", left: int | None = HOUR, prefix: str = PREFIX) -> bytes:
    key = prefix.encode() + (identity.encode() if isinstance(identity, str) else identity)
    live.set(key, content(user), px=left)
    return key


def nothing(_: int) -> None:
    """Nobody looks at the progress."""


def meant(sessions: Sessions, **wish: Any) -> set[bytes]:
    found = find.keys(sessions, Wish(**wish), nothing)
    assert len(found) == len(set(found))
    return set(found)


# -- what is looked at


def test_only_keys_of_the_prefix_in_the_database_are_sessions(server: pods.Pod, live: Any, sessions: Sessions) -> None:
    wanted = {put(live, "one"), put(live, "two:with:colons"), put(live, b"\xff\xfe not text")}
    put(live, "other", prefix="ctmd:session:")
    put(live, "queue", prefix="bull:")
    put(server.client(db=0), "elsewhere")
    live.set("session-store:beat", 1)
    assert {key for some in sessions.scan() for key in some} == wanted


def test_a_short_prefix_takes_no_key_of_the_machinery_in(server: pods.Pod, live: Any) -> None:
    key = put(live, "abc", prefix="s")
    live.set("session-store:beat", 1)
    short = Sessions(lambda: server.client(db=DATABASE), "s")
    assert list(short.scan()) == [[key]]
    done = Dropped()
    short.drop([[key, b"session-store:beat", b"another"]], done, nothing)
    assert (done.gone, live.keys()) == (1, [b"session-store:beat"])


def test_ten_thousand_are_met_once_in_batches(live: Any, sessions: Sessions) -> None:
    pipe = live.pipeline()
    for number in range(12_345):
        pipe.set(f"{PREFIX}{number}", b"{}", ex=3600)
        pipe.set(f"queue:{number}", b"x")
    pipe.execute()
    batches = list(sessions.scan())
    keys = [key for some in batches for key in some]
    assert len(keys) == len(set(keys)) == 12_345
    assert max(map(len, batches)) < 3 * store.BATCH
    done, moved = Dropped(), list[int]()
    sessions.drop(batches, done, moved.append)
    assert (done.gone, sum(moved), max(moved) <= store.BATCH) == (12_345, 12_345, True)
    assert live.dbsize() == 12_345, "the queue"


def test_neither_keys_nor_flush_is_ever_sent(server: pods.Pod, live: Any, sessions: Sessions) -> None:
    for number in range(3000):
        put(live, f"session-{number}")
    live.config_resetstat()
    sessions.drop(sessions.scan(), Dropped(), nothing)
    sent = {name.removeprefix("cmdstat_") for name in server.client().info("commandstats")}
    assert {"scan", "unlink"} <= sent
    assert not sent & {"keys", "flushdb", "flushall", "del", "eval"}


def test_sessions_that_end_between_scan_and_read_are_left_out(live: Any, sessions: Sessions) -> None:
    stays, goes = put(live, "stays-here"), put(live, "goes-away")
    (keys,) = sessions.scan()
    live.delete(goes)
    for contents in (False, True):
        assert [one.key for one in sessions.read(keys, contents)] == [stays]
    done = Dropped()
    sessions.drop([keys], done, nothing)
    assert done.gone == 1


def test_what_is_no_session_is_read_all_the_same(live: Any, sessions: Sessions) -> None:
    for name, value in {"broken": b'{"cookie":', "list": b"[1]", "bytes": b"\xff\x00", "deep": b"[" * 100_000}.items():
        live.set(PREFIX + name, value)
    live.hset(f"{PREFIX}hash", "field", "value")
    live.set(f"{PREFIX}odd", json.dumps({"auth_info": ["x"], "cookie": None}))
    (keys,) = sessions.scan()
    found = {one.id: one for one in sessions.read(keys, contents=True)}
    assert len(found) == 6
    assert {one.user for one in found.values()} == {None}
    assert {one.written for one in found.values()} == {None}
    assert found[b"hash"].content is None
    assert sessions.facts(f"{PREFIX}hash".encode())[0] == "hash"


# -- whose


@pytest.mark.parametrize("user", ["demo", "o'brien", "a*", "[b]x", "naïve ✓", 'quo"te', "back\\slash", "7"])
def test_a_user_is_meant_exactly(live: Any, sessions: Sessions, user: str) -> None:
    wanted = {put(live, "first", user), put(live, "second", user)}
    for number, other in enumerate([user + "2", "x" + user, user.upper() + "!", "", None, ["demo"]]):
        put(live, f"other-{number}", other)
    assert meant(sessions, user=user) == wanted


def test_a_user_is_the_name_or_else_the_address() -> None:
    def user(info: Any) -> str | None:
        return Session(b"", b"k", 1, json.dumps({"auth_info": info}).encode()).user

    assert user({"username": "demo", "email": "d@example.org"}) == "demo"
    assert user({"email": "d@example.org"}) == "d@example.org"
    assert user({"username": 7}) == "7"
    assert [user(info) for info in ({}, None, "demo", {"username": {}})] == [None] * 4


# -- which


def test_a_session_is_meant_by_its_name_its_head_or_its_id(live: Any, sessions: Sessions) -> None:
    key, other = put(live, "v-DvpOabcdef"), put(live, "another-one")
    one = Session(PREFIX.encode(), key, 0)
    for word in (one.name, one.name[:6], "v-DvpO", "v-DvpO…", PREFIX + "v-DvpO…", "v-DvpOabcdef"):
        assert meant(sessions, words=(word,)) == {key}
    assert meant(sessions, words=(one.name, "another-one", "v-DvpO")) == {key, other}


def test_a_whole_id_is_meant_where_another_begins_with_it(live: Any, sessions: Sessions) -> None:
    key = put(live, "session")
    put(live, "session-2")
    assert meant(sessions, words=("session",)) == {key}


@pytest.mark.parametrize("identity", ["a*bcdefg", "a?bcdefg", "[abcdefg]", "a\\*bcdefg", "^bcdefgh"])
def test_signs_of_a_pattern_in_an_id_mean_themselves(live: Any, sessions: Sessions, identity: str) -> None:
    key = put(live, identity)
    put(live, "axbcdefg")
    put(live, "aabcdefg")
    assert meant(sessions, words=(identity,)) == {key}
    assert meant(sessions, pattern=escape(identity.encode()).decode() + "*") == {key}


def test_names_that_mean_none_or_several_are_refused(live: Any, sessions: Sessions) -> None:
    put(live, "common-1")
    put(live, "common-2")
    with pytest.raises(OpsError, match="2 sessions begin with common"):
        meant(sessions, words=("common",))
    with pytest.raises(OpsError, match=r"no session nobody.*ops sessions list"):
        meant(sessions, words=("nobody",))
    with pytest.raises(OpsError, match="at least 6"):
        meant(sessions, words=("com",))
    with pytest.raises(OpsError) as error:
        meant(sessions, words=("a-whole-id-of-one-that-ended",))
    assert "a-whole-id" not in str(error.value)
    assert "a-whole-id" not in str(Wish(words=("a-whole-id-of-one-that-ended",)))
    assert live.dbsize() == 2


def test_a_pattern_is_of_ids_with_or_without_the_prefix(live: Any, sessions: Sessions) -> None:
    wanted = {put(live, "load-1"), put(live, "load-2")}
    put(live, "person")
    for pattern in ("load-*", f"{PREFIX}load-*", "load-?", "load-[12]"):
        assert meant(sessions, pattern=pattern) == wanted
    assert meant(sessions, pattern="nobody*") == set()


@pytest.mark.parametrize("pattern", ["*", "**", "?*", "", f"{PREFIX}*", "[a-z]*", "load-*"])
def test_a_pattern_that_means_all_is_refused(live: Any, sessions: Sessions, pattern: str) -> None:
    put(live, "load-1")
    put(live, "load-2")
    with pytest.raises(OpsError, match="ops sessions flush"):
        meant(sessions, pattern=pattern)


def test_those_without_an_end(live: Any, sessions: Sessions) -> None:
    put(live, "ends")
    assert meant(sessions, without_end=True) == set()
    assert meant(sessions, without_end=True) | {put(live, "stays", left=None)} == meant(sessions, without_end=True)


@pytest.mark.parametrize("wish", [{}, {"user": "a", "pattern": "b"}, {"words": ("abcdef",), "without_end": True}])
def test_one_choice_is_made(wish: dict[str, Any]) -> None:
    with pytest.raises(OpsError, match="Drop which") as error:
        Wish(**wish)
    assert error.value.code == 2


# -- failovers


@contextlib.contextmanager
def two(tmp_path: Path, count: int) -> Iterator[tuple[pods.Pod, pods.Pod, set[bytes], Callable[[], redis.Redis]]]:
    """Two Redis with the same sessions, their keys, and what connects to the one and next time to the other."""
    with pods.standalone(tmp_path / "a", "pw") as first, pods.standalone(tmp_path / "b", "pw") as second:
        keys = set()
        for pod in (first, second):
            pipe = pod.client(db=DATABASE).pipeline()
            for number in range(count):
                key = f"{PREFIX}session-{number}".encode()
                keys.add(key)
                pipe.set(key, b"{}", ex=3600)
            pipe.execute()
        clients = iter([first, second])
        yield first, second, keys, lambda: next(clients).client(db=DATABASE)


def test_a_scan_begins_again_on_the_next_master_and_tells_none_twice(tmp_path: Path) -> None:
    with two(tmp_path, 5000) as (first, _, keys, connect):
        scan = Sessions(connect, PREFIX).scan()
        found = next(scan)
        first.kill()
        found += [key for some in scan for key in some]
        assert len(found) == len(keys)
        assert set(found) == keys


def test_a_master_that_became_a_replica_is_left(tmp_path: Path) -> None:
    with two(tmp_path, 1500) as (first, second, keys, connect):
        sessions, done = Sessions(connect, PREFIX), Dropped()
        first.client().replicaof("127.0.0.1", second.place.port)
        sessions.drop([sorted(keys)], done, nothing)
        assert done.gone == len(keys)
        assert second.client(db=DATABASE).dbsize() == 0


def test_no_error_tells_a_session(server: pods.Pod, live: Any) -> None:
    key = put(live, "secret-id")
    admin = server.client()
    admin.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-unlink", "-flushall"])
    reader = Sessions(lambda: server.client("x", username="reader", db=DATABASE), PREFIX)
    with pytest.raises(OpsError, match="unlink") as error:
        reader.drop([[key]], Dropped(), nothing)
    assert "secret-id" not in str(error.value)
    admin.acl_deluser("reader")


def test_what_no_replica_confirms_is_told(server: pods.Pod, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CONFIRM_MS", 1)
    done = Dropped()
    alone = Sessions(lambda: server.client(db=DATABASE), PREFIX, replicated=True)
    alone.drop([[put(live, "one"), put(live, "two")]], done, nothing)
    assert (done.gone, done.unconfirmed) == (2, 1)


# -- the commands


@pytest.fixture
def run(server: pods.Pod, live: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    settings = parse(config(redis={"database": DATABASE}))
    cluster = types.SimpleNamespace(context="a-cluster", server="https://there")
    monkeypatch.setattr(commands.deployed, "find", lambda _, stack: Deployed(stack, cluster, settings))  # type: ignore[arg-type]
    monkeypatch.setattr(commands.store, "of", lambda *_: Sessions(lambda: server.client(db=DATABASE), PREFIX))
    monkeypatch.setattr(commands.console, "_width", 200, raising=False)

    def invoke(*words: str, typed: str | None = None) -> Any:
        someone = types.SimpleNamespace(stdin=types.SimpleNamespace(isatty=lambda: typed is not None))
        for module in ("ops.console.sys", "ops.sessions.cli.sys"):
            monkeypatch.setattr(module, someone)
        with commands.console.capture() as printed:
            done = CliRunner().invoke(cli.app, ["sessions", *words, "--stack", "prod"], input=typed)
        text = done.output + printed.get()
        return types.SimpleNamespace(text=text, error=done.exception, code=done.exit_code)

    return invoke


def test_no_command_shows_an_id_or_what_a_session_holds(run: Callable[..., Any], live: Any, tmp_path: Path) -> None:
    key = put(live, "identity-of-somebody", "demo")
    live.set(key, content("demo", email="demo@example.org", token="s3cret"), px=HOUR)
    name = Session(PREFIX.encode(), key, 0).name
    file = tmp_path / "list.json"
    said = [run("list", "--json", str(file)), run("show", name), run("count"), run("drop", name, "--yes")]
    text = "".join(one.text for one in said) + file.read_text()
    for secret in ("identity-of", "s3cret", "demo@example.org"):
        assert secret not in text
    assert (name in text, "demo" in text, live.dbsize()) == (True, True, 0)


def test_show_outlines_what_is_held(run: Callable[..., Any], live: Any) -> None:
    key = put(live, "identity-of-somebody")
    said = run("show", "identity-of-somebody").text
    for line in (
        f"Session {Session(PREFIX.encode(), key, 0).name}: ctmd:sess:identi… in database 3",
        "user: demo",
        "ends: in 59 min",
        "idle for 11 h",
        "written: 2026-11-25 08:00:00 UTC",
        "cookie: originalMaxAge 43200000, expires 2026-11-25T20:00:00.000Z, httpOnly true, path /",
        "auth_info: object of 2",
        "username: text of 4",
        "authenticated: yes or no",
    ):
        assert line in said


def test_list_gives_those_used_last_and_says_how_many_more(run: Callable[..., Any], live: Any, tmp_path: Path) -> None:
    for number in range(60):
        put(live, f"session-{number:02}", f"user-{number:02}", left=HOUR + number * 1000)
    live.set(f"{PREFIX}broken", "{")
    file = tmp_path / "list.json"
    said = run("list", "--json", str(file))
    told = json.loads(file.read_text())
    assert "61 sessions: ctmd:sess:* in database 3; 11 more" in said.text
    assert [row["user"] for row in told["listed"][:2]] == ["user-59", "user-58"]
    assert (told["sessions"], len(told["listed"])) == (61, 50)
    assert "1 session of user user-07: " in run("list", "--user", "user-07").text
    assert "no JSON" in run("list", "--limit", "61").text


def test_names_cannot_play_with_the_terminal(run: Callable[..., Any], live: Any) -> None:
    put(live, "one", "[red]x\x1b[2Jy")
    said = run("list").text
    assert "\x1b[2J" not in said
    assert "[red]x" in said


def test_drop_says_how_many_and_asks(run: Callable[..., Any], live: Any) -> None:
    put(live, "mine-1", "demo")
    put(live, "mine-2", "demo")
    put(live, "theirs", "other")
    dry = run("drop", "--user", "demo", "--dry-run").text
    assert "Would drop 2 sessions of user demo: ctmd:sess:* in database 3. Nothing was dropped." in dry
    unasked = run("drop", "--user", "demo")
    assert "--yes when nobody is there to ask" in str(unasked.error)
    assert run("drop", "--user", "demo", typed="n\n").code == 1
    assert live.dbsize() == 3
    done = run("drop", "--user", "demo", typed="y\n")
    assert "2 sessions of user demo" in done.text
    assert "Dropped 2 sessions." in done.text
    assert live.keys() == [b"ctmd:sess:theirs"]
    again = run("drop", "--user", "demo", "--yes")
    assert (again.code, "nothing to do" in again.text) == (0, True)


@pytest.mark.parametrize(
    ("words", "typed", "why"),
    [
        (["--yes"], None, "--yes --confirm prod"),
        (["--confirm", "prod"], None, "--yes --confirm prod"),
        ([], None, "--yes --confirm prod"),
        (["--yes", "--confirm", "staging"], None, "--confirm staging is not the stack"),
        (["--yes"], "staging\n", "That is not prod"),
        ([], "y\ndev\n", "That is not prod"),
    ],
)
def test_flush_wants_two_answers(
    run: Callable[..., Any], live: Any, words: list[str], typed: str | None, why: str
) -> None:
    put(live, "session")
    done = run("flush", *words, typed=typed)
    assert why in str(done.error)
    assert live.dbsize() == 1


@pytest.mark.parametrize(("words", "typed"), [(["--yes", "--confirm", "prod"], None), ([], "y\nprod\n")])
def test_flush_drops_sessions_and_nothing_else(
    server: pods.Pod, run: Callable[..., Any], live: Any, words: list[str], typed: str | None
) -> None:
    for number in range(2500):
        put(live, f"session-{number}")
    put(live, "other", prefix="bull:")
    put(server.client(db=1), "elsewhere")
    done = run("flush", *words, typed=typed)
    assert "Dropped 2500 sessions." in done.text
    assert "Everybody has to log in again." in done.text
    assert live.keys() == [b"bull:other"]
    assert server.client(db=1).dbsize() == 1
    assert "Nothing to do" in run("flush").text


def test_who_stops_it_is_told_how_far_it_came_and_the_next_run_finishes(
    run: Callable[..., Any], live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3000):
        put(live, f"session-{number}", "demo")
    drop, rounds = Sessions.drop, iter([True, False])

    def once(self: Sessions, keys: Any, done: Dropped, moved: Any) -> None:
        def press(count: int) -> None:
            if stops:
                raise KeyboardInterrupt

        stops = next(rounds)
        drop(self, keys, done, press)

    monkeypatch.setattr(Sessions, "drop", once)
    stopped = run("drop", "--user", "demo", "--yes")
    assert stopped.error.code == 130
    assert str(stopped.error).startswith("Stopped on request: 1000 of 3000 sessions dropped. Run it again")
    assert "Dropped 2000 sessions." in run("drop", "--user", "demo", "--yes").text
    assert live.dbsize() == 0


def test_count_tells_those_without_an_end(run: Callable[..., Any], live: Any) -> None:
    put(live, "ends")
    put(live, "stays", left=None)
    said = run("count").text
    assert "2 sessions: ctmd:sess:* in database 3" in said
    assert "! 1 of them have no end: `python -m ops sessions drop --without-end --stack prod`" in said
    assert "Dropped 1 session." in run("drop", "--without-end", "--yes").text
    assert "1 session:" in run("count").text


def test_a_store_in_memory_is_told() -> None:
    settings = parse(config(sessions={"store": "memory"}, api={"replicas": 1}))
    with pytest.raises(OpsError, match=r"session-store:sessions\.store is memory"):
        store.of(None, settings, "dev")  # type: ignore[arg-type]


def test_a_redis_that_is_not_theirs_yet_is_told() -> None:
    with pytest.raises(OpsError, match="python -m ops adopt run --stack dev"):
        store.of(None, parse(config(redis={"adoption": "beside"})), "dev")  # type: ignore[arg-type]


def test_redis_of_ours_is_asked_at_its_master_in_the_sessions_database(
    server: pods.Pod, live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Pods:
        def __init__(self, *_: Any) -> None:
            pass

        def master(self) -> Any:
            return types.SimpleNamespace(name="redis-ha-2")

        def client(self, *where: Any) -> Any:
            asked.append(where)
            return server.client(db=where[1])

    monkeypatch.setattr(store, "RedisPods", Pods)
    put(live, "one")
    ha = {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy"), "database": DATABASE}
    found = store.of(None, parse(config(redis=ha)), "dev")  # type: ignore[arg-type]
    assert asked == [("redis-ha-2", DATABASE)]
    assert sum(len(some) for some in found.scan()) == 1


@pytest.mark.parametrize(
    ("told", "database", "said"),
    [({"settings": config(redis={"database": 5})}, 5, ""), (None, 0, "! Going by Pulumi.dev.yaml"), ({}, None, "")],
)
def test_a_stack_is_what_was_deployed(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any] | None, database: int | None, said: str
) -> None:
    def outputs(_: Any, unseen: list[str]) -> Any:
        unseen += ["the engine's state"] * (told is None)
        return told

    cluster = types.SimpleNamespace(context="a-cluster", server="https://there")
    monkeypatch.setattr(deployed.books, "settings", lambda _: parse(config()))
    monkeypatch.setattr(deployed.books, "engine", lambda *_: "an engine")
    monkeypatch.setattr(deployed.books, "outputs", outputs)
    monkeypatch.setattr(deployed.kube, "connect", lambda *_: cluster)
    monkeypatch.setattr(deployed.gather, "reach", lambda _: None)
    console = Console(file=StringIO(), width=200)
    if database is None:
        with pytest.raises(OpsError, match="Stack dev is not deployed") as error:
            deployed.find(console, "dev")
        assert error.value.code == 2
        return
    assert deployed.find(console, "dev").settings.redis.database == database
    assert isinstance(console.file, StringIO)
    assert said in console.file.getvalue()


def test_an_external_redis_that_is_not_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"mode": "external", "host": "127.0.0.1", "port": pods.free_port(), "image": ...}
    monkeypatch.setattr(store.kube, "secret", lambda *_: {"password": b"pw"})
    settings = parse(config(redis=where, tls={"enabled": False}))
    with pytest.raises(OpsError, match="cannot be reached from here.*run this where the API's network is"):
        store.of(None, settings, "dev")  # type: ignore[arg-type]


def test_an_external_redis_is_asked_as_the_api_asks_it(
    server: pods.Pod, live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(live, "one")
    where = {"mode": "external", "host": "127.0.0.1", "port": server.place.port, "image": ..., "database": DATABASE}
    ca = (Path(server.place.secrets) / "redis-tls" / "ca.crt").read_bytes()
    secrets = {"redis-secret": {"password": b"pw"}, "redis-tls": {"ca.crt": ca}}
    monkeypatch.setattr(store.kube, "secret", lambda _cluster, _space, name: secrets[name])
    settings = parse(config(redis=where, tls={"secretName": "redis-tls"}))
    assert sum(len(some) for some in store.of(None, settings, "dev").scan()) == 1  # type: ignore[arg-type]
    secrets["redis-secret"]["password"] = b"wrong"
    with pytest.raises(OpsError, match="refuses the password of Secret redis-secret"):
        store.of(None, settings, "dev")  # type: ignore[arg-type]


# -- texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (43100, "11 h 58 min"), (90061, "1 d 1 h"), (86405, "1 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_outline_tells_no_value() -> None:
    data = {"a": "secret", "b": [1, "secret"], "c": {"cookie": {"d": "secret"}}, "e": None, "f": 12345, "g": True}
    lines = "\n".join(outline(data))
    assert "secret" not in lines
    assert "12345" not in lines
    assert "    cookie: object of 1\n      d: text of 6" in lines
