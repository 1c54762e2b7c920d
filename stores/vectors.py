"""The vector store: one pgvector table a view, for nearest neighbours and for lookups by entity."""

import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, distinct_on, insert

from stores.entity_keys import entity_keys
from stores.errors import NotSetUp, StoreRefused, StoreUnavailable
from stores.rows import EMBEDDING, FeatureReader, FeatureRows, FeatureWriter, WriteResult
from stores.vector_filters import Filters, misfit
from stores.vector_rows import VECTOR_HEADER, Packed, PackedDumper, arrow_table, packed_rows, parameter
from stores.vector_search import nearest
from stores.vector_sizes import as_sent, within
from stores.vector_tables import DIALECT, KEY, VectorTable, create_table, held_model, vector_table
from stores.vector_versions import Entities, Entity, fold, fold_decisions, fold_plain
from stores.versions import LEAST_ORDER, Version
from stores.view import View

STORE = "pgvector"

SCANNED_ROWS = 5_000
_FORGOTTEN_AT_ONCE = 1000
_FORGET_SECONDS = 60.0
_UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
_NEVER_TAKEN = psycopg.errors.ProgramLimitExceeded
"""Such as a key that is longer than its index takes, for which psycopg too has an operational error."""
_NO_TABLE = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
_VERSION = ("_order", "_lsn", "_row", "_undecided")

Folding = Callable[[View, Sequence[bytes], pa.Table, Entities], tuple[dict[bytes, Entity], int]]


