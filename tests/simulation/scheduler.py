"""One seeded scheduler for everything that runs: strictly one actor at a time, on a clock that is not real.

An actor is a thread that runs only while it holds the baton. It hands the baton on at every call into a store
or the broker (`pause`, `sleep`, `wait`); who gets it next, and how long things take, the seed decides. So a run
is a function of its seed alone.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

STEP_SECONDS = 0.002
"""Longest virtual time between two steps while anything can run."""


class Killed(BaseException):
    """What a kill -9 looks like from inside: nothing after it has an effect."""


class Restless(Exception):
    """The run did not come to rest: something waits for what never comes."""


class Actor:
    """One thread of one process."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.body = body
        self.baton = threading.Lock()
        self.baton.acquire()
        self.wake = 0.0
        self.until: Callable[[], bool] | None = None
        self.killed = False
        self.done = False
        self.weight = 1.0

    def kill(self) -> None:
        """From now on it only unwinds."""
        self.killed = True
        self.wake = 0.0

    def ready(self, now: float) -> bool:
        return self.wake <= now or self.killed or (self.until is not None and self.until())


class Scheduler:
    """Owns the clock, the random numbers and the baton."""

    def __init__(self, random: Random, steps: int) -> None:
        self.random = random
        self.now = 0.0
        self.trace: list[str] = []
        self.failure: BaseException | None = None
        self._steps = steps
        self._actors: list[Actor] = []
        self._current: Actor | None = None
        self._over = threading.Lock()
        self._over.acquire()

    @property
    def current(self) -> Actor:
        assert self._current is not None
        return self._current

    def spawn(self, name: str, body: Callable[[], None]) -> Actor:
        """A new actor; it gets its turn from now on."""
        actor = Actor(name, body)
        actor.wake = self.now
        actor.weight = self.random.choice((0.3, 1.0, 1.0, 3.0))
        self._actors.append(actor)
        threading.Thread(target=self._live, args=(actor,), daemon=True).start()
        return actor

    def run(self) -> None:
        """Run until every actor is done. Raises what any of them raised."""
        self._hand_on(None)
        self._over.acquire()
        if self.failure is not None:
            raise self.failure

    def say(self, what: str) -> None:
        """A line of the trace."""
        name = self._current.name if self._current else "-"
        self.trace.append(f"{self.now:9.4f} {name:<14} {what}")

    def pause(self) -> None:
        """Let others run, if the seed says so."""
        self.sleep(0.0)

    def sleep(self, seconds: float) -> None:
        """Run again after so many seconds at the earliest."""
        self.wait(None, seconds)

    def wait(self, condition: Callable[[], bool] | None, seconds: float) -> bool:
        """Run again once the condition holds, or the time is over; whether it holds."""
        me = self.current
        if me.killed:
            raise Killed
        me.wake, me.until = self.now + seconds, condition
        self._hand_on(me)
        me.until = None
        if me.killed:
            raise Killed
        return condition is not None and condition()

    def _live(self, actor: Actor) -> None:
        actor.baton.acquire()
        try:
            if not actor.killed:
                actor.body()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # handed to the thread that runs the simulation
            self._fail(error)
        actor.done = True
        self._hand_on(None)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        for actor in self._actors:
            actor.kill()

    def _hand_on(self, me: Actor | None) -> None:
        """Give the baton to the next actor; with `me`, return when it is back."""
        following = self._next()
        if following is None:
            self._over.release()
            return
        self._current = following
        if following is not me:
            following.baton.release()
            if me is not None:
                me.baton.acquire()

    def _next(self) -> Actor | None:
        self._actors = [actor for actor in self._actors if not actor.done]
        if not self._actors:
            return None
        self._steps -= 1
        if self._steps < 0 and self.failure is None:
            self._fail(Restless(f"not at rest after {self.now:.1f} s: {', '.join(a.name for a in self._actors)}"))
        self.now += self.random.random() * STEP_SECONDS
        if self.random.random() < 0.02:
            for actor in self._actors:
                actor.weight = self.random.choice((0.3, 1.0, 1.0, 3.0))
        ready = [actor for actor in self._actors if actor.ready(self.now)]
        if not ready:
            self.now = min(actor.wake for actor in self._actors)
            if self.now == float("inf"):
                self._fail(Restless(f"all wait: {', '.join(a.name for a in self._actors)}"))
            ready = [actor for actor in self._actors if actor.ready(self.now)]
        if len(ready) == 1:
            return ready[0]
        return self.random.choices(ready, [actor.weight for actor in ready])[0]


class VirtualClock:
    """`streams.clock.Clock` of one process: it has its own zero, and runs at its own rate."""

    def __init__(self, scheduler: Scheduler, offset: float, rate: float) -> None:
        self._scheduler = scheduler
        self._offset, self._rate = offset, rate

    def monotonic(self) -> float:
        return self._offset + self._rate * self._scheduler.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return self._scheduler.wait(event.is_set, seconds / self._rate) or event.is_set()


class VirtualExecutor(Executor):
    """An executor whose thread is an actor; `started` is told of each, so that a kill takes it along."""

    def __init__(self, scheduler: Scheduler, name: str, started: Callable[[Actor], None]) -> None:
        self._scheduler = scheduler
        self._name = name
        self._started = started
        self._futures: list[VirtualFuture] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "VirtualFuture":
        future = VirtualFuture(self._scheduler)

        def body() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Killed:
                raise
            except BaseException as error:  # noqa: BLE001  # as a thread pool does: it is whoever asks who fails
                future.set_exception(error)

        self._futures.append(future)
        self._started(self._scheduler.spawn(f"{self._name}/flush", body))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future in self._futures if wait else ():
            self._scheduler.wait(future.done, float("inf"))


class VirtualFuture(Future[Any]):
    """A future that is waited for in virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def result(self, timeout: float | None = None) -> Any:
        self._scheduler.wait(self.done, float("inf") if timeout is None else timeout)
        if not self.done():
            raise TimeoutError
        return super().result(0)
