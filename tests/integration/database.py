"""A PostgreSQL database of its own for a test module."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database made for one test module.

    Attributes:
        name: its name.
        url: SQLAlchemy URL, `postgresql+psycopg://user:password@host:port/name`.
        dsn: the same for psycopg.
    """

    name: str
    url: str
    dsn: str


@contextmanager
def new_database(postgres: str) -> Iterator[Database]:
    """A new empty database of the server (a SQLAlchemy URL), dropped afterwards with its connections and slots."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    dsn = postgres.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(f"{dsn}/postgres", autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            yield Database(name, f"{postgres}/{name}", f"{dsn}/{name}")
        finally:
            drop_database(server, name)


def drop_database(server: psycopg.Connection, name: str) -> None:
    """Drop a database and what would hold it back: its clients, then its replication slots."""
    server.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
    server.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name])
    server.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", [name])
    server.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))
