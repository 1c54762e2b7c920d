"""A writer of the lake that is killed, and one whose disk is full: real processes, real Delta."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stores.delta import DeltaLake
from tests.lake_suite import NAME, PROPERTIES, SCHEMA, TOPIC, append, ids

ROOT = Path(__file__).parents[2]

PRELUDE = """
import resource, signal, sys
import pyarrow as pa
from stores.errors import StoreUnavailable
from stores.delta import DeltaLake

lake = DeltaLake(sys.argv[1])


def append(start, end):
    ids = pa.array(range(start, end), pa.int64())
    partition = pa.array([0] * len(ids), pa.int32())
    rows = pa.table({"id": ids, "_partition": partition, "_offset": ids})
    return lake.append("changes/shop.public.orders", rows, {("shop.public.orders", 0): end})
"""

WRITER = (
    PRELUDE
    + """
start = int(sys.argv[2])
while True:
    append(start, start + 200)
    start += 200
    print(start, flush=True)
"""
)

FULL = (
    PRELUDE
    + """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
append(0, 10)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
try:
    append(10, 100_000)
except StoreUnavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(append(5, 20).written)
"""
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    DeltaLake(str(tmp_path)).create(NAME, SCHEMA, PROPERTIES)
    return tmp_path


def test_a_killed_writer_leaves_each_record_once_after_a_replay(root: Path) -> None:
    committed = end = 0
    for confirmed in (1, 3):
        command = [sys.executable, "-c", WRITER, str(root), str(committed)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(confirmed):
                end = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        committed = max(0, end - 300)
    lake = DeltaLake(str(root))
    last = lake.next_offset(NAME, TOPIC, 0)
    assert last is not None and last >= end
    append(lake, committed, last + 50)
    assert ids(lake) == list(range(last + 50))


def test_a_full_disk_is_an_outage_and_leaves_nothing_half_done(root: Path) -> None:
    command = [sys.executable, "-c", FULL, str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    message, written = done.stdout.splitlines()
    assert message.startswith("the lake is unavailable: ") and "File too large" in message
    assert written == "10"
    assert ids(DeltaLake(str(root))) == list(range(20))