class PgVectors(FeatureWriter, FeatureReader):
    """The store of the views with a vector, whose tables are made by `create`. Threads may share it.

    `url` is SQLAlchemy's or libpq's: `postgresql://user:password@host:port/database`. `retention_seconds` is
    how long the version of a deleted entity is kept, so that no late write revives it: the retention of the
    topics. A statement that takes longer than `statement_seconds` is given up; a search or a read of a view whose texts
    and lists take more than `most_bytes` raises `TooMuch`; 0 is no bound. Every method
    raises `StoreUnavailable` when PostgreSQL does not answer or cannot write, and `StoreRefused` when the
    view's table is missing or was made for something else.
    """

    def __init__(self, url: str, retention_seconds: float, statement_seconds: float = 0.0, most_bytes: int = 0) -> None:
        """Connects at first use. Raises `ValueError` for a text that is no URL."""
        try:
            parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
        except (sa.exc.ArgumentError, ValueError):  # which may quote a password
            raise ValueError(
                "the URL of the vector store is none: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            ) from None
        if "@" in (parsed.host or ""):  # which would be shown
            raise ValueError("the URL of the vector store: write an @ in the password as %40")
        self._place = f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"
        self._retention = timedelta(seconds=retention_seconds)
        self._most_bytes = most_bytes
        self._forget_next: dict[str, float] = {}
        # A server that vanished is noticed by the operating system, not by waiting for ever.
        patience: dict[str, Any] = {"connect_timeout": 5, "tcp_user_timeout": 30_000}
        patience |= {"keepalives_idle": 15, "keepalives_interval": 15}  # also while nothing is sent
        if statement_seconds:
            given = parsed.query.get("options", "")
            patience["options"] = f"{given} -c statement_timeout={int(statement_seconds * 1000)}".strip()
        self._engine = sa.create_engine(parsed, connect_args=patience)
        sa.event.listen(self._engine, "connect", lambda connection, _: _takes_packed(connection))
        sa.event.listen(self._engine, "checkout", _stands)
        # A single SELECT needs no BEGIN and COMMIT of its own, each of which is a round trip.
        self._selecting = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def ping(self) -> None:
        with self._connection(self._selecting) as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        """Close the idle connections; the store can be used again."""
        self._engine.dispose()

    def create(self, view: View, model: str) -> None:
        """Make the view's table for vectors of `model`, or check it and add columns and index that it lacks.

        Raises `StoreRefused` when it holds vectors of another model or length, or a column of another type.
        """
        vectors = vector_table(view)
        with self._transaction(vectors) as connection:
            create_table(connection, vectors, model)

    def drop(self, view: View) -> None:
        """Drop the view's table, if there is one."""
        vectors = vector_table(view)
        with self._transaction(vectors) as connection:
            vectors.table.drop(connection, checkfirst=True)

    def model(self, view: View) -> str:
        """The model whose vectors the view's table holds."""
        vectors = vector_table(view)
        with self._connection(self._selecting, vectors) as connection:
            held = held_model(connection, vectors)
        if held is None:
            raise StoreRefused(f"{vectors.name} in {self._place}: the view has no table yet, run `millrace apply`")
        return held

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        """As `FeatureWriter.write`, a transaction each. Rows with a vector must name its model (`EMBEDDING`)."""
        applied = refused = 0
        undecided: list[tuple[View, pa.Table]] = []
        for rows in batches:
            keys = _keys(rows.view, rows.table)
            now, count = self._apply(rows.view, keys, rows.table, fold)
            applied += count
            refused += len(keys) - count
            marked = {key: place for place, key in enumerate(keys) if now[key].undecided}
            if marked:
                names = [key.name for key in rows.view.join_keys]
                undecided.append((rows.view, rows.table.select(names).take(list(marked.values()))))
        return WriteResult(applied, refused, tuple(undecided))

    def decide(self, rows: FeatureRows) -> WriteResult:
        """As `FeatureWriter.decide`."""
        keys = _keys(rows.view, rows.table)
        _, applied = self._apply(rows.view, keys, rows.table, fold_decisions)
        return WriteResult(applied, len(keys) - applied)

    def update_plain(self, view: View, rows: pa.Table) -> WriteResult:
        """Write rows that know no log position: what Feast itself materializes or pushes.

        `rows` has the join keys, the features, `event_timestamp` and `_model`. A row is applied if it is
        newer than what is stored and than a delete, or as old as it where no change was ever streamed into
        the view for that entity; what is known of versions stays.
        """
        keys = _keys(view, rows)
        _, applied = self._apply(view, keys, rows, fold_plain)
        return WriteResult(applied, len(keys) - applied)

    def embedded(self, view: View, hashes: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Of those text hashes that the view's table holds, the vectors (float32)."""
        with self._connection(self._selecting, vector_table(view)) as connection:
            found = _driver(connection).execute(_embedded(view), {"hashes": list(hashes)}).fetchall()
        return {text: np.frombuffer(raw, ">f4", offset=VECTOR_HEADER).astype(np.float32) for text, raw in found}

    def read(self, views: Sequence[View], keys: pa.Table) -> list[pa.Table]:
        """As `FeatureReader.read`."""
        return [self._read(view, keys) for view in views]

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        """As `read`, of one view, and with what is known of versions: `_order`, `_lsn`, `_row` and
        `_undecided`, null where nothing was ever written."""
        return self._read(view, keys, _VERSION)

    def scan(self, view: View) -> Iterator[pa.Table]:
        """As `FeatureWriter.scan`, at most `SCANNED_ROWS` at once, of one moment."""
        vectors = vector_table(view)
        fields = [field.name for field in (*view.join_keys, *view.features)]
        names = [*fields, "event_timestamp", "_deleted", *_VERSION, EMBEDDING[0].name]
        query = sa.select(*(vectors.table.c[name] for name in names))
        with self._transaction(vectors) as connection:
            for part in connection.execution_options(yield_per=SCANNED_ROWS).execute(query).partitions():
                yield _with_presence(arrow_table(vectors, names, part))

    def search(
        self,
        view: View,
        vector: Sequence[float] | np.ndarray,
        top_k: int,
        filters: Filters | None = None,
        features: Sequence[str] | None = None,
    ) -> pa.Table:
        """The `top_k` entities whose vectors are nearest, nearest first, of those that `filters` let pass.

        Columns: the join keys, `features` (all but the vector if None), `event_timestamp` and `distance`
        under the declared metric: cosine distance, Euclidean distance, or the negative inner product.
        Filters are Feast's, over join keys and features, with SQL's treatment of nulls. Raises `TooMuch`, and
        `ValueError` for a query vector of another length, for a field that the view does not have, and for a filter's
        value that is none of its field's type.
        """
        vectors = vector_table(view)
        assert view.vector is not None
        query_vector = np.asarray(vector, np.float32)
        if query_vector.shape != (view.vector.length,) or not np.isfinite(query_vector).all():
            raise ValueError(
                f"a query vector for view {view.name} has {view.vector.length} finite numbers, this one has "
                f"the shape {query_vector.shape}"
            )
        names = [*(key.name for key in view.join_keys), *_selected(view, features), "event_timestamp"]
        asked = nearest(view, names, query_vector, top_k, filters, self._most_bytes)
        try:
            with self._connection(self._selecting, vectors) as connection:
                found = _driver(connection).execute(asked.by_index, asked.given).fetchall()
            if len(found) < top_k:
                # The index gives up after hnsw.max_scan_tuples: look for what passes the filter in all rows.
                with self._transaction(vectors) as connection:
                    driver = _driver(connection)
                    driver.execute("SET LOCAL enable_indexscan = off")
                    found = driver.execute(asked.by_rows, asked.given).fetchall()
        except StoreRefused as error:
            if filters is None or not _compares_nothing(error.__cause__):
                raise
            raise ValueError(misfit(filters)) from error
        if asked.bounded:
            found = within(vectors, found, self._most_bytes)
        meaningful = [row for row in found if not np.isnan(row[-1])]  # the cosine distance of a zero vector
        meaningful.sort(key=itemgetter(-1))  # an index in half precision orders by what it holds
        result = arrow_table(vectors, names, [row[:-1] for row in meaningful])
        return result.append_column("distance", pa.array([row[-1] for row in meaningful], pa.float64()))

    def _apply(
        self, view: View, keys: list[bytes], table: pa.Table, folding: Folding
    ) -> tuple[dict[bytes, Entity], int]:
        """Lock what is stored of the entities, fold the rows over it, and write what they end with."""
        vectors = vector_table(view)
        with self._transaction(vectors) as connection:
            driver = _driver(connection)
            stored = _lock(driver, view, sorted(set(keys)))
            now, applied = folding(view, keys, table, stored)
            winners = {key: entity for key, entity in now.items() if entity.position is not None}
            turned = [key for key, entity in stored.items() if now[key].undecided != entity.undecided]
            if time.monotonic() >= self._forget_next.get(vectors.name, 0.0):
                self._forget_next[vectors.name] = time.monotonic() + _FORGET_SECONDS
                self._forget(connection, vectors, list(stored))
            with driver.pipeline():  # with its COMMIT in one round trip
                if winners:
                    driver.cursor().executemany(_replacing(view), packed_rows(driver, vectors, table, winners))
                for mark in (True, False):
                    _execute(driver, _marking(view, mark), [key for key in turned if now[key].undecided is mark])
                driver.execute("COMMIT")
        return now, applied

    def _forget(self, connection: sa.Connection, vectors: VectorTable, locked: list[bytes]) -> None:
        """Drop what is left of entities that were deleted longer ago than the retention, but for those that the
        transaction has locked: it is about to write them, and skips the locks of others alone."""
        table = vectors.table
        old = (
            sa.select(table.c[KEY])
            .where(table.c._deleted, ~table.c._undecided, table.c._written < sa.func.now() - self._retention)
            .where(table.c[KEY] != sa.all_(_array("keys")))
            .limit(_FORGOTTEN_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        connection.execute(sa.delete(table).where(table.c[KEY].in_(old)), {"keys": locked})

    def _read(self, view: View, keys: pa.Table, extra: tuple[str, ...] = ()) -> pa.Table:
        """The features of the entities row for row, `event_timestamp`, `_present` and the extra columns."""
        vectors = vector_table(view)
        wanted = _keys(view, keys)
        names = _read_columns(view, extra)
        statement, is_bounded = _reading(view, extra, self._most_bytes > 0)
        given = {"keys": list(set(wanted)), "most": self._most_bytes}
        with self._connection(self._selecting, vectors) as connection:
            found = _driver(connection).execute(statement, given).fetchall()
        if is_bounded:
            often = Counter(wanted)
            found = within(vectors, found, self._most_bytes, [often[row[0]] for row in found])
        places = {row[0]: place for place, row in enumerate(found)}
        at = pa.array([places.get(key) for key in wanted], pa.int64())
        return _with_presence(arrow_table(vectors, names, [row[1:] for row in found]).take(at))

    def _transaction(self, vectors: VectorTable) -> AbstractContextManager[sa.Connection]:
        return self._connection(self._engine, vectors)

    @contextmanager
    def _connection(self, engine: sa.Engine, vectors: VectorTable | None = None) -> Iterator[sa.Connection]:
        """A connection until the end of the block; what PostgreSQL objects to is raised as a store's errors."""
        try:
            with engine.begin() as connection:
                yield connection
        except sa.exc.TimeoutError as error:
            raise StoreUnavailable(STORE, f"{self._place}: no free connection: {error}") from error
        except (sa.exc.DBAPIError, psycopg.Error) as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
            if isinstance(cause, _UNAVAILABLE) and not isinstance(cause, _NEVER_TAKEN):
                self._engine.dispose()  # the other connections of the pool are as dead
                raise StoreUnavailable(STORE, f"{self._place}: {str(cause).strip()}") from error
            name = vectors.name if vectors else STORE
            refused = NotSetUp if isinstance(cause, _NO_TABLE) else StoreRefused
            raise refused(f"{name} in {self._place}: {_advice(cause)}{_said(cause)}") from error


def _stands(connection: Any, *_: Any) -> None:
    """Whether an idle connection is still open, without a round trip: nobody has said anything on it, not even its
    end. Raises `DisconnectionError`, at which the pool makes another."""
    try:
        look = select.poll()
        look.register(connection.pgconn.socket, select.POLLIN)
        silent = not look.poll(0)
    except psycopg.OperationalError:
        silent = False
    if not silent:
        raise sa.exc.DisconnectionError("it was closed")


def _takes_packed(connection: psycopg.Connection) -> None:
    connection.adapters.register_dumper(Packed, PackedDumper)


def _driver(connection: sa.Connection) -> psycopg.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def _lock(driver: psycopg.Connection, view: View, keys: list[bytes]) -> dict[bytes, Entity]:
    """What is stored of the entities, locked until the transaction ends.

    An entity that is new gets an empty row: a row that does not exist cannot be locked. It goes in the order of
    the keys, so that two writers never wait for each other.
    """
    locking, held = _locking(view)
    with driver.pipeline():
        driver.execute(locking, {"keys": keys})
        locked = driver.execute(held, {"keys": keys})
    entities = {}
    for key, deleted, moment, order, lsn, row, undecided in locked:
        if deleted is not None:  # not an empty row
            version = None if order is None else Version(order, lsn, row)
            entities[key] = Entity(version, LEAST_ORDER if moment is None else moment, undecided)
    return entities


def _execute(driver: psycopg.Connection, statement: str, keys: list[bytes]) -> None:
    """A statement over entities, if there are any."""
    if keys:
        driver.execute(statement, {"keys": keys})


@lru_cache(maxsize=256)
def _embedded(view: View) -> str:
    """The vectors of texts by their hashes."""
    vectors = vector_table(view)
    table, vector = vectors.table, vectors.vector
    query = sa.select(table.c._text_hash, vector).ext(distinct_on(table.c._text_hash))
    return _compiled(query.where(table.c._text_hash == sa.any_(_array("hashes")), vector.is_not(None)))


@lru_cache(maxsize=256)
def _reading(view: View, extra: tuple[str, ...], with_bound: bool) -> tuple[str, bool]:
    """As `as_sent`: of entities their keys and `_read_columns`."""
    vectors = vector_table(view)
    columns = (vectors.table.c[name] for name in (KEY, *_read_columns(view, extra)))
    query = sa.select(*columns).where(vectors.table.c[KEY] == sa.any_(_array("keys")))
    return as_sent(vectors, query, with_bound)


def _read_columns(view: View, extra: tuple[str, ...]) -> list[str]:
    return [*(feature.name for feature in view.features), "event_timestamp", "_deleted", *extra]


@lru_cache(maxsize=256)
def _locking(view: View) -> tuple[str, str]:
    """Makes empty rows for the keys that have none and locks those of the others; and reads the rows of all."""
    table = vector_table(view).table
    new = sa.func.unnest(_array("keys")).column_valued("key")
    placeholders = insert(table).from_select([KEY], sa.select(new).order_by(new))
    # An update that is never made locks the row all the same, and in one step with the look for it: between two,
    # another worker can forget a deleted entity, and then there is neither its row nor an empty one.
    locking = placeholders.on_conflict_do_update(
        index_elements=[KEY], set_={"_deleted": table.c._deleted}, where=sa.false()
    )
    columns = (table.c[name] for name in (KEY, "_deleted", "event_timestamp", *_VERSION))
    return _compiled(locking), _compiled(sa.select(*columns).where(table.c[KEY] == sa.any_(_array("keys"))))


@lru_cache(maxsize=256)
def _replacing(view: View) -> str:
    """Writes a row over the locked one. Its values are parameters: a temporary table, filled by COPY, took two more
    round trips, of which each waits for its turn where the processors are full."""
    vectors = vector_table(view)
    given = (
        sa.cast(sa.bindparam(parameter(place)), carried.sql).label(name)
        for place, (name, carried) in enumerate(vectors.carried.items())
    )
    table, row = vectors.table, sa.select(*given).subquery("row")
    values = {name: row.c[name] for name in vectors.carried if name != KEY}
    # A row that is there already, as after a replay, is left alone: rewriting it costs an index entry.
    differs = sa.tuple_(*(table.c[name] for name in values)).is_distinct_from(sa.tuple_(*values.values()))
    update = sa.update(table).values(values | {"_written": sa.func.now()})
    return _compiled(update.where(table.c[KEY] == row.c[KEY], differs))


@lru_cache(maxsize=512)
def _marking(view: View, undecided: bool) -> str:
    """Sets the mark of entities, or clears it."""
    table = vector_table(view).table
    mark = sa.true() if undecided else sa.false()
    return _compiled(sa.update(table).values(_undecided=mark).where(table.c[KEY] == sa.any_(_array("keys"))))


def _compiled(statement: sa.ClauseElement) -> str:
    """As psycopg takes it, with the names of its parameters."""
    return str(statement.compile(dialect=DIALECT))


def _with_presence(table: pa.Table) -> pa.Table:
    """`_deleted`, null where there is no row, as `_present`; of a deleted entity no event time is told."""
    place = table.schema.get_field_index("_deleted")
    present = pc.fill_null(pc.invert(table["_deleted"]), False)
    table = table.set_column(place, "_present", present)
    place = table.schema.get_field_index("event_timestamp")
    return table.set_column(place, table.schema.field(place), pc.if_else(present, table["event_timestamp"], None))


def _selected(view: View, features: Sequence[str] | None) -> list[str]:
    """The names of the features to answer with."""
    known = [feature.name for feature in view.features]
    if features is None:
        return [name for name in known if view.vector is None or name != view.vector.name]
    unknown = [name for name in features if name not in known]
    if unknown:
        raise ValueError(f"view {view.name} has no feature {', '.join(unknown)}; it has {', '.join(known)}")
    return list(dict.fromkeys(features))


def _keys(view: View, table: pa.Table) -> list[bytes]:
    return entity_keys(view).encode(table).to_pylist()  # type: ignore[no-any-return]


def _array(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=ARRAY(BYTEA))


def _compares_nothing(cause: BaseException | None) -> bool:
    """Whether PostgreSQL or its driver could do nothing with a value that a search compares with."""
    missing = (*_NO_TABLE, psycopg.errors.UndefinedColumn)
    return isinstance(cause, psycopg.DataError | psycopg.ProgrammingError) and not isinstance(cause, missing)


def _said(cause: BaseException | None) -> str:
    """What PostgreSQL said, without the values of the row that it quotes."""
    said = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return said or str(cause).strip()


def _advice(cause: BaseException | None) -> str:
    if isinstance(cause, _NO_TABLE):
        return "the view has no table yet, run `millrace apply`: "
    if isinstance(cause, psycopg.errors.UndefinedColumn):
        return "the table lacks a declared feature, run `millrace apply`: "
    if isinstance(cause, psycopg.errors.CheckViolation):
        return (
            "the table holds vectors of one model, and these are of another or do not say which they are of "
            "(rows that come through Feast: tag the vector field with its `model`): "
        )
    return ""
