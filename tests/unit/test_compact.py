"""Small files are merged beside the flush, table by table, and a lake that is away stops nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from stores.delta import DeltaLake
from stores.errors import StoreRefused, StoreUnavailable
from stores.memory_lake import MemoryLake
from streams.compact import FLUSHES, READ, Compactor


class Compacted(MemoryLake):
    """Notes what is compacted; raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.tables_compacted: list[str] = []
        self.failure: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def compact(self, name: str, *, look_inside: bool = False) -> int:
        self.go.wait(10)
        self.tables_compacted.append(name)
        if self.failure is not None:
            raise self.failure
        return 0


def test_a_table_is_compacted_after_so_many_flushes() -> None:
    lake = Compacted()
    compactor = Compactor(lake, ThreadPoolExecutor())
    for _ in range(FLUSHES - 1):
        compactor.flushed(["features/a", "changes/b"], ())
    compactor.flushed(["features/a"], ())
    compactor.collect()
    assert lake.tables_compacted == ["features/a"]


def test_a_table_that_entities_are_decided_from_is_compacted_sooner() -> None:
    lake = Compacted()
    compactor = Compactor(lake, ThreadPoolExecutor())
    for _ in range(FLUSHES // READ):
        compactor.flushed(["features/a", "changes/b"], {"features/a"})
    compactor.collect()
    assert lake.tables_compacted == ["features/a"]


def test_a_flush_never_waits_for_a_compaction() -> None:
    lake = Compacted()
    compactor = Compactor(lake, ThreadPoolExecutor())
    lake.go.clear()
    for _ in range(3 * FLUSHES):
        compactor.flushed(["features/a"], ())
    lake.go.set()
    compactor.collect()
    assert lake.tables_compacted == ["features/a"]


def test_a_lake_that_is_away_is_left_to_the_next_time() -> None:
    lake = Compacted()
    lake.failure = StoreUnavailable("the lake", "away")
    compactor = Compactor(lake, ThreadPoolExecutor())
    for _ in range(FLUSHES):
        compactor.flushed(["features/a"], ())
    compactor.collect()
    assert lake.tables_compacted == ["features/a"]


def test_anything_else_is_not_hidden() -> None:
    lake = Compacted()
    lake.failure = StoreRefused("no")
    compactor = Compactor(lake, ThreadPoolExecutor())
    for _ in range(FLUSHES):
        compactor.flushed(["features/a"], ())
    with pytest.raises(StoreRefused):
        compactor.collect()


def test_the_files_of_a_table_stay_few(tmp_path: Path) -> None:
    lake = DeltaLake(str(tmp_path))
    rows = pa.table({"v": [1]})
    lake.create("features/a", rows.schema, {})
    compactor = Compactor(lake, ThreadPoolExecutor())
    for _ in range(2 * FLUSHES):
        lake.append("features/a", rows, {})
        compactor.flushed(["features/a"], ())
    compactor.collect()
    assert lake.snapshot("features/a").data.count_rows() == 2 * FLUSHES
    assert DeltaLake(str(tmp_path)).files("features/a") <= FLUSHES + 2
