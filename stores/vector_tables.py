"""The PostgreSQL table of a vector view: its name, columns, indexes, and what must hold to use it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, DOUBLE_PRECISION, REAL

from stores.errors import StoreRefused
from stores.view import Feature, Metric, View

KEY = "_entity_key"
DIALECT = sa.make_url("postgresql+psycopg://").get_dialect()()
"""In which a statement is written that goes to psycopg as it is."""
IDENTIFIER_BYTES = 63  # PostgreSQL cuts longer names (NAMEDATALEN - 1)
WHOLE_DIMENSIONS, HALF_DIMENSIONS = 2000, 4000
"""How many an HNSW index takes of the type vector, and of halfvec, whose numbers have half as many bytes.
https://github.com/pgvector/pgvector#hnsw"""

OPERATORS: Mapping[Metric, tuple[str, str]] = {
    "cosine": ("<=>", "cosine_ops"),
    "l2": ("<->", "l2_ops"),
    "inner_product": ("<#>", "ip_ops"),
}
"""pgvector's distance operator, and its operator class after the type. `<#>` is the negative inner product: the nearest
has the smallest value under all three. https://github.com/pgvector/pgvector#querying"""


HNSW: Mapping[str, int] = {"m": 24, "ef_construction": 100}
"""Of 100,000 vectors an index made so has 96 of 100 true neighbours for an eighth fewer pages than pgvector's own (16
and 64), a sixth with a filter, and takes about a quarter longer to make (docs/benchmarks.md)."""


