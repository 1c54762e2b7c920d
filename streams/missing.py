"""Rows that a view's table in the lake lacks, though it holds the offsets of their changes.

Offsets tell what was written, not what of it was accepted then: a view may have been added after the changes, and a
contract or a transform may have been mended since. Rows are compared by the places of their changes, and what is
added beyond the offsets goes in numbered commits, so that of two processes that add the same rows one gives up.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.lake import Lake, TopicPartition
from streams.decide import LakeTableName, changes_table

JOB = "millrace.backfill"
"""The name under which the lake numbers these commits, table by table."""

OFFSET_BITS = 48

Places = npt.NDArray[np.int64]
"""Partition and offset of some changes, each as one number."""

Mask = npt.NDArray[np.bool_]


def places(rows: pa.RecordBatch | pa.Table) -> Places:
    """Where the changes of these rows stand."""
    partitions, offsets = (np.asarray(rows[name], np.int64) for name in ("_partition", "_offset"))
    return partitions << OFFSET_BITS | offsets


def among(asked: Places, known: Places) -> Mask:
    """Which places are known; `known` is sorted and not empty."""
    return np.asarray(known.take(np.searchsorted(known, asked), mode="clip") == asked)


def span(asked: Places) -> pc.Expression:
    """A filter that lets rows of their partitions through, of each at no lower and no higher offset than its own:
    others may stand where a quiet one will be in years. There is one place at least."""
    numbers, offsets = asked >> OFFSET_BITS, asked & (1 << OFFSET_BITS) - 1
    between = []
    for number in np.unique(numbers):
        own = offsets[numbers == number]
        low, high = int(own.min()), int(own.max())
        within = (pc.field("_offset") >= low) & (pc.field("_offset") <= high)
        between.append((pc.field("_partition") == int(number)) & within)
    return reduce(or_, between)


def below(rows: pa.RecordBatch | pa.Table, held: Mapping[TopicPartition, int | None]) -> Mask:
    """Which rows lie below the offsets of their partitions."""
    partitions, offsets = (np.asarray(rows[name]) for name in ("_partition", "_offset"))
    found = np.zeros(rows.num_rows, bool)
    for (_, partition), limit in held.items():
        found |= (partitions == partition) & (offsets < (limit or 0))
    return found


def absent(lake: Lake, table: LakeTableName, asked: Places) -> Mask:
    """Which of the places, sorted and each once, no row of a view's table stands at."""
    lacking = np.ones(len(asked), bool)
    if len(asked):
        for part in lake.scan(table, ["_partition", "_offset"], span(asked)):
            there = places(part)
            lacking[np.searchsorted(asked, there[among(there, asked)])] = False
    return lacking


def add_missing(lake: Lake, table: LakeTableName, topic: str, rows: pa.Table) -> None:
    """Add those of a view's rows that its table lacks and whose changes are not in the lake yet.

    So it is where a worker ended between the two, and what it had rejected is accepted when it is read again. Below
    the offsets that `changes/` holds a change stays what it was when that was written. Raises `StoreUnavailable`.
    """
    held: dict[TopicPartition, int | None] = {
        (topic, p): lake.next_offset(changes_table(topic), topic, p) for p in rows["_partition"].unique().to_pylist()
    }
    torn = rows.filter(pa.array(~below(rows, held)))
    asked = np.unique(places(torn))
    while True:
        commits = lake.commits(table, JOB)  # before the table is read: what another adds after is a conflict
        lacking = asked[absent(lake, table, asked)]
        if not len(lacking):
            return
        if lake.append_once(table, torn.filter(pa.array(among(places(torn), lacking))), JOB, commits + 1):
            return


def add_deletes(lake: Lake, table: LakeTableName, rows: pa.Table, truncates: npt.NDArray[np.int64]) -> None:
    """Add the deletes by the truncates with these LSNs that a view's rows came with, where the rows stand in its table
    without.

    So it is where a worker wrote them that did not know of the truncate, and ended before it looked for one. Two that
    add the same can leave it twice, which no reader can tell from once. Raises `StoreUnavailable`.
    """
    ended = rows.filter(pc.and_(rows["_deleted"], pc.is_in(rows["_lsn"], pa.array(truncates))))
    if not ended.num_rows:
        return
    at, lsns = places(ended), np.asarray(ended["_lsn"])
    asked = np.unique(at)
    reader = lake.scan(table, ["_partition", "_offset", "_lsn", "_deleted"], span(asked))
    parts = (part.filter(pa.array(among(places(part), asked))) for part in reader)
    stored = pa.Table.from_batches(parts, reader.schema)
    there, by, deleted = places(stored), np.asarray(stored["_lsn"]), np.asarray(stored["_deleted"])
    lacking = np.isin(at, there[~deleted])
    for truncate in np.unique(lsns):
        lacking &= (lsns != truncate) | ~np.isin(at, there[deleted & (by == truncate)])
    if lacking.any():
        lake.append(table, ended.filter(pa.array(lacking)), {})
