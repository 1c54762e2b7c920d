"""DuckDB over Arrow datasets of the lake, without its network extensions: sessions, names, answers."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from stores.errors import StoreRefused, StoreUnavailable
from stores.lake import STORE, VIEW_TYPES, Snapshot, WrittenInViews

Session: TypeAlias = duckdb.DuckDBPyConnection

_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": str(Path(tempfile.gettempdir()) / f"millrace-duckdb-{os.getpid()}"),
}


@cache
def _database() -> Session:
    """One DuckDB a process: opening one costs as much as a query."""
    return duckdb.connect(config=_CONFIG)


@contextmanager
def session(**tables: pa.Table | ds.Dataset) -> Iterator[Session]:
    """A DuckDB connection of its own that sees these tables; what exceeds memory spills to a temporary folder.

    A file that vanishes or cannot be read while a query runs is `StoreUnavailable`; `WrittenInViews` for files that
    cannot be searched.
    """
    with _database().cursor() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        try:
            yield connection
        except duckdb.IOException as error:
            raise StoreUnavailable(STORE, str(error)) from error
        except duckdb.InvalidInputException as error:
            if "reading the stream" not in str(error):
                raise
            if any(name in str(error) for name in VIEW_TYPES):
                raise WrittenInViews from error
            raise StoreUnavailable(STORE, str(error)) from error


def answer(connection: Session, query: str, schema: pa.Schema) -> pa.Table:
    """The rows of a query, its columns by position under the names and types of `schema`."""
    found = connection.sql(query).to_arrow_table()
    return found.rename_columns(schema.names).cast(schema)


def parts(connection: Session, query: str, schema: pa.Schema, most: int) -> Iterator[pa.Table]:
    """As `answer`, at most so many rows at a time."""
    for batch in connection.sql(query).to_arrow_reader(most):
        yield pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema)


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def held(table: Snapshot, name: str) -> str:
    """`name`, if the table has that column; else `StoreRefused`."""
    if name not in table.schema.names:
        raise StoreRefused(
            f"the lake's table {table.name} has no column {name}, only {', '.join(table.schema.names)}:"
            " apply and run the worker, or backfill it; if the view is pushed to, push rows that have it"
        )
    return name
