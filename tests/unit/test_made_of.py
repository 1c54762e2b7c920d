"""What apply makes of a view that is declared otherwise than it was applied."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from connectors.table import Column
from millrace.made_of import check_made_of, made_anew, note_made_of
from stores.entity_keys import INT32, INT64, STRING
from stores.history import feature_properties
from stores.memory_lake import MemoryLake
from stores.rows import rows_schema
from stores.view import Feature, Vector, View
from streams.decide import features_table
from streams.declarations import DeclarationError
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC

TABLE = replace(ORDERS, columns=(*ORDERS.columns, Column("seller", "bigint", pa.int64(), "plain", nullable=True)))
BUYER, CUSTOMER = Feature("buyer", INT64, pa.int64()), Feature("customer", STRING, pa.string())
AMOUNT = Feature("amount", 3, pa.float64())
VIEW = View("p", "buyers", "buyers", "event", (BUYER,), (CUSTOMER, AMOUNT))
DECLARED = StreamView(VIEW, TABLE, renames={"id": "buyer"})
EMBEDDED = Vector("embedding", 2, "cosine", ("customer",))
SEARCHED = replace(VIEW, features=(CUSTOMER, Feature("embedding", 11, pa.list_(pa.float32()))), vector=EMBEDDED)


def applied(view: StreamView) -> MemoryLake:
    lake = MemoryLake()
    lake.create(features_table(view.view.name), rows_schema(view.view), feature_properties(view.view, TOPIC))
    note_made_of(lake, [view])
    return lake


def declared(**changes: Any) -> StreamView:
    return replace(DECLARED, view=replace(VIEW, **changes))


def refusal(lake: MemoryLake, view: StreamView, **applied: set[str]) -> str:
    with pytest.raises(DeclarationError) as refused:
        check_made_of(lake, [view], applied.get("applied", {"buyers"}))
    return str(refused.value)


def test_what_is_declared_as_it_was_is_no_news() -> None:
    lake = applied(DECLARED)
    check_made_of(lake, [DECLARED], {"buyers"})
    assert made_anew(lake, DECLARED) == ()


def test_a_join_key_of_another_column_is_refused() -> None:
    """The rows under the keys of before would be served for ever: no change tells of them."""
    said = refusal(applied(DECLARED), replace(DECLARED, renames={"seller": "buyer"}))
    assert said.startswith("view buyers: its join key buyer was made of column id as INT64 and is now of seller")
    assert "another name" in said


def test_a_view_that_was_taken_out_meanwhile_has_its_keys_in_the_lake() -> None:
    assert "another name" in refusal(applied(DECLARED), replace(DECLARED, renames={"seller": "buyer"}), applied=set())


def test_a_join_key_of_another_type_is_refused() -> None:
    """Feast's keys of an Int32 and of an Int64 differ, though the lake holds both in one column."""
    assert "as INT64 and is now of id as INT32" in refusal(
        applied(DECLARED), declared(join_keys=(replace(BUYER, value_type=INT32, arrow_type=pa.int32()),))
    )


def test_a_column_that_was_renamed_in_the_database_is_the_same() -> None:
    columns = tuple(replace(column, name="ident") if column.name == "id" else column for column in TABLE.columns)
    check_made_of(
        applied(DECLARED), [replace(DECLARED, table=replace(TABLE, columns=columns), renames={"ident": "buyer"})], set()
    )


@pytest.mark.parametrize(("before", "now"), [(VIEW, SEARCHED), (SEARCHED, VIEW)])
def test_a_view_that_goes_to_another_store_is_refused_until_it_is_taken_out(before: View, now: View) -> None:
    lake, view = applied(replace(DECLARED, view=before)), replace(DECLARED, view=now)
    said = refusal(lake, view)
    assert "take the view out" in said and "run what that names" in said
    check_made_of(lake, [view], set())


def test_a_feature_that_is_declared_again_is_out_of_date() -> None:
    """The lake keeps its column, and the online store its value of then."""
    lake, without = applied(DECLARED), declared(features=(CUSTOMER,))
    assert made_anew(lake, without) == ()
    note_made_of(lake, [without])
    assert made_anew(lake, DECLARED) == ("amount",)
    note_made_of(lake, [DECLARED])
    assert made_anew(lake, DECLARED) == ()


def test_a_feature_that_the_lake_lacks_is_new() -> None:
    other = Feature("placed_at", 8, pa.timestamp("us", tz="UTC"))
    assert made_anew(applied(DECLARED), declared(features=(CUSTOMER, AMOUNT, other))) == ("placed_at",)


def test_vectors_of_other_texts_are_out_of_date() -> None:
    lake = applied(replace(DECLARED, view=SEARCHED))
    other = replace(SEARCHED, vector=replace(EMBEDDED, columns=("customer", "seller")))
    assert made_anew(lake, replace(DECLARED, view=other)) == ("embedding",)


def test_a_view_that_an_earlier_version_applied_goes_by_the_columns_of_the_lake() -> None:
    lake = MemoryLake()
    assert made_anew(lake, DECLARED) == ()
    short = declared(features=(CUSTOMER,))
    lake.create(features_table("buyers"), rows_schema(short.view), feature_properties(short.view, TOPIC))
    check_made_of(lake, [DECLARED], {"buyers"})
    assert made_anew(lake, DECLARED) == ("amount",)
