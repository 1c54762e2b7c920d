"""The watch over the connectors, against a Kafka Connect of the test's own."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from connectors.connect import Connect
from connectors.watch import Watch


class Peer(ThreadingHTTPServer):
    """Speaks as much of Connect's REST interface as the watch asks for."""

    def __init__(self, trace: str) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.trace = trace
        self.restarted = threading.Event()
        self.asked = threading.Event()


class Answers(BaseHTTPRequestHandler):
    server: Peer

    def do_GET(self) -> None:
        failed = not self.server.restarted.is_set()
        task = {"id": 0, "worker_id": "w", "state": "FAILED" if failed else "RUNNING", "trace": self.server.trace}
        self._answer(200, {"name": "c", "connector": {"state": "RUNNING", "worker_id": "w"}, "tasks": [task]})
        self.server.asked.set()

    def do_POST(self) -> None:
        self.server.restarted.set()
        self._answer(202, {})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Told(ThreadingHTTPServer):
    """A Connect that tells of a connector what the test says; None where there is none."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        super().__init__(("127.0.0.1", 0), Tells)
        self.state = state
        self.asked = threading.Event()


class Tells(Answers):
    server: Told  # type: ignore[assignment]  # another peer than that of the base

    def do_GET(self) -> None:
        state = self.server.state
        self._answer(200 if state else 404, {"name": "c", **state} if state else {"message": "Connector c not found"})
        self.server.asked.set()


@pytest.fixture(params=["org.postgresql: slot is active for PID 7", "java.lang.NullPointerException"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    server = Peer(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


STATES: dict[str, dict[str, Any] | None] = {
    "runs": {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "worker_id": "w", "state": "RUNNING"}]},
    "failed": {
        "connector": {"state": "RUNNING"},
        "tasks": [{"id": 0, "worker_id": "w", "state": "FAILED", "trace": "java.lang.NullPointerException"}],
    },
    "begins": {"connector": {"state": "RUNNING"}, "tasks": [{"id": 0, "worker_id": "w", "state": "UNASSIGNED"}]},
    "no tasks yet": {"connector": {"state": "RUNNING"}, "tasks": []},
    "stopped": {"connector": {"state": "STOPPED"}, "tasks": []},
    "paused": {"connector": {"state": "PAUSED"}, "tasks": [{"id": 0, "worker_id": "w", "state": "PAUSED"}]},
    "deleted": None,
}
BACK = "connector c runs again"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (["failed", "runs"], ["connector c: java.lang.NullPointerException", BACK]),
        (["failed", "stopped", "stopped", "runs"], ["connector c: java.lang", "connector c: it is STOPPED", BACK]),
        (["failed", "paused", "runs"], ["connector c: java.lang", "connector c: it is PAUSED", BACK]),
        (["runs", "deleted", "deleted", "runs"], ["connector c: it does not exist", BACK]),
        (["failed", "begins", "no tasks yet", "runs"], ["connector c: java.lang", BACK]),
        (["runs", "begins", "no tasks yet", "runs"], []),
    ],
)
def test_a_connector_is_back_only_if_it_runs(
    seen: list[str], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    peer = Told(STATES[seen[0]])
    threading.Thread(target=peer.serve_forever, daemon=True).start()
    with caplog.at_level(logging.INFO, "connectors.watch"):
        watch = Watch(Connect(f"http://127.0.0.1:{peer.server_port}", patience=0), ["c"], seconds=0.001)
        try:
            for name in seen:
                peer.state = STATES[name]
                for _ in range(6):  # requests, of which a look makes two
                    peer.asked.clear()
                    assert peer.asked.wait(10)
            told = [record.getMessage() for record in caplog.records]
        finally:
            watch.close()
            peer.shutdown()
            peer.server_close()
    assert len(told) == len(said), told
    assert all(message.startswith(words) for message, words in zip(told, said, strict=True)), told


def test_a_task_is_restarted_if_its_failure_passes_by_itself(peer: Peer) -> None:
    watch = Watch(Connect(f"http://127.0.0.1:{peer.server_port}", patience=1.0), ["c"], seconds=0.01)
    try:
        if "active for PID" in peer.trace:
            assert peer.restarted.wait(10)
        else:
            assert peer.asked.wait(10)
            assert not peer.restarted.wait(0.2)
    finally:
        watch.close()
