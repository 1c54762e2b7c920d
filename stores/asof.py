"""Point-in-time joins: the features that entities had at given times, without leakage, by DuckDB ASOF joins.

A version counts in a span of time [s, until), and where several count, the greatest in the order of versions
(`stores.history`) is the value. Open spans (no `until`) need one ASOF join over the versions that lead, that
is, that are greater than all which started before. Closed spans (deleted rows, and with `known` superseded
versions) need one more over those that lead among them; it can name a span that has ended, and then the value
is a version that outlives its follower, or none: those few are joined by their bounds.

In the queries columns are called k0.. (join keys), f0.. (features), t, e and c (entity, event and commit time
in microseconds), l, r, d, o (`_lsn`, `_row`, `_deleted`, `_offset`), so that no user's column can clash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from stores.history import kind
from stores.lake import Lake, Snapshot
from stores.query import Session, answer, held, quoted, session
from stores.rows import TIMESTAMP


@dataclass(frozen=True, slots=True)
class Join:
    """One feature table of a point-in-time join.

    `join_keys` maps the table's join keys to the columns of the entity frame; `features` are the columns
    wanted. A value whose event time lies more than `ttl` before the entity's time is null; None or zero
    means that it never ages.
    """

    table: str
    join_keys: Mapping[str, str]
    features: tuple[str, ...]
    ttl: timedelta | None = None


def asof(lake: Lake, entities: pa.Table, times: pa.ChunkedArray, join: Join, *, known: bool = False) -> pa.Table:
    """The features that each row of `entities` had at its time: columns `join.features`, rows in its order.

    `times` are timestamps in UTC, one a row. A state view's version counts from its event time on, made
    monotone along the LSN, so that the newest version has the last word; from a delete on the values are
    null. A version of an event view's source row counts from its event time until that of a later version, or
    until the commit time of the row's delete: as the online store served it, if changes arrive in time; one
    that a later version moved to the same time or before was corrected, and does not count. With `known` a
    version counts from its commit time at the earliest, and a row has at each time the newest version
    committed by then.

    Raises `StoreUnavailable`, `TableMissing`, `StoreRefused` if the table lacks a column, and `ValueError` if
    a key is missing in `entities` or cannot be read as the join key's type.
    """
    table = lake.snapshot(join.table)
    keys = {f"k{i}": _key(entities, join.join_keys[name], table, name) for i, name in enumerate(join.join_keys)}
    micros = times.cast(TIMESTAMP).cast(pa.int64())
    spine = pa.table({"i": np.arange(len(times)), "t": micros, **keys})
    query = _Query(table, tuple(keys), join, known)
    schema = pa.schema([table.schema.field(held(table, name)) for name in join.features])
    with session(data=table.data, spine=spine) as connection:
        found = query.state() if kind(table) == "state" else query.event(connection)
        return answer(connection, found, schema)


def _key(entities: pa.Table, column: str, table: Snapshot, name: str) -> pa.ChunkedArray:
    if column not in entities.schema.names:
        raise ValueError(f"the entity frame has no column {column}, a join key of {table.name}")
    type_ = table.schema.field(held(table, name)).type
    try:
        return entities.column(column).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {column} of the entity frame does not read as {type_}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Query:
    """The SQL of one join over `data`, the feature table, and `spine`, the entities (i, t, k0..)."""

    table: Snapshot
    keys: tuple[str, ...]
    join: Join
    known: bool

    @property
    def by_key(self) -> str:
        return ", ".join(self.keys)

    @property
    def features(self) -> list[str]:
        return [f"f{i}" for i in range(len(self.join.features))]

    @property
    def rows(self) -> str:
        """The feature table under the names of the query, with `s`, the time from which a version counts."""
        names = zip((*self.join.join_keys, *self.join.features), (*self.keys, *self.features), strict=True)
        columns = ", ".join(f"{quoted(held(self.table, column))} AS {name}" for column, name in names)
        return f"""(
            SELECT *, {"greatest(e, c)" if self.known else "e"} AS s FROM (
                SELECT {columns}, epoch_us(event_timestamp) AS e, epoch_us(created_timestamp) AS c,
                       _lsn AS l, _row AS r, _deleted AS d, _offset AS o
                FROM data))"""

    def state(self) -> str:
        return f"""
            WITH versions AS (
                SELECT * REPLACE (max(s) OVER version AS s), lead(s) OVER version AS following
                FROM {self.rows} SEMI JOIN spine USING ({self.by_key})
                WINDOW version AS (PARTITION BY {self.by_key} ORDER BY l, d DESC, o ROWS UNBOUNDED PRECEDING)
            ), steps AS (
                SELECT * FROM versions WHERE following IS NULL OR following > s
            ), found AS ({self._found("steps")})
            {self._values()}"""

    def event(self, connection: Session) -> str:
        self._spans(connection)
        if not connection.sql("SELECT 1 FROM closed LIMIT 1").fetchall():
            return f"WITH {self._steps('open')}, found AS ({self._found('open_steps')}) {self._values()}"
        columns = ", ".join(f"version.{c}" for c in (*self.features, "e", "l", "r", "d"))
        counting = f"{self._same_key('version')} AND spine.t >= version.s"
        return f"""
            WITH {self._steps("open")}, {self._steps("closed")}, loose AS (
                SELECT * FROM (
                    SELECT *, lead(until) OVER (PARTITION BY {self.by_key}, leads ORDER BY s, p) AS follower
                    FROM closed_ranked
                ) WHERE NOT leads OR follower < until
            ), candidates AS (
                SELECT i, {columns} FROM spine ASOF JOIN open_steps AS version ON {counting}
                UNION ALL
                SELECT i, {columns} FROM spine ASOF JOIN closed_steps AS version ON {counting} WHERE until > t
                UNION ALL
                SELECT i, {columns} FROM spine JOIN loose AS version ON {counting} AND until > t
            ), best AS (
                SELECT * FROM candidates
                QUALIFY row_number() OVER (PARTITION BY i ORDER BY e DESC, l DESC, r DESC) = 1
            ), found AS (
                SELECT spine.i, t, best.* EXCLUDE (i) FROM spine LEFT JOIN best ON spine.i = best.i
            ) {self._values()}"""

    def _found(self, steps: str) -> str:
        """For each entity row the last of the steps that had begun at its time."""
        columns = ", ".join(f"version.{c}" for c in (*self.features, "e", "d"))
        return f"""
            SELECT i, t, {columns} FROM spine ASOF LEFT JOIN {steps} AS version
            ON {self._same_key("version")} AND spine.t >= version.s"""

    def _values(self) -> str:
        """The features of `found`, null where the version is a delete or too old."""
        ttl = self.join.ttl
        counts = "NOT d" + (f" AND e >= t - {ttl // timedelta(microseconds=1)}" if ttl else "")
        return f"SELECT {', '.join(f'CASE WHEN {counts} THEN {f} END' for f in self.features)} FROM found ORDER BY i"

    def _same_key(self, other: str) -> str:
        return " AND ".join(f"spine.{key} = {other}.{key}" for key in self.keys)

    def _steps(self, spans: str) -> str:
        """SQL of `<spans>_steps`: the leading ones of `open` or `closed`, at most one at each start."""
        order = f"PARTITION BY {self.by_key} ORDER BY s, p"
        return f"""
            {spans}_ranked AS (
                SELECT *, p = max(p) OVER ({order} ROWS UNBOUNDED PRECEDING) AS leads FROM (
                    SELECT *, row_number() OVER (PARTITION BY {self.by_key} ORDER BY e, l, r) AS p FROM {spans})
            ), {spans}_steps AS (
                SELECT * FROM {spans}_ranked WHERE leads
                QUALIFY lead(s) OVER ({order}) IS DISTINCT FROM s
            )"""

    def _spans(self, connection: Session) -> None:
        """Make `open` and `closed`: the versions that count from `s` on, and those that count until `until`.

        Most source rows have one version. The others, and the deleted ones, are told by counting hashes, so
        that only they need to be put in order.
        """
        columns = ", ".join((*self.keys, *self.features, "e", "l", "r", "d", "s", "until"))
        key = f"({self.by_key})" if len(self.keys) > 1 else self.by_key
        connection.execute(f"""
            CREATE TEMP TABLE several AS
            SELECT hash(r) AS h FROM {self.rows} GROUP BY h
            HAVING (count(*) > 1 OR bool_or(d)) AND bool_or({key} IN (SELECT {key} FROM spine))""")
        # Without `known` a version counts until the event time of a later one, of a delete the commit time: a
        # version whose successor lies at the same time or before was corrected, and counts at no time.
        later = "ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING"
        until = "lead(c) OVER version" if self.known else f"min(e) OVER (PARTITION BY r ORDER BY l, o {later})"
        connection.execute(f"""
            CREATE TEMP TABLE versions AS
            SELECT *, {until} AS until, lead(d) OVER version IS NOT NULL AS followed
            FROM (
                SELECT *, bool_or(NOT d) OVER (PARTITION BY r, l) AS moved
                FROM {self.rows} SEMI JOIN several ON hash(r) = several.h
            ) WHERE NOT (d AND moved)
            WINDOW version AS (PARTITION BY r ORDER BY l, o)""")
        connection.execute(f"""
            CREATE TEMP TABLE closed AS
            SELECT {columns} FROM versions WHERE NOT d AND followed AND s < until""")
        connection.execute(f"""
            CREATE TEMP VIEW open AS
            SELECT {columns} FROM (SELECT *, NULL::BIGINT AS until FROM {self.rows})
            SEMI JOIN spine USING ({self.by_key}) ANTI JOIN several ON hash(r) = several.h
            UNION ALL SELECT {columns} FROM versions WHERE NOT d AND NOT followed""")
