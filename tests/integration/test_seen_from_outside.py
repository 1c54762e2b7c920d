"""A worker on the real stack as its operators see it: metrics, status, log, and what they do about bad records."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from millrace.repo import UnknownTable, open_repo
from millrace.stack.endpoints import Endpoints
from millrace.wiring import topics
from tests.integration.bazaar import Bazaar, bazaar
from tests.integration.deployed import Running
from tests.redis_server import RedisServer
from tests.waiting import waited

BAD = 1_500
LEAST, POLL = 200, 250

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def market(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    """The repo, applied, with batches small enough to see a table pause before it is empty."""
    redis = RedisServer().start()
    with (
        pytest.MonkeyPatch.context() as patch,
        bazaar(stack, tmp_path_factory.mktemp("outside"), redis) as made,
    ):
        patch.setenv("MILLRACE__WORKER__POLL_RECORDS", str(POLL))
        patch.setenv("MILLRACE__WORKER__REJECT_LEAST", str(LEAST))
        made.repo.apply()
        yield made
    redis.stop()


@pytest.fixture(scope="module")
def worker(market: Bazaar) -> Iterator[Running]:
    with market.repo.worker() as running:
        market.settle()
        yield running


@pytest.fixture(scope="module")
def orders(market: Bazaar) -> str:
    """The topic of the table that goes bad."""
    return market.name("shop.public.orders")


def scraped(worker: Running) -> Samples:
    with urlopen(worker.note.read_text().replace("/health", "/metrics"), timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def lag_of(worker: Running, topic: str) -> float:
    found = scraped(worker).items()
    return sum(lag for (name, labels), lag in found if name == "millrace_consumer_lag" and ("topic", topic) in labels)


def letters(market: Bazaar, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = market.repo.command("letters", "list", "--limit", "100000", *options)["letters"]
    return found


def test_every_family_has_the_values_that_must_be_there(market: Bazaar, worker: Running, orders: str) -> None:
    goods = market.name("shop.public.goods")
    market.shop.execute("insert into goods (vendor, sku, pieces, title) values ('Acme', 1, 1, 'Garden chair')")
    market.settle()
    market.shop.execute("update goods set pieces = 2 where sku = 1")
    market.shop.execute("insert into orders values (1, 'ann', -5, 'open', 'bad', now())")
    market.settle()
    # The first change of the row once more, as a record of its own: the stores hold newer.
    (first, *_) = topics(open_repo(market.repo.path, market.repo.stack_folder)).read(goods)
    market.repo.produce(goods, json.loads(first.keys[0] or b""), first.values[0] or b"")
    market.settle()
    state = waited(lambda: (s := worker.health()[1])["lag"] and not sum(s["lag"].values()) and s, "no lag")
    samples = scraped(worker)
    assert value(samples, "millrace_changes_total", table=goods, outcome="accepted") == 3
    assert value(samples, "millrace_changes_total", table=orders, outcome="rejected") == 1
    reason = "expect_column_values_to_be_between on amount"
    assert value(samples, "millrace_letters_total", table=orders, stage="contract", reason=reason) == 1
    assert value(samples, "millrace_freshness_seconds_count", table=goods) == 3
    assert value(samples, "millrace_freshness_seconds_sum", table=goods) > 0
    assert value(samples, "millrace_freshness_seconds_bucket", table=goods, le="7200") == 3
    for stage in ("decode", "contract", "views", "embed", "online", "commit"):
        assert value(samples, "millrace_stage_seconds_count", stage=stage) > 0
        assert value(samples, "millrace_stage_seconds_sum", stage=stage) > 0
    lags = {labels: lag for (name, labels), lag in samples.items() if name == "millrace_consumer_lag"}
    assert len(lags) == len(state["partitions"]) and set(lags.values()) == {0}
    for source in (market.name("shop"), market.name("depot")):
        assert value(samples, "millrace_source_up", source=source) == 1
        assert value(samples, "millrace_slot_active", source=source) == 1
        assert value(samples, "millrace_slot_retained_wal_bytes", source=source) > 0
        assert value(samples, "millrace_slot_lag_bytes", source=source) >= 0
    assert value(samples, "millrace_lake_flush_seconds_count") > 0
    files = sum(1 for _ in market.repo.lake().snapshot(f"changes/{goods}").data.get_fragments())
    assert value(samples, "millrace_lake_files", table=f"changes/{goods}") == files > 1
    assert value(samples, "millrace_stale_writes_refused_total") >= 1
    assert value(samples, "millrace_rows_applied_total") > 1
    assert value(samples, "millrace_embeddings_total", outcome="made") == 1
    assert value(samples, "millrace_embeddings_total", outcome="spared") >= 1
    assert value(samples, "millrace_worker_waiting") == 0
    assert value(samples, "millrace_table_paused", table=orders) == 0
    assert value(samples, "millrace_staged_rows") >= 0
    assert value(samples, "millrace_last_commit_timestamp_seconds") > 1_700_000_000
    assert value(samples, "process_cpu_seconds_total") > 0


def test_a_table_that_is_all_bad_pauses_alone_and_goes_on_where_it_stopped(
    market: Bazaar, worker: Running, orders: str
) -> None:
    before, lines = len(letters(market)), len(worker.log.read_text().splitlines())
    began = datetime.now(UTC)
    market.shop.execute(
        "insert into orders select 1000 + i, 'bulk', 1, 'broken', i::text, now() from generate_series(1, %s) i", [BAD]
    )
    status, state = waited(lambda: (h := worker.health())[1]["paused"] and h, "a paused table")
    assert (status, list(state["paused"])) == (503, [orders])
    assert "expect_column_values_to_be_in_set on status: 'broken'" in state["paused"][orders]
    assert f"millrace resume {orders}" in state["paused"][orders]
    told = worker.log.read_text().splitlines()[lines:]
    (line,) = [line for line in told if "event=paused" in line]
    assert len(told) <= 3, told  # of hundreds of letters
    assert line.endswith(f"table={orders}") and "level=ERROR" in line and "'broken'" in line
    shown = market.repo.command("status", code=1)
    assert any(f"{orders} is paused" in problem for problem in shown["problems"])
    samples = scraped(worker)
    assert value(samples, "millrace_table_paused", table=orders) == 1
    assert value(samples, "millrace_table_paused", table=market.name("depot.yard.stock")) == 0

    # The other tables go on meanwhile.
    market.depot.execute("insert into yard.stock values ('calm', 7, 9, 1, now())")
    key = {"warehouse": "calm", "sku": 7}
    waited(lambda: market.repo.read("stock_level", ["level"], [key])[0]["level"], "stock while orders are paused")
    market.depot.execute(
        "insert into yard.stock select 'calm', 100 + i, i, 0, now() from generate_series(1, %s) i", [2 * POLL]
    )
    key = {"warehouse": "calm", "sku": 100 + 2 * POLL}
    waited(lambda: market.repo.read("stock_level", ["level"], [key])[0]["level"], "more of it")
    stock = market.name("depot.yard.stock")
    waited(lambda: not lag_of(worker, stock), "no lag of the stock")
    assert list(worker.health()[1]["paused"]) == [orders]
    written = len(letters(market))
    assert LEAST <= written - before < BAD
    waited(lambda: lag_of(worker, orders) == BAD - (written - before), "the lag of the paused table, as scraped")

    # As bad as it was it pauses again, and again: each time from where it stopped.
    for _ in range(BAD // LEAST):
        waited(lambda: worker.health()[1]["paused"] or not lag_of(worker, orders), "the next pause or the end")
        assert market.repo.command("resume", orders)["silent"] == []
    market.settle()
    bad = letters(market, "--since", began.strftime("%Y-%m-%dT%H:%M:%S"), "--table", orders, "--reason", "on status")
    assert len(bad) == BAD
    assert len({(x["partition"], x["offset"]) for x in bad}) == BAD
    assert worker.health()[1]["resumed"][orders] >= 3


def test_resume_knows_the_tables(market: Bazaar, worker: Running, orders: str) -> None:
    with pytest.raises(UnknownTable, match=f"did you mean {orders}"):
        market.repo.command("resume", f"{orders}x")
    assert market.repo.command("resume", orders) == {"table": orders, "resumed": [], "silent": [], "gone": []}


def test_letters_of_a_table_that_is_none_are_not_just_none(market: Bazaar, worker: Running, orders: str) -> None:
    for command in (["list"], ["replay", "--all"]):
        with pytest.raises(UnknownTable, match=f"did you mean {orders}"):
            market.repo.command("letters", *command, "--table", f"{orders}x")


def test_letters_are_chosen_and_exported(market: Bazaar, worker: Running, orders: str) -> None:
    mine = ["--table", orders, "--stage", "contract", "--reason", "on status"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
    assert len(letters(market, *mine, "--until", tomorrow)) == BAD
    assert letters(market, *mine, "--since", tomorrow) == letters(market, *mine, "--until", "2020-01-01") == []
    lines, table = (market.repo.path.parent / f"letters.{kind}" for kind in ("jsonl", "parquet"))
    for file in (lines, table):
        assert market.repo.command("letters", "export", str(file), *mine)["exported"] == BAD
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["letter"] for row in rows] == pq.read_table(table)["letter"].to_pylist()
    assert {json.loads(base64.b64decode(row["value_base64"]))["after"]["status"] for row in rows} == {"broken"}


def test_a_flood_of_records_is_no_flood_of_log_lines(market: Bazaar, worker: Running, orders: str) -> None:
    """As many lines for thousands of records, of which a fifth is rejected, as for a few."""
    market.shop.execute(  # so that the rejects of the test before do not count towards a pause
        "insert into orders select 8000 + i, 'good', 1, 'open', '', now() from generate_series(1, 1000) i"
    )
    market.settle()
    written, told = len(letters(market)), {}
    for first, count in ((10_000, 50), (20_000, 5_000)):
        before = len(worker.log.read_text().splitlines())
        market.shop.execute(
            "insert into orders select %(first)s + i, 'flood', case i %% 5 when 0 then -1 else 1 end, 'open', '', "
            "now() from generate_series(1, %(count)s) i",
            {"first": first, "count": count},
        )
        market.settle()
        told[count] = worker.log.read_text().splitlines()[before:]
        written += count // 5
        assert len(letters(market)) == written
    assert len(told[5_000]) <= len(told[50]) + 3, told[5_000]
    assert all(line.startswith("ts=") and " level=" in line for lines in told.values() for line in lines)


def test_letters_replayed_after_the_contract_was_mended_overwrite_nothing_newer(
    market: Bazaar, worker: Running, orders: str
) -> None:
    """Replayed twice: every bad order stands once, with what was changed meanwhile on top."""
    market.shop.execute("update orders set status = 'paid', note = 'newer' where customer = 'bulk' and id <= 1100")
    market.settle()
    contract = market.repo.path / "contracts" / "public.orders.json"
    contract.write_text(contract.read_text().replace('"returned"', '"returned", "broken"'))
    assert worker.terminate() == 0
    mine = ["--all", "--table", orders, "--reason", "on status"]
    with market.repo.worker() as second:
        for _ in range(2):
            assert market.repo.command("letters", "replay", *mine) == {"replayed": BAD, "not_captured": 0}
        market.settle()
        counts = second.health()[1]["tables"][orders]
        assert (counts["ignored"], counts["rejected"]) == (BAD, 0)
        changes = market.repo.lake().scan(f"changes/{orders}", ["id", "_lsn", "customer"]).read_all().to_pylist()
        bulk = [(row["id"], row["_lsn"]) for row in changes if row["customer"] == "bulk"]
        assert len(bulk) == len(set(bulk)) == BAD + 100
        assert market.repo.command("verify", "--view", "customer_last_order")["mismatches"] == 0
