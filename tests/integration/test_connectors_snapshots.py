"""Where a snapshot begins in the log: which transactions it has to wait for."""

import psycopg
import pytest

from connectors.snapshots import base, open_transactions
from connectors.source import Source
from tests.integration.database import Database


@pytest.mark.parametrize("ended_since", [False, True])
def test_a_transaction_that_is_open_at_the_base_is_waited_for(database: Database, ended_since: bool) -> None:
    """The newest of all too, whose number is that which PostgreSQL gives as the end of its snapshots."""
    source = Source("awaited", database.url, "awaited", "awaited")
    engine = source.engine()
    with psycopg.connect(database.dsn, autocommit=True) as sql, psycopg.connect(database.dsn) as writer:
        sql.execute("create table awaited (id int primary key)")
        writer.execute("insert into awaited values (1)")
        if ended_since:
            sql.execute("insert into awaited values (2)")
        start = base(engine, source)
        waiting = open_transactions(engine, source, start)
        assert any(f"pid {writer.info.backend_pid} " in told for told in waiting)
        assert waiting == open_transactions(engine, source, start)  # what moves is said: here nothing does
        writer.commit()
        assert open_transactions(engine, source, start) == []
        writer.execute("insert into awaited values (3)")  # begun since
        assert open_transactions(engine, source, start) == []
        writer.rollback()
        sql.execute("drop table awaited")
    engine.dispose()


def test_a_transaction_that_has_written_nothing_is_not_waited_for(database: Database) -> None:
    source = Source("awaited", database.url, "awaited", "awaited")
    engine = source.engine()
    with psycopg.connect(database.dsn) as reader:
        reader.execute("select 1")
        assert open_transactions(engine, source, base(engine, source)) == []
    engine.dispose()
