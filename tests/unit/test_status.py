"""What `millrace status` and `resume` take for a worker of this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millrace.status import running_workers
from streams.health import Health
from tests.worker_platform import Platform

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ANSWERS = {
    "html": HEAD + b"Content-Type: text/html\r\n\r\n<html>It works</html>",
    "not_found": b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n<html>Not here</html>",
    "cut_off": HEAD + b"Content-Length: 1000\r\n\r\n{",
    "cut_off_503": b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{",
    "no_text": HEAD + b"\r\n\xff\xfe\xff",
    "another_health": HEAD + b'\r\n{"status": "ok"}',
    "a_list": HEAD + b"\r\n[]",
    "no_http": b"-ERR unknown command\r\n",
    "closes_at_once": b"",
}


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Another program on the port of a worker that was killed; the worker's address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                if answer:
                    client.recv(65_536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        thread.join()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[str]:
    """The address of a worker."""
    (tmp_path / "platform").mkdir()
    health = Health("127.0.0.1", 0, Platform(tmp_path / "platform").start().state, lambda accept: (b"", ""))
    yield f"{health.address}/health"
    health.close()


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_took_a_killed_workers_port_is_no_worker(tmp_path: Path, worker: str, answer: str) -> None:
    notes = tmp_path / "workers"
    notes.mkdir()
    (notes / "2").write_text(worker)
    with server(ANSWERS[answer]) as address:
        (notes / "1").write_text(address)
        assert list(running_workers(notes)) == ["2"]


def test_a_note_that_is_being_written_names_no_worker(tmp_path: Path, worker: str) -> None:
    notes = tmp_path / "workers"
    notes.mkdir()
    (notes / "1").write_text("")
    (notes / "2").write_text(worker)
    assert list(running_workers(notes)) == ["2"]
