"""The watch over the connectors, against a Kafka Connect of the test's own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@pytest.fixture(params=["org.postgresql: slot is active for PID 7", "java.lang.NullPointerException"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    server = Peer(request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


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
