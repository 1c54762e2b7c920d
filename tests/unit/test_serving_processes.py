"""The server's processes: one that ends by itself is replaced, and one that is told to end does, whatever it is at."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving import server
from serving.server import Listening, Processes


def processes(build: Any, workers: int = 2) -> Processes:
    return Processes(Listening("127.0.0.1", 0, workers, 5.0, 30.0, 10, 5.0), build)


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
    looks = 0
    while len(list(tmp_path.iterdir())) < 3:
        several.look(0.05)
        looks += 1
        assert looks < 500
    several.stop()
    several.look(10)
    several.end()
    assert "a process ended by itself (3); another takes its place" in caplog.text
    assert several.stopped
