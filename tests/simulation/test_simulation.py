"""The worker, simulated: many seeds, mutants that the seeds must catch, and prefixes read twice."""

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
import pytest

from stores.asof import Join, asof
from stores.lake import AppendResult, TopicPartition
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import TIMESTAMP
from stores.view import View
from streams.decide import changes_table, features_table
from streams.letters import read
from streams.memory import MemoryBroker, MemoryTopics
from streams.worker import Worker
from tests.simulation import plain
from tests.simulation.__main__ import judge, told
from tests.simulation.check import problems
from tests.simulation.database import CUSTOMERS, IDS
from tests.simulation.faults import Weather
from tests.simulation.run import Plan, Simulation
from tests.simulation.shop import LETTERS, NOTE_LAST, NOTE_TEXT, NOTES, PARTITIONS, flows

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


PREFIXES = {
    "deletes and key changes": PLAIN,
    "truncates": replace(PLAIN, truncates=True),
    "rejects": replace(PLAIN, bad_share=0.2),
    "all of it": replace(PLAIN, truncates=True, bad_share=0.2),
}


@pytest.mark.parametrize("kind", PREFIXES)
@pytest.mark.parametrize("seed", range(5))
def test_any_prefix_read_twice_gives_the_same_stores(seed: int, kind: str) -> None:
    """Over the stores that have it, and anew into empty ones, in a storm. Letters are written at least once: which
    ones there are is the same, not how often."""
    once = Simulation(seed, replace(PREFIXES[kind], commits=6 * seed + 6), replace(CALM))
    once.run()
    held, rejected, told = contents(once), letters(once), as_of(once, once)  # before: `again` goes on with its stores
    again = replace_stores(once, read_again(once.broker), seed + 1_000)
    anew = Simulation(seed + 2_000, rest(), replace(STORM), broker=read_again(once.broker))
    for other in (again, anew):
        other.run()
        assert contents(other) == held
        assert letters(other) == rejected
        assert as_of(other, once) == told


@pytest.mark.parametrize("seed", range(5))
def test_a_prefix_with_replayed_letters_read_again_changes_nothing(seed: int) -> None:
    """The contract has let them in since; the records that were rejected by the former one stay out. Into empty stores
    they would be read by the new contract, so these are not compared."""
    plan = replace(PLAIN, commits=6 * seed + 6, truncates=True, bad_share=0.3, upgrade=True)
    once = Simulation(seed, plan, replace(CALM))
    once.run()
    held, rejected, told = contents(once), letters(once), as_of(once, once)
    again = replace_stores(once, read_again(once.broker), seed + 1_000)
    again.flows = flows(upgraded=True)
    again.run()
    assert contents(again) == held
    assert letters(again).keys() <= rejected.keys()
    assert as_of(again, once) == told


@pytest.mark.parametrize("seed", range(5))
def test_a_prefix_read_again_by_another_contract_changes_nothing(seed: int) -> None:
    """What the contract rejected stays a letter until it is replayed. (A view that is new comes with its rows.)"""
    plan = replace(PLAIN, commits=6 * seed + 6, truncates=True, bad_share=0.3)
    once = Simulation(seed, plan, replace(CALM))
    once.run()
    held, rejected = contents(once), letters(once)
    again = replace_stores(once, read_again(once.broker), seed + 1_000)
    again.flows = {topic: replace(flow, views=once.flows[topic].views) for topic, flow in flows(upgraded=True).items()}
    again.run()
    assert contents(again) == held
    assert letters(again).keys() <= rejected.keys()


def rest() -> Plan:
    """A plan without commits of its own, whose chaos lasts while the log is read."""
    return replace(PLAIN, commits=0, overture=5.0)


def read_again(broker: MemoryBroker) -> MemoryBroker:
    """The same log, of which the group has read nothing, without letters."""
    log = defaultdict(list, {place: list(stored) for place, stored in broker.log.items() if place.topic != LETTERS})
    return MemoryBroker(partitions=dict(PARTITIONS), log=log)


def replace_stores(before: Simulation, broker: MemoryBroker, seed: int) -> Simulation:
    """A simulation that goes on with the stores of another."""
    return Simulation(
        seed, rest(), replace(STORM), broker, lake=before.lake, online=before.online, vectors=before.vectors
    )


def contents(simulation: Simulation) -> dict[str, Any]:
    """Everything that the stores hold, in an order of its own. Of what a truncate deleted no more than that it is not
    there: a row that was read before the truncate gets its delete if it stands then, one that is read later gets it
    even if another has followed, and two workers may write the same. `as_of` compares what readers see of it."""
    held: dict[str, Any] = {}
    truncates = truncated(simulation)
    for name in simulation.lake.tables():
        rows = simulation.lake.scan(name).read_all().to_pylist()
        told = [row for row in rows if not (row.get("_deleted") and row["_lsn"] in truncates)]
        held[name] = sorted(tuple(map(repr, row.values())) for row in told)
    for view in (view.view for flow in flows(upgraded=True).values() for view in flow.views):
        held[f"newest {view.name}"] = sorted(map(repr, plain.newest(simulation.lake, view).to_pylist()))
    for store in (simulation.online, simulation.vectors):
        for place, entries in store._entries.items():
            held[f"online {place}"] = {key: entry.features for key, entry in entries.items() if entry.features}
    return held


def truncated(simulation: Simulation) -> set[int]:
    """The LSNs of the truncates in the lake."""
    rows = [simulation.lake.scan(changes_table(topic), ["_op", "_lsn"]).read_all() for topic in flows(upgraded=True)]
    return {row["_lsn"] for table in rows for row in table.to_pylist() if row["_op"] == "t"}


def letters(simulation: Simulation) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Which records were rejected, and why."""
    found = read(MemoryTopics(simulation.broker), LETTERS)
    return {(letter.origin, letter.offset): (letter.stage, letter.reasons) for letter in found}


def as_of(simulation: Simulation, times_of: Simulation) -> dict[str, list[Any]]:
    """What the point-in-time joins say of the truncated table, for each entity just before and at each change of the
    other simulation."""
    changes = [change.commit_us for change in times_of.database.changes if change.table is NOTES]
    moments = sorted({moment for change in changes for moment in (change - 1, change)})
    found: dict[str, list[Any]] = {}
    for view, entities in ((NOTE_TEXT.view, [*range(1, IDS + 1)]), (NOTE_LAST.view, [*CUSTOMERS])):
        spine = [(entity, moment) for entity in entities for moment in moments]
        times = pa.chunked_array([pa.array([moment for _, moment in spine], TIMESTAMP)])
        keys = pa.table({"entity": [entity for entity, _ in spine] or pa.nulls(0, view.join_keys[0].arrow_type)})
        join = Join(features_table(view.name), {view.join_keys[0].name: "entity"}, ("title",))
        for known in (False, True):
            table = asof(simulation.lake, keys, times, join, known=known)
            found[f"{view.name} {known=}"] = table["title"].to_pylist()
    return found
