"""Point-in-time joins: the features that entities had at given times, without leakage, by DuckDB ASOF joins.

A version counts in a span of time [s, until), and where several count, the greatest in the order of versions
(`stores.history`) is the value. Open spans (no `until`) need one ASOF join over the versions that lead, that
is, that are greater than all which started before. Closed spans (versions that a later one or a delete
followed) need one more over those that lead among them; it can name a span that has ended, and then the value
is a version that outlives its follower, or none: those few are joined by their bounds.

In the queries columns are called i (entity row), k0.. (join keys), f0.. (features), t, e, c (entity, event and
commit time in microseconds), l, r, d, o (`_lsn`, `_row`, `_deleted`, `_offset`): no user's column can clash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.casts import as_given
from stores.history import kind
from stores.lake import Lake, Snapshot
from stores.query import Session, answer, held, quoted, session
from stores.rows import TIMESTAMP

_FOUND = "i, t, version.e, version.l, version.r, version.o, version.d"
"""An entity row and the version found for it."""


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

    `times` are timestamps in UTC, one a row. A state view's version counts from its event time on, but not sooner
    than those before it, so that the newest version has the last word; one that was yet to count when the next was
    committed never does, such as one whose event time was mistaken for years to come. From a delete on the values are
    null. A version of an event view's source row counts from its event time until that of a later version, or
    until the commit time of the row's delete: as the online store served it, if changes arrive in time; one
    that a later version moved to the same time or before was corrected, and does not count. With `known` a
    version counts from its commit time at the earliest, and a row has at each time the newest version
    committed by then. A version was committed no later than those above it, whatever a snapshot's row says. A delete
    after a delete says nothing.

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


def _says_something(window: str) -> str:
    """SQL of whether a version is no delete of what a delete before it has ended: which truncates end a row depends on
    the order in which they were heard of."""
    return f"NOT (d AND coalesce(lag(d) OVER ({window}), false))"


def _key(entities: pa.Table, column: str, table: Snapshot, name: str) -> pa.ChunkedArray:
    if column not in entities.schema.names:
        raise ValueError(f"the entity frame has no column {column}, a join key of {table.name}")
    type_ = table.schema.field(held(table, name)).type
    try:
        values = as_given(entities.column(column), type_)  # in UTC
        # A join key that is a timestamp has whole seconds, as it is served.
        return pc.floor_temporal(values, unit="second") if pt.is_timestamp(type_) else values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {column} of the entity frame does not read as {type_}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Query:
    """The SQL of one join over `data`, the feature table, and `spine`, the entities (i, t, k0..).

    Versions are put in order without their features, which are fetched last, for the versions found.
    """

    table: Snapshot
    keys: tuple[str, ...]
    join: Join
    known: bool

    @property
    def by_key(self) -> str:
        return ", ".join(self.keys)

    @property
    def rows(self) -> str:
        """The feature table under the names of the query, with `s`, the time from which a version counts."""
        return f"(SELECT *, {'greatest(e, c)' if self.known else 'e'} AS s FROM {self._named_rows()})"

    def _named_rows(self) -> str:
        return f"""(
            SELECT {self._named_keys()}, epoch_us(event_timestamp) AS e, epoch_us(created_timestamp) AS c,
                   _lsn AS l, _row AS r, _deleted AS d, _offset AS o
            FROM data)"""

    def state(self) -> str:
        version = f"PARTITION BY {self.by_key} ORDER BY l, d DESC, o"
        order = f"{version} ROWS"
        # What a snapshot told stands below changes that were committed before it was read, and does not put them off.
        heard = f"min(c) OVER ({order} BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
        return f"""
            WITH versions AS (
                SELECT *, {"greatest(h, if(e = c, h, e))" if self.known else "if(e = c, h, e)"} AS s
                FROM (
                    SELECT *, {heard} AS h FROM (
                        SELECT * FROM {self._named_rows()} SEMI JOIN spine USING ({self.by_key})
                        QUALIFY {_says_something(version)}
                    )
                )
            ), begun AS (
                SELECT * REPLACE (
                    greatest(s, max(kept) OVER ({order} BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS s
                ) FROM (SELECT *, least(s, lead(h) OVER ({version})) AS kept FROM versions)
            ), steps AS (
                SELECT * EXCLUDE (following) FROM (
                    SELECT *, min(s) OVER ({order} BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS following FROM begun
                ) WHERE following IS NULL OR following > s
            ), found AS ({self._last("steps", "LEFT")})
            {self._values()}"""

    def event(self, connection: Session) -> str:
        self._spans(connection)
        if not connection.sql("SELECT 1 FROM closed LIMIT 1").fetchall():
            steps = self._ranked_steps("open") if self.known else self._steps_in_order("open")
            return f"WITH {steps}, found AS ({self._last('open_steps', 'LEFT')}) {self._values()}"
        return f"""
            WITH {self._ranked_steps("open")}, {self._ranked_steps("closed")}, loose AS (
                SELECT * FROM (
                    SELECT *, lead(until) OVER (PARTITION BY {self.by_key}, leads ORDER BY s, p) AS follower
                    FROM closed_ranked
                ) WHERE NOT leads OR follower < until
            ), candidates AS (
                {self._last("open_steps")}
                UNION ALL {self._last("closed_steps")} WHERE until > t
                UNION ALL SELECT {_FOUND} FROM spine JOIN loose AS version ON {self._counting()} AND until > t
            ), best AS (
                SELECT * EXCLUDE (t) FROM candidates
                QUALIFY row_number() OVER (PARTITION BY i ORDER BY e DESC, l DESC, r DESC) = 1
            ), found AS (
                SELECT i, t, best.* EXCLUDE (i) FROM spine LEFT JOIN best USING (i)
            ) {self._values()}"""

    def _named_keys(self) -> str:
        names = zip(self.join.join_keys, self.keys, strict=True)
        return ", ".join(f"{quoted(held(self.table, column))} AS {key}" for column, key in names)

    def _counting(self) -> str:
        """Whether a version of the entity has begun to count."""
        return " AND ".join([*(f"spine.{key} = version.{key}" for key in self.keys), "t >= version.s"])

    def _last(self, steps: str, outer: str = "") -> str:
        """For each entity row the last of the steps that has begun to count; `outer` keeps rows without."""
        return f"SELECT {_FOUND} FROM spine ASOF {outer} JOIN {steps} AS version ON {self._counting()}"

    def _values(self) -> str:
        """The features of the version found for each entity row, null where it is a delete or too old.

        The same row may have been pushed twice, hence QUALIFY.
        """
        ttl = self.join.ttl
        young = f" AND found.e >= found.t - {ttl // timedelta(microseconds=1)}" if ttl else ""
        values = ", ".join(f"{quoted(name)} AS f{n}" for n, name in enumerate(self.join.features))
        return f"""
            SELECT {", ".join(f"f{n}" for n in range(len(self.join.features)))}
            FROM found JOIN spine USING (i) LEFT JOIN (
                SELECT {self._named_keys()}, _lsn AS l, _row AS r, _offset AS o, {values}
                FROM data WHERE NOT _deleted
            ) AS version ON {" AND ".join(f"spine.{key} = version.{key}" for key in self.keys)}
                AND found.l = version.l AND found.o IS NOT DISTINCT FROM version.o
                AND found.r IS NOT DISTINCT FROM version.r AND NOT found.d{young}
            QUALIFY row_number() OVER (PARTITION BY i) = 1 ORDER BY i"""

    def _steps_in_order(self, spans: str) -> str:
        """SQL of `<spans>_steps` where the spans start in the order of their versions: the last of each start."""
        return f"""
            {spans}_steps AS (
                SELECT * FROM {spans}
                QUALIFY lead(s) OVER (PARTITION BY {self.by_key} ORDER BY s, l, r) IS DISTINCT FROM s
            )"""

    def _ranked_steps(self, spans: str) -> str:
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
        key = f"({self.by_key})" if len(self.keys) > 1 else self.by_key
        connection.execute(f"""
            CREATE TEMP TABLE several AS
            SELECT hash(r) AS h FROM {self.rows} GROUP BY h
            HAVING (count(*) > 1 OR bool_or(d)) AND bool_or({key} IN (SELECT {key} FROM spine))""")
        connection.execute(f"""
            CREATE TEMP TABLE unordered AS
            SELECT * FROM {self.rows} SEMI JOIN several ON hash(r) = several.h""")
        # A delete beside a live version at the same LSN is what a row left where it moved from.
        later = "ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING"
        # Not that of the next version: a snapshot's row counts below changes that were committed before it was read.
        until = f"min({'c' if self.known else 'e'}) OVER (version {later})"
        connection.execute(f"""
            CREATE TEMP TABLE versions AS
            SELECT *, {until} AS until FROM (
                SELECT * FROM unordered AS one WHERE NOT d OR NOT EXISTS (
                    SELECT 1 FROM unordered AS live WHERE NOT live.d AND live.r = one.r AND live.l = one.l)
                QUALIFY {_says_something("PARTITION BY r ORDER BY l, o")}
            ) WINDOW version AS (PARTITION BY r ORDER BY l, o)""")
        columns = f"{self.by_key}, e, l, r, d, o, s, until"
        connection.execute(f"CREATE TEMP TABLE closed AS SELECT {columns} FROM versions WHERE NOT d AND s < until")
        connection.execute(f"""
            CREATE TEMP VIEW open AS
            SELECT {columns} FROM (SELECT *, NULL::BIGINT AS until FROM {self.rows})
            SEMI JOIN spine USING ({self.by_key}) ANTI JOIN several ON hash(r) = several.h
            UNION ALL SELECT {columns} FROM versions WHERE NOT d AND until IS NULL""")
