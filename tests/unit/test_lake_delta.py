"""The lake on Delta: what every `Lake` does, and crashes, races, outages and logs of its own."""

import itertools
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable, TableFeatures

from stores.errors import StoreRefused, StoreUnavailable
from stores.lake import CHECKPOINT_INTERVAL, DeltaLake, TableMissing
from tests.lake_suite import NAME, PROPERTIES, SCHEMA, TOPIC, LakeSuite, Open, append, ids

ROOT = Path(__file__).parents[2]


class TestDeltaLake(LakeSuite):
    @pytest.fixture
    def new_lake(self, tmp_path) -> Callable[[], Open]:
        counter = itertools.count()

        def make() -> Open:
            root = tmp_path / str(next(counter))
            root.mkdir()
            return lambda: DeltaLake(str(root))

        return make


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with a lake that has one empty table."""
    folder = tmp_path / "lake"
    folder.mkdir()
    DeltaLake(str(folder)).create(NAME, SCHEMA, PROPERTIES)
    return folder


def in_threads(*jobs: Callable[[], object]) -> None:
    """Run all at once; the first failure is raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_writers_of_different_partitions_all_succeed(root):
    def write(partition: int) -> None:
        lake = DeltaLake(str(root))
        for start in range(0, 30, 10):
            assert append(lake, start, start + 10, partition).written == 10

    in_threads(*(lambda p=p: write(p) for p in range(4)))
    assert ids(DeltaLake(str(root))) == sorted(1_000 * p + i for p in range(4) for i in range(30))


def test_writers_of_one_partition_do_not_double(root):
    """A rebalance leaves a zombie that flushes what the new owner flushes at the same moment."""
    written: list[int] = []

    def write() -> None:
        lake = DeltaLake(str(root))
        for start in range(0, 40, 5):
            written.append(append(lake, start, start + 5).written)

    in_threads(write, write, write)
    assert ids(DeltaLake(str(root))) == list(range(40))
    assert sum(written) == 40


def test_one_lake_serves_several_threads(root):
    lake = DeltaLake(str(root))
    in_threads(*(lambda p=p: [append(lake, i, i + 1, p) for i in range(5)] for p in range(3)))
    assert len(ids(lake)) == 15


def test_tables_are_created_by_several_processes_at_once(tmp_path):
    lakes = [DeltaLake(str(tmp_path)) for _ in range(4)]
    in_threads(*(lambda lake=lake: lake.create(NAME, SCHEMA, PROPERTIES) for lake in lakes))
    assert lakes[0].tables() == (NAME,)


WRITER = """
import sys
from stores.lake import DeltaLake
from tests.lake_suite import append
lake, start = DeltaLake(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    append(lake, start, start + 200)
    start += 200
    print(start, flush=True)
"""


def test_a_killed_writer_leaves_each_record_once_after_a_replay(root):
    committed = end = 0
    for confirmations in (1, 4, 2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(committed)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        for _ in range(confirmations):
            end = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        committed = max(0, end - 300)
    lake = DeltaLake(str(root))
    last = lake.next_offset(NAME, TOPIC, 0)
    assert last is not None and last >= end
    append(lake, committed, last + 50)
    assert ids(lake) == list(range(last + 50))


def test_a_root_that_is_not_there_is_an_outage_until_it_is(root):
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


def test_a_table_that_was_taken_away_stops_the_writer(root):
    lake = DeltaLake(str(root))
    append(lake, 0, 1)
    shutil.rmtree(root / NAME)
    with pytest.raises(TableMissing):
        append(lake, 1, 2)


def test_a_place_that_cannot_be_written_is_an_outage(root):
    (root / "features").write_text("a file where a folder must be")
    with pytest.raises(StoreUnavailable, match="features/a"):
        DeltaLake(str(root)).create("features/a", SCHEMA, {})


FULL = """
import resource, signal, sys
import pyarrow as pa
from stores.errors import StoreUnavailable
from stores.lake import DeltaLake
from tests.lake_suite import NAME, TOPIC, append, ids, rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lake = DeltaLake(sys.argv[1])
append(lake, 0, 10)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
try:
    append(lake, 10, 100_000)
except StoreUnavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert append(lake, 5, 20).written == 10
assert ids(lake) == list(range(20))
print("recovered")
"""


def test_a_full_disk_is_an_outage_and_leaves_nothing_half_done(root):
    done = subprocess.run([sys.executable, "-c", FULL, str(root)], cwd=ROOT, capture_output=True, text=True, check=True)
    message, recovered = done.stdout.splitlines()
    assert message.startswith("the lake is unavailable: ") and "File too large" in message
    assert recovered == "recovered"


def test_the_log_stays_short_and_forgets_no_offset(root):
    lake, sleeper = DeltaLake(str(root)), DeltaLake(str(root))
    DeltaTable(str(root / NAME)).alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
    append(lake, 0, 1, 0)
    append(sleeper, 0, 1, 1)
    for start in range(1, 2 * CHECKPOINT_INTERVAL + 5):
        append(lake, start, start + 1, 0)
    assert len(list((root / NAME / "_delta_log").glob("*.json"))) < CHECKPOINT_INTERVAL + 5
    assert append(sleeper, 0, 3, 1).written == 2
    assert [DeltaLake(str(root)).next_offset(NAME, TOPIC, p) for p in (0, 1)] == [2 * CHECKPOINT_INTERVAL + 5, 3]


def test_what_this_reader_does_not_follow_is_refused(root):
    DeltaTable(str(root / NAME)).alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
    with pytest.raises(StoreRefused, match=r"uses a Delta feature .*deletionVectors"):
        DeltaLake(str(root)).snapshot(NAME)


def test_an_object_store_that_does_not_answer_is_an_outage():
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
