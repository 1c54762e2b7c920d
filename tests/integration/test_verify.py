"""`millrace verify` over a real table: what a row counts for that not every view takes."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from click.testing import CliRunner

from connectors.reflect import reflect
from connectors.source import Source
from connectors.table import Table
from millrace import verify
from millrace.cli import millrace
from millrace.verify import Database as Captured
from millrace.verify import Verifier, ViewReport
from stores.history import feature_properties, newest
from stores.memory_lake import MemoryLake
from stores.rows import rows_schema
from stores.view import Feature, View
from streams.changes import as_snapshot, changes_schema
from streams.decide import features_table
from streams.embedders import WordLlamaEmbedder
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
EMBEDDER = WordLlamaEmbedder()
SHARE = View("p", "vendor_share", "vendor_share", "event", (VENDOR,), (PRICE,))

PRICED = {
    "name": "moved",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "price", "min_value": 0},
            "severity": "critical",
            "meta": {},
        }
    ],
    "meta": {},
}


def captured_table(database: Database, name: str) -> tuple[Captured, Table]:
    source = Source("verified", database.url, "verified", "verified")
    captured = Captured(source, source.engine())
    (table,) = reflect(captured.engine, source, [f"public.{name}"])
    return captured, table


def untold(what: str, done: float, total: float | None) -> None:
    """Nobody looks on."""


def lake_of_views(flow: Flow, rows: pa.Table) -> MemoryLake:
    """With the views' rows of the table's."""
    lake = MemoryLake()
    for view, projected in process(as_snapshot(flow.table, rows), flow).projected:
        name = features_table(view.view.name)
        lake.create(name, rows_schema(view.view), feature_properties(view.view, flow.table.topic))
        lake.append(name, projected.rows.table, {(flow.table.topic, 0): 3})
    return lake


def share(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {**rows, "price": [1 / price for price in rows["price"]]}


def test_a_row_that_another_view_rejects_is_no_mismatch(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create table goods (id int primary key, vendor text, price float)")
        sql.execute("insert into goods values (1, 'ann', 2), (2, 'bob', 0), (3, 'cleo', 4)")
    captured, table = captured_table(database, "goods")
    function = transform("vendor_share", share, "python", {f.name: f.arrow_type for f in (VENDOR, PRICE)})
    views = (StreamView(NOW, table), StreamView(SHARE, table, transform=function))
    contract = tmp_path / "public.goods.json"
    contract.write_text('{"name": "goods", "expectations": [], "meta": {}}')
    flow = Flow(table, load(contract, changes_schema(table)), views)
    goods = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "vendor": ["ann", "bob", "cleo"], "price": [2.0, 0, 4]})
    lake = lake_of_views(flow, goods)
    verifier = Verifier(lake, lambda view: iter([newest(lake, view)]), EMBEDDER, 0.0, untold)
    for view in views:
        report = verifier.view(flow, view, captured, None)
        assert (report.mismatches, report.rejected) == (0, 1), view.view.name
    with psycopg.connect(database.dsn) as sql:
        sql.execute("insert into goods values (4, 'dora', 5)")
    (missing,) = verifier.view(flow, views[0], captured, None).examples
    assert (missing.entity, missing.postgres, missing.online) == ({"id": 4}, {"price": 5.0}, None)
    captured.engine.dispose()


def test_a_rejected_row_that_left_its_entity_is_no_mismatch(database: Database, tmp_path: Path) -> None:
    """Its last accepted change is served where that had it, which PostgreSQL tells no more."""
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create table moved (id int primary key, vendor text, price float)")
        sql.execute("insert into moved values (1, 'bob', -2), (2, 'cleo', 3), (3, 'ann', 1)")
    captured, table = captured_table(database, "moved")
    contract = tmp_path / "public.moved.json"
    contract.write_text(json.dumps(PRICED))
    flow = Flow(table, load(contract, changes_schema(table)), (StreamView(SHARE, table),))
    served = {"id": pa.array([3, 2, 1], pa.int32()), "vendor": ["ann", "cleo", "ann"], "price": [1.0, 3, 2]}
    lake = lake_of_views(flow, pa.table(served))
    verifier = Verifier(lake, lambda view: iter([newest(lake, view)]), EMBEDDER, 0.0, untold)
    report = verifier.view(flow, flow.views[0], captured, None)
    assert (report.mismatches, report.rejected) == (0, 1), report.examples
    with psycopg.connect(database.dsn) as sql:
        sql.execute("update moved set price = 5 where id = 2")
    (example,) = verifier.view(flow, flow.views[0], captured, None).examples
    assert (example.entity, example.postgres) == ({"vendor": "cleo"}, {"price": 5.0})
    assert example.online is not None and example.online["price"] == 3.0
    captured.engine.dispose()


def test_an_event_time_that_differs_is_a_mismatch(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create table timed (id int primary key, price float, at timestamptz)")
        sql.execute("insert into timed values (1, 2, '2024-01-02 00:00+00'), (2, 3, '2024-01-02 00:00+00')")
    captured, table = captured_table(database, "timed")
    contract = tmp_path / "public.timed.json"
    contract.write_text('{"name": "timed", "expectations": [], "meta": {}}')
    flow = Flow(table, load(contract, changes_schema(table)), (StreamView(NOW, table, "at"),))
    old, new = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    times = pa.array([old, new], pa.timestamp("us", tz="UTC"))
    lake = lake_of_views(flow, pa.table({"id": pa.array([1, 2], pa.int32()), "price": [2.0, 3], "at": times}))
    verifier = Verifier(lake, lambda view: iter([newest(lake, view)]), EMBEDDER, 0.0, untold)
    (example,) = verifier.view(flow, flow.views[0], captured, None).examples
    assert (example.entity, example.postgres) == ({"id": 1}, {"price": 2.0, "event_timestamp": new})
    assert example.online == example.lake == {"price": 2.0, "event_timestamp": old}
    captured.engine.dispose()


def test_what_only_debezium_spells_and_what_is_out_of_its_era_are_no_mismatch(
    database: Database, tmp_path: Path
) -> None:
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create domain span as interval")
        sql.execute("create table lent (id int primary key, warranty span, seen timestamptz, at timestamptz[])")
        sql.execute(
            "insert into lent values (1, '1 day', '2020-01-01 00:00+00', null),"
            " (2, '1 day', '0044-03-15 00:00+00 BC', null), (3, '1 day', null, '{0001-12-31 23:59:59+00 BC}'),"
            " (4, '1 day', '0001-01-01 00:00+00', '{0001-01-01 00:00+00}')"
        )
    captured, table = captured_table(database, "lent")
    assert table.column("warranty").encoding == "interval"
    moment, days = Feature("seen", 8, pa.timestamp("us", tz="UTC")), Feature("days", 2, pa.string())
    plain = View("p", "lent_now", "lent_now", "state", (ID,), (moment, Feature("term", 2, pa.string())))
    made = View("p", "lent_days", "lent_days", "state", (ID,), (days,))

    def cut(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**rows, "days": [term[:3] for term in rows["warranty"]]}

    function = transform("lent_days", cut, "python", {f.name: f.arrow_type for f in (ID, days)})
    views = (
        StreamView(plain, table, renames={"warranty": "term"}),
        StreamView(made, table, transform=function),
    )
    contract = tmp_path / "public.lent.json"
    contract.write_text('{"name": "lent", "expectations": [], "meta": {}}')
    flow = Flow(table, load(contract, changes_schema(table)), views)
    streamed = pa.table(
        {
            "id": pa.array([1, 4], pa.int32()),
            "warranty": ["P0Y0M1DT0H0M0S"] * 2,
            "seen": pa.array([datetime(2020, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)], moment.arrow_type),
            "at": pa.array([None, [datetime(1, 1, 1, tzinfo=UTC)]], pa.list_(moment.arrow_type)),
        }
    )
    lake = lake_of_views(flow, streamed)
    verifier = Verifier(lake, lambda view: iter([newest(lake, view)]), EMBEDDER, 0.0, untold)
    for view in views:
        report = verifier.view(flow, view, captured, None)
        assert (report.mismatches, report.rejected) == (0, 2), report.examples
    captured.engine.dispose()


@contextmanager
def numbered(database: Database, tmp_path: Path) -> Iterator[tuple[Flow, Captured, pa.Table]]:
    """A table of 20 rows, its flow, and the rows of `price_now` that belong to it."""
    with psycopg.connect(database.dsn) as sql:
        sql.execute("create table numbered (id int primary key, price float)")
        sql.execute("insert into numbered select i, i from generate_series(1, 20) i")
    captured, table = captured_table(database, "numbered")
    contract = tmp_path / "public.numbered.json"
    contract.write_text('{"name": "numbered", "expectations": [], "meta": {}}')
    flow = Flow(table, load(contract, changes_schema(table)), (StreamView(NOW, table),))
    values = pa.table({"id": pa.array(range(1, 21), pa.int32()), "price": [float(i) for i in range(1, 21)]})
    ((_, projected),) = process(as_snapshot(table, values), flow).projected
    yield flow, captured, projected.rows.table
    captured.engine.dispose()
    with psycopg.connect(database.dsn) as sql:
        sql.execute("drop table numbered")


def lake_of(flow: Flow, rows: pa.Table) -> MemoryLake:
    lake = MemoryLake()
    name = features_table(NOW.name)
    lake.create(name, rows_schema(NOW), feature_properties(NOW, flow.table.topic))
    lake.append(name, rows, {(flow.table.topic, 0): 20})
    return lake


def test_a_sample_is_drawn_once_and_a_difference_that_it_shows_stays_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "INTERVAL_SECONDS", 0.01)
    with numbered(database, tmp_path) as (flow, captured, rows):
        lake = lake_of(flow, rows)

        def report(seed: int, patience: float) -> ViewReport:
            """One entity of twenty is not online; one of twenty is looked at."""
            random.seed(seed)
            return Verifier(lake, lambda view: iter([rows.slice(1)]), EMBEDDER, patience, untold).view(
                flow, flow.views[0], captured, 1
            )

        seed = next(seed for seed in range(1_000) if report(seed, -1.0).mismatches)
        patient = report(seed, 0.5)
        assert [m.entity for m in patient.examples] == [{"id": rows["id"][0].as_py()}]
        assert (patient.entities, patient.looks > 1) == (1, True)


def test_a_difference_that_goes_away_is_none_whatever_changes_meanwhile(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "INTERVAL_SECONDS", 0.01)
    with numbered(database, tmp_path) as (flow, captured, rows):
        on_their_way = iter([(0, 1), (1, 2), (2, 3)])  # at each look another entity's change is not there yet

        def online(view: View) -> Iterator[pa.Table]:
            late = next(on_their_way)
            return iter([rows.take([i for i in range(20) if i not in late])])

        report = Verifier(lake_of(flow, rows), online, EMBEDDER, 60.0, untold).view(flow, flow.views[0], captured, None)
        assert (report.mismatches, report.looks, report.entities) == (0, 3, 20)


@pytest.mark.parametrize("sample", ["0", "-1"])
def test_a_sample_of_nothing_is_refused(sample: str) -> None:
    answer = CliRunner().invoke(millrace, ["verify", "--sample", sample])
    assert (answer.exit_code, "--sample" in answer.output) == (2, True)
