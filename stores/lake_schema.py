"""Which rows and types go into a lake table: rules that hold for every lake, Delta or in memory."""

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.errors import StoreRefused

_NAME = re.compile(r"[a-z]+/[A-Za-z0-9_][A-Za-z0-9._-]*")

_WITH_BOUNDS, _LAST = 32, 12

MOST_DIGITS = 38
"""Of a decimal, in Delta and in Arrow's decimal128."""


def is_name(name: str) -> bool:
    """Whether a table may have this name: <kind>/<owner>, such as `changes/shop.public.orders`."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises `ValueError` unless `is_name(name)`."""
    if not is_name(name):
        raise ValueError(f"{name!r} is not a table name: expected <kind>/<owner> of letters, digits, . _ -")


def stored_type(type_: pa.DataType) -> pa.DataType | None:
    """The Arrow type that Delta holds for `type_`, or None if it has none (Delta protocol, "Primitive Types").

    Times of day and durations become microseconds as int64, fixed sizes variable, unsigned integers the next
    larger signed ones, timestamps microseconds (UTC where they have a zone); a reader casts back.
    """
    if pt.is_time(type_) or pt.is_duration(type_) or pt.is_uint32(type_):
        return pa.int64()
    if pt.is_timestamp(type_):
        return pa.timestamp("us", tz="UTC" if type_.tz else None)
    if pt.is_date(type_):
        return pa.date32()
    if pt.is_fixed_size_binary(type_) or pt.is_large_binary(type_):
        return pa.binary()
    if pt.is_large_string(type_) or pt.is_string(type_):
        return pa.string()
    if pt.is_dictionary(type_):
        return stored_type(type_.value_type)
    if pt.is_float16(type_):
        return pa.float32()
    if pt.is_uint8(type_) or pt.is_uint16(type_):
        return pa.int16() if pt.is_uint8(type_) else pa.int32()
    if pt.is_list(type_) or pt.is_large_list(type_) or pt.is_fixed_size_list(type_):
        element = stored_type(type_.value_type)
        return element and pa.list_(pa.field("element", element))
    if pt.is_struct(type_):
        return _stored_struct(type_)
    if pt.is_map(type_):
        key, item = stored_type(type_.key_type), stored_type(type_.item_type)
        return pa.map_(key, item) if key and item else None
    plain = pt.is_signed_integer(type_) or pt.is_floating(type_) or pt.is_boolean(type_) or pt.is_binary(type_)
    return type_ if plain or pt.is_decimal128(type_) else None


def _stored_struct(type_: pa.StructType) -> pa.DataType | None:
    fields = [(type_.field(i).name, stored_type(type_.field(i).type)) for i in range(type_.num_fields)]
    return pa.struct([pa.field(name, stored) for name, stored in fields]) if all(s for _, s in fields) else None


def statistics(schema: pa.Schema) -> dict[str, str]:
    """The property by which a table's files tell the bounds of its first columns and of its last ones, where places,
    LSNs and times stand, by which rows are looked for: Delta keeps those of the first 32 alone. delta-rs writes those
    of a decimal as a double, which says of some of its values that the file has none (seen with 1.6.6)."""
    bounded = [column.name for column in schema if not pt.is_decimal(column.type)]
    if len(schema) <= _WITH_BOUNDS and len(bounded) == len(schema):
        return {}
    names = bounded if len(bounded) <= _WITH_BOUNDS else [*bounded[: _WITH_BOUNDS - _LAST], *bounded[-_LAST:]]
    return {"delta.dataSkippingStatsColumns": ",".join(f"`{name}`" for name in names if "`" not in name)}


def stored_schema(schema: pa.Schema, name: str) -> pa.Schema:
    """The schema that table `name` gets for rows of `schema`.

    Raises `StoreRefused` for a type that Delta has not, and for names that differ by case alone, which it
    takes for one.
    """
    fields: list[pa.Field] = []
    seen: dict[str, str] = {}
    for column in schema:
        stored = stored_type(column.type)
        if stored is None:
            raise StoreRefused(f"table {name}, column {column.name}: the lake cannot store {column.type}")
        if column.name.lower() in seen:
            raise StoreRefused(
                f"table {name}: the lake cannot tell the columns {seen[column.name.lower()]} and {column.name}"
                " apart, their names differ by case at most: rename one, or leave it out of the publication"
            )
        seen[column.name.lower()] = column.name
        fields.append(pa.field(column.name, stored))
    return pa.schema(fields)


