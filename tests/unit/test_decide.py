"""Entities of an event view decided anew while other workers write the same lake table."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from stores.history import feature_properties
from stores.lake import Snapshot
from stores.memory import MemoryOnline
from stores.memory_lake import MemoryLake
from stores.rows import FeatureRows, WriteResult, rows_schema
from streams.decide import decide
from tests.feature_changes import Change, rows, view

VIEW = view("trades", "event")
TABLE = "features/trades"
KEYS = pa.table({"id": pa.array([1, 2], pa.int64())})
FIRST, SECOND, OTHER = Change(1, 1, 10, minute=1, row=1), Change(1, 2, 20, minute=2, row=2), Change(2, 3, 30, row=3)


class BusyLake(MemoryLake):
    """Notes which entities are looked for."""

    def __init__(self, *changes: Change) -> None:
        super().__init__()
        self.create(TABLE, rows_schema(VIEW), feature_properties(VIEW, "t"))
        self.add(*changes)
        self.snapshots = 0

    def add(self, *changes: Change) -> None:
        self.append(TABLE, rows(VIEW, *changes).table, {})

    def snapshot(self, name: str) -> Snapshot:
        self.snapshots += 1
        return super().snapshot(name)


class Online(MemoryOnline):
    """Lets others write just before each decision is written; `decided` has the entities of each."""

    def __init__(self, meanwhile: Callable[[int], None]) -> None:
        super().__init__()
        self._meanwhile = meanwhile
        self.decided: list[list[int]] = []

    def decide(self, rows: FeatureRows) -> WriteResult:
        self._meanwhile(len(self.decided))
        self.decided.append(sorted(rows.table["id"].to_pylist()))
        return super().decide(rows)

    def values(self) -> list[int | None]:
        """What it serves of the two entities."""
        (found,) = self.read([VIEW], KEYS)
        values: list[int | None] = found["x"].to_pylist()
        return values


def test_rows_of_others_that_come_all_the_time_do_not_keep_it_from_ending() -> None:
    """Each of its looks takes longer than the next worker's flush does."""
    lake = BusyLake(FIRST, SECOND, OTHER)
    online = Online(lambda turn: lake.add(Change(100 + turn, 100 + turn, 1, row=100 + turn)))
    result = decide(lake, online, VIEW, KEYS)
    assert online.decided == [[1, 2]] and online.values() == [20, 30]
    assert (result.applied, result.refused) == (2, 0)


@pytest.mark.parametrize(
    ("came", "wanted"),
    [
        pytest.param(Change(1, 9, minute=2, row=2, deleted=True), 10, id="the chosen row is deleted"),
        pytest.param(Change(1, 9, 90, minute=0, row=2), 10, id="the chosen row moves back in time"),
        pytest.param(Change(1, 9, 90, minute=3, row=4), 90, id="a newer row comes"),
        pytest.param(Change(5, 9, 90, minute=3, row=2), 10, id="the chosen row is at another entity now"),
    ],
)
def test_an_entity_of_which_rows_came_meanwhile_is_decided_again(came: Change, wanted: int) -> None:
    lake = BusyLake(FIRST, SECOND, OTHER)
    online = Online(lambda turn: lake.add(came) if turn == 0 else None)
    online.write([rows(VIEW, FIRST, SECOND, OTHER)])
    decide(lake, online, VIEW, KEYS)
    assert online.decided[0] == [1, 2] and online.decided[1] == [1]
    assert online.values() == [wanted, 30]
    assert online.inspect(VIEW, KEYS)["_undecided"].to_pylist() == [False, False]
