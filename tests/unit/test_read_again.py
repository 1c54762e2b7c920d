"""Records that are read or sent again, held against what the lake holds of them: nothing else of the lake is read for
it."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.delta import DeltaLake
from stores.history import change_properties
from stores.lake import Lake, Snapshot
from stores.memory_lake import MemoryLake
from streams.changes import changes_schema
from streams.decide import changes_table
from streams.messages import Records
from streams.pipeline import Flow, Outcome, take
from streams.positions import TopicRecreated
from streams.replays import settle_read_again, settle_replays
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.worker_platform import Platform

Place = tuple[int, int]
"""Partition and offset of a record."""


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    return Platform(tmp_path_factory.mktemp("contract")).flow


def made(lake: Lake) -> Lake:
    lake.create(changes_table(TOPIC), changes_schema(ORDERS), change_properties(TOPIC, ORDERS.primary_key))
    return lake


@pytest.fixture(params=["memory", "delta"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return made(MemoryLake() if request.param == "memory" else DeltaLake(str(tmp_path)))


def taken(flow: Flow, records: Sequence[tuple[Place, str, int]]) -> Outcome:
    """The records of some places, each with its operation and LSN, as a poll brings them."""
    partitions, offsets = [place[0] for place, _, _ in records], [place[1] for place, _, _ in records]
    values = [envelope(op, row(offset), lsn=lsn) for (_, offset), op, lsn in records]
    return take(Records(TOPIC, partitions, offsets, [key(n) for n in offsets], values), flow, 10_000)


def hold(lake: Lake, outcome: Outcome, held: dict[int, int]) -> None:
    rows = outcome.accepted.changes.rows
    lake.append(changes_table(TOPIC), rows, {(TOPIC, number): offset for number, offset in held.items()})


def creates(partition: int, offsets: range) -> list[tuple[Place, str, int]]:
    return [((partition, offset), "c", 8 * offset + partition) for offset in offsets]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each scan gave."""
    read: list[int] = []
    rows = Snapshot.rows

    def counted(self: Snapshot, *given: Any, **named: Any) -> pa.RecordBatchReader:
        found = rows(self, *given, **named).read_all()
        read.append(found.num_rows)
        return found.to_reader()

    monkeypatch.setattr(Snapshot, "rows", counted)
    return read


@pytest.mark.parametrize(
    ("again", "asked"),
    [
        (creates(1, range(9, 10)), 1),
        (creates(0, range(300, 320)), 20),
        (creates(0, range(990, 1_005)), 10),
        (creates(1, range(2, 4)) + creates(0, range(700, 705)), 7),
        (creates(0, range(1_000, 1_100)) + creates(1, range(10, 12)), None),
    ],
)
def test_of_the_lake_no_more_is_read_than_came_again(
    lake: Lake, flow: Flow, read: list[int], again: list[tuple[Place, str, int]], asked: int | None
) -> None:
    held = {0: 1_000, 1: 10}
    hold(lake, taken(flow, creates(0, range(1_000)) + creates(1, range(10))), held)
    outcome = taken(flow, again)
    settled = settle_read_again(lake, held, outcome)
    assert settled.accepted.changes.rows.equals(outcome.accepted.changes.rows)
    assert read == ([] if asked is None else [asked])


def test_of_a_row_no_change_is_read_that_is_older_than_the_one_that_may_have_come_before(
    lake: Lake, flow: Flow, read: list[int]
) -> None:
    def changed(offset: int, numbers: Sequence[int]) -> Outcome:
        values = [envelope("u", row(1, amount=float(number)), lsn=8 * number) for number in numbers]
        count = len(values)
        return take(
            Records(TOPIC, [0] * count, list(range(offset, offset + count)), [key(1)] * count, values), flow, 10_000
        )

    hold(lake, changed(0, range(1, 101)), {0: 100})
    settled = settle_replays(lake, [], changed(100, [98, 101]), np.array([True, False]))
    assert settled.accepted.changes.rows["_lsn"].to_pylist() == [808]
    assert read == [3]


def test_another_record_at_the_same_place_is_refused(lake: Lake, flow: Flow) -> None:
    hold(lake, taken(flow, creates(0, range(5)) + creates(1, range(5))), {0: 5, 1: 5})
    other = [*creates(0, range(3)), ((1, 4), "c", 1_000)]
    with pytest.raises(TopicRecreated, match=r"\[1\] has at offset 4 another record"):
        settle_read_again(lake, {0: 5, 1: 5}, taken(flow, other))
    with pytest.raises(TopicRecreated, match=r"\[0\] has at offset 2 another record"):
        settle_read_again(lake, {0: 5, 1: 5}, taken(flow, [((0, 2), "u", 16)]))


# A record: whether it was accepted at first, and is read again; whether a snapshot read it.
record = st.tuples(st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=60)
@given(
    st.lists(st.lists(record, max_size=6), min_size=1, max_size=3),
    st.lists(st.integers(0, 6), min_size=3, max_size=3),
    st.sampled_from([MemoryLake, None]),
)
def test_each_counts_as_when_it_was_first_read(
    flow: Flow, partitions: list[list[tuple[bool, bool, bool]]], ends: list[int], double: Callable[[], Lake] | None
) -> None:
    """What was rejected then is left out, a snapshot's row counts at the LSN that it had."""
    held = {number: ends[number] for number in range(len(partitions))}
    stood, again, expected = [], [], []
    for number, records in enumerate(partitions):
        for offset, (accepted, comes, snapshot) in enumerate(records):
            place, below = (number, offset), offset < held[number]
            op, lsn = ("r" if snapshot else "c"), 8 * offset + 100 * number
            if below and accepted:
                stood.append((place, op, lsn))
            if comes:
                again.append((place, op, lsn + 4 * snapshot))
                if accepted or not below:
                    expected.append((*place, lsn + (0 if below else 4 * snapshot)))
    with tempfile.TemporaryDirectory() as folder:
        lake = made(double() if double is not None else DeltaLake(folder))
        if stood:
            hold(lake, taken(flow, stood), held)
        settled = settle_read_again(lake, held, taken(flow, again))
    rows = settled.accepted.changes.rows
    found = zip(*(rows[name].to_pylist() for name in ("_partition", "_offset", "_lsn")), strict=True)
    assert list(found) == expected
    assert settled.ignored == len(again) - len(expected)
