"""Which columns of a captured table are no longer what was applied, and which types hold all values of another."""

import pyarrow as pa
import pytest

from connectors.altered import Altered, altered
from connectors.table import Column, Encoding, Table


def table(*columns: Column) -> Table:
    return Table("shop", "public", "orders", "shop.public.orders", columns, ("id",))


def column(name: str, sql_type: str, encoding: Encoding = "plain") -> Column:
    return Column(name, sql_type, pa.string(), encoding, nullable=True)


def test_a_column_that_can_be_carried_is_missed() -> None:
    applied = table(column("id", "bigint"))
    now = table(column("id", "bigint"), column("city", "text"), column("place", "point", "none"))
    assert altered(applied, now) == Altered(("city",), {})


def test_a_column_that_is_gone_is_told_of_by_records() -> None:
    assert altered(table(column("id", "bigint"), column("city", "text")), table(column("id", "bigint"))) == Altered(
        (), {}
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("smallint", "bigint"),
        ("integer", "integer"),
        ("real", "double precision"),
        ("character varying(5)", "text"),
        ("character varying(5)", "character varying(5)"),
        ("character varying(5)", "character varying(9)"),
        ("character varying", "text"),
        ("text", "character varying"),
        ("numeric(10,2)", "numeric(12,4)"),
        ("numeric(10,2)", "numeric"),
        ("numeric", "numeric"),
        ("timestamp(3) with time zone", "timestamp(3) with time zone"),
    ],
)
def test_a_type_that_holds_all_values_alters_none(old: str, new: str) -> None:
    assert altered(table(column("x", old)), table(column("x", new))) == Altered((), {})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bigint", "integer"),
        ("double precision", "real"),
        ("text", "character varying(5)"),
        ("character varying(9)", "character varying(5)"),
        ("character varying", "character varying(5)"),
        ("numeric(10,2)", "numeric(10,1)"),
        ("numeric(10,2)", "numeric(11,4)"),
        ("numeric", "numeric(38,10)"),
        ("integer", "text"),
        ("timestamp with time zone", "timestamp(0) with time zone"),
        ("character(5)", "text"),
    ],
)
def test_a_type_that_does_not_may_have_altered_some(old: str, new: str) -> None:
    assert altered(table(column("x", old)), table(column("x", new))) == Altered((), {"x": (old, new)})