class Instant(sa.types.UserDefinedType[int]):
    """timestamptz, selected as microseconds since 1970: Python's datetime ends with the year 9999."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "TIMESTAMP WITH TIME ZONE"

    def column_expression(self, column: Any) -> Any:
        return sa.cast(sa.extract("epoch", column) * sa.literal_column("1000000"), sa.BigInteger)


class Embedding(VECTOR):  # type: ignore[misc]
    """vector(n), selected as the bytes that pgvector sends: uint16 n, uint16 0, n big-endian float32."""

    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return sa.func.vector_send(column, type_=BYTEA)

    def result_processor(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Carried:
    """How PostgreSQL carries a column; `packed` is the type in whose binary form its values are sent."""

    sql: sa.types.TypeEngine[Any]
    packed: str


_SCALARS: Mapping[pa.DataType, Carried] = {
    pa.int32(): Carried(sa.Integer(), "int4"),
    pa.int64(): Carried(sa.BigInteger(), "int8"),
    pa.float32(): Carried(REAL(), "float4"),
    pa.float64(): Carried(DOUBLE_PRECISION(), "float8"),
    pa.bool_(): Carried(sa.Boolean(), "bool"),
    pa.string(): Carried(sa.Text(), "text"),
    pa.large_string(): Carried(sa.Text(), "text"),
    pa.binary(): Carried(BYTEA(), "bytea"),
}

_META: Mapping[str, Carried] = {
    "event_timestamp": Carried(Instant(), "int8"),
    "created_timestamp": Carried(Instant(), "int8"),
    "_order": Carried(sa.BigInteger(), "int8"),
    "_lsn": Carried(sa.BigInteger(), "int8"),
    "_row": Carried(BYTEA(), "bytea"),
    "_deleted": Carried(sa.Boolean(), "bool"),
    "_undecided": Carried(sa.Boolean(), "bool"),
    "_text_hash": Carried(BYTEA(), "bytea"),
    "_model": Carried(sa.Text(), "text"),
}


@dataclass(frozen=True, slots=True)
class VectorTable:
    """The table of a view. `carried` has every column that rows bring, the entity key first; the table has
    one more, `_written`, the server's time of the last write, by which deletes are forgotten."""

    view: View
    table: sa.Table
    carried: Mapping[str, Carried]

    @property
    def name(self) -> str:
        return f"{self.table.schema}.{self.table.name}"

    @property
    def vector(self) -> sa.Column[Any]:
        assert self.view.vector is not None
        return self.table.c[self.view.vector.name]

    @property
    def halved(self) -> bool:
        """Whether the index holds the vectors in half precision, as it must those that are too long for it whole."""
        assert self.view.vector is not None
        return self.view.vector.length > WHOLE_DIMENSIONS

    def indexed(self, vector: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """A vector as the index compares it."""
        assert self.view.vector is not None
        return sa.cast(vector, HALFVEC(self.view.vector.length)) if self.halved else vector


@lru_cache(maxsize=256)
def vector_table(view: View) -> VectorTable:
    """The table of a view with a vector: `features_<project>.<online_name>`.

    Names longer than PostgreSQL takes are cut and end in a digest. Raises `StoreRefused` if the view has no
    vector, one too long for an index, or a feature that the table cannot hold.
    """
    if view.vector is None:
        raise StoreRefused(f"view {view.name} has no vector field: it belongs in the online store")
    if view.vector.length > HALF_DIMENSIONS:
        raise StoreRefused(
            f"view {view.name}: a vector of {view.vector.length} dimensions cannot be indexed, pgvector "
            f"indexes up to {HALF_DIMENSIONS}: ask the model for fewer dimensions"
        )
    carried = {KEY: Carried(BYTEA(), "bytea")}
    for feature in (*view.join_keys, *view.features):
        carried[feature.name] = _carried(view, feature)
    carried.update(_META)
    table = sa.Table(
        identifier(view.online_name),
        sa.MetaData(),
        *(sa.Column(name, c.sql, primary_key=name == KEY) for name, c in carried.items()),
        sa.Column("_written", sa.TIMESTAMP(timezone=True), server_default=sa.func.now()),
        schema=identifier(f"features_{view.project}"),
        # An update that changes no indexed column finds room beside the old row, and so leaves the index of
        # the vectors alone (a heap-only tuple).
        postgresql_with={"fillfactor": 70},
    )
    sa.Index(
        identifier(f"{table.name}_text_hash"),
        table.c._text_hash,
        postgresql_where=table.c._text_hash.is_not(None),
    )
    sa.Index(identifier(f"{table.name}_deleted"), table.c._written, postgresql_where=table.c._deleted)
    vectors = VectorTable(view, table, carried)
    _distance_index(vectors)
    return vectors


def identifier(name: str) -> str:
    """The name, or what is left of it and a digest when PostgreSQL would cut it."""
    raw = name.encode()
    if len(raw) <= IDENTIFIER_BYTES:
        return name
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    return raw[: IDENTIFIER_BYTES - 9].decode(errors="ignore") + "_" + digest


def create_table(connection: sa.Connection, vectors: VectorTable, model: str) -> None:
    """Create the table, or check the one that is there and add what it lacks. Idempotent.

    Raises `StoreRefused` when it holds vectors of another model or length, or a column of another type.
    """
    table = vectors.table.to_metadata(sa.MetaData())
    # Two that start together must not both create extension, schema or table.
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended("millrace", 0))))
    _require_extension(connection)
    connection.execute(sa.schema.CreateSchema(str(table.schema), if_not_exists=True))
    inspector = sa.inspect(connection)
    if inspector.has_table(table.name, schema=table.schema):
        _match_columns(connection, inspector, vectors, model)
        _match_distance_index(connection, inspector, vectors)
        return
    # The database itself keeps out vectors of another model.
    one_model = sa.or_(table.c[vectors.vector.name].is_(None), table.c._model.is_not_distinct_from(model))
    table.append_constraint(sa.CheckConstraint(one_model, name="one_model"))
    table.c._model.comment = model
    table.create(connection)


def held_model(connection: sa.Connection, vectors: VectorTable) -> str | None:
    """The model whose vectors the table holds; None if there is no table."""
    name = (sa.cast(part, sa.Text) for part in (vectors.table.schema, vectors.table.name))
    table = sa.func.to_regclass(sa.func.format("%I.%I", *name))
    columns = sa.table("pg_attribute", sa.column("attrelid"), sa.column("attnum"), sa.column("attname"))
    comment = sa.func.col_description(columns.c.attrelid, columns.c.attnum)
    of_model = (columns.c.attrelid == table, columns.c.attname == "_model")
    model: str | None = connection.execute(sa.select(comment).where(*of_model)).scalar()
    return model


def _held_columns(inspector: sa.Inspector, table: sa.Table) -> dict[str, Any]:
    return {column["name"]: column for column in inspector.get_columns(table.name, schema=table.schema)}


