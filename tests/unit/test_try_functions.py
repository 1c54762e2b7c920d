"""A view's function is tried over some rows of its table before it is applied."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64, Int64

from millrace.declare import cdc_source
from millrace.try_functions import TELLING, try_function
from streams.changes import carried, contract_schema
from streams.declarations import DeclarationError, captured_views, compile_view
from streams.personal import HIDDEN, NOTHING, PersonalColumns
from streams.pipeline import Flow
from tests.envelopes import ORDERS
from validation.contract import load

SECRET = "annabel@example.com"
NOT_NEGATIVE = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}
Function = Callable[[Any], Any]


def flow(folder: Path, function: Function, mode: str = "pandas", personal: PersonalColumns = NOTHING) -> Flow:
    """That of a view `double` over ORDERS, whose contract takes no negative amount."""
    (folder / "orders.json").write_text(json.dumps({"name": "orders", "expectations": [NOT_NEGATIVE], "meta": {}}))
    order = Entity(name="order", join_keys=["id"], value_type=ValueType.INT64)
    schema = [Field(name="id", dtype=Int64), Field(name="double", dtype=Float64)]
    source = cdc_source("shop.public.orders", event_time="placed_at")
    declared = stream_feature_view(entities=[order], ttl=timedelta(0), mode=mode, source=source, schema=schema)

    def double(rows: Any) -> Any:  # of its own: Feast changes what it declares
        return function(rows)

    double.__annotations__.clear()  # which it would want to be of frames

    (found,) = captured_views([declared(double)], [order], ["shop"])
    view = compile_view("p", found, ORDERS, "double")
    return Flow(ORDERS, load(folder / "orders.json", contract_schema(ORDERS)), (view,), personal)


def rows(*amounts: float | None) -> pa.Table:
    """Rows of ORDERS, whose event time is null."""
    columns = {"id": list(range(len(amounts))), "customer": [SECRET] * len(amounts), "amount": list(amounts)}
    schema = pa.schema(carried(ORDERS))
    return pa.table([columns.get(name, [None] * len(amounts)) for name in schema.names], schema=schema)


def misspelt(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df["amuont"] * 2)


def misspelt_in_each_row(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df.apply(lambda row: row["amuont"] * 2, axis=1))


def misspelt_in_lists(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"id": rows["id"], "double": rows["amuont"]}


def misspelt_attribute(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df.amuont * 2)


def forgotten(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(doubled=df["amount"] * 2)


def no_return(df: pd.DataFrame) -> None:
    df["double"] = df["amount"] * 2


def undefined(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df["amount"] * FACTOR)  # type: ignore[name-defined]  # noqa: F821


KEY = "raised KeyError: 'amuont'; the table has no column amuont: did you mean amount?"
CERTAIN = {
    misspelt: KEY,
    misspelt_in_each_row: KEY,
    misspelt_in_lists: KEY,
    misspelt_attribute: "raised AttributeError: 'DataFrame' object has no attribute 'amuont'; mend the function",
    forgotten: "returned no column double; mend the function",
    no_return: "returned NoneType, not a DataFrame; mend the function",
    undefined: "raised NameError: name 'FACTOR' is not defined; mend the function",
}


def mode(function: Function) -> str:
    return "python" if function is misspelt_in_lists else "pandas"


@pytest.mark.parametrize("personal", [NOTHING, PersonalColumns(every=True)])
@pytest.mark.parametrize("function", CERTAIN)
def test_what_fails_on_each_row_is_refused(tmp_path: Path, function: Function, personal: PersonalColumns) -> None:
    """With its own words where they hold nothing of the rows: so they are the same of made-up ones."""
    with pytest.raises(DeclarationError) as refused:
        try_function(flow(tmp_path, function, mode(function), personal), rows(1, 2))
    tried = "view double: its function fails on each of the 2 rows of public.orders that were tried: "
    assert str(refused.value) == tried + CERTAIN[function]


@pytest.mark.parametrize("function", CERTAIN)
def test_what_fails_whatever_the_rows_are_is_refused_without_any(tmp_path: Path, function: Function) -> None:
    with pytest.raises(DeclarationError) as refused:
        try_function(flow(tmp_path, function, mode(function)), rows())
    tried = "view double: its function fails on made-up rows of public.orders, which has none to try: "
    assert str(refused.value) == tried + CERTAIN[function]


def looked_up(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df["customer"].map(lambda name: {SECRET: 2.0}[name]))


def parsed(df: pd.DataFrame) -> pd.DataFrame:
    return df.assign(double=df["customer"].map(lambda name: float(json.loads(name)["score"])))


def only_some(df: pd.DataFrame) -> pd.DataFrame:
    if (df["customer"] != SECRET).any():
        raise ValueError("another's")
    return df.assign(double=1.0)


@pytest.mark.parametrize("function", [looked_up, parsed, only_some])
def test_what_may_be_of_the_made_up_rows_alone_is_let_through(tmp_path: Path, function: Function) -> None:
    assert try_function(flow(tmp_path, function), rows()) is None


def picky(df: pd.DataFrame) -> pd.DataFrame:
    for customer, amount in zip(df["customer"], df["amount"], strict=True):
        if pd.isna(amount):
            raise ValueError(f"nothing of {customer}")
    return df.assign(double=df["amount"] * 2)


def test_what_fails_on_some_rows_is_told(tmp_path: Path) -> None:
    told = (
        "view double: its function fails on 1 of the 3 rows of public.orders that were tried, which become letters: "
        "raised ValueError: nothing of {}; millrace validate shop.public.orders --source looks at all rows"
    )
    assert try_function(flow(tmp_path, picky), rows(1, None, 2)) == told.format(SECRET)
    assert try_function(flow(tmp_path, picky), rows(1, 2)) is None
    hidden = try_function(flow(tmp_path, picky, personal=PersonalColumns(every=True)), rows(1, None, 2))
    assert hidden == told.format(SECRET).replace(f"raised ValueError: nothing of {SECRET}", HIDDEN)


def test_a_few_rows_may_all_be_bad(tmp_path: Path) -> None:
    told = try_function(flow(tmp_path, picky), rows(*[None] * (TELLING - 1)))
    assert told is not None and f"its function fails on {TELLING - 1} of the {TELLING - 1} rows" in told
    with pytest.raises(DeclarationError, match="its function fails on each of the 10 rows"):
        try_function(flow(tmp_path, picky), rows(*[None] * TELLING))


def test_a_value_that_a_made_up_row_has_as_well_is_hidden(tmp_path: Path) -> None:
    def telling(df: pd.DataFrame) -> pd.DataFrame:
        raise ValueError(f"nothing of {df['amount'].iloc[0]}")

    for amount in (1.0, 2.0, 4.0):
        with pytest.raises(DeclarationError) as refused:
            try_function(flow(tmp_path, telling, personal=PersonalColumns(every=True)), rows(*[amount] * TELLING))
        assert str(amount) not in str(refused.value) and HIDDEN in str(refused.value)


def test_rows_that_the_contract_rejects_are_not_tried(tmp_path: Path) -> None:
    """The function never sees them; with none left it is as if there were none."""

    def root(df: pd.DataFrame) -> pd.DataFrame:
        if (df["amount"] < 0).any():
            raise ValueError("no root")
        return df.assign(double=df["amount"] ** 0.5)

    assert try_function(flow(tmp_path, root), rows(-1, 4, -2)) is None
    assert try_function(flow(tmp_path, root), rows(-1)) is None
