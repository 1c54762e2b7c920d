"""`millrace serve` over a Redis Cluster that stock Feast writes: every slot, slots that move, nodes that are away, and
a replica that takes its primary's place."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from feast import FeatureStore
from redis.crc import key_slot

from millrace.stack.ports import choose_ports
from tests.integration.asking import asking, told
from tests.integration.serving_repo import Server, make_repo, millrace, until
from tests.redis_server import RedisServer

NAMES = [f"A{number}" for number in range(60)]
SLOTS = 16_384
ASKED = {"features": ["airports:name", "weather:temp"], "entities": {"origin": NAMES}}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three primaries that share the slots."""
    with ExitStack() as running:
        started = [clustered(tmp_path_factory.mktemp(f"node{number}")) for number in range(3)]
        for node in started:
            running.callback(node.stop)
        for number, node in enumerate(started):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3
            ask(node, "CLUSTER", "ADDSLOTS", *range(first, last))
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            meet(node, started[0])
        until(lambda: all(len(ask(node, "CLUSTER", "SLOTS")) == 3 for node in started))
        until(lambda: all("cluster_state:ok" in ask(node, "CLUSTER", "INFO") for node in started))
        yield started


def clustered(folder: Path) -> RedisServer:
    """A node of a cluster that knows no other yet."""
    ports = choose_ports(("node", "bus"), {})  # the bus would be 10,000 above, among the ports of outgoing connections
    options = ("--cluster-enabled", "yes", "--dir", str(folder), "--cluster-node-timeout", "2000")
    bus = ("--cluster-port", str(ports["bus"]), "--cluster-require-full-coverage", "no")
    return RedisServer((*options, *bus), ports["node"]).start()


def meet(node: RedisServer, other: RedisServer) -> None:
    """Have a node know another one, and so all that this one knows."""
    _, bus = ask(other, "CONFIG", "GET", "cluster-port")
    ask(node, "CLUSTER", "MEET", "127.0.0.1", other.port, bus)


@pytest.fixture(scope="module")
def repo(nodes: list[RedisServer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clustered")
    kind = "redis\n  redis_type: redis_cluster"
    store = make_repo(folder, nodes[0].port, kind)
    write(store, "first")
    return folder


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Server]:
    with millrace(repo) as running:
        yield running


def write(store: FeatureStore, word: str) -> None:
    moments = [datetime.now(UTC)] * len(NAMES)
    rows = {"origin": NAMES, "name": [f"{word} {name}" for name in NAMES], "event_timestamp": moments}
    store.write_to_online_store("airports", pd.DataFrame(rows))


def ask(node: RedisServer, *command: Any) -> Any:
    with redis.Redis(port=node.port, decode_responses=True) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)


def names(server: Server, asked: dict[str, Any] = ASKED) -> Any:
    status, answer = server.features(**asked)
    assert status == 200, answer
    return answer["results"][1]["values"]


def test_entities_of_all_nodes_in_one_request(server: Server) -> None:
    assert names(server) == [f"first {name}" for name in NAMES]
    assert server.ask("/ready")[0] == 200


def test_slots_that_move_are_followed(server: Server, nodes: list[RedisServer]) -> None:
    """Asked all the time while a node's slots with keys move to another, key by key: no request fails."""
    keys = [key for key in redis.Redis(port=nodes[0].port).scan_iter() if b"served" in key]
    assert keys
    asked = 0
    ids = [ask(node, "CLUSTER", "MYID") for node in nodes]
    for slot in sorted(set(map(key_slot, keys)))[:8]:
        ask(nodes[1], "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        ask(nodes[0], "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        assert names(server) == [f"first {name}" for name in NAMES]
        with redis.Redis(port=nodes[0].port) as client:
            for key in client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                client.execute_command("MIGRATE", "127.0.0.1", nodes[1].port, key, 0, 5000)
        assert names(server) == [f"first {name}" for name in NAMES]  # the slot's old node says ASK
        for node in (nodes[1], nodes[0], nodes[2]):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert names(server) == [f"first {name}" for name in NAMES]  # and now MOVED
        asked += 3
    assert asked >= 3


def test_a_node_that_is_away_fails_its_own_keys_only(server: Server, nodes: list[RedisServer], repo: Path) -> None:
    def status(name: str) -> int:
        return server.features(features=["airports:name"], entities={"origin": [name]})[0]

    nodes[2].stop()
    until(lambda: server.ask("/ready")[0] == 503)
    statuses = {name: status(name) for name in NAMES}
    assert set(statuses.values()) == {200, 503}
    nodes[2].start()
    until(lambda: server.ask("/ready")[0] == 200)
    until(lambda: all(status(name) == 200 for name in NAMES))
    write(FeatureStore(repo_path=str(repo)), "again")
    assert names(server) == [f"again {name}" for name in NAMES]


def test_what_needs_a_single_redis_says_so(repo: Path, server: Server, nodes: list[RedisServer]) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        places = ["--repo", str(repo), "--stack", str(repo / "no-stack")]
        return subprocess.run(
            [*server.command[:3], *arguments, *places], capture_output=True, text=True, timeout=60, check=False
        )

    refused = run("keys", "list")
    assert refused.returncode != 0
    assert "of which millrace serve reads" in refused.stderr and "serve.keys" in refused.stderr
    apart = RedisServer().start()
    try:
        (repo / "millrace.yaml").write_text(
            (repo / "millrace.yaml").read_text().replace("serve: {", f'serve: {{keys: "{apart.connection_string}", ')
        )
        assert run("keys", "add", "model").returncode == 0
        with millrace(repo, "--with-keys") as guarded:
            assert guarded.features(**ASKED)[0] == 401
    finally:
        apart.stop()


def test_a_replica_takes_the_place_of_its_primary(
    server: Server, nodes: list[RedisServer], repo: Path, tmp_path: Path
) -> None:
    """Asked all the time for keys of all nodes: 503 while nobody holds the lost slots, and then the replica's answers,
    with nothing started again."""
    write(FeatureStore(repo_path=str(repo)), "kept")
    replica = clustered(tmp_path)
    try:
        meet(replica, nodes[0])
        primary = ask(nodes[1], "CLUSTER", "MYID")
        until(lambda: primary in ask(replica, "CLUSTER", "NODES"))
        ask(replica, "CLUSTER", "REPLICATE", primary)
        until(lambda: "master_link_status:up" in ask(replica, "INFO", "replication"))
        until(lambda: "slave" in line_of(nodes[0], ask(replica, "CLUSTER", "MYID")))
        assert names(server) == [f"kept {name}" for name in NAMES]
        with asking(server, 4, ASKED) as answers:
            lost = time.monotonic()
            nodes[1].stop()
            until(lambda: "master" in line_of(nodes[0], ask(replica, "CLUSTER", "MYID")))
            promoted = time.monotonic()
            until(lambda: server.features(**ASKED)[0] == 200)
            answered = time.monotonic()
            time.sleep(1)
        report = f"{told(answers)}; a new primary after {promoted - lost:.1f} s, its keys after {answered - lost:.1f} s"
        print(report)
        assert {answer.status for answer in answers} == {200, 503}, report
        assert {answer.status for answer in answers if answer.at - answer.seconds > answered} == {200}, report
        assert names(server) == [f"kept {name}" for name in NAMES], report
        assert server.ask("/ready")[0] == 200
    finally:
        replica.stop()


def line_of(node: RedisServer, of: str) -> str:
    """What a node says of one that it knows."""
    return str(next((line for line in ask(node, "CLUSTER", "NODES").splitlines() if line.startswith(of)), ""))
