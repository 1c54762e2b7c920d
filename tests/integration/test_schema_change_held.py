"""Changes of a table's schema that cannot be carried on, on the real stack with a worker running: each holds its
table, says what it hurts, and lets nothing through that would be wrong; once mended, what waited arrives."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from millrace.stack.endpoints import Endpoints
from streams.drift import applied_table
from tests.integration.deployed import Running
from tests.integration.shop import Shop, shop
from tests.waiting import waited

TABLES = """
create table grades (id bigint primary key, grade text);
create table members (id bigint primary key, joined integer);
create table visits (id bigint primary key, seen timestamp);
create table prices (id bigint primary key, price numeric(10, 2));
create table stamps (id bigint primary key, stamp bigint);
create table boxes (id bigint primary key, colour text, size integer);
create table parcels (id bigint primary key, colour text, weight integer);
create table accounts (id bigint primary key, number bigint not null, owner text);
insert into grades values (1, 'one');
insert into members values (1, 1700000000);
insert into visits values (1, '2024-01-01');
insert into prices values (1, 1.5);
insert into stamps values (1, 1700000000);
insert into boxes values (1, 'red', 10);
insert into parcels values (1, 'red', 10);
insert into accounts values (1, 101, 'Ada'), (2, 102, 'Grace'), (3, 103, 'Edsger');
"""
FIELDS = {
    "grades": {"grade": "String"},
    "members": {"joined": "Int64"},
    "visits": {"seen": "UnixTimestamp"},
    "prices": {"price": "Float64"},
    "stamps": {"stamp": "Int64"},
    "boxes": {"colour": "String", "size": "Int64"},
    "parcels": {"colour": "String"},
    "accounts": {"number": "Int64", "owner": "String"},
}
MENDED = {
    **FIELDS,
    "grades": {"grade_number": "Int64"},
    "members": {"joined_at": "UnixTimestamp"},
    "visits": {"seen_at": "UnixTimestamp"},
    "stamps": {"stamped_at": "UnixTimestamp"},
    "boxes": {"size": "Int64"},
}


def views(name: str, fields: dict[str, dict[str, str]]) -> str:
    """A state view of each table."""
    lines = ["# The tables that change", "from feast.types import UnixTimestamp"]
    for table, columns in fields.items():
        schema = ", ".join(f'Field(name="{column}", dtype={kind})' for column, kind in columns.items())
        lines += [
            f'{table}_source = cdc_source("{name}.public.{table}")',
            f'{table}_view = FeatureView(name="{table}_view", entities=[customer], source={table}_source,',
            f'    schema=[Field(name="id", dtype=Int64), {schema}])',
        ]
    return "\n".join(lines)


def declare(market: Shop, fields: dict[str, dict[str, str]]) -> None:
    """Give each table these fields."""
    features = market.repo.path / "features.py"
    features.write_text(features.read_text().split("# The tables")[0] + views(market.name, fields))


def contract(market: Shop, table: str, *columns: str) -> None:
    """The table's contract: these columns are not null."""
    rules = [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": column}, "severity": "critical"}
        for column in columns
    ]
    suite = {"name": f"public.{table}", "expectations": [{**rule, "meta": {}} for rule in rules], "meta": {}}
    (market.repo.path / "contracts" / f"public.{table}.json").write_text(json.dumps(suite))


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(stack, tmp_path_factory.mktemp("held"), partitions=2) as made:
        made.sql.execute(TABLES)
        declare(made, FIELDS)
        for table in FIELDS:
            contract(made, table, *(["colour", "weight"] if table == "parcels" else []))
        made.repo.apply()
        yield made


def changes(market: Shop, table: str) -> list[dict[str, Any]]:
    """What the lake has of a table, in the order of the log."""
    rows = market.repo.lake().scan(f"changes/{market.name}.public.{table}").read_all().to_pylist()
    return sorted(rows, key=lambda row: (row["_lsn"], row["_offset"]))


def served(market: Shop, table: str, column: str, *ids: int) -> list[Any]:
    return [row[column] for row in market.repo.read(f"{table}_view", [column], [{"id": id_} for id_ in ids])]


def held(market: Shop, worker: Running, table: str) -> str:
    """Why a table is held, and that nothing else was held or let through with it: the others go on."""
    topic = f"{market.name}.public.{table}"
    why = str(waited(lambda: worker.health()[1].get("paused", {}).get(topic), f"{table} held"))
    market.sql.execute("update customers set credit = coalesce(credit, 0) + 1 where id = 1")
    (credit,) = market.sql.execute("select credit::float8 from customers where id = 1").fetchone() or (None,)
    waited(lambda: market.repo.read("customer_facts", ["credit"], [{"id": 1}]) == [{"credit": credit}], "the others")
    assert any(topic in problem for problem in market.repo.command("status", code=1)["problems"])
    assert "Nothing of it is lost" in why
    return why


