"""The good case of decoding: a poll's envelopes to Arrow without a Python object a value.

Arrow's JSON reader parses them on several threads, outside of the interpreter's lock, against the types that the
columns must have. It is as strict as `streams.decode`: the odd records that it does not take are left to the way record
by record, which tells what is wrong; all of them where the reader itself fails, for it does not say at which.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.types as pt

from connectors.encodings import MICROSECONDS, MISFITS, from_json, is_placeholder_array, json_type, misfits
from connectors.table import Column, Table
from streams.changes import LSNS, META, carried, changes_schema
from streams.messages import Records

LEAST = 200
"""Records from which on the reader's fixed cost (0.3 ms for 12 columns) is less than what objects cost."""

ODD_SHARE = 0.25
"""Of records that are odd, from which on all go the way record by record."""

BLOCK_BYTES = 1 << 20
"""What one thread parses at a time; a record that is larger makes it larger."""

_WHOLE_ZERO = re.compile(rb"-0(?![0-9.eE])")

_CHANGES = pa.array(["c", "u", "r", "d", "t"])
_SOURCE = pa.struct([pa.field("lsn", pa.int64()), pa.field("ts_us", pa.int64())])

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bulk:
    """Changes as in `streams.changes.Changes`; `positions[i]` is the record that row `i` was, `odd` are those of the
    records that have to be looked at one by one."""

    rows: pa.Table
    before: pa.Table | None
    positions: Positions
    odd: Positions


def decode_in_bulk(records: Records, table: Table, before: Sequence[str], max_bytes: int) -> Bulk | None:
    """Decode the records; None if they are few, or if many are no ordinary changes that are good in every column."""
    present = np.array([i for i, value in enumerate(records.values) if value is not None], np.int64)
    plain = np.fromiter((_is_plain(v, max_bytes) for v in records.values if v is not None), bool, len(present))
    if plain.sum() < max(LEAST, (1 - ODD_SHARE) * len(present)):
        return None
    columns = [table.column(field.name) for field in carried(table)]
    try:
        return _decode(records, present, plain, table, columns, [table.column(name) for name in before])
    except (_NotOrdinary, *MISFITS):
        return None


class _NotOrdinary(Exception):
    """Something that the reader takes and `streams.decode` has to look at."""


def _is_plain(value: bytes, max_bytes: int) -> bool:
    """Whether a record begins and ends as one JSON object, so that no two records can make one together."""
    return len(value) <= max_bytes and value[:1] == b"{" and value[-1:] == b"}"


class _Odd:
    """Marks the records that `streams.decode` has to look at."""

    def __init__(self, count: int) -> None:
        self.marked = np.zeros(count, bool)

    def unless(self, fine: pa.Array, at: Positions | slice = slice(None)) -> None:
        """Mark where it is not so; a null tells nothing."""
        if pc.all(fine).as_py() is False:
            self.marked[at] |= ~np.asarray(pc.fill_null(fine, True))


def _decode(
    records: Records,
    present: Positions,
    plain: npt.NDArray[np.bool_],
    table: Table,
    columns: Sequence[Column],
    before: Sequence[Column],
) -> Bulk:
    positions = present[plain]
    values = [value for i in positions.tolist() if (value := records.values[i]) is not None]
    odd = _Odd(len(values))
    envelopes = _parse(values, {"after": columns, "before": before})  # an object also if nobody reads it
    ops, source = envelopes["op"], envelopes["source"]
    odd.unless(pc.is_in(ops, _CHANGES))
    after, deleted = envelopes["after"], pc.equal(ops, "d")
    odd.unless(pc.xor(after.is_valid(), pc.is_in(ops, pa.array(["d", "t"]))))
    images = after.flatten()
    if pc.any(deleted).as_py():
        images = _with_deleted(images, values, np.flatnonzero(pc.fill_null(deleted, False)), columns, odd)
    images = [_restored(image, column, values, ops, odd) for image, column in zip(images, columns, strict=True)]
    lsns, times = source.flatten()
    lsns = pc.if_else(pc.equal(ops, "r"), pc.fill_null(lsns, 0), lsns)  # see `streams.snapshots`
    odd.unless(pc.and_(lsns.is_valid(), times.is_valid()))
    odd.unless(pc.greater_equal(lsns, LSNS.start))
    odd.unless(pc.and_(pc.greater_equal(times, MICROSECONDS[0]), pc.less_equal(times, MICROSECONDS[1])))
    meta = [
        ops,
        lsns,
        times.cast(META[2].type),
        pa.array(np.asarray(records.partitions, np.int32)[positions]),
        pa.array(np.asarray(records.offsets, np.int64)[positions]),
    ]
    _suspect_infinite(images, values, odd)
    _suspect_zeros(images, values, odd)
    decoded = [_converted(image, column, odd) for image, column in zip(images, columns, strict=True)]
    rows = pa.table([*decoded, *meta], schema=changes_schema(table))
    for name in table.primary_key:
        odd.unless(pc.or_(rows[name].is_valid(), pc.equal(ops, "t")))
    old = None
    if before:
        earlier = envelopes["before"].flatten()
        _suspect_infinite(earlier, values, odd)
        _suspect_zeros(earlier, values, odd)
        arrays = [_converted(image, column, odd) for image, column in zip(earlier, before, strict=True)]
        old = pa.table(arrays, names=[column.name for column in before])
    return _without_odd(rows, old, positions, odd.marked, present[~plain])


