"""The good case of decoding: a poll's envelopes to Arrow without a Python object a value.

Arrow's JSON reader parses them on several threads, outside of the interpreter's lock, against the types that the
columns must have. It is as strict as `streams.decode`: what it does not take is left to the way record by record,
which tells what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.types as pt

from connectors.encodings import MISFITS, from_json, is_placeholder_array, json_type
from connectors.table import Column, Table
from streams.changes import META, carried, changes_schema
from streams.messages import Records

LEAST = 200
"""Records from which on the reader's fixed cost (0.3 ms for 12 columns) is less than what objects cost."""

BLOCK_BYTES = 1 << 20
"""What one thread parses at a time; a record that is larger makes it larger."""

_CHANGES = pa.array(["c", "u", "r", "d", "t"])
_SOURCE = pa.struct([pa.field("lsn", pa.int64()), pa.field("ts_us", pa.int64())])

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bulk:
    """Changes as in `streams.changes.Changes`; `positions[i]` is the record that row `i` was."""

    rows: pa.Table
    before: pa.Table | None
    positions: Positions


def decode_in_bulk(records: Records, table: Table, before: Sequence[str], max_bytes: int) -> Bulk | None:
    """Decode the records; None if they are few, or if one is not an ordinary change that is good in every column."""
    values = [value for value in records.values if value is not None]
    if len(values) < LEAST or not all(_is_plain(value, max_bytes) for value in values):
        return None
    columns = [table.column(field.name) for field in carried(table)]
    try:
        return _decode(records, values, table, columns, [table.column(name) for name in before])
    except (_NotOrdinary, *MISFITS):
        return None


class _NotOrdinary(Exception):
    """Something that the reader takes and `streams.decode` has to look at."""


def _is_plain(value: bytes, max_bytes: int) -> bool:
    """Whether a record begins and ends as one JSON object, so that no two records can make one together."""
    return len(value) <= max_bytes and value[:1] == b"{" and value[-1:] == b"}"


def _decode(
    records: Records, values: list[bytes], table: Table, columns: Sequence[Column], before: Sequence[Column]
) -> Bulk:
    envelopes = _parse(values, {"after": columns, "before": before} if before else {"after": columns})
    ops, source = envelopes["op"], envelopes["source"]
    _require(pc.is_in(ops, _CHANGES))
    after, deleted = envelopes["after"], pc.equal(ops, "d")
    _require(pc.xor(after.is_valid(), pc.is_in(ops, pa.array(["d", "t"]))))
    images = after.flatten()
    if pc.any(deleted).as_py():
        images = _with_deleted(images, values, np.flatnonzero(deleted), columns)
    images = [_restored(image, column, values, ops) for image, column in zip(images, columns, strict=True)]
    present = np.fromiter((value is not None for value in records.values), bool, len(records))
    positions = np.flatnonzero(present)
    lsns, times = source.flatten()
    lsns = pc.if_else(pc.equal(ops, "r"), pc.fill_null(lsns, 0), lsns)  # see `streams.snapshots`
    meta = [
        ops,
        _require_all(lsns),
        _require_all(times).cast(META[2].type),
        pa.array(np.asarray(records.partitions, np.int32)[positions]),
        pa.array(np.asarray(records.offsets, np.int64)[positions]),
    ]
    decoded = [_converted(image, column) for image, column in zip(images, columns, strict=True)]
    rows = pa.table([*decoded, *meta], schema=changes_schema(table))
    for name in table.primary_key:
        _require(pc.or_(rows[name].is_valid(), pc.equal(ops, "t")))
    old = None
    if before:
        arrays = [_converted(a, c) for a, c in zip(envelopes["before"].flatten(), before, strict=True)]
        old = pa.table(arrays, names=[column.name for column in before])
    return Bulk(rows, old, positions)


def _parse(values: list[bytes], images: dict[str, Sequence[Column]]) -> dict[str, pa.Array]:
    """The fields of the envelopes, one array each; `images` tells the columns wanted of `after` and `before`."""
    text = b"\n".join(values)
    kinds = {name: pa.struct([pa.field(c.name, json_type(c)) for c in columns]) for name, columns in images.items()}
    schema = pa.schema({"op": pa.string(), "source": _SOURCE, **kinds})
    parsed = pj.read_json(
        pa.BufferReader(text),
        pj.ReadOptions(block_size=max(BLOCK_BYTES, max(map(len, values)) + 1)),
        pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    if parsed.num_rows != len(values):
        raise _NotOrdinary
    if not text.isascii():
        parsed.validate(full=True)  # the reader takes bytes that are no UTF-8
    return {name: _joined(parsed[name]) for name in parsed.column_names}


def _with_deleted(
    images: list[pa.Array], values: list[bytes], deleted: Positions, columns: Sequence[Column]
) -> list[pa.Array]:
    """The images with those of deletes, which stand in `before`."""
    old = _parse([values[i] for i in deleted], {"before": columns})["before"]
    _require(old.is_valid())
    places = np.arange(len(values))
    places[deleted] = len(values) + np.arange(len(deleted))
    return [
        pa.concat_arrays([image, gone]).take(pa.array(places))
        for image, gone in zip(images, old.flatten(), strict=True)
    ]


def _restored(image: pa.Array, column: Column, values: list[bytes], ops: pa.Array) -> pa.Array:
    """The column with the old values where Debezium sent only its placeholder for them."""
    mask = is_placeholder_array(image, column) if column.toastable else None
    if mask is None or not pc.any(mask).as_py():
        return image
    _require(pc.or_(pc.invert(mask), pc.not_equal(ops, "d")))
    masked = np.flatnonzero(mask)
    (old,) = _parse([values[i] for i in masked], {"before": [column]})["before"].flatten()
    _require(pc.and_(old.is_valid(), pc.invert(is_placeholder_array(old, column))))
    places = np.arange(len(values))
    places[masked] = len(values) + np.arange(len(masked))
    return pa.concat_arrays([image, old]).take(pa.array(places))


def _converted(image: pa.Array, column: Column) -> pa.Array:
    if _holds_floats(image.type):
        # NaN and Infinity are strings in JSON; the reader takes them as bare words, too.
        numbers = image.flatten() if pt.is_list(image.type) else image
        _require(pc.is_finite(numbers))
    return from_json(image, column)


def _holds_floats(kind: pa.DataType) -> bool:
    return bool(pt.is_floating(kind) or (pt.is_list(kind) and pt.is_floating(kind.value_type)))


def _joined(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _require(mask: pa.Array) -> None:
    """Raises if one is false; a null tells nothing."""
    if pc.all(mask).as_py() is False:
        raise _NotOrdinary


def _require_all(array: pa.Array) -> pa.Array:
    """Raises if one is null."""
    if array.null_count:
        raise _NotOrdinary
    return array