@pytest.mark.parametrize(
    ("table", "column", "retyped", "insert", "told"),
    [
        ("grades", "grade", "integer using 1", "(2, 5)", "was text when it was applied and is integer now"),
        (
            "members",
            "joined",
            "timestamptz using to_timestamp(joined)",
            "(2, '2024-02-02')",
            "was integer when it was applied and is timestamp with time zone now",
        ),
        (
            "visits",
            "seen",
            "timestamptz",
            "(2, '2024-02-02')",
            "was timestamp without time zone when it was applied and is timestamp with time zone now",
        ),
        (  # both are numbers: only their sizes differ
            "stamps",
            "stamp",
            "timestamp using to_timestamp(stamp) at time zone 'utc'",
            "(2, '2024-02-02')",
            "was bigint when it was applied and is timestamp without time zone now",
        ),
        (
            "prices",
            "price",
            "numeric(20, 4)",
            "(2, 2.1234)",
            "was numeric(10,2) when it was applied and is numeric(20,4",
        ),
    ],
)
def test_another_type_holds_the_table(
    market: Shop, worker: Running, table: str, column: str, retyped: str, insert: str, told: str
) -> None:
    before, (value,) = changes(market, table), served(market, table, column, 1)
    assert value is not None
    market.sql.execute(f"alter table {table} alter {column} type {retyped}")
    market.sql.execute(f"insert into {table} values {insert}")
    why = held(market, worker, table)
    assert f"column {column} {told}" in why and f"view {table}_view" in why and "millrace apply" in why
    assert changes(market, table) == before
    assert served(market, table, column, 1, 2) == [value, None]


def test_a_column_that_a_view_reads_is_dropped(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table boxes drop column colour")
    market.sql.execute("update boxes set size = 11")
    why = held(market, worker, "boxes")
    assert "no column colour any more, which view boxes_view read" in why and "millrace apply" in why
    assert market.repo.read("boxes_view", ["colour", "size"], [{"id": 1}]) == [{"colour": "red", "size": 10}]


def test_a_column_that_only_the_contract_reads_is_dropped(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table parcels drop column weight")
    market.sql.execute("update parcels set colour = 'blue'")
    why = held(market, worker, "parcels")
    assert "no column weight any more, which contract public.parcels read" in why and "millrace apply" in why
    assert served(market, "parcels", "colour", 1) == ["red"]
    assert market.repo.command("letters", "list")["count"] == 0


def test_another_primary_key_holds_the_table(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table accounts drop constraint accounts_pkey, add primary key (number)")
    market.sql.execute("update accounts set owner = 'Ada L.' where number = 101")
    why = held(market, worker, "accounts")
    assert "its primary key is (number) now and was (id) when it was applied" in why and "view accounts_view" in why
    market.sql.execute("update accounts set id = 20 where number = 102")  # no change of a key any more
    market.sql.execute("delete from accounts where number = 103")
    assert served(market, "accounts", "owner", 1, 2, 3, 20) == ["Ada", "Grace", "Edsger", None]
    assert len(changes(market, "accounts")) == 3


def test_apply_refuses_what_does_not_hold_yet_and_changes_nothing(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table members rename joined to joined_at")
    market.sql.execute("alter table visits rename seen to seen_at")
    market.sql.execute("alter table stamps rename stamp to stamped_at")
    declare(market, {**MENDED, "grades": {"grade": "Int64"}})
    contract(market, "parcels", "colour")
    refused = market.repo.refused("apply")
    assert f"table changes/{market.name}.public.accounts was made with millrace.primary_key" in refused
    market.sql.execute("alter table accounts drop constraint accounts_pkey, add primary key (id)")
    refused = market.repo.refused("apply")
    assert f"table changes/{market.name}.public.grades, column grade: is string in the lake" in refused
    # What a worker goes by is as it was: it would start anew on views that are not registered.
    boxes, _ = applied_table(market.repo.lake(), f"{market.name}.public.boxes")
    assert boxes is not None and [column.name for column in boxes.columns] == ["id", "colour", "size"]


def test_mended_everything_that_waited_arrives(market: Shop, worker: Running) -> None:
    market.sql.execute("alter table grades rename grade to grade_number")
    declare(market, MENDED)
    market.repo.apply()
    market.settle()
    waited(lambda: worker.health()[1].get("paused") == {}, "the worker to go on with all tables")
    completed = [f"{market.name}.public.{table}" for table in ("grades", "members", "visits", "stamps", "accounts")]
    market.repo.command("resnapshot", *completed)
    market.settle()
    assert served(market, "grades", "grade_number", 1, 2) == [1, 5]
    assert [at.timestamp() for at in served(market, "members", "joined_at", 1)] == [1_700_000_000]
    assert [str(at.date()) for at in served(market, "visits", "seen_at", 1, 2)] == ["2024-01-01", "2024-02-02"]
    assert [str(at.date()) for at in served(market, "stamps", "stamped_at", 1, 2)] == ["2023-11-14", "2024-02-02"]
    assert served(market, "prices", "price", 1, 2) == [1.5, 2.1234]
    assert [str(row["price"]) for row in changes(market, "prices")] == ["1.5000", "2.1234"]
    assert served(market, "boxes", "size", 1) == [11]
    assert served(market, "parcels", "colour", 1) == ["blue"]
    assert served(market, "accounts", "owner", 1, 2, 3, 20) == ["Ada L.", None, None, "Grace"]
    for table in ("grades", "members", "visits", "stamps", "prices", "boxes", "parcels"):
        assert len([row for row in changes(market, table) if row["_op"] in "cu"]) == 1, table
    assert [row["_op"] for row in changes(market, "accounts") if row["_op"] != "r"] == ["u", "u", "d", "d"]
    assert market.repo.command("letters", "list")["count"] == 0
    market.check()
