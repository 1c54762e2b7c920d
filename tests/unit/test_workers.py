"""What counts as a worker of this machine."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from millrace.commands.stream import _state
from millrace.stack.daemon import birth
from millrace.workers import STARTING, announced, running_workers, starting_workers
from streams.health import CannotListen, Health
from tests.worker_platform import Platform

ME = str(os.getpid())
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
def server(answer: bytes, when: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Another program on the port of a worker that was killed, which answers `when` that returns; the worker's
    address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client, suppress(threading.BrokenBarrierError):
                when()
                if answer:
                    client.recv(65_536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        thread.join()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[str]:
    """The address of a worker of the project `workers`, in this process."""
    (tmp_path / "platform").mkdir()
    state = partial(_state, "workers", Platform(tmp_path / "platform").start(), None)
    health = Health("127.0.0.1", 0, state, lambda accept: (b"", ""))
    yield f"{health.address}/health"
    health.close()


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_took_a_killed_workers_port_is_no_worker(tmp_path: Path, worker: str, answer: str) -> None:
    notes = tmp_path / "workers"
    notes.mkdir()
    (notes / ME).write_text(worker)
    with server(ANSWERS[answer]) as address:
        (notes / "1").write_text(address)
        assert list(running_workers(notes)) == [ME]


def test_no_worker_answers_for_one_that_was_killed(tmp_path: Path, worker: str) -> None:
    """Where the settings give a port the next one listens there, or one of another project."""
    mine, killed, of_another_project = (tmp_path / note for note in (f"workers/{ME}", "workers/1", f"shop/{ME}"))
    for note in (mine, killed, of_another_project):
        note.parent.mkdir(exist_ok=True)
        note.write_text(worker)
    assert list(running_workers(mine.parent)) == [ME]
    assert running_workers(of_another_project.parent) == {}


def test_workers_are_not_asked_through_a_proxy(tmp_path: Path, worker: str) -> None:
    """Which the environment of a command may name without an exception for the machine itself."""
    notes = tmp_path / "workers"
    notes.mkdir()
    (notes / ME).write_text(worker)
    ask = "import sys; from pathlib import Path; from millrace.workers import running_workers; "
    ask += "print(*running_workers(Path(sys.argv[1])))"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= {"http_proxy": proxy}
    command = [sys.executable, "-c", ask, str(notes)]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert told.stdout.split() == [ME]


def test_workers_are_asked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.workers.SECONDS", 120)  # beyond the patience of those that answer
    notes = tmp_path / "workers"
    notes.mkdir()
    together = threading.Barrier(3, timeout=30)
    with ExitStack() as servers:
        for number in range(3):
            address = servers.enter_context(server(HEAD + b"\r\n[]", together.wait))
            (notes / str(number)).write_text(address)
        assert running_workers(notes) == {}
    assert not together.broken


def test_a_note_that_is_being_written_names_no_worker(tmp_path: Path, worker: str) -> None:
    notes = tmp_path / "workers"
    notes.mkdir()
    (notes / "1").write_text("")
    (notes / ME).write_text(worker)
    assert list(running_workers(notes)) == [ME]


def test_the_port_of_another_worker_is_named_with_its_setting(worker: str) -> None:
    port = int(worker.removesuffix("/health").rsplit(":", 1)[1])
    with pytest.raises(CannotListen, match=rf"127.0.0.1:{port}: Address already in use.*worker\.health_port"):
        Health("127.0.0.1", port, dict, lambda accept: (b"", ""))


def test_a_worker_is_starting_until_it_listens(tmp_path: Path, worker: str) -> None:
    with announced(tmp_path / "workers") as note:
        assert starting_workers(tmp_path / "workers") == [ME] and running_workers(tmp_path / "workers") == {}
        note(worker)
        assert starting_workers(tmp_path / "workers") == [] and list(running_workers(tmp_path / "workers")) == [ME]
        note(STARTING)
        assert starting_workers(tmp_path / "workers") == [ME]
    assert starting_workers(tmp_path / "workers") == [] and running_workers(tmp_path / "workers") == {}


def test_one_that_was_killed_as_it_started_is_no_worker(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (str(gone.pid), "no_process", str(10**20)):
        (tmp_path / name).write_text(f"{STARTING} {birth(os.getpid())}")
    assert starting_workers(tmp_path) == []


def test_another_program_with_the_pid_of_one_that_was_killed_as_it_started_is_no_worker(tmp_path: Path) -> None:
    start = """
import os, signal, sys
from pathlib import Path
from millrace.workers import announced
with announced(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.Popen([sys.executable, "-c", start, str(tmp_path)])
    killed.wait()
    (tmp_path / str(killed.pid)).rename(tmp_path / ME)
    assert starting_workers(tmp_path) == []


def test_a_worker_that_replaces_its_process_is_starting_all_the_time(tmp_path: Path) -> None:
    """As it does after an apply: the note goes with it."""
    anew = "import sys; from pathlib import Path; from millrace.workers import starting_workers; "
    anew += "print(*starting_workers(Path(sys.argv[1])))"
    once = f"""
import os, sys
from pathlib import Path
from millrace.workers import announced
with announced(Path(sys.argv[1])):
    os.execv(sys.executable, [sys.executable, "-c", {anew!r}, sys.argv[1]])
"""
    worker = subprocess.Popen([sys.executable, "-c", once, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert worker.communicate()[0].split() == [str(worker.pid)]
    assert starting_workers(tmp_path) == [], "it has ended without a word"


def test_a_folder_that_cannot_be_written_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with announced(tmp_path / "file" / "workers") as note:
        note(STARTING)
    assert starting_workers(tmp_path / "file" / "workers") == []