def merged_schema(present: pa.Schema, schema: pa.Schema, name: str) -> pa.Schema:
    """`present`, the schema of table `name`, followed by the columns that `schema` adds. Where both have a number
    of different widths, one that holds both.

    Raises `StoreRefused` if a column of both has another type, or `stored_schema` does.
    """
    wanted = stored_schema(schema, name)
    for column in wanted:
        if column.name not in present.names:
            continue
        wider = _wider(present.field(column.name).type, column.type)
        if wider is not None:
            present = present.set(present.get_field_index(column.name), pa.field(column.name, wider))
        else:
            raise StoreRefused(
                f"table {name}, column {column.name}: is {present.field(column.name).type} in the lake, now it"
                f" is declared {column.type}: give the column another name, or take its view out, run millrace apply"
                ", move the table away, put the view back, apply and backfill it"
            )
    added = [column for column in wanted if column.name not in present.names]
    return stored_schema(pa.schema([*present, *added]), name)


def agreed_schema(
    present: pa.Schema, stored: Mapping[str, str], schema: pa.Schema, properties: Mapping[str, str], name: str
) -> pa.Schema:
    """The schema that table `name`, which has the schema `present` and the properties `stored`, gets when it is
    declared anew. Raises `StoreRefused` if it was made with other properties, or `merged_schema` does."""
    for key, value in properties.items():
        if stored.get(key) != value:
            raise StoreRefused(
                f"the lake's table {name} was made with {key} = {stored.get(key)}, now it is declared"
                f" {value}: restore the declaration, or take its view out, run millrace apply, which empties the online"
                " store of it, move the table away, put the view back, apply and backfill it"
            )
    return merged_schema(present, schema, name)


def conform(rows: pa.Table, present: pa.Schema, name: str) -> pa.Table:
    """`rows` with the columns of table `name` in its order (missing ones null), then their new columns.

    Delta's own schema merge would cast in silence (1.5 into an integer column becomes 1), so casts are made
    here, safely. Raises `StoreRefused` if a value does not fit its column.
    """
    if rows.schema.equals(present):
        return rows
    columns = {column.name: column for column in present}
    columns |= {c.name: c for c in stored_schema(rows.schema, name) if c.name not in columns}
    schema = stored_schema(pa.schema(list(columns.values())), name)
    return pa.table([_column(rows, column, name) for column in schema], schema=schema)


def _column(rows: pa.Table, column: pa.Field, name: str) -> pa.ChunkedArray:
    if column.name not in rows.schema.names:
        return pa.chunked_array([pa.nulls(rows.num_rows, column.type)])
    values = rows.column(column.name)
    # Only what the lake would make of the rows' own type: never a number out of a string, or the reverse.
    if not _fits(stored_type(values.type), column.type):
        raise StoreRefused(f"table {name}, column {column.name}: is {column.type} in the lake, not {values.type}")
    try:
        return values.cast(column.type)
    except pa.ArrowInvalid as error:
        raise StoreRefused(f"table {name}, column {column.name}: {error}") from error


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds all values of both: of integers and of floats the wider, of decimals the most digits that
    either has on each side of the point; None if there is none."""
    if one.equals(other):
        return one
    if pt.is_decimal128(one) and pt.is_decimal128(other):
        scale = max(one.scale, other.scale)
        precision = max(one.precision - one.scale, other.precision - other.scale) + scale
        return pa.decimal128(precision, scale) if precision <= MOST_DIGITS else None
    integers = pt.is_signed_integer(one) and pt.is_signed_integer(other)
    if integers or (pt.is_floating(one) and pt.is_floating(other)):
        return one if one.bit_width > other.bit_width else other
    return None


def _fits(given: pa.DataType | None, stored: pa.DataType) -> bool:
    """Whether values of one stored type may go into a column of another: the same, or a narrower number."""
    if given is None or given.equals(stored):
        return given is not None
    integers = pt.is_signed_integer(given) and pt.is_signed_integer(stored)
    decimals = pt.is_decimal128(given) and pt.is_decimal128(stored)
    return bool(integers or decimals or (pt.is_float32(given) and pt.is_float64(stored)))


def fresh_rows(
    rows: pa.Table,
    offsets: Mapping[tuple[str, int], int],
    stored: Mapping[tuple[str, int], int | None],
    name: str,
) -> pa.Table:
    """The rows at or beyond the stored next offset of their partition; all rows if `offsets` is empty.

    Raises `ValueError` if `offsets` names several topics, or a row has no offset below its partition's.
    """
    if not offsets:
        return rows
    if len({topic for topic, _ in offsets}) > 1:
        raise ValueError(f"table {name}: one append takes the offsets of one topic, not of {sorted(offsets)}")
    partition, offset = rows.column("_partition"), rows.column("_offset")
    partitions = pa.array([p for _, p in offsets], partition.type)
    index = pc.index_in(partition, partitions)
    limit = pc.take(pa.array(list(offsets.values()), pa.int64()), index)
    known = pc.fill_null(pc.less(offset, limit), False)
    if not pc.all(known, min_count=0).as_py():
        raise ValueError(f"table {name}: rows lie outside the offsets {dict(offsets)} that they are given with")
    if not any(stored.values()):
        return rows
    held = pc.take(pa.array([stored[key] or 0 for key in offsets], pa.int64()), index)
    return rows.filter(pc.greater_equal(offset, held))
