"""Processes that outlive their starter: real ones, small ones."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from millrace.stack import daemon
from millrace.stack.daemon import Daemon, Launch
from millrace.stack.errors import StackError

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs as daemons; what is left of them afterwards is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(program: str, **launch: Any) -> Daemon:
        command = [sys.executable, "-c", program]
        started, process = daemon.start(Launch(command=command, folder=tmp_path, log=tmp_path / "log", **launch))
        processes.append(process)
        return started

    yield begin
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def test_a_daemon_has_its_own_session_and_logs_both_outputs(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    started = start("import os, sys, time; print('out'); print('err', file=sys.stderr); time.sleep(60)",
                    environment={"PYTHONUNBUFFERED": "1"})  # fmt: skip
    wait_for("err", log)
    assert os.getsid(started.pid) == started.pid != os.getsid(0)
    assert log.read_text() == "before\nout\nerr\n"
    assert daemon.is_alive(started)


def test_another_process_with_the_same_pid_is_not_mistaken(start: Start) -> None:
    started = start("import time; time.sleep(60)")
    recycled = dataclasses.replace(started, birth=started.birth + "0")
    assert not daemon.is_alive(recycled)
    assert daemon.stop(recycled, signal.SIGKILL, 1.0)
    assert daemon.is_alive(started)


def test_a_dead_child_that_nobody_collected_is_dead(start: Start) -> None:
    started = start("")
    while psutil.Process(started.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert daemon.birth(started.pid) is None
    assert not daemon.is_alive(started)
    assert not daemon.listens(started, 1)


def test_no_process_has_no_birth() -> None:
    assert daemon.birth(2**22 - 1) is None


def test_the_birth_stays_the_same() -> None:
    assert daemon.birth(os.getpid()) == daemon.birth(os.getpid()) is not None


def test_stop_waits_for_an_orderly_end(start: Start, tmp_path: Path) -> None:
    started = start(
        "import signal, sys, time\n"
        "def end(*_): print('bye', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    wait_for("ready", tmp_path / "log")
    assert daemon.stop(started, signal.SIGTERM, 10.0)
    assert "bye" in (tmp_path / "log").read_text()
    assert not daemon.is_alive(started)


def test_stop_kills_a_deaf_process_and_its_children(start: Start, tmp_path: Path) -> None:
    started = start(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for own in (False, True):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=own)\n"
        "    print(child.pid, flush=True)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    wait_for("ready", tmp_path / "log")
    children = [int(line) for line in (tmp_path / "log").read_text().split()[:2]]
    assert not daemon.stop(started, signal.SIGTERM, 0.1)
    assert [daemon.birth(pid) for pid in [started.pid, *children]] == [None, None, None]


def test_stopping_twice_is_no_error(start: Start) -> None:
    started = start("import time; time.sleep(60)")
    daemon.stop(started, signal.SIGKILL, 5.0)
    assert daemon.stop(started, signal.SIGTERM, 5.0)


def test_a_process_is_told_from_others_by_the_ports_it_listens_on(start: Start, tmp_path: Path) -> None:
    started = start(
        "import socket, time\n"
        "s = socket.create_server(('127.0.0.1', 0)); print('port', s.getsockname()[1], 'ready', flush=True)\n"
        "time.sleep(60)"
    )
    wait_for("ready", tmp_path / "log")
    port = int((tmp_path / "log").read_text().split()[1])
    assert daemon.listens(started, port)
    assert not daemon.listens(dataclasses.replace(started, pid=os.getpid()), port)


def test_memory_is_that_of_the_whole_family(start: Start) -> None:
    started = start("import time; time.sleep(60)")
    assert (daemon.resident_bytes(started) or 0) > 0
    daemon.stop(started, signal.SIGKILL, 5.0)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no-such-program cannot be started"):
        daemon.start(Launch(command=["no-such-program"], folder=tmp_path, log=tmp_path / "log"))
