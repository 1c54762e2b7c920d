"""Where a snapshot begins in the log: which transactions it has to wait for; and who takes one, or applies."""

import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from connectors.lock import UnderWay, alone, holder
from connectors.snapshots import base, open_transactions
from connectors.source import Source
from tests.integration.capturing import new_source
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


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"r{uuid.uuid4().hex[:10]}"
    with psycopg.connect(database.dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login password 'secret'")
        yield name
        admin.execute(f"drop role {name}")


def test_who_takes_a_snapshot_is_told_to_a_user_who_may_not_see_the_session_too(database: Database, role: str) -> None:
    source = new_source(database.dsn)
    url = make_url(database.dsn)
    plain = replace(source, url=url.set(username=role, password="secret").render_as_string(hide_password=False))
    seen, hidden = source.engine(), plain.engine()
    try:
        with alone(source, "snapshot"):
            told = holder(seen, source, "snapshot")
            assert told is not None and told.startswith("a command on 127.0.0.1 (pid ") and ", since 20" in told
            told = holder(hidden, plain, "snapshot")
            assert told is not None and told.startswith(f"a command of database user {url.username} (pid ")
            with pytest.raises(UnderWay, match=f"a command of database user {url.username} "), alone(plain, "snapshot"):
                pass
    finally:
        seen.dispose()
        hidden.dispose()


def test_an_error_of_another_database_within_a_lock_is_not_the_sources(database: Database) -> None:
    elsewhere = create_engine("sqlite://")
    with (
        pytest.raises(OperationalError, match="no such table: feature_views"),
        alone(new_source(database.dsn), "apply"),
        elsewhere.connect() as registry,
    ):
        registry.execute(text("select * from feature_views"))
