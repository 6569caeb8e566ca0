"""aof.sh, run by sh on files of the real redis-server that were damaged then; Redis starts on what it mends."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

SCRIPT = Path(__file__).parents[2] / "infra" / "redis" / "scripts" / "aof.sh"
INCR = "appendonlydir/appendonly.aof.1.incr.aof"
BASE = "appendonlydir/appendonly.aof.1.base.rdb"
MANIFEST = "appendonlydir/appendonly.aof.manifest"
KEYS = 20


@contextmanager
def server(folder: Path) -> Iterator[redis.Redis]:
    """The real redis-server on a data folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.PIPE)
    client = redis.Redis(port=port)
    try:
        for _ in range(100):
            if process.poll() is not None:
                break
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        assert process.poll() is None, f"redis-server ended: {process.communicate()[0].decode()[-500:]}"
        yield client
    finally:
        client.close()
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of a Redis that was killed: a base with one key, then KEYS more."""
    folder = tmp_path_factory.mktemp("written")
    with server(folder) as client:
        client.set("base", "x" * 100)
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"] or not list(folder.glob("*/*.2.base.rdb")):
            time.sleep(0.02)
        for number in range(KEYS):
            client.set(f"key{number}", f"value {number}", ex=3600)
    files = folder / "appendonlydir"
    # Numbers of the rewrite back to 1, for readable tests.
    for path in list(files.iterdir()):
        path.rename(files / path.name.replace(".2.", ".1."))
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(".2.", ".1."))
    return folder


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "data"))


def sh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run by sh, as the start script does: with `set -eu`."""
    return subprocess.run(
        ["sh", "-c", f"set -eu\n. {SCRIPT}\n{code}"],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def mend(data: Path, **environment: str) -> tuple[int, str]:
    done = sh(f"code=0; aof_mend {data}/appendonlydir || code=$?; exit $code", **environment)
    assert done.stderr == ""
    return done.returncode, done.stdout


def keys(data: Path) -> int:
    with server(data) as client:
        return int(client.dbsize())


def test_sound_files_are_left_alone(data: Path) -> None:
    before = {path.name: path.read_bytes() for path in (data / "appendonlydir").iterdir()}
    assert mend(data) == (0, "")
    assert {path.name: path.read_bytes() for path in (data / "appendonlydir").iterdir()} == before
    assert keys(data) == KEYS + 1


def test_an_empty_folder_is_a_new_redis(tmp_path: Path) -> None:
    assert mend(tmp_path) == (0, "")


def _torn(content: bytes) -> bytes:
    return content[:-7]


def _garbage(content: bytes) -> bytes:
    return content + bytes(range(256)) * 3


def _zeros(content: bytes) -> bytes:
    return content + bytes(4096)


def _torn_then_zeros(content: bytes) -> bytes:
    return content[:-7] + bytes(5000)


def _unfinished_transaction(content: bytes) -> bytes:
    return content + b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*3\r\n$3\r\nSET\r\n$1\r\nb"


def _whole_commands_of_an_unfinished_transaction(content: bytes) -> bytes:
    return content + b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (_torn, 1),
        (_garbage, 0),
        (_zeros, 0),
        (_torn_then_zeros, 1),
        (_unfinished_transaction, 0),
        (_whole_commands_of_an_unfinished_transaction, 0),
    ],
)
def test_a_damaged_tail_is_cut_off_and_kept(data: Path, damage: Callable[[bytes], bytes], lost: int) -> None:
    whole = (data / INCR).read_bytes()
    damaged = damage(whole)
    (data / INCR).write_bytes(damaged)
    code, said = mend(data)
    kept = (data / INCR).read_bytes()
    assert code == 0
    assert whole.startswith(kept)
    (side,) = data.glob("*.dropped-*")
    assert side.read_bytes() == damaged[len(kept) :]
    assert f"dropped {len(damaged) - len(kept)} bytes at offset {len(kept)} of {data / INCR}" in said
    assert str(side) in said
    assert mend(data) == (0, ""), "once is enough"
    assert keys(data) == KEYS + 1 - lost


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x15
    path.write_bytes(content)


