"""What the signals that ask a process to end (Ctrl-C, SIGTERM, a closed terminal) do while the stack works."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_raises() -> Iterator[None]:
    """Turn them into exceptions, so that `finally` runs: KeyboardInterrupt, or SystemExit with 128 + signal."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    with _handled(end):
        yield


@contextmanager
def ending_sets(event: threading.Event) -> Iterator[None]:
    """Let them set the event and do nothing else."""

    def end(_number: int, _frame: FrameType | None) -> None:
        event.set()

    with _handled(end):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Python lets only the main thread set handlers; in another thread the signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in ENDING}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
