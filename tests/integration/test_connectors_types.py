"""Every type that is carried: what PostgreSQL holds is what comes out of Debezium's messages, both in a
snapshot and in the stream, in every position of a batch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg import sql

from connectors.encodings import Undecodable, decode
from connectors.rows import read_rows
from connectors.snapshots import ask
from streams.changes import changes_schema
from streams.left_behind import _says_nothing
from tests.integration.capturing import Captured, captured, new_source

# citext is not among the extensions of every PostgreSQL: where it is not, the same type by the same name,
# made as the extension makes it (its own functions only compare).
CITEXT = """
create function citextin(cstring) returns citext as 'textin' language internal immutable strict;
create function citextout(citext) returns cstring as 'textout' language internal immutable strict;
create type citext (input = citextin, output = citextout, internallength = variable, storage = extended,
                    category = 'S', preferred = false, collatable = true)
"""

SETUP = """
create extension vector;
create type mood as enum ('sad', 'ok', 'happy');
create domain whole as integer check (value > 0);
create domain email as text;
create domain price as numeric(10,2);
create domain instant as timestamptz;
create domain birthday as date;
create domain nested as birthday;
create domain counts as integer[];
create domain point2 as vector(2);
"""


@dataclass(frozen=True, slots=True)
class Type:
    """A column's SQL type, values as SQL literals, and how to read them back for comparison."""

    sql: str
    values: tuple[str, ...]
    read: str = "{}"


TEXT = "case when {0} is not null then format('%s', {0}) end"
UTF8 = "'', 'plain', 'Zürich \U0001f600 \"quoted\" \\ \u0001 \u2028 new\nline'"

