"""Blocks that may take so long and no longer, on one timer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving.deadlines import Deadlines

SHORT, LONG = 0.02, 60.0

Started = list[asyncio.Handle]


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Every timer that is set for a look at the deadlines."""
    found: Started = []
    call_at = asyncio.SelectorEventLoop.call_at

    def noted(
        self: asyncio.SelectorEventLoop, when: float, callback: Callable[..., object], *rest: Any, **options: Any
    ) -> object:
        handle = call_at(self, when, callback, *rest, **options)
        if getattr(callback, "__name__", "") == "_look":
            found.append(handle)
        return handle

    monkeypatch.setattr(asyncio.SelectorEventLoop, "call_at", noted)
    return found


async def block(deadlines: Deadlines, work: Callable[[], Awaitable[object]]) -> str:
    try:
        with deadlines.within():
            await work()
    except TimeoutError:
        return "timed out"
    return "ended"


async def forever() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    await asyncio.sleep(0)


def test_a_block_that_takes_too_long_times_out_and_its_task_goes_on() -> None:
    async def run() -> list[str]:
        deadlines = Deadlines(SHORT)
        found = [await block(deadlines, forever), await block(deadlines, at_once), await block(deadlines, forever)]
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()
        return found

    assert asyncio.run(run()) == ["timed out", "ended", "timed out"]


def test_each_has_its_own_time_whatever_began_before_and_ended_meanwhile() -> None:
    async def run() -> list[str]:
        deadlines = Deadlines(SHORT)
        first = asyncio.create_task(block(deadlines, forever))
        others = [asyncio.create_task(block(deadlines, at_once)) for _ in range(100)]
        await asyncio.sleep(SHORT / 2)
        last = asyncio.create_task(block(deadlines, forever))
        await asyncio.wait([first])
        assert not last.done()
        return [await first, await last, *{await one for one in others}]

    assert asyncio.run(run()) == ["timed out", "timed out", "ended"]


def test_who_is_cancelled_by_another_is_not_told_of_a_time() -> None:
    async def run() -> None:
        task = asyncio.create_task(block(Deadlines(LONG), forever))
        await at_once()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_who_is_cancelled_by_another_as_its_time_ends_is_cancelled() -> None:
    async def run() -> None:
        deadlines = Deadlines(SHORT)
        task = asyncio.create_task(block(deadlines, forever))
        await at_once()
        deadlines._open[0].expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_what_fails_fails_as_it_did() -> None:
    async def fail() -> None:
        raise ValueError("whatever")

    async def run() -> None:
        with pytest.raises(ValueError, match="whatever"):
            await block(Deadlines(LONG), fail)

    asyncio.run(run())


def test_many_blocks_set_one_timer_and_none_is_kept(timers: Started) -> None:
    async def run() -> None:
        deadlines = Deadlines(LONG)
        for _ in range(50):
            await asyncio.gather(*(block(deadlines, at_once) for _ in range(20)))
        assert len(timers) == 1 and not deadlines._open

    asyncio.run(run())


def test_a_timer_is_set_again_for_what_comes_after_a_pause(timers: Started) -> None:
    async def run() -> str:
        deadlines = Deadlines(SHORT)
        await block(deadlines, at_once)
        await asyncio.sleep(2 * SHORT)
        assert len(timers) == 1
        return await block(deadlines, forever)

    assert asyncio.run(run()) == "timed out"
    assert len(timers) == 2
