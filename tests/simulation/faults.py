"""What can go wrong at a call: it is slow, it fails before or after it took effect, or its process dies there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NoReturn, TypeVar

from stores.errors import StoreUnavailable
from streams.broker import BrokerUnavailable
from streams.embedders import EmbedderUnavailable
from tests.simulation.scheduler import Actor, Killed, Scheduler

Result = TypeVar("Result")

UNAVAILABLE: dict[str, Callable[[str], Exception]] = {
    "online": lambda what: StoreUnavailable("the online store", what),
    "vectors": lambda what: StoreUnavailable("the vector store", what),
    "lake": lambda what: StoreUnavailable("the lake", what),
    "broker": BrokerUnavailable,
    "model": EmbedderUnavailable,
}


@dataclass(slots=True)
class Weather:
    """How likely each fault is at a call, and which stores are away until when."""

    before: float
    after: float
    slow: float
    kill: float
    away: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, random: Random) -> "Weather":
        """Anything from a calm day to a storm."""
        storm = random.choice((0.0, 0.005, 0.02, 0.1))
        return cls(storm, storm / 2, random.choice((0.0, 0.02, 0.1)), random.choice((0.0, 0.0, 0.002, 0.01)))

    def clear(self) -> None:
        """Nothing fails any more."""
        self.before = self.after = self.slow = self.kill = 0.0
        self.away.clear()


@dataclass(slots=True)
class Process:
    """What dies together: the actors of one worker or job."""

    scheduler: Scheduler
    weather: Weather
    name: str
    actors: list[Actor] = field(default_factory=list)
    dead: bool = False
    mortal: Callable[[], bool] = lambda: True

    def kill(self) -> None:
        """As kill -9: from now on nothing that it does has an effect."""
        self.scheduler.say(f"kill {self.name}")
        self.dead = True
        for actor in self.actors:
            actor.kill()

    def call(self, store: str, what: str, effect: Callable[[], Result]) -> Result:
        """Do something with a store or the broker, as the weather allows."""
        scheduler, weather = self.scheduler, self.weather
        self.step(store, f"{what}")
        if scheduler.random.random() < weather.before or weather.away.get(store, 0.0) > scheduler.now:
            self.fail(store, f"{what} failed")
        result = effect()
        self.step(store, f"{what} done")
        if scheduler.random.random() < weather.after:
            self.fail(store, f"{what} failed after it took effect")
        return result

    def step(self, store: str, what: str) -> None:
        """A point at which others may run, time may pass, and the process may die."""
        scheduler, weather = self.scheduler, self.weather
        if scheduler.random.random() < weather.kill and self.mortal():
            self.kill()
        slow = scheduler.random.random() < weather.slow
        scheduler.sleep(scheduler.random.random() * 0.5 if slow else 0.0)
        if self.dead:
            raise Killed
        scheduler.say(f"{store}: {what}")

    def fail(self, store: str, what: str) -> NoReturn:
        """Raise what says that a store or the broker is away."""
        self.scheduler.say(f"{store}: {what}")
        raise UNAVAILABLE[store](what)
