"""The commands for a few rows, built row by row: below some dozens of rows an operation on columns costs more than
the rows do, and a live stream brings one or two at a time. Byte for byte what `stores.operations` makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import pyarrow as pa

from stores.fields import Fields, fields_of
from stores.operations import Chunk, Integers, bulk
from stores.values import encode_each, encode_each_timestamp
from stores.versions import WIDTH, Versions
from stores.view import View

FEW = 100
"""Rows up to which this way is the cheaper one."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the entity of that number: `packed` are its arguments, `width` how many they are, `view`
    and `row` the numbers of what it was made of."""

    entity: int
    view: int
    row: int
    width: int
    packed: bytes


def operations_of(
    number: int, view: View, table: pa.Table, rows: Integers, entities: Integers, stamps: Versions, mark: bool
) -> Iterator[Operation]:
    """The operations for those rows of view number `number`; with `mark`, deletes make their entity undecided."""
    fields = fields_of(view)
    chosen = table.take(pa.array(rows))
    times = encode_each_timestamp(chosen.column("event_timestamp"))
    puts, gone = stamps.pack(rows, False).tobytes(), stamps.pack(rows, mark).tobytes()
    columns = [encode_each(chosen.column(f.name), f.value_type) for f in view.features]
    for i, row in enumerate(rows.tolist()):
        at = slice(i * WIDTH, (i + 1) * WIDTH)
        if stamps.deleted[row]:
            arguments = _delete(fields, gone[at], times[i])
        else:
            arguments = _put(fields, puts[at], times[i], [column[i] or b"" for column in columns])
        yield Operation(int(entities[row]), number, row, len(arguments), b"".join(map(bulk, arguments)))


def _put(fields: Fields, version: bytes, time: bytes, values: Sequence[bytes]) -> list[bytes]:
    arguments = [b"%d" % (4 + 2 * len(values)), fields.version, version, fields.timestamp, time]
    for field, value in zip(fields.features, values, strict=True):
        arguments += (field, value)
    return arguments


def _delete(fields: Fields, version: bytes, time: bytes) -> list[bytes]:
    return [b"-%d" % (3 + len(fields.features)), fields.version, version + time, fields.timestamp, *fields.features]


def chunk_of(sha: bytes, keys: pa.Array, operations: Sequence[Operation]) -> Chunk:
    """As `stores.operations.chunk`; one entity's operations must fit into one call."""
    ordered = sorted(operations, key=attrgetter("entity", "view", "row"))
    stream, calls = bytearray(), 0
    for entity, several in groupby(ordered, attrgetter("entity")):
        some = list(several)
        arguments = 4 + sum(operation.width for operation in some)
        start = (b"*%d\r\n" % arguments, bulk(b"EVALSHA"), bulk(sha), bulk(b"1"), bulk(keys[entity].as_py()))
        stream += b"".join((*start, *(operation.packed for operation in some)))
        calls += 1
    views = np.fromiter((operation.view for operation in ordered), np.int64, len(ordered))
    rows = np.fromiter((operation.row for operation in ordered), np.int64, len(ordered))
    return Chunk(memoryview(stream), calls, views, rows)
