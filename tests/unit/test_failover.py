"""Three pods without Kubernetes, but real scripts, Redis and Sentinels: who becomes master; nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import redis
from pods import Pod, eventually, settled, trio


def test_a_killed_master_is_replaced_and_comes_back_as_a_replica_without_its_data(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        client = master.client()
        for number in range(100):
            client.set(f"ctmd:sess:{number}", "x")
        assert client.wait(2, 5000) == 2
        os.kill(master.server(), signal.SIGKILL)
        eventually(lambda: (now := settled(pods)) and now is not master)
        now = settled(pods)
        assert now is not None
        assert len(now.client().keys("ctmd:sess:*")) == 100
        eventually(lambda: len(master.client().keys("ctmd:sess:*")) == 100)


def test_kills_in_a_row_are_survived(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        for number in range(4):
            master = eventually(lambda: settled(pods))
            master.client().set(f"ctmd:sess:{number}", "x")
            assert master.client().wait(1, 5000) >= 1
            os.kill(master.server(), signal.SIGKILL)
            eventually(lambda before=master: (now := settled(pods)) and now is not before)
        master = eventually(lambda: settled(pods))
        assert len(master.client().keys("ctmd:sess:*")) == 4


def test_after_everything_died_the_one_with_the_most_data_leads(tmp_path: Path) -> None:
    with trio(tmp_path) as pods:
        master = settled(pods)
        assert master is not None
        ahead = next(pod for pod in pods if pod is not master)
        (behind,) = (pod for pod in pods if pod not in (master, ahead))
        behind.kill()
        before = beat(master)
        eventually(lambda: beat(master) > before + 2000)  # what the dead one cannot know
        master.client().set("ctmd:sess:late", "x")
        assert master.client().wait(1, 5000) == 1
        master.client().execute_command("CONFIG", "SET", "appendfsync", "always")
        ahead.client().execute_command("CONFIG", "SET", "appendfsync", "always")
        eventually(lambda: beat(ahead) > before + 4000)
        for pod in (master, ahead):
            pod.kill()
        for pod in pods:
            for container in ("redis", "sentinel"):
                pod.start(container)
        now = eventually(lambda: settled(pods))
        assert now is not behind
        assert now.client().exists("ctmd:sess:late") == 1


def beat(pod: Pod) -> int:
    return int(pod.client().get("session-store:beat") or 0)


def test_a_handover_loses_no_write(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        acknowledged: list[int] = []
        done = threading.Event()

        def write() -> None:
            client = master.client()
            number = 0
            while not done.is_set():
                number += 1
                try:
                    client.set(f"ctmd:sess:{number}", "x")
                except redis.RedisError:
                    return  # deposed: the connection is cut, or it is a replica now
                acknowledged.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        eventually(lambda: len(acknowledged) > 200)
        ran = master.run("handover.sh")
        assert ran.returncode == 0, ran.stderr
        writer.join(20)
        done.set()
        now = eventually(lambda: (found := settled(pods)) and found is not master and found)
        kept = {int(key.rsplit(b":", 1)[1]) for key in now.client().keys("ctmd:sess:*")}
        assert set(acknowledged) <= kept
        assert now.name == min(pod.name for pod in pods if pod is not master), "an upgrade ends with the lowest pod"


def test_sentinels_that_disagree_are_brought_together(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        master.client().set("ctmd:sess:x", "1")
        master.client().wait(2, 5000)
        # Each Sentinel is told something else, and every Redis is a replica of nobody.
        for pod in pods:
            sentinel = sentinel_of(pod)
            sentinel.execute_command("SENTINEL", "REMOVE", "redis")
            sentinel.execute_command("SENTINEL", "MONITOR", "redis", pod.host, pod.place.port, 2)
            sentinel.execute_command(
                "SENTINEL", "SET", "redis", "auth-user", "sentinel", "auth-pass", "internal-password"
            )
        for pod in pods:
            pod.client().execute_command("REPLICAOF", "127.0.0.1", "1")
        now = eventually(lambda: settled(pods), 90)
        assert now.client().get("ctmd:sess:x") == b"1"


def test_two_masters_of_the_same_epoch_become_one(tmp_path: Path) -> None:
    """No Sentinel takes another's word for an epoch that it has a master for already."""
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        rival = next(pod for pod in pods if pod is not master)
        master.client().set("ctmd:sess:x", "1")
        assert master.client().wait(2, 5000) == 2
        for pod in pods:
            os.kill(pod.processes["sentinel"].pid, signal.SIGSTOP)  # the agent
        asked = [sentinel_of(pod) for pod in pods]
        for pod, sentinel in zip(pods, asked, strict=True):
            teller, named = (master, rival) if pod is rival else (rival, master)
            run_id = sentinel_of(teller).execute_command("SENTINEL", "MYID").decode()
            hello = (teller.host, teller.place.sentinel_port, run_id, 99, "redis", named.host, named.place.port, 99)
            sentinel.execute_command("PUBLISH", "__sentinel__:hello", ",".join(map(str, hello)))
        rival.client().execute_command("REPLICAOF", "NO", "ONE")
        for pod in pods:
            os.kill(pod.processes["sentinel"].pid, signal.SIGCONT)

        def masters() -> set[bytes]:
            return {sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis")[0] for sentinel in asked}

        assert len(masters()) == 2
        now = eventually(lambda: (found := settled(pods)) and len(masters()) == 1 and found)
        assert now is master
        assert now.client().get("ctmd:sess:x") == b"1"


def test_an_agent_is_not_elected_by_the_votes_for_its_sentinel(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        pod = pods[0]
        view, mine = [], sentinel_of(pod).execute_command("SENTINEL", "MYID")
        for index, sentinel in enumerate(map(sentinel_of, pods)):
            ask = ("SENTINEL", "IS-MASTER-DOWN-BY-ADDR", pod.host, pod.place.port, 50, mine)
            assert sentinel.execute_command(*ask)[1:] == [mine, 50]
            view.append(f"sentinel {index} {pod.host} 49")
        script = '. "$CONF/topology.sh"; . "$CONF/lib.sh"; win_vote "$1"'
        (Path(pod.place.conf) / "vote.sh").write_text(script)
        ran = pod.run("vote.sh", "\n".join(view))
        assert (ran.returncode, "in epoch 50" in ran.stderr) == (1, True)


def sentinel_of(pod: Pod) -> redis.Redis:
    return redis.Redis(pod.host, pod.place.sentinel_port, password="internal-password", protocol=2)


def test_a_master_without_replicas_takes_no_writes(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        for pod in pods:
            if pod is not master:
                pod.kill()

        def refused() -> bool:
            try:
                master.client().set("ctmd:sess:lost", "x")
            except redis.ResponseError as error:
                return "NOREPLICAS" in str(error)
            return False

        eventually(refused)


def test_a_sentinel_can_promote_but_turn_nobody_into_a_replica(tmp_path: Path) -> None:
    with trio(tmp_path, redis={"appendonly": False}) as pods:
        master = settled(pods)
        assert master is not None
        sentinel = master.client("internal-password", username="sentinel")
        with pytest.raises(redis.exceptions.NoPermissionError):
            sentinel.execute_command("SLAVEOF", pods[0].host, pods[0].place.port)
        assert sentinel.execute_command("SLAVEOF", "NO", "ONE")


def test_each_pod_knows_the_others_from_their_connections_and_not_from_a_name_server_alone(tmp_path: Path) -> None:
    """Here a Sentinel connects from 127.0.0.1, whatever address it listens on: that is how its pod must be known."""
    with trio(tmp_path) as pods:
        for pod in pods:
            hosts = Path(pod.place.hosts)
            others = {f"127.0.0.1 {other.host}" for other in pods if other is not pod}
            eventually(lambda hosts=hosts, others=others: others <= set(hosts.read_text().splitlines()))
