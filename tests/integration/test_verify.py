"""`millrace verify` over a real table: what a row counts for that not every view takes."""

from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from connectors.reflect import reflect
from connectors.source import Source
from millrace.verify import Database as Captured
from millrace.verify import Verifier
from stores.history import feature_properties, newest
from stores.memory_lake import MemoryLake
from stores.rows import rows_schema
from stores.view import Feature, View
from streams.changes import as_snapshot, changes_schema
from streams.decide import features_table
from streams.pipeline import Flow, process
from streams.transform import transform
from streams.views import StreamView
from tests.integration.database import Database
from validation.contract import load

ID, PRICE, VENDOR = (
    Feature("id", 3, pa.int32()),
    Feature("price", 5, pa.float64()),
    Feature("vendor", 2, pa.string()),
)
NOW = View("p", "price_now", "price_now", "state", (ID,), (PRICE,))
SHARE = View("p", "vendor_share", "vendor_share", "event", (VENDOR,), (PRICE,))


def share(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {**rows, "price": [1 / price for price in rows["price"]]}


def test_a_row_that_another_view_rejects_is_no_mismatch(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create table goods (id int primary key, vendor text, price float)")
        sql.execute("insert into goods values (1, 'ann', 2), (2, 'bob', 0), (3, 'cleo', 4)")
    source = Source("verified", database.url, "verified", "verified")
    captured = Captured(source, source.engine())
    (table,) = reflect(captured.engine, source, ["public.goods"])
    function = transform("vendor_share", share, "python", {f.name: f.arrow_type for f in (VENDOR, PRICE)})
    views = (StreamView(NOW, table), StreamView(SHARE, table, transform=function))
    contract = tmp_path / "public.goods.json"
    contract.write_text('{"name": "goods", "expectations": [], "meta": {}}')
    flow = Flow(table, load(contract, changes_schema(table)), views)
    lake = MemoryLake()
    goods = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "vendor": ["ann", "bob", "cleo"], "price": [2.0, 0, 4]})
    for view, projected in process(as_snapshot(table, goods), flow).projected:
        name = features_table(view.view.name)
        lake.create(name, rows_schema(view.view), feature_properties(view.view, table.topic))
        lake.append(name, projected.rows.table, {(table.topic, 0): 3})
    verifier = Verifier(lake, lambda view: iter([newest(lake, view)]), 0.0)
    for view in views:
        report = verifier.view(flow, view, captured, None)
        assert (report.mismatches, report.rejected) == ([], 1), view.view.name
    with psycopg.connect(database.dsn) as sql:
        sql.execute("insert into goods values (4, 'dora', 5)")
    (missing,) = verifier.view(flow, views[0], captured, None).mismatches
    assert (missing.entity, missing.postgres, missing.online) == ({"id": 4}, {"price": 5.0}, None)
    captured.engine.dispose()
