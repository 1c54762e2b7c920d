"""Column types of captured tables, by SQLAlchemy reflection of the source database.

SQLAlchemy's inspector tells columns, nullability, generated columns and primary keys. What a type is comes
from PostgreSQL's catalog, because SQLAlchemy's types drop the precision of a domain, do not know types of
extensions outside of the search path, and say nothing of TOAST.
"""

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
from sqlalchemy import Connection, Engine, Row, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import SAWarning

from connectors.source import Source, SourceUnavailable, connected, split
from connectors.table import Column, Encoding, Table, topic

_SCALARS: Mapping[str, tuple[Encoding, pa.DataType]] = {
    "int2": ("plain", pa.int16()),
    "int4": ("plain", pa.int32()),
    "int8": ("plain", pa.int64()),
    "oid": ("plain", pa.int64()),
    "float4": ("float", pa.float32()),
    "float8": ("float", pa.float64()),
    "bool": ("plain", pa.bool_()),
    "bpchar": ("plain", pa.string()),
    "varchar": ("plain", pa.string()),
    "text": ("plain", pa.string()),
    "citext": ("plain", pa.string()),
    "uuid": ("plain", pa.string()),
    "json": ("plain", pa.string()),
    "jsonb": ("plain", pa.string()),
    "inet": ("plain", pa.string()),
    "cidr": ("plain", pa.string()),
    "macaddr": ("plain", pa.string()),
    "interval": ("interval", pa.string()),
    "date": ("date", pa.date32()),
    # As text, HH:MM:SS.ffffff: neither Feast nor Delta has a time of day.
    "time": ("time", pa.string()),
    "timestamp": ("timestamp", pa.timestamp("us")),
    "timestamptz": ("timestamptz", pa.timestamp("us", tz="UTC")),
    "bytea": ("bytes", pa.binary()),
    "vector": ("vector", pa.list_(pa.float32())),
    "halfvec": ("vector", pa.list_(pa.float32())),
}
"""What is carried, by the type's name in `pg_type`; enums are carried as strings, numeric see `_numeric`."""

# Debezium 3.6 has no converter for interval[], and a NaN in a numeric[] stops its task; the rest is untried.
_NOT_IN_ARRAYS = frozenset({"interval", "numeric", "vector", "halfvec", "oid", "cidr", "macaddr"})

# The largest precision of a Delta decimal, and of Arrow's decimal128.
_MAX_PRECISION = 38

_TABLES = text(
    """
    select n.nspname || '.' || c.relname as name, c.oid
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
      and strpos(n.nspname, '.') = 0
    """
)

WITHIN = """
    with recursive within as (
        select i.inhrelid as part, i.inhparent as whole from pg_inherits i join pg_class c on c.oid = i.inhparent
        where c.relkind = 'p' and coalesce(to_jsonb(i) ->> 'inhdetachpending', 'false') = 'false'
        union all
        select w.part, i.inhparent from within w join pg_inherits i on i.inhrelid = w.whole
    )
    """
"""Each partition of the database, with every table that it is a part of. Of the catalog alone: `pg_partition_tree`
opens each partition, and would wait for one that is locked. Before PostgreSQL 14 none is about to be detached."""

_PARTITIONS = text(
    WITHIN
    + """
    select n.nspname || '.' || c.relname as name, l.oid::bigint as oid, l.oid::regclass::text as partition
    from within w join pg_class l on l.oid = w.part
    join pg_class c on c.oid = w.whole join pg_namespace n on n.oid = c.relnamespace
    where l.relkind <> 'p' and n.nspname || '.' || c.relname = any(:tables)
    """
)

# `base` follows a domain to the type that it is made of, with the modifiers and dimensions of the last step.
_TYPES = text(
    """
    with recursive base as (
        select a.attrelid, a.attnum, a.atttypid as type, a.atttypmod as typmod, a.attndims::int as dimensions
        from pg_attribute a
        where a.attrelid = any(:tables) and a.attnum > 0 and not a.attisdropped
        union all
        select b.attrelid, b.attnum, t.typbasetype, t.typtypmod, t.typndims
        from base b join pg_type t on t.oid = b.type
        where t.typtype = 'd'
    )
    select b.attrelid as oid, a.attname as name, format_type(a.atttypid, a.atttypmod) as sql_type,
           t.typname as base, t.typtype as kind, format_type(t.oid, b.typmod) as base_sql,
           e.typname as element, e.typtype as element_kind, b.dimensions,
           a.attlen = -1 and a.attstorage <> 'p' and (c.reltoastrelid <> 0 or c.relkind = 'p') as toastable
    from base b
    join pg_attribute a on a.attrelid = b.attrelid and a.attnum = b.attnum
    join pg_class c on c.oid = b.attrelid
    join pg_type t on t.oid = b.type
    left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
    where t.typtype <> 'd'
    order by b.attrelid, b.attnum
    """
)


