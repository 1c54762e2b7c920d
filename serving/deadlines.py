"""How long requests may take: one timer for all of them.

`asyncio.timeout` sets and clears one for each, which is a tenth of the work of a small request. All have the same time,
so the one that began first is the first to have had it.
"""

import asyncio
from collections import deque
from types import TracebackType


class Deadlines:
    """Bounds blocks of the tasks of one event loop, as `asyncio.timeout` does, each to the same `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: deque[Within] = deque()
        self._watched = False

    def within(self) -> "Within":
        """`with deadlines.within():` raises `TimeoutError` if the block takes longer."""
        return Within(self)

    def begin(self, block: "Within") -> None:
        """Called by a block as it is entered."""
        loop = asyncio.get_running_loop()
        block.until = loop.time() + self._seconds
        self._open.append(block)
        if not self._watched:
            self._watched = True
            loop.call_at(block.until, self._look, loop)

    def end(self) -> None:
        """Called by a block as it is left."""
        while self._open and self._open[0].ended:
            self._open.popleft()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._open and (self._open[0].ended or self._open[0].until <= loop.time()):
            self._open.popleft().expire()
        self._watched = bool(self._open)
        if self._open:
            loop.call_at(self._open[0].until, self._look, loop)


class Within:
    """A block of a task, from entering to leaving it."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_task", "ended", "until")

    _task: asyncio.Task[object]
    _cancelling: int

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._expired = False
        self.ended = False
        self.until = 0.0

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # whatever waits in an event loop is one
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended = True
        self._deadlines.end()
        # Whoever else has cancelled the task meanwhile is not told that the time was up.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Its time is up: whatever it waits for is given up, if it has not ended."""
        if not self.ended:
            self._expired = True
            self._task.cancel()
