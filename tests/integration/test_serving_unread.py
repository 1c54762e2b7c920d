"""Answers that slow clients do not take: what a server holds of them is bounded, and given free once they are read."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from tests.integration.serving_repo import NOW, Server, make_repo, millrace, until
from tests.redis_server import RedisServer

TEXT = "\x01" * 5_000_000
"""Five million bytes in the store, and six times as many in JSON."""
LARGE = {"features": ["weather:sky"], "entities": {"origin": ["BIG"] * 3}}
"""An answer of 90 MB: two of them are held, and no third one."""
SMALL = {"features": ["weather:wind"], "entities": {"origin": ["EWR"]}}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repo with a text of such a length."""
    folder = tmp_path_factory.mktemp("unread")
    redis = RedisServer().start()
    store: FeatureStore = make_repo(folder, redis.port)
    row = {"origin": ["BIG"], "temp": [0.5], "wind": [1], "sky": [TEXT], "event_timestamp": [NOW]}
    store.write_to_online_store("weather", pd.DataFrame(row))
    yield folder
    redis.stop()


def asking(server: Server) -> socket.socket:
    """A client that has asked, and reads nothing yet."""
    client = socket.create_connection(("127.0.0.1", server.port), 30)
    ask(client)
    return client


def ask(client: socket.socket) -> None:
    body = json.dumps(LARGE).encode()
    head = f"POST /get-online-features HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def answer(client: socket.socket) -> Any:
    """All of it, of a connection that stays open."""
    with client.makefile("rb") as stream:
        status = stream.readline()
        headers = dict(line.split(b": ") for line in iter(stream.readline, b"\r\n"))
        assert status.startswith(b"HTTP/1.1 200"), status
        return json.loads(stream.read(int(headers[b"content-length"])))


def test_large_answers_are_held_up_to_a_bound_and_let_go_once_they_are_read(large: Path) -> None:
    with millrace(large, request_seconds=60) as server:

        def refused() -> bool:
            status, told = server.features(**LARGE)
            return status == 503 and "answers that their clients have not taken yet" in told["detail"]

        with asking(server) as first, asking(server) as second:
            until(refused)
            assert server.features(**SMALL)[0] == 200
            assert answer(first)["results"][1]["values"] == [TEXT] * 3
            ask(first)
            assert answer(first)["results"][1]["statuses"] == ["PRESENT"] * 3  # its connection is as good as before
            ask(first)
            until(refused)
            second.close()  # who is gone holds nothing either
            until(lambda: not refused())