# ACCESS EXCLUSIVE alone keeps a reader out, also while it waits itself.
_LOCKS = text(
    """
    select n.nspname || '.' || c.relname as name, l.pid, coalesce(nullif(a.application_name, ''), 'a client') as program
    from pg_locks l
    join pg_class c on c.oid = l.relation
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_stat_activity a on a.pid = l.pid
    where l.mode = 'AccessExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())
      and n.nspname || '.' || c.relname = any(:tables)
    order by l.granted desc, name
    """
)
_WAIT_FOR_LOCKS = text("select set_config('lock_timeout', :milliseconds, true)")
LOCK_NOT_AVAILABLE = "55P03"

LOCK_SECONDS = 30.0
"""How long a table may be locked while a person waits."""


class TableLocked(SourceUnavailable):
    """Another session holds a lock that keeps everybody from a table."""


class TableNotFound(Exception):
    """A declared table ("schema.name") that the source database does not have; `instead` names the nearest ones."""

    def __init__(self, source: str, table: str, nearest: str) -> None:
        super().__init__(f"source {source} has no table {table}{nearest}")
        self.table = table
        self.instead = nearest.removeprefix(": ") or "name one that it has"


def reflect(
    engine: Engine, source: Source, tables: Sequence[str], lock_seconds: float = LOCK_SECONDS
) -> tuple[Table, ...]:
    """The tables, each "schema.name", with their columns in the database's order.

    A table without a primary key has an empty one. A column of a type that cannot be carried, or generated,
    or excluded by the source, has the encoding "none" and the Arrow type null. Raises `TableNotFound`,
    `SourceUnavailable`, and `TableLocked` if one is locked for longer than `lock_seconds`: PostgreSQL takes a lock of
    its own to print the default of a column.
    """
    try:
        return _reflect(engine, source, tables, lock_seconds)
    except SourceUnavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        holder = _lock(engine, source, tables)
        raise TableLocked(
            f"source {source.name}: {holder}; its columns could not be read for {lock_seconds:g} s. Try again once "
            "that transaction has ended"
        ) from error


def _lock(engine: Engine, source: Source, tables: Sequence[str]) -> str:
    """Which of the tables is locked and by whom, for people."""
    with connected(engine, source) as connection:
        row = connection.execute(_LOCKS, {"tables": list(tables)}).first()
    if row is None:
        return f"one of {', '.join(tables)}, or of the catalog, was locked"
    return f"table {row.name} is locked by {row.program} (pid {row.pid} of the database)"


def _reflect(engine: Engine, source: Source, tables: Sequence[str], lock_seconds: float) -> tuple[Table, ...]:
    with connected(engine, source) as connection:
        connection.execute(_WAIT_FOR_LOCKS, {"milliseconds": str(round(1_000 * lock_seconds))})
        known = table_oids(connection)
        for table in tables:
            if table not in known:
                raise TableNotFound(source.name, table, suggestion(table, known))
        oids = {known[table]: table for table in tables}
        rows = connection.execute(_TYPES, {"tables": list(oids)}).all()
        types = {oids[oid]: {row.name: row for row in group} for oid, group in groupby(rows, lambda r: r.oid)}
        shapes = _shapes(connection, tables)
    return tuple(_table(source, table, *shapes[table], types[table]) for table in tables)


def table_oids(connection: Connection) -> dict[str, int]:
    """The oid of every table of the database, by "schema.name".

    A schema whose name holds a dot is left out: "schema.name" could not be told apart.
    """
    return {row.name: row.oid for row in connection.execute(_TABLES)}


