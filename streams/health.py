"""The worker seen from outside: `GET /health` answers its state as JSON, 503 while it waits or a table is paused;
`GET /metrics` its metrics for Prometheus."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from streams.finite import finite

State = Callable[[], dict[str, object]]
Exposition = Callable[[str], tuple[bytes, str]]
"""The metrics for an Accept header, and their content type."""


class CannotListen(Exception):
    """The address of the health endpoint cannot be had."""


class Health:
    """An HTTP server on a thread of its own; `address` is where it listens, followed by the path. Raises
    `CannotListen`."""

    def __init__(self, host: str, port: int, state: State, exposition: Exposition) -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(state, exposition))
        except OSError as error:
            raise CannotListen(
                f"the worker's health cannot listen on {host}:{port}: {error.strerror}. Each worker of a machine needs "
                "a worker.health_port of its own, or 0 for a free one; worker.health_host is an address of the machine"
            ) from error
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _handler(state: State, exposition: Exposition) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health":
                now = state()
                body = json.dumps(finite(now), allow_nan=False).encode()
                self._answer(503 if now["waiting_for"] or now["paused"] else 200, body)
            elif self.path == "/metrics":
                body, content_type = exposition(self.headers.get("Accept", ""))
                self._answer(200, body, content_type)
            else:
                self.send_error(404, explain="There are /health and /metrics")

        def _answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no events."""

    return Handler
