"""The lake on Delta: what every `Lake` does, and crashes, races, outages and logs of its own."""

import itertools
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import delta
from stores.delta import CHECKPOINT_INTERVAL, REWRITE_SECONDS, DeltaLake, _Handle
from stores.errors import StoreRefused, StoreUnavailable
from stores.lake import AppendResult, CompactedByAnother, TableMissing, WrittenInViews
from stores.query import session
from tests.lake_suite import (
    NAME,
    PROPERTIES,
    SCHEMA,
    TOPIC,
    LakeSuite,
    Open,
    append,
    each_record_stands_once,
    ids,
    rows,
)


class TestDeltaLake(LakeSuite):
    @pytest.fixture
    def new_lake(self, tmp_path: Path) -> Callable[[], Open]:
        counter = itertools.count()

        def make() -> Open:
            root = tmp_path / str(next(counter))
            root.mkdir()
            return lambda: DeltaLake(str(root))

        return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a lake that has one empty table."""
    folder = tmp_path / "lake"
    folder.mkdir()
    DeltaLake(str(folder)).create(NAME, SCHEMA, PROPERTIES)
    return folder


def in_threads(*jobs: Callable[[], object]) -> None:
    """Run all at once; the first failure is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


@settings(max_examples=12)
@given(st.data())
def test_each_record_stands_once_whatever_the_writers_do(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        each_record_stands_once(lambda: DeltaLake(folder), data)


def test_what_others_committed_between_two_commits_of_ours_is_a_replay(root: Path) -> None:
    """A commit that was rebased over others brings the table to their version: what was known before is old."""
    ours, others = DeltaLake(str(root)), DeltaLake(str(root))
    assert append(ours, 0, 0, partition=0).written == 0
    assert append(others, 0, 1, partition=0).written == 1
    assert append(ours, 0, 1, partition=1).written == 1
    assert append(ours, 0, 1, partition=0).written == 0
    assert len(ids(ours)) == 2


def test_writers_of_different_partitions_all_succeed(root: Path) -> None:
    def write(partition: int) -> None:
        lake = DeltaLake(str(root))
        for start in range(0, 30, 10):
            assert append(lake, start, start + 10, partition).written == 10

    in_threads(*(lambda p=p: write(p) for p in range(4)))
    assert ids(DeltaLake(str(root))) == sorted(1_000 * p + i for p in range(4) for i in range(30))


def test_writers_of_one_partition_do_not_double(root: Path) -> None:
    """A rebalance leaves a zombie that flushes what the new owner flushes at the same moment."""
    written: list[int] = []

    def write() -> None:
        lake = DeltaLake(str(root))
        for start in range(0, 40, 5):
            written.append(append(lake, start, start + 5).written)

    in_threads(write, write, write)
    assert ids(DeltaLake(str(root))) == list(range(40))
    assert sum(written) == 40


def test_a_writer_learns_what_another_wrote_between_two_of_its_commits(root: Path) -> None:
    """Its own commit, of another partition, passes over the other's: no conflict will ever tell it."""
    one, other = DeltaLake(str(root)), DeltaLake(str(root))
    assert one.next_offset(NAME, TOPIC, 0) is None
    assert append(other, 0, 1, 0).written == 1
    assert append(one, 0, 1, 1).written == 1
    assert append(one, 0, 1, 0).duplicates == 1
    assert ids(one) == [0, 1_000]


def test_one_lake_serves_several_threads(root: Path) -> None:
    lake = DeltaLake(str(root))
    in_threads(*(lambda p=p: [append(lake, i, i + 1, p) for i in range(5)] for p in range(3)))
    assert len(ids(lake)) == 15


def test_tables_are_created_by_several_processes_at_once(tmp_path: Path) -> None:
    lakes = [DeltaLake(str(tmp_path)) for _ in range(4)]
    in_threads(*(lambda lake=lake: lake.create(NAME, SCHEMA, PROPERTIES) for lake in lakes))
    assert lakes[0].tables() == (NAME,)


def test_a_root_that_is_not_there_is_an_outage_until_it_is(root: Path) -> None:
    lake = DeltaLake(str(root))
    append(lake, 0, 1)
    away = root.rename(root.with_name("away"))
    for ask in (lake.ping, lake.tables, lambda: append(lake, 1, 2), lambda: lake.create(NAME, SCHEMA, PROPERTIES)):
        with pytest.raises(StoreUnavailable, match=r"the lake is unavailable: the folder .* does not exist"):
            ask()
    assert not root.exists()
    away.rename(root)
    assert append(lake, 0, 2).written == 1
    assert ids(lake) == [0, 1]


def test_a_root_that_goes_while_an_offset_is_read_is_an_outage(root: Path) -> None:
    class Unmounted(DeltaLake):
        def _open(self, name: str) -> _Handle:
            handle = super()._open(name)
            root.rename(root.with_name("away"))
            return handle

    append(DeltaLake(str(root)), 0, 1)
    with pytest.raises(StoreUnavailable, match=NAME):
        Unmounted(str(root)).next_offset(NAME, TOPIC, 0)


def test_a_root_that_goes_while_rows_are_read_is_an_outage(root: Path) -> None:
    lake = DeltaLake(str(root))
    append(lake, 0, 5, partition=0)
    rows = lake.scan(NAME)
    root.rename(root.with_name("away"))
    with pytest.raises(StoreUnavailable, match=NAME):
        rows.read_all()


def test_a_table_that_was_taken_away_stops_the_writer(root: Path) -> None:
    lake = DeltaLake(str(root))
    append(lake, 0, 1)
    shutil.rmtree(root / NAME)
    with pytest.raises(TableMissing):
        append(lake, 1, 2)


def test_a_place_that_cannot_be_written_is_an_outage(root: Path) -> None:
    (root / "features").write_text("a file where a folder must be")
    with pytest.raises(StoreUnavailable, match="features/a"):
        DeltaLake(str(root)).create("features/a", SCHEMA, {})


class Meeting(DeltaLake):
    """Lets something happen just before, or after, this process has opened a table to read all of it."""

    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None

    def _claimed(self, name: str, until: float) -> _Handle:
        if before := self.before:
            self.before = None
            before()
        handle = super()._claimed(name, until)
        if after := self.after:
            self.after = None
            after()
        return handle


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_that_compact_a_table_at_once_double_nothing(
    root: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs lets both commit, and then each row that both have read would stand twice."""
    monkeypatch.setattr(delta, "REWRITE_SECONDS", 0.0)  # nobody waits for anybody
    ours, others = Meeting(str(root)), DeltaLake(str(root))
    for start in range(0, 20, 2):
        append(others, start, start + 2)
    setattr(ours, when, lambda: others.compact(NAME))
    if when == "after":
        with pytest.raises(CompactedByAnother):
            ours.compact(NAME)
    else:
        ours.compact(NAME)
    assert ids(DeltaLake(str(root))) == list(range(20))
    assert len(DeltaTable(str(root / NAME)).file_uris()) == 1
    assert append(ours, 18, 22) == AppendResult(2, 2)


def test_compactors_at_once_double_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "REWRITE_SECONDS", 0.0)
    lakes = [DeltaLake(str(root)) for _ in range(3)]
    for start in range(0, 60, 2):
        append(lakes[0], start, start + 2)

    def compact(lake: DeltaLake) -> None:
        for _ in range(5):
            with suppress(CompactedByAnother):
                lake.compact(NAME)

    def write() -> None:
        for start in range(60, 80):
            while True:  # as a worker does: beside three that set the table's properties all the time it may lose often
                with suppress(StoreUnavailable):
                    append(lakes[0], start, start + 1)
                    break

    in_threads(write, *(partial(compact, lake) for lake in lakes))
    assert ids(DeltaLake(str(root))) == list(range(80))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compaction_beside_a_column_that_is_widened_doubles_nothing(root: Path, when: str) -> None:
    ours, others = Meeting(str(root)), DeltaLake(str(root))
    for start in range(0, 20, 2):
        append(others, start, start + 2)
    wider = pa.schema([pa.field(f.name, pa.int64()) if f.type == pa.int32() else f for f in SCHEMA])
    assert wider != SCHEMA
    setattr(ours, when, lambda: others.compact(NAME))
    ours.create(NAME, wider, PROPERTIES)
    assert ids(DeltaLake(str(root))) == list(range(20))
    assert others.snapshot(NAME).schema.equals(wider)


def test_the_log_is_kept_while_files_are_rewritten(root: Path) -> None:
    """The commit of that has to see all that came since it began, however long it takes."""
    ours, others = Meeting(str(root)), DeltaLake(str(root))
    for start in range(20):
        append(others, start, start + 1)
    others.describe(NAME, {delta.LOG_RETENTION: "interval 0 seconds"})
    end = 20 + 3 * CHECKPOINT_INTERVAL

    def meanwhile() -> None:
        for start in range(20, end):
            append(others, start, start + 1)

    ours.after = meanwhile
    assert ours.compact(NAME) == 20
    assert ids(DeltaLake(str(root))) == list(range(end))
    assert ours.properties(NAME)[delta.LOG_RETENTION] == delta.DEFAULTS[delta.LOG_RETENTION]


def test_a_table_that_another_process_compacts_is_left_to_it(root: Path) -> None:
    ours, others = Meeting(str(root)), DeltaLake(str(root))
    append(ours, 0, 2)

    def meanwhile() -> None:
        with pytest.raises(CompactedByAnother, match="another process compacts it"):
            others.compact(NAME)

    ours.after = meanwhile
    ours.compact(NAME)
    others.compact(NAME)


def test_the_time_of_a_compactor_that_died_runs_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(DeltaLake(str(root)), 0, 2)
    DeltaLake(str(root))._claimed(NAME, time.time() + REWRITE_SECONDS)
    lake = DeltaLake(str(root))
    with pytest.raises(CompactedByAnother, match="another process compacts it"):
        lake.compact(NAME)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + REWRITE_SECONDS + 1)
    lake.compact(NAME)


def test_a_table_of_an_earlier_version_gets_what_keeps_its_log_short(root: Path) -> None:
    DeltaTable.create(str(root / "features/old"), SCHEMA, configuration=PROPERTIES, raise_if_key_not_exists=False)
    lake = DeltaLake(str(root))
    lake.create("features/old", pa.schema([*SCHEMA, pa.field("more", pa.int64())]), PROPERTIES)
    found = lake.snapshot("features/old")
    assert found.schema.names[-1] == "more"
    assert {key: found.properties[key] for key in delta.DEFAULTS} == delta.DEFAULTS


def test_files_that_the_log_has_forgotten_are_deleted_too(root: Path) -> None:
    lake = DeltaLake(str(root))
    lake.describe(NAME, {"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    for start in range(0, 20, 2):
        append(lake, start, start + 2)
    assert lake.compact(NAME) == 10
    for start in range(20, 20 + CHECKPOINT_INTERVAL):
        append(lake, start, start + 1)
    assert lake.vacuum(NAME, timedelta(0)) == 10
    assert ids(lake) == list(range(20 + CHECKPOINT_INTERVAL))


def test_the_log_stays_short_and_forgets_no_offset(root: Path) -> None:
    lake, sleeper = DeltaLake(str(root)), DeltaLake(str(root))
    DeltaTable(str(root / NAME)).alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
    append(lake, 0, 1, 0)
    append(sleeper, 0, 1, 1)
    for start in range(1, 2 * CHECKPOINT_INTERVAL + 5):
        append(lake, start, start + 1, 0)
    assert len(list((root / NAME / "_delta_log").glob("*.json"))) < CHECKPOINT_INTERVAL + 5
    assert append(sleeper, 0, 3, 1).written == 2
    assert [DeltaLake(str(root)).next_offset(NAME, TOPIC, p) for p in (0, 1)] == [2 * CHECKPOINT_INTERVAL + 5, 3]


def test_files_of_a_wide_table_are_told_apart_by_what_stands_last(tmp_path: Path) -> None:
    schema = pa.schema([*((f"column {i}", pa.int64()) for i in range(60)), *SCHEMA])
    lake = DeltaLake(str(tmp_path))
    lake.create(NAME, schema, {"millrace.topic": TOPIC})
    for start in (0, 10):
        table = rows(start, start + 10)
        wide = pa.table({f.name: table[f.name] if f.name in SCHEMA.names else pa.nulls(10, f.type) for f in schema})
        lake.append(NAME, wide, {(TOPIC, 0): start + 10})
    data = lake.snapshot(NAME).data
    assert len(list(data.get_fragments())) == 2
    assert len(list(data.get_fragments(pc.field("_offset") >= 10))) == 1


def test_a_commit_that_took_long_and_is_nowhere_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place was cut from the log before it came to it: it stands below a checkpoint, where nobody looks."""
    lake, written = DeltaLake(str(root)), write_deltalake
    append(lake, 0, 1)
    monkeypatch.setattr(delta, "_LATE_SECONDS", -1.0)
    lost = iter([True])

    def write(table: DeltaTable, data: pa.Table, **options: Any) -> None:
        if not next(lost, False):
            written(table, data, **options)

    monkeypatch.setattr(delta, "write_deltalake", write)
    assert append(lake, 1, 3) == AppendResult(2, 0)
    assert ids(DeltaLake(str(root))) == [0, 1, 2]


def test_files_that_another_program_wrote_in_view_types_are_refused_until_compacted(root: Path) -> None:
    """As delta-rs' own DELETE does, of which the worker must not come to lie in a loop."""
    lake = DeltaLake(str(root))
    noted = rows(0, 3).set_column(1, SCHEMA.field("note"), pa.array(["a note", "a note", "another"]))
    lake.append(NAME, noted, {(TOPIC, 0): 3})
    DeltaTable(str(root / NAME)).delete("id = 1")
    assert ids(lake) == [0, 2]
    searched = pc.field("note") == "a note"
    with pytest.raises(WrittenInViews, match="run millrace compact"):
        lake.scan(NAME, ["id"], searched).read_all()
    with pytest.raises(WrittenInViews), session(data=lake.snapshot(NAME).data) as connection:
        connection.sql("SELECT id FROM data WHERE note = 'a note'").fetchall()
    lake.compact(NAME, look_inside=True)
    assert lake.scan(NAME, ["id"], searched).read_all().num_rows == 1
    assert append(lake, 0, 3) == AppendResult(0, 3)
    assert ids(lake) == [0, 2]


def test_what_this_reader_does_not_follow_is_refused(root: Path) -> None:
    DeltaTable(str(root / NAME)).alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    with pytest.raises(StoreRefused, match=r"uses a Delta feature .*deletionVectors"):
        DeltaLake(str(root)).snapshot(NAME)


def test_an_object_store_that_does_not_answer_is_an_outage() -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "nowhere",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "max_retries": "0",
    }
    with pytest.raises(StoreUnavailable, match=r"s3://lake/features/a: .*Connection refused"):
        DeltaLake("s3://lake", options).snapshot("features/a")
