"""A key's limit over the processes of one server, by HTTP and by gRPC."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

from millrace.repo import open_repo
from millrace.stack.ports import choose_ports
from stores.online import RedisAddress
from tests.integration.asking import Answered, asking, told
from tests.integration.serving_repo import Server, millrace, new_key
from tests.tcp_proxy import TcpProxy

RATE, ENTITIES, PROCESSES, SECONDS = 200, 10, 2, 4.0
ASKED = {"features": ["weather:temp"], "entities": {"origin": ["EWR"] * ENTITIES}}


def connected(server: Server, port: int) -> list[int]:
    """Connections to the port that each process of the server has accepted."""
    assert server.process is not None
    counts = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        found = process.net_connections("tcp")
        counts.append(sum(c.status == "ESTABLISHED" and c.laddr[1] == port for c in found))
    return [count for count in counts if count]


def test_entities_a_second_hold_over_the_processes_of_a_server(repo: Path) -> None:
    """In T seconds N processes admit at most rate x (T + N), as docs/serving-access.md says; and the last request of
    each connection, which may stand in two of its seconds."""
    key = new_key(repo, "limited", "--entities-per-second", str(RATE))
    with millrace(repo, "--with-keys", "--workers", str(PROCESSES)) as server:
        began, clients = time.monotonic(), list[list[Answered]]()
        with ExitStack() as running:
            while len(processes := connected(server, server.port)) < PROCESSES:
                assert len(clients) < 10, processes
                clients.append(running.enter_context(asking(server, 8, ASKED, {"authorization": f"Bearer {key}"})))
                time.sleep(0.3)
            time.sleep(SECONDS)
        answers = [answer for own in clients for answer in own]
        took = time.monotonic() - began
    admitted = ENTITIES * sum(answer.status == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status == 429]
    report = f"{told(answers)}; {admitted} entities in {took:.2f} s at {RATE} a second; connections {processes}"
    print(report)
    assert {answer.status for answer in answers} == {200, 429}, report
    assert {answer.body["error"] for answer in refused} == {"too_many"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused), report
    assert admitted <= RATE * (took + PROCESSES) + 8 * len(clients) * ENTITIES, report
    assert admitted >= RATE * took * 0.5, report


def test_a_process_alone_holds_the_limit_while_the_redis_of_the_keys_is_silent(repo: Path) -> None:
    """It neither refuses nor answers: the key keeps its rate, and the server ends as ever."""
    key = new_key(repo, "limited-alone", "--entities-per-second", str(RATE))
    behind = RedisAddress.parse(open_repo(repo, repo / "no-stack").config.online_store.connection_string)
    proxy = TcpProxy(behind.port).start()
    try:
        with millrace(repo, "--with-keys", keys=f"127.0.0.1:{proxy.port}") as server:
            with asking(server, 2, ASKED, {"authorization": f"Bearer {key}"}) as answers:
                time.sleep(1)
                proxy.silent, began = True, time.monotonic()
                time.sleep(SECONDS)
                took = time.monotonic() - began
            admitted = ENTITIES * sum(answer.status == 200 and answer.at > began for answer in answers)
            report = f"{told(answers)}; {admitted} entities in {took:.2f} s of silence at {RATE} a second"
            print(report)
            assert RATE * took * 0.5 <= admitted <= RATE * (took + 1) + 4 * ENTITIES, report
            assert server.stop() == 0
    finally:
        proxy.stop()


def test_entities_a_second_hold_over_the_processes_by_grpc(repo: Path) -> None:
    """The same bound, for channels that end at either process."""
    key, port = new_key(repo, "limited-grpc", "--entities-per-second", str(RATE)), choose_ports(("grpc",), {})["grpc"]
    statuses: Counter[grpc.StatusCode] = Counter()
    over, clients = threading.Event(), 8
    with (
        millrace(repo, "--with-keys", "--workers", str(PROCESSES), "--grpc-port", str(port)) as server,
        ThreadPoolExecutor(2 * clients) as pool,
    ):
        began = time.monotonic()
        try:
            asking = [pool.submit(_ask_by_grpc, port, key, over) for _ in range(clients)]
            while len(processes := connected(server, port)) < PROCESSES:
                assert len(asking) < 2 * clients, processes
                asking.append(pool.submit(_ask_by_grpc, port, key, over))
                time.sleep(0.3)
            time.sleep(SECONDS)
        finally:
            over.set()
        for own in asking:
            statuses += own.result()
        took = time.monotonic() - began
    admitted = ENTITIES * statuses[grpc.StatusCode.OK]
    report = f"{statuses}; {admitted} entities in {took:.2f} s at {RATE} a second; connections {processes}"
    print(report)
    assert set(statuses) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}, report
    assert admitted <= RATE * (took + PROCESSES) + len(asking) * ENTITIES, report
    assert admitted >= RATE * took * 0.5, report


def _ask_by_grpc(port: int, key: str, over: threading.Event) -> Counter[grpc.StatusCode]:
    """One after the other until it is over, through a connection of its own; how often it was answered how."""
    origins = RepeatedValue(val=[Value(string_val="EWR")] * ENTITIES)
    request = GetOnlineFeaturesRequest(entities={"origin": origins})
    request.features.val.append("weather:temp")
    statuses: Counter[grpc.StatusCode] = Counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        ask = ServingServiceStub(channel).GetOnlineFeatures
        while not over.is_set():
            try:
                ask(request, metadata=[("authorization", f"Bearer {key}")], timeout=10)
            except grpc.RpcError as error:
                statuses[error.code()] += 1
            else:
                statuses[grpc.StatusCode.OK] += 1
    return statuses
