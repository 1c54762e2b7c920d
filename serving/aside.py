"""Work that waits for a slow store, by threads of its own, and never in all the places of the requests without any."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from serving.gate import Gate

Given = TypeVarTuple("Given")
Made = TypeVar("Made")


class Aside:
    """Runs work in at most `threads` threads. `most` requests at once work or wait here, first come, first served: what
    comes beyond is turned away, whatever room the server has else. `name` is the work's, for people."""

    def __init__(self, name: str, threads: int, most: int) -> None:
        at_once = min(threads, most)
        self._threads = ThreadPoolExecutor(at_once, name)
        self._gate = Gate(at_once, most - at_once, f"requests for {name}")

    def look(self) -> None:
        """Raises `Overloaded` if there is no room for more, before any work is put into it."""
        self._gate.look()

    async def run(self, work: Callable[[*Given], Made], *given: *Given) -> Made:
        """What the work makes of what it is given. Raises `Overloaded`, and what the work raises."""
        await self._gate.enter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        finally:
            self._gate.leave()