FAMILIES: dict[str, dict[str, Type]] = {
    "numbers": {
        "small": Type("smallint", ("-32768", "32767", "0")),
        "whole": Type("integer", ("-2147483648", "2147483647", "0")),
        "big": Type("bigint", ("-9223372036854775808", "9223372036854775807", "9007199254740993")),
        "single": Type("real", ("1.1", "'NaN'", "'Infinity'", "'-Infinity'", "3.4028235e38", "1e-45", "-0.0")),
        "twice": Type(
            "double precision", ("0.1", "'NaN'", "'Infinity'", "'-Infinity'", "1e308", "5e-324", "123456789012345678")
        ),
        "exact": Type("numeric(10,2)", ("1.1", "-99999999.99", "0")),
        "wide": Type("numeric(38,10)", ("1.5", "-1234567890123456789012345678.0123456789")),
        "small_part": Type("numeric(3,5)", ("0.00123", "-0.00999")),
        "beyond": Type("numeric(50,5)", ("-123456789012345678901234567890.12345",), TEXT),
        "free": Type(
            "numeric", ("12345678901234567890.123456789", "1e40", "1e-20", "'NaN'", "'Infinity'", "'-Infinity'"), TEXT
        ),
        "truth": Type("boolean", ("true", "false")),
        "object": Type("oid", ("0", "4294967295")),
    },
    "texts": {
        "fixed": Type("char(5)", ("'ab'", "''")),
        "bounded": Type("varchar(60)", tuple(UTF8.split(", "))),
        "free": Type("text", tuple(UTF8.split(", "))),
        "folded": Type("citext", ("'CiTeXt'",), TEXT),
        "choice": Type("mood", ("'sad'", "'happy'"), TEXT),
        "id": Type("uuid", ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",), TEXT),
        "address": Type("inet", ("'10.0.0.1'", "'10.0.0.1/24'", "'::1'"), TEXT),
        "network": Type("cidr", ("'10.0.0.0/8'",), TEXT),
        "device": Type("macaddr", ("'08:00:2b:01:02:03'",), TEXT),
        "document": Type("json", ('\'{"a":  1, "b": [1.0, null]}\'', "'null'", "'\"x\"'"), TEXT),
        "binary": Type("jsonb", ('\'{"a":  1, "b": [1.0, null]}\'', "'null'", "'1e40'"), TEXT),
        "bytes": Type("bytea", ("'\\x00ff01'", "''")),
    },
    "times": {
        "day": Type("date", ("'1969-12-31'", "'1970-01-01'", "'0001-01-01'", "'9999-12-31'", "'1500-02-28'")),
        "hour": Type("time", ("'00:00'", "'23:59:59.123456'"), "to_char({}, 'HH24:MI:SS.US')"),
        "second": Type("time(0)", ("'12:34:56'",), "to_char({}, 'HH24:MI:SS.US')"),
        "local": Type(
            "timestamp",
            ("'1969-12-31 23:59:59.999999'", "'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'2013-02-12 03:00'"),
        ),
        "local_ms": Type("timestamp(3)", ("'2013-02-12 03:00:00.123'",)),
        "instant": Type(
            "timestamptz",
            (
                "'2013-02-12 03:00:00.123456+02'",
                "'1900-01-01 00:00+00'",
                "'0001-01-01 00:00+00'",
                "'9999-12-31 23:59:59.999999+00'",
            ),
        ),
        "instant_s": Type("timestamptz(0)", ("'2013-02-12 03:00:00-05'",)),
        "span": Type("interval", ("'1 year 2 mons 3 days 04:05:06.789'", "'-1 day -00:00:01'", "'0'"), "{}"),
    },
    "lists": {
        "smalls": Type("smallint[]", ("'{1,-2,NULL}'", "'{}'")),
        "wholes": Type("integer[]", ("'{1,2}'", "'[2:3]={5,6}'")),
        "bigs": Type("bigint[]", ("'{9223372036854775807}'",)),
        "singles": Type("real[]", ("'{1.1,NaN,Infinity,NULL}'",)),
        "twices": Type("double precision[]", ("'{0.1,NaN,-Infinity}'", "'{}'")),
        "texts": Type("text[]", ('\'{a,"b,c",NULL,""}\'', "'{}'")),
        "bounded": Type("varchar(5)[]", ("'{ab}'",)),
        "truths": Type("boolean[]", ("'{t,f,NULL}'",)),
        "ids": Type("uuid[]", ("'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'",), "{}::text[]"),
        "days": Type("date[]", ("'{1969-12-31,2020-01-01}'",)),
        "locals": Type("timestamp[]", ("'{2020-01-01 00:00:00.123456}'",)),
        "instants": Type("timestamptz[]", ("'{2020-01-01 00:00:00.123456+00}'",)),
        "bytes": Type("bytea[]", ("'{\"\\\\x00ff\",NULL}'",)),
        "documents": Type("jsonb[]", ('\'{"{\\"a\\": 1}"}\'',), "{}::text[]"),
        "vector": Type("vector(3)", ("'[1,2.5,-3]'",), TEXT),
        "half": Type("halfvec(3)", ("'[1,2.5,-3]'",), TEXT),
    },
    "domains": {
        "whole": Type("whole", ("7",)),
        "email": Type("email", ("'a@b'",)),
        "price": Type("price", ("3.5",)),
        "instant": Type("instant", ("'2020-01-01 00:00+00'",)),
        "birthday": Type("birthday", ("'1969-12-31'",)),
        "nested": Type("nested", ("'1969-12-31'",)),
        "numbers": Type("counts", ("'{1,2}'",)),
        "point": Type("point2", ("'[1,2]'",), TEXT),
    },
}


def rows(family: str) -> list[dict[str, str]]:
    """One row of all first values, one of nulls, and one for each further value."""
    columns = FAMILIES[family]
    first = {name: column.values[0] for name, column in columns.items()}
    others = [{name: value} for name, column in columns.items() for value in column.values[1:]]
    return [first, {}, *others]


def insert(connection: psycopg.Connection, family: str, start: int) -> None:
    for number, row in enumerate(rows(family), start):
        values = [str(number), *(row.get(name, "null") for name in FAMILIES[family])]
        connection.execute(f'insert into "{family}" values ({", ".join(values)})')


@pytest.fixture(scope="module")
def source(stack: Any, database: Any) -> Iterator[Captured]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        available = connection.execute("select from pg_available_extensions where name = 'citext'").fetchone()
        connection.execute(SETUP)
        connection.execute("create extension citext" if available else CITEXT)
        for family, columns in FAMILIES.items():
            # Each has a default, in place of which a null is to stay one.
            spec = ", ".join(f'"{name}" {column.sql} default {column.values[0]}' for name, column in columns.items())
            connection.execute(f'create table "{family}" (key integer primary key, {spec})')
            insert(connection, family, 0)
        tables = [f"public.{family}" for family in FAMILIES]
        with captured(stack, new_source(database.dsn), tables, full_identity=True) as running:
            for family in FAMILIES:
                running.records(family, len(rows(family)))
                insert(connection, family, 1000)
                connection.execute(f'update "{family}" set key = key + 1000 where key >= 1000')
            yield running


@pytest.fixture(scope="module")
def images(source: Captured) -> dict[str, list[dict[str, Any]]]:
    """The row image of each message of each family, in order of arrival."""
    found = {}
    for family in FAMILIES:
        # A key that changes gives three messages: the deletion, its tombstone, the new row.
        records = source.records(family, 5 * len(rows(family)))
        found[family] = [r.value["after"] for r in records if r.value and r.value["after"]]
    return found


def expected(connection: psycopg.Connection, family: str, name: str) -> dict[int, Any]:
    query = sql.SQL("select key, {} from {}").format(
        sql.SQL(FAMILIES[family][name].read.format(f'"{name}"')), sql.Identifier(family)
    )
    return dict(connection.execute(query).fetchall())


def comparable(value: Any, column: Any) -> Any:
    """A value that psycopg read, as the decoded one is."""
    if isinstance(value, list):
        return [comparable(item, column) for item in value]
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC)
    if column.encoding == "vector" and value is not None:
        return json.loads(value)
    if "real" in column.sql_type and value is not None:
        return float(np.float32(value))
    return value


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in FAMILIES[family] if name != "span"]
)
def test_a_type_arrives_as_postgresql_holds_it(
    source: Captured, images: dict[str, list[dict[str, Any]]], database: Any, family: str, name: str
) -> None:
    column = source.table(family).column(name)
    assert column.encoding != "none"
    assert len(images[family]) == 3 * len(rows(family))
    decoded = decode([image[name] for image in images[family]], column)
    assert decoded.type == column.arrow_type
    with psycopg.connect(database.dsn) as connection:
        held = expected(connection, family, name)
    wanted = [comparable(held[i["key"] if i["key"] < 1000 else i["key"] % 1000 + 2000], column) for i in images[family]]
    np.testing.assert_equal(decoded.to_pylist(), wanted)


