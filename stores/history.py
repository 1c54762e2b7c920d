"""Newest rows of lake tables. Point-in-time joins are in `stores.asof`.

The order of versions, as everywhere in millrace (`stores.rows`, `stores.view`):
- state view: the newest version of an entity is the one with the greatest LSN;
- event view: the newest version of a source row (`_row`) is the one with the greatest LSN, where at one LSN
  the live one wins (a row that moved to another entity left a delete there at the same LSN); an entity's value
  is its newest live row by (event time, LSN, row).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.errors import StoreRefused
from stores.lake import Lake, Snapshot
from stores.query import Session, answer, held, parts, quoted, session
from stores.rows import EMBEDDING, rows_schema
from stores.view import View

KIND = "millrace.kind"
"""Property of `features/<view>`: `state` or `event`."""

JOIN_KEYS = "millrace.join_keys"
"""Property of `features/<view>`: a JSON list of its join keys."""

PART_ROWS = 50_000
"""Rows of an answer that is given part by part, at once."""

PRIMARY_KEY = "millrace.primary_key"
"""Property of `changes/<topic>`: a JSON list of the primary key columns of the source table."""

TOPIC = "millrace.topic"
"""Property of both: the Kafka topic that feeds the table."""


def feature_properties(view: View, topic: str) -> dict[str, str]:
    """The properties to create `features/<view>` with; `topic` is empty where rows are pushed."""
    return {KIND: view.kind, JOIN_KEYS: json.dumps([key.name for key in view.join_keys]), TOPIC: topic}


def change_properties(topic: str, primary_key: Sequence[str]) -> dict[str, str]:
    """The properties to create `changes/<topic>` with."""
    return {PRIMARY_KEY: json.dumps(list(primary_key)), TOPIC: topic}


def kind(table: Snapshot) -> str:
    """`state` or `event`; `StoreRefused` if the table does not say."""
    if table.properties.get(KIND) not in ("state", "event"):
        raise StoreRefused(f"the lake's table {table.name} has no property {KIND}: it was not made by millrace")
    return table.properties[KIND]


def newest(lake: Lake, view: View, keys: pa.Table | None = None, *, deleted: bool = False) -> pa.Table:
    """The newest feature row of every entity that is not gone, in no order.

    `keys` (columns: the view's join keys) limits it to these entities; one that is gone, or was never there,
    has no row in the answer. With `deleted` the entities of a state view that are gone are there too, as
    their delete. Schema: `rows_schema(view)`, followed by `EMBEDDING` for a view with a vector.
    Raises `StoreUnavailable`, `TableMissing`; `StoreRefused` if the table lacks a column of the view.
    """
    with _newest(lake, view, keys, deleted) as (connection, query, schema):
        return answer(connection, query, schema)


def every_newest(lake: Lake, view: View) -> Iterator[pa.Table]:
    """As `newest` of all entities, part by part: more of them than memory holds."""
    with _newest(lake, view, None, False) as (connection, query, schema):
        yield from parts(connection, query, schema, PART_ROWS)


def standing(lake: Lake, view: View, lsns: Sequence[int], among: Collection[int]) -> Iterator[pa.Table]:
    """Every source row as it stood at each of these LSNs that is `among` the others, if it was not gone by then and had
    changed since the LSN before, in no order, part by part: its join keys and `stores.rows.META`. What came late at an
    entity counts there, whatever became of the row at another one. Errors as of `newest`."""
    ends = np.unique(np.array(lsns, np.int64))
    asked = np.isin(ends, list(among))
    if not asked.any():
        return
    moments = pa.table({"_after": np.concatenate([[-1], ends[:-1]])[asked], "_moment": ends[asked]})
    # No user's column has a name that begins with an underscore.
    with _keyed(lake, view, moments=moments) as (connection, columns, of_row, schema):
        query = f"""SELECT {columns} FROM (
            SELECT {columns}, _moment FROM (SELECT * FROM data WHERE {_between(moments)})
            ASOF JOIN moments ON _lsn <= _moment WHERE _lsn > _after {_latest(f"{of_row}, _moment")}
        ) WHERE NOT _deleted"""
        yield from parts(connection, query, schema, PART_ROWS)


def deleted_at(lake: Lake, view: View, lsns: Sequence[int]) -> Iterator[pa.Table]:
    """Of each source row at each entity the newest delete that has one of these LSNs, in no order, part by part: its
    join keys and `stores.rows.META`. Errors as of `newest`."""
    if not lsns:
        return
    moments = pa.table({"_after": np.array(lsns, np.int64) - 1, "_moment": pa.array(lsns, pa.int64())})
    with _keyed(lake, view, moments=moments) as (connection, columns, of_row, schema):
        query = f"""SELECT {columns} FROM data SEMI JOIN moments ON _lsn = _moment
            WHERE _deleted AND {_between(moments)} {_latest(of_row)}"""
        yield from parts(connection, query, schema, PART_ROWS)


@contextmanager
def _keyed(lake: Lake, view: View, **tables: pa.Table) -> Iterator[tuple[Session, str, str, pa.Schema]]:
    """A session with a view's table as `data`; its columns but for the features, what tells its source rows at their
    entities apart, and the schema of these columns."""
    table = lake.snapshot(f"features/{view.name}")
    schema = pa.schema([field for field in rows_schema(view) if field.name not in {f.name for f in view.features}])
    columns = ", ".join(quoted(held(table, name)) for name in schema.names)
    of_row = f"_row, {_by_key(view)}" if view.kind == "event" else _by_key(view)
    with session(data=table.data, **tables) as connection:
        yield connection, columns, of_row, schema


def _between(moments: pa.Table) -> str:
    """A condition that spares files: it is told from their statistics."""
    return f"_lsn > {pc.min(moments['_after']).as_py()} AND _lsn <= {pc.max(moments['_moment']).as_py()}"


def before(
    table: Snapshot, changes: pa.Table, columns: Sequence[str], without: Mapping[str, pa.Array] = MappingProxyType({})
) -> pa.Table:
    """What the columns held before each of some changes of `changes/<topic>`, row by row: the values of the
    newest earlier change of the same source row; null where there is none, or it deleted the row. Changes that gave
    a column a value that it is to be `without` do not count."""
    key = json.loads(table.properties[PRIMARY_KEY])
    names = [*(f"k{i}" for i in range(len(key))), "lsn"]
    asked = changes.select([*key, "_lsn"]).rename_columns(names).append_column("i", pa.array(range(len(changes))))
    values = ", ".join(f"CASE WHEN earlier._op <> 'd' THEN earlier.{quoted(column)} END" for column in columns)
    same_row = " AND ".join(f"asked.k{i} = earlier.{quoted(name)}" for i, name in enumerate(key))
    schema = pa.schema([table.schema.field(column) for column in columns])
    excluded = {f"excluded{i}": pa.table({"value": values_of}) for i, values_of in enumerate(without.values())}
    gave = [f"coalesce({quoted(c)} IN (FROM {name}), false)" for c, name in zip(without, excluded, strict=True)]
    counted = f"(SELECT * FROM data WHERE _op = 'd' OR NOT ({' OR '.join(gave)}))" if gave else "data"
    with session(data=table.data, asked=asked, **excluded) as connection:
        query = f"""SELECT {values} FROM asked ASOF LEFT JOIN {counted} AS earlier
                    ON {same_row} AND asked.lsn > earlier._lsn ORDER BY asked.i"""
        return answer(connection, query, schema)


@contextmanager
def _newest(lake: Lake, view: View, keys: pa.Table | None, deleted: bool) -> Iterator[tuple[Session, str, pa.Schema]]:
    """The query for the newest rows of all or some keys, and what it gives. Of the newest version of each source row,
    deleted ones too, an event view's entity has the latest that is live."""
    table = lake.snapshot(f"features/{view.name}")
    schema = rows_schema(view)
    for column in EMBEDDING if view.vector else ():
        schema = schema.append(column)
    columns = ", ".join(quoted(held(table, name)) for name in schema.names)
    by_key = _by_key(view)
    with session(data=table.data) as connection:
        wanted, touched = "", "data"
        if keys is not None:
            stored = pa.schema([table.schema.field(key.name) for key in view.join_keys])
            connection.register("entities", keys.select(stored.names).cast(stored))
            wanted = f"SEMI JOIN entities USING ({by_key})"
            touched = f"data WHERE hash(_row) IN (SELECT hash(_row) FROM data {wanted})"
        if view.kind == "state":
            versions = f"SELECT {columns} FROM data {wanted} {_latest(by_key)}"
            chosen = "" if deleted else "WHERE NOT _deleted"
        else:
            versions = f"SELECT * FROM (SELECT {columns} FROM {touched} {_latest('_row')}) {wanted}"
            chosen = f"""WHERE NOT _deleted QUALIFY row_number() OVER
                (PARTITION BY {by_key} ORDER BY event_timestamp DESC, _lsn DESC, _row DESC) = 1"""
        yield connection, f"WITH versions AS ({versions}) SELECT * FROM versions {chosen}", schema


def _by_key(view: View) -> str:
    return ", ".join(quoted(key.name) for key in view.join_keys)


def _latest(by: str, gone: str = "_deleted") -> str:
    return f"QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY _lsn DESC, {gone}, _offset DESC) = 1"


def current(
    table: Snapshot,
    columns: Mapping[str, str],
    time: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    keys: Sequence[str] = (),
    newest_by: Sequence[str] | None = None,
) -> pa.Table:
    """The rows that a table holds now, newest event time first.

    Of `changes/<topic>` that is the newest version of each source row by its primary key, without the deleted
    and the truncated ones; of `features/<view>` the newest live rows (an event view's all, not one an entity);
    of any other table all rows. Rows are limited to `start <= time <= end`, `time` being a stored column of
    timestamps or dates; to those that belong to an entity, with no null in `keys` (stored columns); and of rows
    that have the same values in the stored columns `newest_by`, if these are given, to the newest.
    `columns` maps the names in the answer to stored columns, and fixes the order and the types.
    Raises `StoreUnavailable`, and `StoreRefused` if the table lacks a column or `time` is no time.
    """
    stored = [held(table, column) for column in columns.values()]
    schema = pa.schema([table.schema.field(c).with_name(n) for n, c in zip(columns, stored, strict=True)])
    micros = _micros(table, time)
    entity = [quoted(held(table, key)) for key in keys]
    bounds = [f"{key} IS NOT NULL" for key in entity]
    bounds += [f"{micros} >= {_since_epoch(start)}"] if start else []
    bounds += [f"{micros} <= {_since_epoch(end)}"] if end else []
    where = " AND ".join(bounds) or "TRUE"
    order = f"{micros} DESC" + (", _lsn DESC" if "_lsn" in table.schema.names else "")
    if "_row" in table.schema.names:
        order += ", _row DESC"
    query = f"SELECT {', '.join(map(quoted, stored))} FROM ({_live(table)}) WHERE {where}"
    if newest_by is not None:
        by = f"PARTITION BY {', '.join(quoted(held(table, column)) for column in newest_by)} " if newest_by else ""
        query += f" QUALIFY row_number() OVER ({by}ORDER BY {order}) = 1"
    with session(data=table.data) as connection:
        return answer(connection, f"{query} ORDER BY {order}", schema)


def _live(table: Snapshot) -> str:
    """SQL of the newest versions that are not gone, in a table of changes, of features, or of neither."""
    if "_op" in table.schema.names:
        key = json.loads(table.properties.get(PRIMARY_KEY, "[]"))
        newest_version = _latest(", ".join(map(quoted, key)), "_op = 'd'") if key else ""
        return f"""
            SELECT * FROM (
                SELECT * FROM data
                WHERE _op <> 't' AND _lsn > (SELECT coalesce(max(_lsn), -1) FROM data WHERE _op = 't')
                {newest_version}
            ) WHERE _op <> 'd'"""
    if "_deleted" in table.schema.names:
        by = "_row" if kind(table) == "event" else ", ".join(map(quoted, json.loads(table.properties[JOIN_KEYS])))
        return f"SELECT * FROM (SELECT * FROM data {_latest(by)}) WHERE NOT _deleted"
    return "SELECT * FROM data"


def _micros(table: Snapshot, column: str) -> str:
    type_ = table.schema.field(held(table, column)).type
    if pt.is_timestamp(type_) or pt.is_date(type_):
        zoned = pt.is_timestamp(type_) and type_.tz is not None
        return f"epoch_us({quoted(column)}::{'TIMESTAMPTZ' if zoned else 'TIMESTAMP'})"
    raise StoreRefused(f"column {column} of the lake's table {table.name} is {type_}, which is no event time")


def _since_epoch(time: datetime) -> int:
    return int(pa.scalar(time, pa.timestamp("us", tz="UTC")).value)
