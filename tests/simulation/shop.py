"""What the simulated shop declares: two captured tables, a view of every kind, and a change of its contract."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from connectors.table import Column, Table
from stores.rows import EMBEDDING, rows_schema
from stores.view import Feature, Kind, Vector, View
from streams.changes import changes_schema
from streams.pipeline import Flow, Flows
from streams.transform import transform
from streams.views import StreamView
from validation.contract import Contract, load

GROUP, LETTERS, CONTROL = "millrace.shop", "shop.letters", "shop.control"
UTC = pa.timestamp("us", tz="UTC")
LENGTH = 4


def _column(name: str, sql_type: str, arrow_type: pa.DataType, encoding: Any = "plain") -> Column:
    return Column(name, sql_type, arrow_type, encoding, nullable=name != "id", toastable=sql_type == "text")


ORDERS = Table(
    source="shop",
    schema="public",
    name="orders",
    topic="shop.public.orders",
    columns=(
        _column("id", "bigint", pa.int64()),
        _column("customer", "text", pa.string()),
        _column("amount", "double precision", pa.float64(), "float"),
        _column("placed_at", "timestamp with time zone", UTC, "timestamptz"),
    ),
    primary_key=("id",),
)
NOTES = Table(
    source="shop",
    schema="public",
    name="notes",
    topic="shop.public.notes",
    columns=(
        _column("id", "bigint", pa.int64()),
        _column("customer", "text", pa.string()),
        _column("title", "text", pa.string()),
        _column("body", "text", pa.string()),
        _column("placed_at", "timestamp with time zone", UTC, "timestamptz"),
    ),
    primary_key=("id",),
)
PARTITIONS = {ORDERS.topic: 2, NOTES.topic: 2, LETTERS: 1}

ID, CUSTOMER = Feature("id", 4, pa.int64()), Feature("customer", 2, pa.string())
AMOUNT, DOUBLE = Feature("amount", 5, pa.float64()), Feature("double", 5, pa.float64())
TITLE, VECTOR = Feature("title", 2, pa.string()), Feature("vector", 16, pa.list_(pa.float32()))


def _view(name: str, kind: Kind, key: Feature, *features: Feature, vector: Vector | None = None) -> View:
    return View("shop", name, name, kind, (key,), features, vector=vector)


def doubled(amount: Any) -> Any:
    """Whether the view of doubles has a row of that amount, or of each amount of a column."""
    return amount % 4 != 0


def _double(rows: pd.DataFrame) -> pd.DataFrame:
    kept = rows[doubled(rows["amount"])]
    return kept.assign(double=2 * kept["amount"])


ORDER_NOW = StreamView(_view("order_now", "state", ID, CUSTOMER, AMOUNT), ORDERS)
CUSTOMER_LAST = StreamView(_view("customer_last", "event", CUSTOMER, ID, AMOUNT), ORDERS, "placed_at")
CUSTOMER_DOUBLE = StreamView(
    _view("customer_double", "event", CUSTOMER, DOUBLE),
    ORDERS,
    "placed_at",
    transform=transform("customer_double", _double, "pandas", {"customer": pa.string(), "double": pa.float64()}),
)
LATE = StreamView(_view("customer_late", "event", CUSTOMER, AMOUNT), ORDERS, "placed_at")
"""A view that is declared while the stream runs, and backfilled."""

NOTE_TEXT = StreamView(
    _view("note_text", "state", ID, TITLE, VECTOR, vector=Vector("vector", LENGTH, "cosine", ("title", "body"))), NOTES
)
NOTE_LAST = StreamView(_view("note_last", "event", CUSTOMER, ID, TITLE), NOTES, "placed_at")

STRICT = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "amount", "min_value": 0},
    "severity": "critical",
    "meta": {},
}


@cache
def flows(upgraded: bool, note_last: bool = True) -> Flows:
    """What is declared before and after the upgrade: it adds the view `LATE` and takes a rule back. Without `note_last`
    the table of texts has no event view, so that the worker has two batches of its texts under way at a time."""
    orders = (ORDER_NOW, CUSTOMER_LAST, CUSTOMER_DOUBLE)
    return {
        ORDERS.topic: Flow(
            ORDERS, _contract(ORDERS, [] if upgraded else [STRICT]), (*orders, LATE) if upgraded else orders
        ),
        NOTES.topic: Flow(NOTES, _contract(NOTES, []), (NOTE_TEXT, NOTE_LAST) if note_last else (NOTE_TEXT,)),
    }


def lake_schema(view: View) -> pa.Schema:
    """The schema of a view's lake table."""
    schema = rows_schema(view)
    for column in EMBEDDING if view.vector else ():
        schema = schema.append(column)
    return schema


def _contract(table: Table, expectations: list[dict[str, Any]]) -> Contract:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"public.{table.name}.json"
        file.write_text(json.dumps({"name": table.name, "expectations": expectations, "meta": {}}))
        return load(file, changes_schema(table), verify=False)