def test_an_interval_arrives_as_iso_8601(
    source: Captured, images: dict[str, list[dict[str, Any]]], database: Any
) -> None:
    snapshot = images["times"][: len(rows("times"))]
    decoded = decode([image["span"] for image in snapshot], source.table("times").column("span"))
    with psycopg.connect(database.dsn) as connection:
        query = "select span = %s::interval from times where key = %s"
        for image, span in zip(snapshot, decoded.to_pylist(), strict=True):
            if span is not None:
                assert connection.execute(query, [span, image["key"]]).fetchone() == (True,)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_delete_without_old_values_has_for_them_is_told_from_these(
    source: Captured, stack: Any, database: Any, family: str
) -> None:
    """Where a column takes no null, and the table has no REPLICA IDENTITY FULL."""
    columns = FAMILIES[family]
    spec = [f'"{name}" {column.sql} not null' for name, column in columns.items()]
    spec += [f'"{name}_2" {column.sql} not null default {column.values[0]}' for name, column in columns.items()]
    spec += ["counted bigint generated always as identity", "made timestamptz not null default now()"]
    values = ", ".join(column.values[0] for column in columns.values())
    names = ", ".join(f'"{name}"' for name in columns)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f'create table "untold_{family}" (key integer primary key, {", ".join(spec)})')
        with captured(stack, new_source(database.dsn), [f"public.untold_{family}"]) as running:
            connection.execute(f'insert into "untold_{family}" (key, {names}) values (1, {values})')
            connection.execute(f'delete from "untold_{family}"')
            delete = running.records(f"untold_{family}", 2)[1].value["before"]
            table = running.table(f"untold_{family}")
    for column in table.columns[1:]:
        told = decode([delete[column.name]], column)
        assert pc.all(_says_nothing(column, pa.chunked_array([told]))).as_py(), (column, told)
    assert {column.name for column in table.columns if not column.has_default} == {"key", *columns}


