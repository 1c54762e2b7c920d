"""The server's processes: one that ends by itself is replaced, and one that is told to end does, whatever it is at."""

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving import server
from serving.server import Listening, Processes


def processes(build: Any, workers: int = 2, drain_seconds: float = 30.0) -> Processes:
    return Processes(Listening("127.0.0.1", 0, workers, 5.0, drain_seconds, 10, 5.0), build)


def never_built() -> Any:
    time.sleep(60)


def test_a_process_that_is_told_to_end_as_it_begins_ends() -> None:
    """Until it has a handler of its own it would pass the signal on to itself alone, and serve until it is killed."""
    for _ in range(5):
        several = processes(never_built)
        several.start()
        began = list(several._workers)
        several.end()
        assert [worker.process.exitcode for worker in began] == [-signal.SIGTERM] * 2
        os.set_blocking(several._woken, False)
        with pytest.raises(BlockingIOError):
            os.read(several._woken, 1)


def ends(folder: Path) -> Any:
    (folder / str(os.getpid())).touch()
    os._exit(3)


def test_a_process_that_ends_by_itself_is_replaced_but_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "AGAIN_SECONDS", 0.1)
    several = processes(partial(ends, tmp_path), 1)
    several.start()
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 3:
        several.look(0.05)
        assert time.monotonic() < deadline
    several.stop()
    several.look(10)
    several.end()
    assert "a process ended by itself (3); another takes its place" in caplog.text
    assert several.stopped


class Hanging:
    """An application of which a thread still waits, as for Kafka that is away."""

    ready = True

    async def start(self) -> None:
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)

    async def drain(self) -> None: ...

    async def close(self) -> None: ...


def test_a_thread_that_waits_does_not_hold_the_end_up() -> None:
    """A process that takes longer than it has to answer what it has begun is killed."""
    several = processes(Hanging, 1, 0.5)
    several.start()
    (worker,) = several._workers
    assert worker.is_ready(30)
    several.end()
    assert worker.process.exitcode == 0
