"""A key's limit over the processes of one server, by HTTP."""

import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.integration.asking import asking, told
from tests.integration.serving_repo import Server, millrace, new_key

RATE, ENTITIES, PROCESSES, SECONDS = 200, 10, 2, 4.0
ASKED = {"features": ["weather:temp"], "entities": {"origin": ["EWR"] * ENTITIES}}


def connected(server: Server) -> list[int]:
    """Connections that each process of the server has accepted."""
    assert server.process is not None
    counts = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        found = process.net_connections("tcp")
        counts.append(sum(c.status == "ESTABLISHED" and c.laddr[1] == server.port for c in found))
    return [count for count in counts if count]


def test_entities_a_second_hold_over_the_processes_of_a_server(repo: Path) -> None:
    """In T seconds N processes admit at most rate x (T + N), as docs/serving-access.md says; and the last request of
    each connection, which may stand in two of its seconds."""
    key = new_key(repo, "limited", "--entities-per-second", str(RATE))
    with millrace(repo, "--with-keys", "--workers", str(PROCESSES)) as server:
        began, clients = time.monotonic(), []
        with ExitStack() as running:
            while len(processes := connected(server)) < PROCESSES:
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
