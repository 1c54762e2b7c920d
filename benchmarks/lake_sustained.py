"""Whether a lake that never rests stays as fast as it was: ten minutes of flushes of 10,000 rows, one a second, each to
two tables, compacted beside as a worker does it. Beside the flush time of the last minute those of the others.

Run: python -m benchmarks.lake_sustained [--seconds 600]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.lake import lake_with, view_of
from benchmarks.lake import rows as feature_rows
from benchmarks.platform import Row
from streams.compact import Compactor

A_FLUSH = 10_000
EDGE = 60
TABLES = ("features/v", "features/w")


def rows(seconds: int = 600) -> Iterator[Row]:
    """All measurements."""
    view = view_of("v", "event")
    table = feature_rows(view, A_FLUSH, 1)
    place = table.schema.get_field_index("_offset")
    taken, memory = [], []
    with tempfile.TemporaryDirectory() as folder:
        lake = lake_with(Path(folder, "lake"), view, table.slice(0, 0), 1)
        lake.create(TABLES[1], table.schema, {})
        compactor = Compactor(lake, ThreadPoolExecutor(max_workers=1))
        begun = time.monotonic()
        for flush in range(seconds):
            time.sleep(max(0.0, begun + flush - time.monotonic()))
            offsets = pa.array(np.arange(flush * A_FLUSH, (flush + 1) * A_FLUSH))
            numbered = table.set_column(place, "_offset", offsets)
            before = time.perf_counter()
            for name in TABLES:
                lake.append(name, numbered, {("t", 0): (flush + 1) * A_FLUSH})
            taken.append(1_000 * (time.perf_counter() - before))
            compactor.flushed(TABLES, ())
            memory.append(psutil.Process().memory_info().rss / 1e6)
        compactor.collect()
        files = lake.files(TABLES[0])
    minutes = [float(np.median(taken[start : start + EDGE])) for start in range(0, len(taken), EDGE)]
    others = {"first minute": minutes[0], "median of all minutes": float(np.median(minutes))}
    yield Row("lake, a flush of 10,000 rows, last minute", minutes[-1], "ms", "no growth over the first minute", others)
    yield Row("lake, the slowest flush", max(taken), "ms", "", {"p99": float(np.percentile(taken, 99))})
    yield Row("lake, data files of a table at the end", files, "files", "bounded", {"flushes": seconds})
    early, late = np.median(memory[EDGE : 2 * EDGE]), np.median(memory[-EDGE:])
    yield Row("lake, memory, last minute", float(late), "MB", "no growth", {"second minute": float(early)})


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    for row in rows(parser.parse_args().seconds):
        row.print()


if __name__ == "__main__":
    main()
