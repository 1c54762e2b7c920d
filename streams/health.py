"""The worker seen from outside: `GET /health` answers its state as JSON, 503 while it waits or a table is paused."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

State = Callable[[], dict[str, object]]


class Health:
    """An HTTP server on a thread of its own; `address` is where it listens."""

    def __init__(self, host: str, port: int, state: State) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(state))
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_port}/health"
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _handler(state: State) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                self.send_error(404)
                return
            now = state()
            body = json.dumps(now).encode()
            self.send_response(503 if now["waiting_for"] or now["paused"] else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no events."""

    return Handler