def partitions(connection: Connection, tables: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of the tables ("schema.name") that are partitioned the names of the partitions that hold rows, by their oids."""
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(_PARTITIONS, {"tables": list(tables)}):
        found.setdefault(row.name, {})[str(row.oid)] = row.partition
    return found


def suggestion(table: str, known: Sequence[str] | Mapping[str, int]) -> str:
    """ ": did you mean ...?" with the known tables nearest to a name, or an empty text."""
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(table.lower(), list(folded), n=3, cutoff=0.7)
    return f": did you mean {' or '.join(folded[name] for name in close)}?" if close else ""


@dataclass(frozen=True, slots=True)
class _ColumnShape:
    name: str
    nullable: bool
    has_default: bool
    generated: bool


_Shape = tuple[list[_ColumnShape], tuple[str, ...]]


def _shapes(connection: Connection, tables: Sequence[str]) -> dict[str, _Shape]:
    """By table: its columns, and its primary key in key order."""
    inspector = inspect(connection)
    shapes: dict[str, _Shape] = {}
    by_schema = groupby(sorted(split(table) for table in tables), lambda parts: parts[0])
    for schema, group in by_schema:
        names = [name for _, name in group]
        with warnings.catch_warnings():
            # The types are the catalog's, so one that SQLAlchemy does not know is no news.
            warnings.filterwarnings("ignore", "Did not recognize type", SAWarning)
            columns = inspector.get_multi_columns(schema=schema, filter_names=names)
        keys = inspector.get_multi_pk_constraint(schema=schema, filter_names=names)
        for key, found in columns.items():
            shape = [_column_shape(column) for column in found]
            shapes[f"{schema}.{key[1]}"] = shape, tuple(keys[key]["constrained_columns"])
    return shapes


def _column_shape(column: ReflectedColumn) -> _ColumnShape:
    defaults = column["default"] is not None or column.get("identity") is not None
    return _ColumnShape(column["name"], column["nullable"], defaults, column.get("computed") is not None)


def _table(
    source: Source,
    table: str,
    columns: Sequence[_ColumnShape],
    primary_key: tuple[str, ...],
    types: Mapping[str, Row[tuple[object, ...]]],
) -> Table:
    schema, name = split(table)
    return Table(
        source=source.name,
        schema=schema,
        name=name,
        topic=topic(source.name, schema, name),
        columns=tuple(
            _column(types[column.name], column, excluded=source.excludes(f"{table}.{column.name}"))
            for column in columns
        ),
        primary_key=primary_key,
    )


def _column(row: Row[tuple[object, ...]], shape: _ColumnShape, *, excluded: bool) -> Column:
    encoding, arrow_type, element = ("none", pa.null(), None) if shape.generated or excluded else _carried(row)
    return Column(
        name=row.name,
        sql_type=row.sql_type,
        arrow_type=arrow_type,
        encoding=encoding,
        nullable=shape.nullable,
        has_default=shape.has_default and not shape.generated,
        element=element,
        toastable=row.toastable and encoding != "none",
        generated=shape.generated,
        excluded=excluded,
    )


def _carried(row: Row[tuple[object, ...]]) -> tuple[Encoding, pa.DataType, Encoding | None]:
    """The encoding, Arrow type and element encoding of a column's type."""
    if row.element is None:
        return *_scalar(row.base, row.kind, row.base_sql), None
    # Of an array declared with two dimensions Debezium sends nulls; a null inside an array of an enum stops its task.
    if row.element in _NOT_IN_ARRAYS or row.element_kind == "e" or row.dimensions > 1:
        return "none", pa.null(), None
    encoding, arrow_type = _scalar(row.element, row.element_kind, "")
    return ("none", arrow_type, None) if encoding == "none" else ("array", pa.list_(arrow_type), encoding)


def _scalar(base: str, kind: str, base_sql: str) -> tuple[Encoding, pa.DataType]:
    if kind == "e":
        return "plain", pa.string()
    if base == "numeric":
        return _numeric(base_sql)
    return _SCALARS.get(base, ("none", pa.null()))


def _numeric(sql: str) -> tuple[Encoding, pa.DataType]:
    """numeric(p,s) is a decimal; without a precision, or with more digits than a decimal has, a string.

    With a negative scale Debezium 3.6 takes it for one of thousands of digits: not carried.
    """
    match = re.search(r"\((\d+),(-?\d+)\)", sql)
    if match is None:
        return "decimal", pa.string()
    precision, scale = int(match[1]), int(match[2])
    if scale < 0:
        return "none", pa.null()
    if max(precision, scale) > _MAX_PRECISION:
        return "decimal", pa.string()
    return "decimal", pa.decimal128(max(precision, scale), scale)
