"""A batch of feature rows made ready for Redis: whose rows they are, which of them matter, what came of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.binary import BINARY
from stores.entity_keys import entity_keys
from stores.few import FEW, Operation, chunk_of, operations_of
from stores.operations import ARGUMENTS_PER_CALL, Chunk, Integers, Operations, chunk, deletes, puts
from stores.rows import FeatureRows, WriteResult
from stores.versions import Versions, surviving, versions
from stores.view import View

CALLS_PER_CHUNK = 4_096
BYTES_PER_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows of one view in a batch. `entities` numbers the entity of each row; `rows` are those to be
    sent, `counts` how many each of them stands for; without `stamps` they are written plainly."""

    view: View
    table: pa.Table
    entities: Integers
    stamps: Versions | None
    rows: Integers
    counts: Integers

    def operations(self, rows: Integers, marking: bool) -> list[Operations]:
        """The operations for those of the rows; with `marking`, deletes make their entity undecided."""
        if self.stamps is None:
            return [puts(self.view, self.table, rows, None)]
        deleted = self.stamps.deleted[rows]
        mark = marking and self.view.kind == "event"
        live = puts(self.view, self.table, rows[~deleted], self.stamps)
        return [live, deletes(self.view, self.table, rows[deleted], self.stamps, mark)] if deleted.any() else [live]

    def result(self, outcomes: Integers) -> WriteResult:
        """What came of the rows, by the digits of `stores.redis_scripts`, one a row."""
        applied = int(self.counts[outcomes & 1 == 1].sum())
        marked = self.rows[outcomes & 2 == 2]
        if not len(marked):
            return WriteResult(applied, self.table.num_rows - applied)
        _, firsts = np.unique(self.entities[marked], return_index=True)
        keys = self.table.select([key.name for key in self.view.join_keys]).take(pa.array(marked[firsts]))
        return WriteResult(applied, self.table.num_rows - applied, ((self.view, keys),))


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes of several views; `keys` are the names of the hashes by the number of their entity."""

    keys: pa.Array
    changes: tuple[Changes, ...]

    def chunks(self, sha: bytes, marking: bool) -> Iterator[Chunk]:
        """The commands for a stretch of entities after the other, so that Redis works on one while the
        next is packed."""
        if self._is_small():
            yield self._small_chunk(sha, marking)
            return
        entities, size = len(self.keys), sum(each.table.nbytes for each in self.changes)
        step = max(1, min(CALLS_PER_CHUNK, BYTES_PER_CHUNK * entities // max(size, 1)))
        owners = [each.entities[each.rows] for each in self.changes]
        for start in range(0, entities, step):
            rows = [
                each.rows[(owner >= start) & (owner < start + step)]
                for each, owner in zip(self.changes, owners, strict=True)
            ]
            operations = [each.operations(some, marking) for each, some in zip(self.changes, rows, strict=True)]
            yield chunk(sha, self.keys, [each.entities for each in self.changes], operations)

    def _is_small(self) -> bool:
        arguments = sum(len(each.rows) * (5 + 2 * len(each.view.features)) for each in self.changes)
        few = sum(len(each.rows) for each in self.changes) <= FEW and arguments <= ARGUMENTS_PER_CALL
        return few and all(each.stamps is not None for each in self.changes)

    def _small_chunk(self, sha: bytes, marking: bool) -> Chunk:
        operations: list[Operation] = []
        for number, each in enumerate(self.changes):
            if each.stamps is not None:
                mark = marking and each.view.kind == "event"
                operations += operations_of(number, each.view, each.table, each.rows, each.entities, each.stamps, mark)
        return chunk_of(sha, self.keys, operations)

    def result(self, chunks: Sequence[Chunk], digits: bytes) -> WriteResult:
        """What came of the batch; `digits` are the replies to all its chunks, joined."""
        outcomes = np.frombuffer(digits, np.uint8).astype(np.int64) - ord("0")
        views = np.concatenate([part.views for part in chunks])
        rows = np.concatenate([part.rows for part in chunks])
        results = []
        for number, each in enumerate(self.changes):
            by_row = np.zeros(each.table.num_rows, np.int64)
            by_row[rows[views == number]] = outcomes[views == number]
            results.append(each.result(by_row[each.rows]))
        return WriteResult(
            sum(result.applied for result in results),
            sum(result.refused for result in results),
            tuple(pair for result in results for pair in result.undecided),
        )


def versioned(batches: Sequence[FeatureRows]) -> Batch:
    """The batch of rows to be compared and set by their versions."""
    tables: dict[View, list[pa.Table]] = {}
    for rows in batches:
        if rows.table.num_rows:
            tables.setdefault(rows.view, []).append(rows.table)
    merged = [(view, pa.concat_tables(parts)) for view, parts in tables.items()]
    keys, entities = _identify(merged)
    changes = []
    for (view, table), owners in zip(merged, entities, strict=True):
        stamps = versions(view, table)
        changes.append(Changes(view, table, owners, stamps, *surviving(stamps, owners)))
    return Batch(keys, tuple(changes))


def plain(view: View, table: pa.Table) -> Batch:
    """The batch of rows without versions."""
    if not table.num_rows:
        return Batch(pa.array([], BINARY), ())
    keys, (owners,) = _identify([(view, table)])
    rows = np.arange(table.num_rows)
    return Batch(keys, (Changes(view, table, owners, None, rows, np.ones_like(rows)),))


def _identify(tables: Sequence[tuple[View, pa.Table]]) -> tuple[pa.Array, list[Integers]]:
    """The distinct entity keys of all tables, and for each table the number of each row's."""
    if not tables:
        return pa.array([], BINARY), []
    keys = [entity_keys(view).encode(table) for view, table in tables]
    encoded = pc.dictionary_encode(pa.concat_arrays(keys))
    numbers = encoded.indices.to_numpy().astype(np.int64)
    ends = np.cumsum([len(key) for key in keys])
    return encoded.dictionary, np.split(numbers, ends[:-1])
