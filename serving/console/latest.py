"""Answers that may take seconds: asked for once at a time, kept for moments, waited for no longer than a page may."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

log = logging.getLogger("millrace")

T = TypeVar("T")

KEPT_SECONDS = 2.0
WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """The newest answer: None with a `trouble` if there is none yet; `age` is in seconds."""

    value: T | None
    age: float
    trouble: str


class Latest(Generic[T]):
    """The newest answer of a slow question. However many ask, the question is put once at a time, on a thread. May be
    used by one event loop. `expected` are the errors that become a `trouble`."""

    def __init__(self, ask: Callable[[], T], expected: type[Exception]) -> None:
        self._ask = ask
        self._expected = expected
        self._task: asyncio.Task[T] | None = None
        self._value: T | None = None
        self._trouble = "it has not answered yet: load this page again in a moment"
        self._at = float("-inf")

    async def known(self) -> Known[T]:
        """What is known after waiting a little for something newer."""
        if self._task is None and time.monotonic() - self._at >= KEPT_SECONDS:
            self._task = asyncio.create_task(asyncio.to_thread(self._ask))
            self._task.add_done_callback(self._done)
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=WAIT_SECONDS)
        return Known(self._value, time.monotonic() - self._at, self._trouble)

    def forget(self) -> None:
        """What is known is out of date."""
        self._at = float("-inf")

    def _done(self, task: "asyncio.Task[T]") -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._value, self._trouble, self._at = task.result(), "", time.monotonic()
        elif isinstance(error, self._expected):
            self._trouble, self._at = str(error), time.monotonic()
        else:
            self._trouble, self._at = "it failed; the server's log says why", time.monotonic()
            log.error("the platform could not be asked", exc_info=error, extra={"event": "console_failed"})
