"""How many requests are worked on at once, and how many may wait: what comes beyond is turned away at once."""

import asyncio
from collections import deque


class Overloaded(Exception):
    """There is no room for another request now."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the server has as many {what} as it can take; try again in a second")


class Gate:
    """A bounded number of places, and a bounded queue before them, first come, first served: whoever needs many places
    is not overtaken. `what` takes them, for people."""

    def __init__(self, places: int, queue: int, what: str = "requests") -> None:
        self._places = places
        self._queue = queue
        self._what = what
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self.active = 0

    def look(self, places: int = 1) -> None:
        """Raises `Overloaded` if there are neither so many places nor room to wait for them, before any work is put
        into it."""
        if len(self._waiting) >= self._queue and (self._waiting or self.active + places > self._places):
            raise Overloaded(self._what)

    async def enter(self, places: int = 1) -> None:
        """Take so many places, or wait for them. Raises `Overloaded`."""
        if self.active + places <= self._places and not self._waiting:
            self.active += places
            return
        self.look(places)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, places))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(places)
            elif (turn, places) in self._waiting:  # who gave up waiting keeps nobody from it
                self._waiting.remove((turn, places))
                self._admit()
            raise

    def leave(self, places: int = 1) -> None:
        """Give the places to those who have waited longest."""
        self.active -= places
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            turn, places = self._waiting[0]
            if not turn.done():
                if self.active + places > self._places:
                    return
                self.active += places
                turn.set_result(None)
            self._waiting.popleft()
