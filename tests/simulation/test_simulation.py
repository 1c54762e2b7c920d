"""The worker, simulated: many seeds, mutants that the seeds must catch, and prefixes read twice."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from stores.lake import AppendResult, TopicPartition
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.view import View
from streams.memory import MemoryBroker
from streams.worker import Worker
from tests.simulation.__main__ import judge, told
from tests.simulation.check import problems
from tests.simulation.faults import Weather
from tests.simulation.run import Plan, Simulation
from tests.simulation.shop import PARTITIONS

SEEDS = 300
CALM = Weather(before=0.0, after=0.0, slow=0.0, kill=0.0)
STORM = Weather(before=0.05, after=0.05, slow=0.05, kill=0.01)
PLAIN = Plan(
    commits=20,
    workers=2,
    bad_share=0.0,
    truncates=False,
    rebalances=True,
    zombies=False,
    upgrade=False,
    jobs=False,
    outages=False,
)


def test_whatever_happens_the_stores_end_with_what_the_database_says() -> None:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        failed = [verdict for verdict in pool.map(judge, range(SEEDS), chunksize=10) if verdict.wrong]
    assert not failed, "\n".join(told(verdict, 80) for verdict in failed)


def test_a_seed_is_a_run() -> None:
    assert [judge(seed).digest for seed in (3, 4)] == [judge(seed).digest for seed in (3, 4)]


class Overwriting(MemoryOnline):
    """The compare-and-set turned off: what comes last stays."""

    def _apply(self, view: View, key: Any, row: Any) -> bool:
        self._of(view).pop(key, None)
        return super()._apply(view, key, row)


class Appending(MemoryLake):
    """The application transaction turned off: every append adds its rows."""

    def append(self, name: str, rows: pa.Table, offsets: Mapping[TopicPartition, int]) -> AppendResult:
        return super().append(name, rows, {})


class Hasty(Worker):
    """The order of commits turned round: offsets first, then the lake."""

    def _start_flush(self) -> None:
        self._commit(dict(self._batch.offsets))
        super()._start_flush()


MUTANTS: dict[str, Any] = {
    "compare-and-set": lambda seed: Simulation(seed, online=Overwriting()),
    "application transaction": lambda seed: Simulation(seed, lake=Appending()),
    "commit order": lambda seed: Simulation(seed, worker=Hasty),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_worker_without_it_is_caught(mutant: str) -> None:
    assert any(_wrong(MUTANTS[mutant](seed)) for seed in range(40)), f"40 seeds do not miss the {mutant}"


def _wrong(simulation: Simulation) -> bool:
    simulation.run()
    return bool(problems(simulation))


@pytest.mark.parametrize("seed", range(10))
def test_any_prefix_read_twice_gives_the_same_stores(seed: int) -> None:
    commits = Random(seed).randint(1, 30)
    once = Simulation(seed, plan=replace(PLAIN, commits=commits), weather=replace(CALM))
    once.run()
    again = replace_stores(once, read_again(once.broker), seed + 1_000)
    again.run()
    assert contents(again) == contents(once)
    anew = Simulation(seed + 2_000, rest(), replace(STORM), broker=read_again(once.broker))
    anew.run()
    assert contents(anew) == contents(once)


def rest() -> Plan:
    """A plan without commits of its own, whose chaos lasts while the log is read."""
    return replace(PLAIN, commits=0, overture=5.0)


def read_again(broker: MemoryBroker) -> MemoryBroker:
    """The same log, of which the group has read nothing."""
    return MemoryBroker(partitions=dict(PARTITIONS), log=broker.log)


def replace_stores(before: Simulation, broker: MemoryBroker, seed: int) -> Simulation:
    """A simulation that goes on with the stores of another."""
    stores = {"lake": before.lake, "online": before.online, "vectors": before.vectors}
    return Simulation(seed, rest(), replace(STORM), broker=broker, **stores)


def contents(simulation: Simulation) -> dict[str, Any]:
    """Everything that the stores hold, in an order of its own."""
    held: dict[str, Any] = {}
    for name in simulation.lake.tables():
        rows = simulation.lake.scan(name).read_all().to_pylist()
        held[name] = sorted(tuple(map(repr, row.values())) for row in rows)
    for store in (simulation.online, simulation.vectors):
        for view, entries in store._entries.items():
            held[f"online {view}"] = {key: entry.features for key, entry in entries.items() if entry.features}
    return held