def _without_odd(
    rows: pa.Table, old: pa.Table | None, positions: Positions, odd: npt.NDArray[np.bool_], strange: Positions
) -> Bulk:
    """The rows that are not odd; the records of the others, and those that are `strange` from the first."""
    if not odd.any():
        return Bulk(rows, old, positions, strange)
    if odd.sum() + len(strange) > ODD_SHARE * (len(odd) + len(strange)):
        raise _NotOrdinary
    good = pa.array(~odd)
    left = np.sort(np.concatenate([positions[odd], strange]))
    return Bulk(rows.filter(good), None if old is None else old.filter(good), positions[~odd], left)


def _parse(values: list[bytes], images: dict[str, Sequence[Column]]) -> dict[str, pa.Array]:
    """The fields of the envelopes, one array each; `images` tells the columns wanted of `after` and `before`."""
    text = b"\n".join(values)
    kinds = {name: pa.struct([pa.field(c.name, json_type(c)) for c in columns]) for name, columns in images.items()}
    schema = pa.schema({"op": pa.string(), "source": _SOURCE, **kinds})
    block = max(BLOCK_BYTES, max(map(len, values)) + 1)
    try:
        parsed = _read(text, schema, block)
    except pa.ArrowInvalid:
        bare = _unquoted(text, {c.name for columns in images.values() for c in columns if c.encoding == "float"})
        if bare == text:
            raise
        parsed = _read(bare, schema, block)
    if parsed.num_rows != len(values):
        raise _NotOrdinary
    if not text.isascii():
        parsed.validate(full=True)  # the reader takes bytes that are no UTF-8
    return {name: _joined(parsed[name]) for name in parsed.column_names}


def _read(text: bytes, schema: pa.Schema, block: int) -> pa.Table:
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return pj.read_json(pa.BufferReader(text), pj.ReadOptions(block_size=block), options)


def _unquoted(text: bytes, floats: Collection[str]) -> bytes:
    """The same with the strings that stand for NaN and the infinities of these columns as the bare words that the
    reader takes. Within a string a quote is escaped, so that only members of an object are found."""
    for word in (b"NaN", b"Infinity", b"-Infinity"):
        quoted = b'"' + word + b'"'
        for member in [orjson.dumps(name) + b":" for name in floats if quoted in text]:
            text = text.replace(member + quoted, member + word)
    return text


def _suspect_infinite(images: Sequence[pa.Array], values: Sequence[bytes], odd: _Odd) -> None:
    """Mark the records that are no JSON for a bare word, or for a number beyond a double, that the reader takes."""
    infinite = np.zeros(len(values), bool)
    for image in images:
        if pt.is_floating(image.type) and pc.all(pc.is_finite(image)).as_py() is False:
            infinite |= ~np.asarray(pc.fill_null(pc.is_finite(image), True))
    odd.marked[[i for i in np.flatnonzero(infinite).tolist() if not _is_json(values[i])]] = True


def _suspect_zeros(images: Sequence[pa.Array], values: Sequence[bytes], odd: _Odd) -> None:
    """Mark the records that may have a zero below zero without a point: an integer elsewhere, which has no sign."""
    for image in images:
        numbers = image.flatten() if pt.is_list(image.type) else image
        if not pt.is_floating(numbers.type):
            continue
        floats = numbers.to_numpy(zero_copy_only=False)
        zeros = np.flatnonzero(floats == 0)
        below = zeros[np.signbit(floats[zeros])]
        if not len(below):
            continue
        if pt.is_list(image.type):
            below = np.unique(pc.list_parent_indices(image).to_numpy()[below])
        odd.marked[[i for i in below.tolist() if _WHOLE_ZERO.search(values[i])]] = True


def _is_json(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def _with_deleted(
    images: list[pa.Array], values: list[bytes], deleted: Positions, columns: Sequence[Column], odd: _Odd
) -> list[pa.Array]:
    """The images with those of deletes, which stand in `before`."""
    old = _parse([values[i] for i in deleted], {"before": columns})["before"]
    odd.unless(old.is_valid(), deleted)
    places = np.arange(len(values))
    places[deleted] = len(values) + np.arange(len(deleted))
    return [
        pa.concat_arrays([image, gone]).take(pa.array(places))
        for image, gone in zip(images, old.flatten(), strict=True)
    ]


def _restored(image: pa.Array, column: Column, values: list[bytes], ops: pa.Array, odd: _Odd) -> pa.Array:
    """The column with the old values where Debezium sent only its placeholder for them."""
    mask = is_placeholder_array(image, column) if column.toastable else None
    if mask is None or not pc.any(mask).as_py():
        return image
    odd.unless(pc.or_(pc.invert(mask), pc.not_equal(ops, "d")))
    masked = np.flatnonzero(mask)
    (old,) = _parse([values[i] for i in masked], {"before": [column]})["before"].flatten()
    odd.unless(pc.and_(old.is_valid(), pc.invert(is_placeholder_array(old, column))), masked)
    places = np.arange(len(values))
    places[masked] = len(values) + np.arange(len(masked))
    return pa.concat_arrays([image, old]).take(pa.array(places))


def _converted(image: pa.Array, column: Column, odd: _Odd) -> pa.Array:
    floats = pt.is_list(image.type) and pt.is_floating(image.type.value_type)
    if floats and pc.all(pc.is_finite(image.flatten())).as_py() is False:
        raise _NotOrdinary  # a bare word, as in `_suspect_infinite`
    try:
        return from_json(image, column)
    except MISFITS:
        bad = misfits(image, column)
        if bad is None:
            raise
        odd.unless(pc.invert(bad))
        return from_json(pc.if_else(bad, None, image), column)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
