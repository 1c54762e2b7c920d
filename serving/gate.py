"""How many requests are worked on at once, and how many may wait: what comes beyond is turned away at once."""

import asyncio
from collections import deque


class Overloaded(Exception):
    """There is no room for another request now."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the server has as many {what} as it can take; try again in a second")


class Gate:
    """A bounded number of places, and a bounded queue before them, first come, first served. `what` takes them, for
    people."""

    def __init__(self, places: int, queue: int, what: str = "requests") -> None:
        self._places = places
        self._queue = queue
        self._what = what
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.active = 0

    def look(self) -> None:
        """Raises `Overloaded` if there is neither a place nor room to wait for one, before any work is put into it."""
        if self.active >= self._places and len(self._waiting) >= self._queue:
            raise Overloaded(self._what)

    async def enter(self) -> None:
        """Take a place, or wait for one. Raises `Overloaded`."""
        if self.active < self._places:
            self.active += 1
            return
        self.look()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            elif turn in self._waiting:  # who gave up waiting keeps nobody from it
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give the place to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1
