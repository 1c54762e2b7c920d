"""An embedding server in OpenAI's form, of a test's own."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from millrace.settings import ProviderSettings
from streams.embedders import HttpEmbedder

DEFAULTS = ProviderSettings()
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class HangsUp(Exception):
    """Raised by an answer: the connection is closed instead."""


def vector_of(text: str, length: int = 3) -> list[float]:
    return [float(len(text) + i) for i in range(length)]


def in_order(request: dict[str, Any]) -> tuple[int, Any]:
    """What an OpenAI-compatible server answers; the last vector first, as the order is free."""
    data = [
        {"object": "embedding", "index": i, "embedding": vector_of(text)} for i, text in enumerate(request["input"])
    ]
    return 200, {"object": "list", "model": request["model"], "data": data[::-1]}


def http_embedder(
    url: str, model: str, length: int, *, batch: int = DEFAULTS.batch, timeout: float = DEFAULTS.timeout, **more: Any
) -> HttpEmbedder:
    return HttpEmbedder(url, model, length, batch=batch, timeout=timeout, **more)


@dataclass
class Server:
    """A local server with `/v1/embeddings`; `answer` decides, `says` are headers of its own, `requests` and `headers`
    tell what came."""

    answer: Answer = in_order
    says: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def embedding_server() -> Iterator[Server]:
    """A running one, on a free port."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            state.paths.append(self.path)
            try:
                status, body = state.answer(request)
            except HangsUp:
                return
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            for name, value in state.says.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # whoever asked may have given up
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
