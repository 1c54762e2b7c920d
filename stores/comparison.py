"""What three places hold of a view, compared entity by entity by DuckDB, which keeps on disk what memory does not."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from stores.query import Session, answer, session
from stores.rows import TIMESTAMP
from stores.view import View

Place = Literal["postgres", "online", "lake"]

PLACES: Sequence[Place] = ("postgres", "online", "lake")
"""PostgreSQL's rows as they would be served, what the online store serves, and the newest in the lake."""

EVENT_TIME = "event_timestamp"

BUCKET_ENTITIES = 500_000
"""Entities that are compared at a time: what a comparison needs of memory does not grow with the view."""


class Comparison:
    """The entities of one view in the three places; of `asked` (join keys) only those, if it is given.

    An entity is the same everywhere if online and lake hold the same of it, its event time too, or both nothing, and
    its value online agrees with PostgreSQL in what of `event_timestamp` and the features is `told`: with any of those
    of its rows that tie for the newest. NaN is equal to itself. Timestamps count in whole seconds, as in Feast's
    values.
    """

    def __init__(self, connection: Session, view: View, told: Sequence[str], asked: pa.Table | None) -> None:
        self._connection = connection
        self._keys = pa.schema([(key.name, key.arrow_type) for key in view.join_keys])
        self._features = pa.schema([(feature.name, feature.arrow_type) for feature in view.features])
        self._rows = pa.schema([*self._keys, *self._features, (EVENT_TIME, TIMESTAMP)])
        # Columns by number, since a feature may be called as any word of SQL.
        values = {f"c{len(self._keys) + i}": feature.name for i, feature in enumerate(view.features)}
        self._by = ", ".join(f"c{i}" for i in range(len(self._keys)))
        self._time = f"c{len(self._rows) - 1}"
        served, stored, latest = (f"floor(epoch_us({of}.{self._time}) / 1e6)" for of in ("served", "stored", "latest"))
        self._differs = " OR ".join(
            [
                "served.here IS DISTINCT FROM stored.here",
                f"{served} IS DISTINCT FROM {stored}",
                *(f"served.{c} IS DISTINCT FROM stored.{c}" for c in values),
            ]
        )
        self._agrees = " AND ".join(
            [
                *(f"latest.{c} IS NOT DISTINCT FROM served.{c}" for c, name in values.items() if name in told),
                *([f"{latest} IS NOT DISTINCT FROM {served}"] if EVENT_TIME in told else []),
            ]
        )
        self._shown: Mapping[Place, Sequence[str]] = {
            place: [*self._features.names, *([EVENT_TIME] if place != "postgres" or EVENT_TIME in told else [])]
            for place in PLACES
        }
        connection.register("nothing", _numbered(self._rows.empty_table()))
        for place in PLACES:
            connection.execute(f"CREATE TEMP TABLE {place} AS FROM nothing")
        connection.execute(f"CREATE TEMP TABLE free AS SELECT {self._by} FROM nothing")
        self._every = " UNION ".join(f"SELECT {self._by} FROM {place}" for place in PLACES)
        self._only = ""
        if asked is not None:
            connection.register("asked", _numbered(asked))
            self._every, self._only = f"SELECT {self._by} FROM asked", f"SEMI JOIN asked USING ({self._by})"

    def put(self, place: Place, rows: pa.Table) -> None:
        """Add rows that a place holds: join keys, features, `event_timestamp`. Of PostgreSQL an entity may have many,
        and of the online store the same one several times."""
        self._insert(place, rows.select(self._rows.names).cast(self._rows))

    def leave_free(self, keys: pa.Table) -> None:
        """Leave PostgreSQL out of it for these entities (join keys, in their order)."""
        self._insert("free", keys.rename_columns(self._keys.names).cast(self._keys))

    def entities(self) -> int:
        """How many entities any place knows."""
        ((count,),) = self._connection.execute(f"SELECT count(*) FROM ({self._every})").fetchall()
        return int(count)

    def draw(self, count: int, seed: int) -> None:
        """Leave out all entities but so many, drawn by the seed."""
        drawn = f"SELECT {self._by} FROM ({self._every}) ORDER BY hash({self._by}, {seed}) LIMIT {count}"
        self._connection.execute(f"CREATE TEMP TABLE drawn AS {drawn}")
        self._every = f"SELECT {self._by} FROM drawn"

    def differing(self) -> pa.Table:
        """The join keys of the entities that are not the same everywhere, in order."""
        buckets = 1 + self.entities() // BUCKET_ENTITIES
        found = pa.concat_tables([self._differing(f"hash({self._by}) % {buckets} = {i}") for i in range(buckets)])
        return found.sort_by([(name, "ascending") for name in self._keys.names])

    def _differing(self, these: str) -> pa.Table:
        by, agrees = self._by, self._agrees or "true"
        newest = f"max({self._time}) OVER (PARTITION BY {by})"
        query = f"""
            WITH latest AS (SELECT * FROM postgres WHERE {these} QUALIFY {self._time} = {newest}),
                 served AS (SELECT DISTINCT ON ({by}) *, true AS here FROM online WHERE {these}),
                 stored AS (SELECT *, true AS here FROM lake WHERE {these}),
                 known AS (SELECT {by}, bool_or(served.here IS NOT NULL AND {agrees}) AS right
                           FROM latest LEFT JOIN served USING ({by}) GROUP BY {by}),
                 unknown AS (SELECT DISTINCT {by}, true AS free FROM free WHERE {these})
            SELECT {by} FROM (SELECT {by} FROM ({self._every}) WHERE {these})
                LEFT JOIN served USING ({by}) LEFT JOIN stored USING ({by})
                LEFT JOIN known USING ({by}) LEFT JOIN unknown USING ({by})
            WHERE {self._differs} OR (unknown.free IS NULL AND served.here IS DISTINCT FROM known.right)"""
        return answer(self._connection, query, self._keys)

    def held(self, place: Place, keys: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
        """What a place holds of these entities, by join keys: the features of the newest of its rows, and the event
        time unless it is PostgreSQL's and not `told`."""
        self._connection.register("wanted", _numbered(keys))
        query = f"""SELECT * FROM {place} SEMI JOIN wanted USING ({self._by})
                    QUALIFY row_number() OVER (PARTITION BY {self._by} ORDER BY {self._time} DESC) = 1"""
        rows = answer(self._connection, query, self._rows)
        entities = rows.select(self._keys.names).to_pylist()
        features = rows.select(self._shown[place]).to_pylist()
        return {tuple(entity.values()): values for entity, values in zip(entities, features, strict=True)}

    def _insert(self, name: str, rows: pa.Table) -> None:
        self._connection.register("part", _numbered(rows))
        self._connection.execute(f"INSERT INTO {name} SELECT * FROM part {self._only}")
        self._connection.unregister("part")


@contextmanager
def comparison(view: View, told: Sequence[str], asked: pa.Table | None = None) -> Iterator[Comparison]:
    """A `Comparison` that holds nothing yet, and is forgotten at the end of the block."""
    with session() as connection:
        yield Comparison(connection, view, told, asked)


def _numbered(rows: pa.Table) -> pa.Table:
    """The table with its columns called `c0`, `c1` and so on, timestamps but the event time in whole seconds."""
    columns = [
        column if name == EVENT_TIME else _whole_seconds(column)
        for name, column in zip(rows.column_names, rows.columns, strict=True)
    ]
    return pa.table(columns, [f"c{i}" for i in range(len(columns))])


def _whole_seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_timestamp(column.type):
        return pc.floor_temporal(column, unit="second")
    if pt.is_list(column.type) and pt.is_timestamp(column.type.value_type):
        whole = [moments and [at and at.replace(microsecond=0) for at in moments] for moments in column.to_pylist()]
        return pa.chunked_array([pa.array(whole, column.type)])
    return column
