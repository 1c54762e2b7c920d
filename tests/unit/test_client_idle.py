"""The client's connections between requests: given up before the server closes them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from millrace.client import AsyncClient, Client, connection
from millrace.settings import ServeYaml

ANSWER = b'{"results": [], "metadata": {"feature_names": []}}'
FEATURES, ENTITIES = ["weather:temp"], {"faa": ["JFK"]}


@dataclass
class Kept:
    """A server that keeps connections, and how many were opened to it."""

    url: str = ""
    opened: int = 0


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            kept.opened += 1
            super().setup()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    yield kept
    server.shutdown()
    server.server_close()


def ask_twice(url: str) -> None:
    with Client(url, timeout=30) as client:
        for _ in range(2):
            client.get_online_features(FEATURES, entities=ENTITIES)


def ask_twice_async(url: str) -> None:
    async def run() -> None:
        async with AsyncClient(url, timeout=30) as client:
            for _ in range(2):
                await client.get_online_features(FEATURES, entities=ENTITIES)

    asyncio.run(run())


@pytest.mark.parametrize("ask", [ask_twice, ask_twice_async])
@pytest.mark.parametrize(("seconds", "opened"), [(connection.IDLE_SECONDS, 1), (0.0, 2)])
def test_an_idle_connection_is_kept_for_so_long(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], None], seconds: float, opened: int
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", seconds)
    ask(kept.url)
    assert kept.opened == opened


def test_it_is_given_up_before_the_server_closes_it() -> None:
    """A second sooner: a request that is sent as the server closes is lost."""
    assert ServeYaml().header_seconds >= connection.IDLE_SECONDS + 1