def _distance_index(vectors: VectorTable) -> sa.Index:
    """The HNSW index of the declared metric, which is part of its name."""
    assert vectors.view.vector is not None
    metric = vectors.view.vector.metric
    return sa.Index(
        identifier(f"{vectors.table.name}_{metric}"),
        vectors.indexed(vectors.vector).label("indexed"),
        postgresql_using="hnsw",
        postgresql_with=HNSW,
        postgresql_ops={"indexed": f"{'halfvec' if vectors.halved else 'vector'}_{OPERATORS[metric][1]}"},
    )


def _carried(view: View, feature: Feature) -> Carried:
    if view.vector is not None and feature.name == view.vector.name:
        return Carried(Embedding(view.vector.length), "bytea")
    found = _scalar(feature.arrow_type)
    if found is None and pa.types.is_list(feature.arrow_type):
        element = feature.arrow_type.value_type
        if pa.types.is_timestamp(element):
            return Carried(ARRAY(sa.TIMESTAMP(timezone=True)), "timestamptz[]")
        inner = _scalar(element)
        found = Carried(ARRAY(inner.sql), f"{inner.packed}[]") if inner else None
    if found is None:
        raise StoreRefused(
            f"view {view.name}: feature {feature.name} of type {feature.arrow_type} cannot be stored beside "
            "a vector: leave it out, or put it into a view without a vector"
        )
    return found


def _scalar(arrow_type: pa.DataType) -> Carried | None:
    if pa.types.is_timestamp(arrow_type):
        return Carried(Instant(), "int8")
    if pa.types.is_fixed_size_binary(arrow_type):
        return _SCALARS[pa.binary()]
    return _SCALARS.get(arrow_type)


def _require_extension(connection: sa.Connection) -> None:
    version = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if version is None:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("CREATE EXTENSION vector")
        except (sa.exc.ProgrammingError, sa.exc.NotSupportedError) as error:
            raise StoreRefused(
                f"PostgreSQL has no pgvector here ({str(error.orig).strip()}): install it, and as a superuser "
                "run: CREATE EXTENSION vector"
            ) from error
        version = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if tuple(int(part) for part in str(version).split(".")[:2]) < (0, 8):
        raise StoreRefused(
            f"pgvector {version} is too old, filtered searches need 0.8: install it, and as a superuser run: "
            "ALTER EXTENSION vector UPDATE"
        )


def _match_columns(connection: sa.Connection, inspector: sa.Inspector, vectors: VectorTable, model: str) -> None:
    """Add columns for new features; another model, or a column of another type, is refused."""
    table, view = vectors.table, vectors.view
    held = _held_columns(inspector, table)
    anew = f"drop the table (DROP TABLE {_quoted(connection, table)}) and run `millrace backfill --view {view.name}`"
    embedded_by = held["_model"]["comment"]
    if embedded_by != model:
        raise StoreRefused(
            f"table {vectors.name} holds vectors of the model {embedded_by}, not of {model}, and vectors of two "
            f"models cannot be compared: name {embedded_by} again, or {anew} to embed every text anew"
        )
    for name in vectors.carried:
        declared = table.c[name].type.compile(dialect=connection.dialect)
        if name not in held:
            column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {_quoted(connection, table)} ADD COLUMN {column}")
        elif (there := held[name]["type"].compile(dialect=connection.dialect)) != declared:
            raise StoreRefused(
                f"table {vectors.name} has the column {name} of type {there}, and the view {view.name} declares "
                f"{declared}: declare {there} again, or {anew}"
            )


def _match_distance_index(connection: sa.Connection, inspector: sa.Inspector, vectors: VectorTable) -> None:
    """Have the HNSW index of the declared metric, and none of another."""
    table = vectors.table
    held = {
        index["name"]
        for index in inspector.get_indexes(table.name, schema=table.schema)
        if index.get("dialect_options", {}).get("postgresql_using") == "hnsw"
    }
    wanted = next(index for index in table.indexes if index.dialect_options["postgresql"]["using"] == "hnsw")
    if wanted.name not in held:
        wanted.create(connection)
    quote = connection.dialect.identifier_preparer.quote_identifier
    for name in held - {wanted.name}:
        connection.exec_driver_sql(f"DROP INDEX {quote(str(table.schema))}.{quote(str(name))}")


def _quoted(connection: sa.Connection, table: sa.Table) -> str:
    return str(connection.dialect.identifier_preparer.format_table(table))
