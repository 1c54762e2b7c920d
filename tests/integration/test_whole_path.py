"""The whole path with the second feature repo: two real databases, Debezium, Kafka, contracts, stores, Feast.

One apply and one worker serve all tests; rows stand before the capture begins and change while it runs.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import FeatureStore, RepoConfig
from feast.filter_models import ComparisonFilter
from psycopg.rows import dict_row

from millrace.lookup import search_text
from millrace.repo import open_repo
from millrace.stack.endpoints import Endpoints
from tests.integration import bazaar_rows as rows
from tests.integration.bazaar import Bazaar, bazaar
from tests.integration.deployed import Running, served
from tests.redis_server import RedisServer
from tests.waiting import waited


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps what it holds over a restart."""
    folder = tmp_path_factory.mktemp("redis")
    server = RedisServer(("--appendonly", "yes", "--dir", str(folder))).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def market(stack: Endpoints, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    """The repo over databases that hold rows already."""
    with bazaar(stack, tmp_path_factory.mktemp("bazaar"), redis) as made:
        for statement in rows.BEFORE_SHOP:
            made.shop.execute(statement)
        for statement in rows.BEFORE_DEPOT:
            made.depot.execute(statement)
        yield made


@pytest.fixture(scope="module")
def applied(market: Bazaar) -> dict[str, Any]:
    """What `millrace apply` answered."""
    return market.repo.apply()


@pytest.fixture(scope="module")
def worker(market: Bazaar, applied: dict[str, Any]) -> Iterator[Running]:
    """A worker for the whole module."""
    with market.repo.worker() as running:
        yield running


@pytest.fixture(scope="module")
def traded(market: Bazaar, worker: Running) -> Bazaar:
    """The bazaar after its changes, good and bad, are through."""
    market.settle()
    for statement in (*rows.LIVE_SHOP, *rows.BAD_SHOP.values()):
        market.shop.execute(statement)
    for statement in (*rows.LIVE_DEPOT, *rows.BAD_DEPOT.values()):
        market.depot.execute(statement)
    for record in rows.BAD_RECORDS.values():
        market.repo.produce(market.name("shop.public.orders"), {"id": 900}, record)
    market.settle()
    return market


def wanted(market: Bazaar, view: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A view's entities in PostgreSQL: their join keys, and their features as Feast serves them."""
    truth = rows.TRUTH[view]
    connection = market.depot if truth.depot else market.shop
    found = connection.cursor(row_factory=dict_row).execute(truth.query).fetchall()
    kinds = {field.name: field.dtype for field in market.repo.view(view).features}
    keys = [{name: row.pop(name) for name in truth.keys} for row in found]
    values = [{name: rows.as_served(value, kinds[name]) for name, value in row.items()} for row in found]
    return keys, values


def test_apply_says_what_it_did(market: Bazaar, applied: dict[str, Any]) -> None:
    kinds = {view: truth.kind for view, truth in rows.TRUTH.items()}
    assert applied["views"] == {**kinds, "goods_search": "state"}
    assert applied["connectors"] == {
        f"{market.repo.project}_shop": "created",
        f"{market.repo.project}_depot": "created",
    }
    assert market.name("shop.public.Order_Lines") in applied["topics_made"]
    assert any("yard.stock REPLICA IDENTITY FULL" in message for message in applied["fixed"])


@pytest.mark.parametrize("view", rows.TRUTH)
def test_feast_serves_what_postgresql_holds(traded: Bazaar, view: str) -> None:
    keys, values = wanted(traded, view)
    assert keys
    np.testing.assert_equal(traded.repo.read(view, list(values[0]), keys), values)


@pytest.mark.parametrize("view", rows.TRUTH)
def test_feasts_own_redis_store_reads_the_same(traded: Bazaar, view: str) -> None:
    ours = traded.repo.store.config
    config = RepoConfig(
        project=ours.project,
        provider="local",
        registry=ours.registry.path,
        online_store={"type": "redis", "connection_string": traded.repo.redis.connection_string},
        entity_key_serialization_version=3,
    )
    keys, values = wanted(traded, view)
    np.testing.assert_equal(served(FeatureStore(config=config), view, list(values[0]), keys), values)


@pytest.mark.parametrize("view", rows.TRUTH)
def test_what_is_gone_or_never_passed_is_not_served(traded: Bazaar, view: str) -> None:
    truth = rows.TRUTH[view]
    keys = [dict(zip(truth.keys, gone, strict=True)) for gone in truth.gone]
    names = [field.name for field in traded.repo.view(view).features if field.name not in truth.keys]
    assert traded.repo.read(view, names, keys) == [dict.fromkeys(names)] * len(keys)


def test_an_interval_is_served_as_iso_8601(traded: Bazaar) -> None:
    query = "select vendor, sku from goods where warranty is not null"
    keys = [{"vendor": vendor, "sku": sku} for vendor, sku in traded.shop.execute(query)]
    for key, row in zip(keys, traded.repo.read("goods_facts", ["warranty"], keys), strict=True):
        same = "select warranty = %s::interval from goods where vendor = %s and sku = %s"
        assert traded.shop.execute(same, [row["warranty"], *key.values()]).fetchone() == (True,)


def test_a_row_made_worse_keeps_its_last_good_features(traded: Bazaar) -> None:
    stale = [{"vendor": "Stale", "sku": 9}]
    assert traded.repo.read("goods_facts", ["bin", "pieces", "updated"], stale) == [
        {"bin": 1, "pieces": None, "updated": None}
    ]


def test_the_bad_are_letters_with_stage_and_reason(traded: Bazaar) -> None:
    found = traded.repo.command("letters", "list")
    bad = [*rows.BAD_SHOP, *rows.BAD_DEPOT, *rows.BAD_RECORDS]
    assert found["count"] == len(bad)
    for stage, reason in bad:
        (letter,) = [x for x in found["letters"] if reason in x["reasons"][0]]
        assert letter["stage"] == stage


def test_a_letter_holds_the_original_bytes(traded: Bazaar) -> None:
    for (stage, reason), value in rows.BAD_RECORDS.items():
        (letter,) = traded.repo.command("letters", "list", "--stage", stage, "--reason", reason)["letters"]
        shown = traded.repo.command("letters", "show", str(letter["letter"]))
        assert shown["value"] == value.decode()
        assert json.loads(shown["key"]) == {"id": 900}


def test_each_accepted_change_stands_once_in_the_lake(traded: Bazaar, worker: Running) -> None:
    counts = worker.health()[1]["tables"]
    for table in ("shop.public.goods", "shop.public.orders", "shop.public.Order_Lines", "depot.yard.Badges"):
        topic = traded.name(table)
        changes = traded.repo.lake().scan(f"changes/{topic}", ["_partition", "_offset"]).read_all()
        places = changes.group_by(["_partition", "_offset"]).aggregate([])
        assert changes.num_rows == counts[topic]["accepted"] == places.num_rows


def test_verify_finds_no_mismatch(traded: Bazaar) -> None:
    report = traded.repo.command("verify")
    assert report["mismatches"] == 0
    assert {name: view["entities"] > 0 for name, view in report["views"].items()} == dict.fromkeys(
        [*rows.TRUTH, "goods_search"], True
    )
    assert report["views"]["goods_facts"]["rejected"] == 2


def test_verify_accounts_for_every_record(traded: Bazaar, worker: Running) -> None:
    report, counts = traded.repo.command("verify"), worker.health()[1]["tables"]
    assert (report["lost"], report["doubled"], report["problems"]) == (0, 0, [])
    for topic, table in report["tables"].items():
        assert (table["changes"], table["letters"]) == (counts[topic]["accepted"], counts[topic]["rejected"]), topic
        assert table["records"] == sum(table[kind] for kind in ("changes", "letters", "silent", "repeated"))


def test_verify_finds_changes_that_are_lost_or_stand_twice(traded: Bazaar) -> None:
    name, topic = f"changes/{traded.name('depot.yard.Badges')}", traded.name("depot.yard.Badges")
    place = str(Path(os.environ["MILLRACE_LAKE"]) / name)
    # Rows by their places, whatever file each is in; a TRUNCATE says the same in each partition, so it comes last.
    held = DeltaTable(place).to_pyarrow_table().sort_by([("_op", "ascending"), ("_partition", "ascending")])
    assert "t" not in held["_op"][:2].to_pylist()
    write_deltalake(place, pa.concat_tables([held.slice(1), held.slice(1, 1)]), mode="overwrite")
    try:
        report = traded.repo.command("verify", code=1)
    finally:
        write_deltalake(place, held, mode="overwrite")
    assert (report["lost"], report["doubled"]) == (1, 2)  # by its place, and by what it says
    lost, *doubled = report["tables"][topic]["examples"]
    where = f"{topic}[{held['_partition'][0]}] at offset {held['_offset'][0]}"
    assert lost == f"lost: the record of {where} is neither a change in the lake nor a letter"
    assert [line.startswith(f"doubled: {name} holds 2 times ") for line in doubled] == [True, True]


def test_verify_finds_the_vector_of_another_text(traded: Bazaar) -> None:
    """Though every feature is right."""
    table = f"features_{traded.repo.project}.goods_search"
    dsn = os.environ["MILLRACE_VECTORS"].replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(dsn, autocommit=True) as vectors:
        held = vectors.execute(f"select _entity_key, _text_hash from {table} where _text_hash is not null").fetchall()
        vectors.execute(f"update {table} set _text_hash = substring(sha256(_text_hash) for 16)")
        report = traded.repo.command("verify", "--view", "goods_search", "--wait", "0", code=1)
        for key, text_hash in held:
            vectors.execute(f"update {table} set _text_hash = %s where _entity_key = %s", [text_hash, key])
    assert report["mismatches"] == len(held) > 0


def test_verify_finds_what_is_wrong(traded: Bazaar) -> None:
    with traded.repo.redis_client() as client:
        # To redis-py's types an answer may be one to await.
        held: dict[bytes, Any] = {key: client.hvals(key) for key in client.scan_iter()}
        stored: dict[bytes, Any] = {key: client.dump(key) for key in held if b"zoe" in b"".join(held[key])}
        (key,) = stored
        client.delete(key)
        report = traded.repo.command("verify", "--view", "badge_owner", "--wait", "0", code=1)
        client.restore(key, 0, stored[key])
    (example,) = report["views"]["badge_owner"]["examples"]
    zoe = {"owner": "zoe", "valid_until": "1969-12-31 00:00:00+00:00"}
    assert example["postgres"] == zoe == {name: example["lake"][name] for name in zoe}
    assert example["online"] is None


def test_training_data_does_not_know_the_future(traded: Bazaar) -> None:
    times = ["2023-12-31", "2024-01-10", "2024-01-20", "2024-02-10"]
    entities = pd.DataFrame({"vendor": "Acme", "region": "north", "event_timestamp": pd.to_datetime(times, utc=True)})
    frame = traded.repo.store.get_historical_features(entities, ["vendor_last_sale:total"]).to_df()
    found = dict(zip(frame["event_timestamp"].dt.strftime("%Y-%m-%d"), frame["total"], strict=True))
    np.testing.assert_equal(found, dict(zip(times, [np.nan, 21.0, 1.0, 140.0], strict=True)))


def test_a_lost_online_store_is_restored_by_backfill(traded: Bazaar) -> None:
    with traded.repo.redis_client() as client:
        before = client.dbsize()
        client.flushall()
        report = traded.repo.command("backfill")["views"]
        assert client.dbsize() == before
    assert all(view["applied"] == view["entities"] > 0 for name, view in report.items() if name != "goods_search")
    assert traded.repo.command("verify")["mismatches"] == 0
    again = traded.repo.command("backfill", "--view", "order_lines")["views"]["order_lines"]
    assert (again["rows_added"], again["rejected"]) == (0, 0)


def test_feast_materializes_what_was_lost(traded: Bazaar) -> None:
    with traded.repo.redis_client() as client:
        client.flushall()
    views = ["badge_owner", "order_lines"]
    traded.repo.store.materialize(datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC), views)
    for view in views:
        keys, values = wanted(traded, view)
        np.testing.assert_equal(traded.repo.read(view, list(values[0]), keys), values)
    traded.repo.command("backfill")


def test_validate_judges_lake_and_source(traded: Bazaar, tmp_path: Path) -> None:
    docs = ["--docs", str(tmp_path)]
    lake = traded.repo.command("validate", traded.name("depot.yard.stock"), *docs)
    assert lake["success"] and lake["rows"] > 3 and Path(lake["docs"]).exists()
    source = traded.repo.command("validate", traded.name("shop.public.goods"), "--source", *docs, code=1)
    assert (source["failed"], source["undecodable"]) == (2, 1)


def test_validate_tries_the_transforms(traded: Bazaar, tmp_path: Path) -> None:
    """What of the source became letters, before any of it does."""
    docs = ["--docs", str(tmp_path)]
    topic = traded.name("depot.yard.stock")
    assert traded.repo.command("validate", topic, *docs)["views"]["stock_level"] == {"rejected": 0, "reasons": {}}
    level = traded.repo.command("validate", topic, "--source", *docs, code=1)["views"]["stock_level"]
    (reason,) = level["reasons"]
    assert "its function raised ZeroDivisionError" in reason
    assert level["rejected"] == level["reasons"][reason] >= 1


def test_lookup_shows_a_service(traded: Bazaar) -> None:
    keys = ["-e", "vendor=Acme", "-e", "sku=1", "-e", "region=north"]
    found = traded.repo.command("lookup", "offer", "stock_level:level", "-e", "warehouse=north", *keys)["features"]
    assert {name: feature["value"] for name, feature in found.items()} == {
        "goods_facts__price": 19.9,
        "goods_facts__title": "Garden chair",
        "vendor_last_sale__total": 140.0,
        "vendor_last_sale__large": True,
        "vendor_last_sale__sold": "2024-02-01 10:00:00+00:00",
        "stock_level__level": "plenty",
    }


def test_search_finds_by_meaning(traded: Bazaar) -> None:
    found = traded.repo.command("search", "something to sit on outdoors", "--top", "2")["results"]
    assert (found[0]["vendor"], found[0]["sku"]) == ("Acme", 1)
    others = ComparisonFilter(type="ne", key="vendor", value="Acme")
    opened = open_repo(traded.repo.path, traded.repo.stack_folder)
    filtered = search_text(opened, None, "something to sit on outdoors", 2, filters=others)["results"]
    assert filtered and all(row["vendor"] != "Acme" for row in filtered)


def test_status_is_well(traded: Bazaar, worker: Running) -> None:
    status = traded.repo.command("status")
    assert status["problems"] == []
    assert list(status["workers"]) == [str(worker.process.pid)]
    assert set(status["connectors"].values()) == {"RUNNING"}
    assert set(status["lag"].values()) == {0}


def test_the_log_tells_of_each_snapshot_once(traded: Bazaar, worker: Running) -> None:
    lines = worker.log.read_text().splitlines()
    for table in ("shop.public.goods", "shop.public.orders", "depot.yard.stock"):
        (line,) = [x for x in lines if "event=snapshot_begins" in x and x.endswith(f"table={traded.name(table)}")]
        assert "level=INFO" in line
        assert worker.health()[1]["tables"][traded.name(table)]["snapshot"] > 0


def test_apply_again_changes_nothing(traded: Bazaar) -> None:
    again = traded.repo.apply()
    assert set(again["connectors"].values()) == {"unchanged"}
    assert (again["topics_made"], again["fixed"]) == ([], [])


def test_a_worker_waits_for_redis_and_goes_on(traded: Bazaar, worker: Running) -> None:
    traded.repo.redis.stop()
    try:
        traded.shop.execute("update goods set pieces = 74 where sku = 1")
        status, state = waited(lambda: (h := worker.health())[1].get("waiting_for") and h, "a worker that waits")
        assert status == 503
        assert "Redis" in state["waiting_for"]
        shown = traded.repo.command("status", code=1)
        assert shown["stores"]["online"] == "does not answer"
        assert sum("Redis is unavailable" in problem for problem in shown["problems"]) == 2  # the store, the worker
    finally:
        traded.repo.redis.start()
    traded.settle()
    assert traded.repo.read("goods_facts", ["pieces"], [{"vendor": "Acme", "sku": 1}]) == [{"pieces": 74}]
    assert worker.health()[0] == 200


def test_a_stopped_worker_leaves_nothing_half_done(traded: Bazaar, worker: Running) -> None:
    """A second worker, with a mended contract, takes over from the first, and the letters that it let lie."""
    contract = traded.repo.path / "contracts" / "public.orders.json"
    contract.write_text(contract.read_text().replace('"returned"', '"returned", "lost"'))
    with traded.repo.worker() as second:
        for pieces in range(100):
            traded.shop.execute("update goods set pieces = %s where sku = 1", [pieces])
            if pieces == 50:
                code = worker.terminate()
        assert code == 0, worker.log.read_text()
        lost = ["--reason", "on status", "--all"]
        assert traded.repo.command("letters", "replay", *lost) == {"replayed": 1, "not_captured": 0}
        traded.settle()
        assert traded.repo.read("goods_facts", ["pieces"], [{"vendor": "Acme", "sku": 1}]) == [{"pieces": 99}]
        assert traded.repo.read("customer_last_order", ["status"], [{"customer": "eve"}]) == [{"status": "lost"}]
        assert traded.repo.command("verify")["mismatches"] == 0
        assert second.terminate() == 0
