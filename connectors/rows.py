"""A table's rows as they stand in the source database, in the types in which its changes arrive.

The values are read in the very encodings that Debezium writes and go through the same decoder, so that what
is compared with a feature differs from it only if the data does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt
from sqlalchemy import Engine

from connectors.encodings import Undecodable, decode
from connectors.source import Source, connected, quoted, quoted_name
from connectors.table import Column, Encoding, Table

CHUNK = 20_000

# What decode() refuses, as it refuses Debezium's sentinels for infinity.
_ENDLESS_DAYS, _ENDLESS_MICROSECONDS = 2**31 - 1, 2**63 - 1
_SPECIAL_NUMERICS = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a table: its carried columns. `undecodable` are the rows that hold a value which cannot be
    carried, such as an infinite timestamp, with null in its place."""

    table: pa.Table
    undecodable: pa.Table


def read_rows(
    engine: Engine, source: Source, table: Table, columns: Sequence[Column], most: int | None = None
) -> Iterator[Rows]:
    """The given columns of all rows, or of so many at most, in chunks, in one consistent snapshot. Raises
    `SourceUnavailable`."""
    expressions = ", ".join(_expression(column) for column in columns)
    limit = "" if most is None else f" LIMIT {most}"
    query = f"SELECT {expressions} FROM {_percents_doubled(quoted(f'{table.schema}.{table.name}'))}{limit}"
    with connected(engine, source) as connection:
        result = connection.execution_options(yield_per=CHUNK).exec_driver_sql(query)
        for part in result.partitions():
            yield _decoded([list(row) for row in part], columns)


def _decoded(rows: list[list[object]], columns: Sequence[Column]) -> Rows:
    odd: list[list[object]] = []
    while True:
        bad: set[int] = set()
        arrays = []
        for i, column in enumerate(columns):
            try:
                arrays.append(decode([row[i] for row in rows], column))
            except Undecodable as error:
                bad |= {index for index, _, _ in error.bad}
        if not bad:
            names = [column.name for column in columns]
            rest = [_salvaged([row[i] for row in odd], column) for i, column in enumerate(columns)]
            return Rows(pa.table(arrays, names=names), pa.table(rest, names=names))
        odd += [row for i, row in enumerate(rows) if i in bad]
        rows = [row for i, row in enumerate(rows) if i not in bad]


def _salvaged(values: list[object], column: Column) -> pa.Array:
    try:
        return decode(values, column)
    except Undecodable as error:
        bad = {index for index, _, _ in error.bad}
        return decode([None if i in bad else value for i, value in enumerate(values)], column)


def _expression(column: Column) -> str:
    """SQL that gives a column's value as Debezium encodes it."""
    name = _percents_doubled(quoted_name(column.name))
    if column.encoding != "array":
        return _scalar(name, column.encoding, column.arrow_type)
    element = _scalar("e", column.element or "plain", column.arrow_type.value_type)
    elements = f"SELECT {element} FROM unnest({name}) WITH ORDINALITY AS u(e, i) ORDER BY i"
    return f"CASE WHEN {name} IS NOT NULL THEN ARRAY({elements}) END"


def _percents_doubled(name: str) -> str:
    """A quoted name as the driver wants it, which takes a single percent sign for a placeholder."""
    return name.replace("%", "%%")


def _scalar(name: str, encoding: Encoding, kind: pa.DataType) -> str:
    epoch = f"(extract(epoch FROM {name}) * 1000000)::bigint"
    match encoding:
        case "date":
            days = f"{name} - DATE '1970-01-01'"
            return f"CASE WHEN isfinite({name}) THEN {days} WHEN {name} IS NOT NULL THEN {_ENDLESS_DAYS} END"
        case "time":
            return epoch
        case "timestamp":
            return f"CASE WHEN isfinite({name}) THEN {epoch} WHEN {name} IS NOT NULL THEN {_ENDLESS_MICROSECONDS} END"
        case "timestamptz":
            text = f"to_char({name} AT TIME ZONE 'UTC', '{_ISO}')"
            # Which says nothing of the era: a year before Christ would be read as one after.
            carried = f"isfinite({name}) AND {name} >= TIMESTAMPTZ '0001-01-01 00:00:00+00'"
            return f"CASE WHEN {carried} THEN {text} WHEN {name} IS NOT NULL THEN 'infinity' END"
        case "bytes":
            return f"replace(encode({name}, 'base64'), E'\\n', '')"
        case "vector":
            return f"{name}::real[]"
        case "decimal":
            specials = " ".join(f"WHEN '{ours}' THEN '{theirs}'" for ours, theirs in _SPECIAL_NUMERICS.items())
            return f"CASE {name}::text {specials} ELSE {name}::text END"
        case "plain" | "interval" if pt.is_string(kind):
            # format() writes a value as PostgreSQL prints it; a cast would cut char(n) and lengthen inet.
            return f"CASE WHEN {name} IS NOT NULL THEN format('%%s', {name}) END"
        case _:
            return name
