"""Waiting until something holds. It fails at a deadline, and names what it waited for; nobody looks at what it took."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE = 180.0


def waited(
    what: Callable[[], Result | None], why: str, seconds: float = PATIENCE, told: Callable[[], object] = str
) -> Result:
    """The first truthy result of `what`; fails at the deadline with `why`, and with what is `told` then."""
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, f"{why} did not happen within {seconds:g} s {told()}"
        time.sleep(0.05)
    return result


async def came(what: Callable[[], Result | None], why: str, seconds: float = PATIENCE) -> Result:
    """As `waited`, and the loop goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, f"{why} did not happen within {seconds:g} s"
        await asyncio.sleep(0.001)
    return result