def test_values_beyond_what_a_type_holds_are_named(stack: Any, database: Any) -> None:
    outside = {
        "day": ("date", ["'infinity'", "'-infinity'", "'5874897-12-31'"]),
        "local": ("timestamp", ["'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999'", "'4713-01-01 BC'"]),
        "instant": ("timestamptz", ["'infinity'", "'-infinity'", "'10000-01-01 00:00+00'", "'0001-01-01 00:00+00 BC'"]),
        "days": ("date[]", ["'{2020-01-01,infinity}'"]),
        "instants": ("timestamptz[]", ["'{-infinity}'"]),
        "hour": ("time", ["'24:00'"]),
        "exact": ("numeric(10,2)", ["'NaN'"]),
        "words": ("text[]", ["'{{a,b},{c,d}}'"]),
    }
    spec = ", ".join(f"{name} {kind}" for name, (kind, _) in outside.items())
    inserts = [f"insert into beyond ({name}) values ({v})" for name, (_, values) in outside.items() for v in values]
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"create table beyond (key int generated always as identity primary key, {spec})")
        for statement in inserts:
            connection.execute(statement)
        with captured(stack, new_source(database.dsn), ["public.beyond"], full_identity=True) as running:
            running.records("beyond", len(inserts))
            for statement in inserts:
                connection.execute(statement)
            images = [r.value["after"] for r in running.records("beyond", 2 * len(inserts))]
            for name, (_, values) in outside.items():
                with pytest.raises(Undecodable) as caught:
                    decode([image[name] for image in images], running.table("beyond").column(name))
                assert [i for i, _, _ in caught.value.bad] == [
                    i for i, image in enumerate(images) if image[name] is not None
                ]
                assert len(caught.value.bad) == 2 * len(values)


def test_columns_that_cannot_be_carried_break_nothing(stack: Any, database: Any) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            """
            create type pair as (a int, b text);
            create type feeling as enum ('sad', 'ok');
            create table strange (id int primary key, kept text,
                a_numeric numeric[], a_matrix int[][], a_bit bit(3), a_point point, a_pair pair, a_range int4range,
                a_name name, a_money money, a_vector tsvector, a_span interval[], a_zone timetz, a_lsn pg_lsn,
                a_sparse sparsevec(5), a_round numeric(3,-2), a_moods feeling[],
                a_sum int generated always as (id * 2) stored);
            create table computed (id int primary key, a_sum int generated always as (id * 2) stored,
                a_view int generated always as (id * 3) virtual);
            insert into computed values (1)
            """
        )
        row = """
            insert into strange values (%s, 'x', '{NaN,1}', '{{1,2},{3,4}}', B'101', '(1,2)', '(1,x)', '[1,5)',
                'n', 1.5, 'a b', '{1 day}', '12:00+02', '0/16B3748', '{1:1.5}/5', 12300, '{NULL,ok}')
            """
        connection.execute(row, [1])
        with captured(stack, new_source(database.dsn), ["public.strange"], full_identity=True) as running:
            running.records("strange", 1)
            connection.execute(row, [2])
            connection.execute("update strange set kept = 'y', a_numeric = '{NaN}'")
            records = running.records("strange", 4)
            assert [r.value["after"] for r in records] == [
                {"id": 1, "kept": "x"},
                {"id": 2, "kept": "x"},
                {"id": 1, "kept": "y"},
                {"id": 2, "kept": "y"},
            ]
            carried = {c.name for c in running.table("strange").columns if c.encoding != "none"}
            assert carried == {"id", "kept"}
        with captured(stack, new_source(database.dsn), ["public.computed"]) as running:
            connection.execute("update computed set id = id + 1")
            images = [r.value and r.value["after"] for r in running.records("computed", 4)]
            assert images == [{"id": 1}, None, None, {"id": 2}]
            generated = {c.name for c in running.table("computed").columns if c.generated}
            assert generated == {"a_sum", "a_view"}


