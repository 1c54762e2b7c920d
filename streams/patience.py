"""The second reaction to an error: what is unavailable is waited for, aloud, and nothing is dropped."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stores.errors import NotSetUp, RegistryUnreadable, StoreUnavailable
from streams.broker import BrokerUnavailable
from streams.embedders import EmbedderUnavailable

log = logging.getLogger(__name__)

UNAVAILABLE = (StoreUnavailable, NotSetUp, BrokerUnavailable, EmbedderUnavailable, RegistryUnreadable)
"""What comes back, or is made: a view without its table is one that `millrace apply` is still working on, at the end
of which workers start anew; and Feast empties a registry before it fills it."""

FIRST_SECONDS, LONGEST_SECONDS = 0.05, 2.0

Result = TypeVar("Result")


class Abandoned(Exception):
    """The wait was called off: stop without committing, so that the records are read again."""


class Patience:
    """Repeats a step until what it needs is back.

    `idle(seconds)` is called between two tries: it sleeps, and does what must go on meanwhile. It may raise
    `Abandoned`. `waiting_for` says what is missing, None while nothing is.
    """

    def __init__(self, idle: Callable[[float], None]) -> None:
        self._idle = idle
        self._tried_once = False
        self.waiting_for: str | None = None

    @contextmanager
    def lost(self) -> Iterator[None]:
        """Within it a step is tried once, and what it raises is raised: where nothing can be waited for."""
        self._tried_once = True
        try:
            yield
        finally:
            self._tried_once = False

    def __call__(self, step: Callable[[], Result]) -> Result:
        pause, since = FIRST_SECONDS, time.monotonic()
        while True:
            try:
                result = step()
            except UNAVAILABLE as error:
                if self._tried_once:
                    raise
                if self.waiting_for is None:
                    log.warning("waiting: %s", error, extra={"event": "waiting"})
                self.waiting_for = str(error)
                self._idle(pause)
                pause = min(2 * pause, LONGEST_SECONDS)
            else:
                if self.waiting_for is not None:
                    seconds = round(time.monotonic() - since, 1)
                    log.info("going on after %s s of waiting", seconds, extra={"event": "going_on", "seconds": seconds})
                self.waiting_for = None
                return result
