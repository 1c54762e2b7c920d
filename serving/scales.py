"""What requests weigh: the places of a server count them, and one may be worth thousands."""

from serving.gate import Gate


class Scales:
    """Lets large requests in that together weigh no more than `most`, first come, first served; `waiting` of them may
    wait. `requests` of one size that together weigh less are not weighed at all: they pass whatever large ones wait.
    `what` is weighed, for people."""

    def __init__(self, what: str, most: int, requests: int, waiting: int) -> None:
        self._most = most
        self._light = most // requests
        self._gate = Gate(most, waiting, what)

    def weight(self, size: int) -> int:
        """What a request of that size has to `enter` with; 0 if it need not. What is heavier than all may be goes in
        alone."""
        return min(size, self._most) if size > self._light else 0

    def look(self, weight: int) -> None:
        """Raises `Overloaded` if there is no room for it, nor to wait, before any work is put into it."""
        self._gate.look(weight)

    async def enter(self, weight: int) -> None:
        """Wait for so much room. Raises `Overloaded`."""
        await self._gate.enter(weight)

    def leave(self, weight: int) -> None:
        """Give it to those who have waited longest."""
        self._gate.leave(weight)
