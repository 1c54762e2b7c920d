"""The seam to time: what the worker asks of a clock, so that a simulation can run on one of its own."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Time as a process sees it, in seconds; it only goes forward, and its zero means nothing."""

    def monotonic(self) -> float:
        """Now."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until the event is set, at most so long; whether it is set."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)