def test_a_column_that_the_user_excludes_does_not_leave_the_database(stack: Any, database: Any) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(
            'create table person (id int primary key, name text, secret text, odd numeric[], "Hid,den" text)'
        )
        connection.execute("insert into person values (1, 'a', 's', '{NaN}', 'S')")
        source = new_source(
            database.dsn, overrides={"column.exclude.list": r"public\.person\.secret, PUBLIC.\w+.hid\,DEN"}
        )
        with captured(stack, source, ["public.person"], full_identity=True) as running:
            assert [r.value["after"] for r in running.records("person", 1)] == [{"id": 1, "name": "a"}]
            assert changes_schema(running.table("person")).names[:3] == ["id", "name", "_op"]
            assert [c.name for c in running.table("person").columns if c.excluded] == ["secret", "Hid,den"]


def test_names_need_no_care(stack: Any, database: Any) -> None:
    name = 'Mixed Case, "q" é\U0001f600.x%:y'
    columns = ["Id x", "k,2", "a.b", 'qu"ote', "Ünï", "weird(*)[", "per%cent :name"]
    table = sql.Identifier(name)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        spec = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(column)) for column in columns)
        key = sql.SQL("primary key ({}, {})").format(sql.Identifier("k,2"), sql.Identifier("Id x"))
        connection.execute(sql.SQL("create table {} ({}, {})").format(table, spec, key))
        connection.execute('create table "Twin" (id int primary key); create table twin (id int primary key)')
        connection.execute('insert into "Twin" values (1); insert into twin values (2)')
        source = new_source(database.dsn, partitions=1)
        with captured(stack, source, [f"public.{name}", "public.Twin"], full_identity=True) as running:
            row = dict(zip(columns, "abcdefg", strict=True))
            connection.execute(sql.SQL("insert into {} values ({})").format(table, sql.SQL(",").join(row.values())))
            (record,) = running.records(name, 1)
            assert record.key == {"k,2": "b", "Id x": "a"}
            assert record.value["after"] == row
            assert running.table(name).primary_key == ("k,2", "Id x")
            assert [r.value["after"] for r in running.records("Twin", 1)] == [{"id": 1}]
            assert [column.name for column in running.table(name).columns] == columns
            (rows,) = read_rows(running.engine, source, running.table(name), running.table(name).columns)
            assert rows.table.to_pylist() == [row]


def test_any_name_without_a_blank_can_be_read_anew(stack: Any, database: Any) -> None:
    """Though Debezium reads it as a regular expression; other tables that it would match as one are left alone."""
    others = ["upper", "aab", "sales", "x-y"]
    names = ["a(b.[c+d%:e", "Upper", "a+b", "sales$", "x.y"]
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for each in (*names, *others):
            table = sql.Identifier(each)
            connection.execute(
                sql.SQL("create table {0} (id int primary key); insert into {0} values (1)").format(table)
            )
        source = new_source(database.dsn, partitions=1)
        with captured(stack, source, [f"public.{each}" for each in (*names, *others)]) as running:
            for each in (*names, *others):
                running.records(each, 1)
            ask(running.engine, source, "named", [running.table(name) for name in names])
            for each in names:
                assert running.records(each, 2)[1].value["source"]["snapshot"] == "incremental"
            for each in others:
                connection.execute(sql.SQL("insert into {} values (2)").format(sql.Identifier(each)))
                assert running.records(each, 2)[1].value["op"] == "c"


def test_numeric_is_exact(source: Captured, images: dict[str, list[dict[str, Any]]]) -> None:
    decoded = decode([images["numbers"][0]["exact"]], source.table("numbers").column("exact"))
    assert decoded.to_pylist() == [Decimal("1.10")]