@pytest.mark.parametrize(
    "sign", [b"*5\r\n", b"$8\r\nvalue", b"$4\r\nPXAT"], ids=["argument count", "length", "another length"]
)
def test_a_damaged_middle_is_refused(data: Path, sign: bytes) -> None:
    content = (data / INCR).read_bytes()
    at = content.index(sign, len(content) // 2)
    _flip(data / INCR, at + (0 if sign.startswith(b"*") else 1))
    damaged = (data / INCR).read_bytes()
    code, said = mend(data)
    assert code == 2
    assert f"{data / INCR} ({len(content)} bytes) is damaged at offset" in said
    assert "valid commands after it" in said
    assert "python -m ops restore FILE" in said
    assert (data / INCR).read_bytes() == damaged, "nothing was touched"


def test_a_damaged_middle_of_a_transaction_is_refused(data: Path) -> None:
    content = (data / INCR).read_bytes()
    a, b = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\nX1\r\n1\r\n"
    (data / INCR).write_bytes(content + b"*1\r\n$5\r\nMULTI\r\n" + a + b + b"*1\r\n$4\r\nEXEC\r\n")
    code, said = mend(data)
    assert (code, "valid commands after it" in said) == (2, True)


def test_a_damaged_base_is_refused(data: Path) -> None:
    _flip(data / BASE, (data / BASE).stat().st_size - 30)
    code, said = mend(data)
    assert code == 2
    assert f"{data / BASE} (" in said
    assert "is damaged: [offset" in said


@pytest.mark.parametrize("file", [BASE, INCR, MANIFEST])
def test_a_missing_file_is_refused(data: Path, file: str) -> None:
    (data / file).unlink()
    code, said = mend(data)
    assert (code, f"{data / file} is missing" in said) == (2, True)


def test_a_manifest_of_zeros_is_refused(data: Path) -> None:
    (data / MANIFEST).write_bytes(bytes(88))
    code, said = mend(data)
    assert (code, f"{data / MANIFEST} is not readable" in said) == (2, True)


def test_damage_before_the_last_file_is_no_tail(data: Path) -> None:
    shutil.copy(data / INCR, data / INCR.replace(".1.", ".2."))
    with (data / MANIFEST).open("a") as manifest:
        manifest.write("file appendonly.aof.2.incr.aof seq 2 type i\n")
    assert mend(data) == (0, "")
    (data / INCR).write_bytes(_torn((data / INCR).read_bytes()))
    code, said = mend(data)
    assert (code, f"{data / INCR} (" in said) == (2, True)


def test_the_message_names_the_newest_backup(data: Path, tmp_path: Path) -> None:
    latest = tmp_path / "latest"
    latest.write_text("dev.tar, made 2026-11-24 03:00:00Z\npython -m ops restore dev.tar --stack dev\n")
    _flip(data / BASE, 40)
    _, said = mend(data, AOF_BACKUP=str(latest))
    assert "The newest backup: dev.tar, made 2026-11-24 03:00:00Z" in said
    assert "python -m ops restore dev.tar --stack dev" in said
    assert (data / "refused").read_text() == said


def test_refusing_waits_for_a_person_then_starts_empty_and_keeps_the_files(data: Path) -> None:
    _flip(data / BASE, 40)
    code = f"aof_mend {data}/appendonlydir || aof_refuse {data}/appendonlydir"
    process = subprocess.Popen(
        ["sh", "-c", f"set -eu\n. {SCRIPT}\n{code}"],
        env={"PATH": "/usr/bin:/bin", "AOF_REPEAT": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    assert process.poll() is None
    assert "is damaged" in (data / "refused").read_text()
    (data / "set-aside").touch()
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said.count("is damaged") >= 2, "again and again"
    (aside,) = data.glob("appendonlydir.damaged-*")
    assert (aside / Path(BASE).name).exists()
    assert not (data / "set-aside").exists()
    assert not (data / "refused").exists()
    assert keys(data) == 0


def test_a_refusing_container_stops_at_once(data: Path) -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"set -u\n. {SCRIPT}\ntrap stopping=1 TERM\naof_refuse {data}/appendonlydir"],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=3) == 143


def test_a_tail_that_cannot_be_kept_is_cut_all_the_same(data: Path) -> None:
    (data / INCR).write_bytes(_torn((data / INCR).read_bytes()))
    done = sh(f"date() {{ echo no/such/folder; }}; aof_mend {data}/appendonlydir")
    assert done.returncode == 0
    assert "(not kept: no space)" in done.stdout
    assert list(data.glob("*.dropped-*")) == []
    assert keys(data) == KEYS


def test_dash_finds_no_fault() -> None:
    assert subprocess.run(["dash", "-n", SCRIPT]).returncode == 0
