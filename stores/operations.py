"""From feature rows to one stream of Redis commands: an EVALSHA an entity hash, for all views of a batch.

The arguments are those of `stores.redis_scripts`; they are packed in RESP
(https://redis.io/docs/latest/develop/reference/protocol-spec/) by column, not by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.binary import BINARY, Bytes2D, constant, from_matrix, join
from stores.fields import fields_of
from stores.values import encode, encode_timestamps
from stores.versions import WIDTH, Versions
from stores.view import View

ARGUMENTS_PER_CALL = 50_000
"""Redis takes 2^20 arguments of one command; a hot entity's operations beyond this go into a further call."""

Integers = npt.NDArray[np.int64]


def bulk(value: bytes) -> bytes:
    """One argument in RESP."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def command(*arguments: bytes) -> bytes:
    """One command in RESP."""
    return b"*%d\r\n%s" % (len(arguments), b"".join(map(bulk, arguments)))


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations on one view, one a row of some table: `packed` are their arguments, `rows` the numbers of
    their rows, `width` how many arguments each has."""

    packed: pa.Array
    rows: Integers
    width: int


def puts(view: View, table: pa.Table, rows: Integers, stamps: Versions | None) -> Operations:
    """Writes the features of those rows; without `stamps`, plainly."""
    fields = fields_of(view)
    chosen = table.select(["event_timestamp", *(feature.name for feature in view.features)]).take(pa.array(rows))
    width = 4 + 2 * len(fields.features) - (stamps is None)
    parts: list[pa.Array | pa.Scalar] = [constant(bulk(b"%d" % width) + bulk(fields.version))]
    if stamps is not None:
        parts += _version(stamps.pack(rows, False))
    parts += [constant(bulk(fields.timestamp)), *_bulks(encode_timestamps(chosen.column("event_timestamp")))]
    for field, feature in zip(fields.features, view.features, strict=True):
        parts += [constant(bulk(field)), *_bulks(encode(chosen.column(feature.name), feature.value_type))]
    return Operations(join(*parts), rows, 1 + width)


def deletes(view: View, table: pa.Table, rows: Integers, stamps: Versions, mark: bool) -> Operations:
    """Removes the features of those rows' entities and leaves tombstones."""
    fields = fields_of(view)
    width = 3 + len(fields.features)
    times = table.column("event_timestamp").take(pa.array(rows))
    tombstones = join(from_matrix(stamps.pack(rows, mark)), encode_timestamps(times))
    rest = b"".join(map(bulk, (fields.timestamp, *fields.features)))
    packed = join(constant(bulk(b"-%d" % width) + bulk(fields.version)), *_bulks(tombstones), constant(rest))
    return Operations(packed, rows, 1 + width)


def _version(packed: Bytes2D) -> list[pa.Array | pa.Scalar]:
    return [constant(b"$%d\r\n" % WIDTH), from_matrix(packed), constant(b"\r\n")]


def _bulks(values: pa.Array) -> list[pa.Array | pa.Scalar]:
    """One RESP argument a row, as parts to join; a null is the empty string, as Feast stores it."""
    lengths = pc.binary_length(values)
    if values.null_count:
        values, lengths = values.fill_null(b""), lengths.fill_null(0)
    elif len(values) and pc.all(pc.equal(lengths, lengths[0])).as_py():
        return [constant(b"$%d\r\n" % lengths[0].as_py()), values, constant(b"\r\n")]
    return [constant(b"$"), _decimal(lengths), constant(b"\r\n"), values, constant(b"\r\n")]


def _decimal(integers: pa.Array) -> pa.Array:
    return integers.cast(pa.string()).cast(BINARY)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of the command stream: `calls` commands, whose replies joined have one digit an operation:
    that of row `rows[i]` of view number `views[i]`."""

    stream: memoryview
    calls: int
    views: Integers
    rows: Integers


def chunk(
    sha: bytes, keys: pa.Array, entities: Sequence[Integers], operations: Sequence[Sequence[Operations]]
) -> Chunk:
    """One EVALSHA an entity, with all operations on it: by view, and in the order of their rows.

    `operations[v]` are those on view v, `entities[v][row]` is the number of a row's entity, and `keys` has
    the names of the hashes by that number.
    """
    flat = [(number, some) for number, several in enumerate(operations) for some in several]
    views = np.concatenate([np.full(len(some.rows), number) for number, some in flat])
    rows = np.concatenate([some.rows for _, some in flat])
    widths = np.concatenate([np.full(len(some.rows), some.width) for _, some in flat])
    owners = np.concatenate([entities[number][some.rows] for number, some in flat])

    order = np.lexsort((rows, views, owners))
    owners, widths = owners[order], widths[order]
    starts = _call_starts(owners, widths)
    headers = _headers(sha, keys.take(pa.array(owners[starts])), np.add.reduceat(widths, starts))

    calls = np.arange(len(starts))
    places = np.empty(len(order) + len(starts), np.int64)
    is_header = np.zeros(len(places), bool)
    is_header[starts + calls] = True
    places[is_header] = calls
    places[~is_header] = order + len(starts)
    pieces = pa.concat_arrays([headers, *(some.packed for _, some in flat)]).take(pa.array(places))
    end = int(np.frombuffer(pieces.buffers()[1], np.int64)[len(pieces)])
    return Chunk(memoryview(pieces.buffers()[2])[:end], len(starts), views[order], rows[order])


def _call_starts(owners: Integers, widths: Integers) -> Integers:
    """Which operations begin a call: the first of an entity, and where one call would have too many arguments."""
    another = np.diff(owners, prepend=-1) != 0
    before = np.cumsum(widths) - widths
    firsts = np.flatnonzero(another)
    within = before - np.repeat(before[firsts], np.diff(firsts, append=len(owners)))
    return np.flatnonzero(another | (np.diff(within // ARGUMENTS_PER_CALL, prepend=0) > 0))


def _headers(sha: bytes, keys: pa.Array, widths: Integers) -> pa.Array:
    return join(
        constant(b"*"),
        _decimal(pa.array(widths + 4)),
        constant(b"\r\n" + bulk(b"EVALSHA") + bulk(sha) + bulk(b"1")),
        *_bulks(keys),
    )
