"""A worker's metrics as a scrape sees them, over the doubles; the histogram and the kinds of reasons behind them."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from connectors.health import SlotHealth
from serving.counts import Counts
from serving.metrics import Metrics as ServerMetrics
from streams.histogram import Histogram
from streams.letters import kind_of
from streams.metrics import Metrics
from tests.envelopes import TOPIC, envelope, key, row
from tests.worker_platform import Platform

SLOTS: dict[str, SlotHealth | str] = {
    "shop": SlotHealth(True, 3_000, 20, "reserved", None, 1, 2, timedelta(0)),
    "depot": "source depot is unavailable: connection refused",
}
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(metrics: Metrics) -> tuple[set[str], Samples]:
    """The families and the samples of one scrape."""
    body, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return {family.name for family in families}, samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_what_a_worker_did_is_scraped(tmp_path: Path) -> None:
    written_before = Platform(tmp_path)
    written_before.produce((key(1), envelope("c", row(1, "ann", 7.0), lsn=99)))
    written_before.run()
    platform = Platform(tmp_path, online=written_before.online)
    platform.produce(
        (key(1), envelope("c", row(1, "ann", 5.0), lsn=10)),
        (key(1), envelope("u", row(1, "ann", 6.0), before=row(1, "ann", 5.0), lsn=9)),
        (key(2), envelope("c", row(2, amount=-1.0), lsn=11)),
        (key(3), envelope("c", row(3, amount=-7.5), lsn=12)),
        (key(4), None),
        (key(5), envelope("r", row(5, amount=1.0), lsn=13)),
    )
    worker = platform.run()
    _, samples = scraped(Metrics(worker, lambda: SLOTS))
    counts = {o: value(samples, "millrace_changes_total", table=TOPIC, outcome=o) for o in ("accepted", "rejected")}
    assert counts == {"accepted": 3, "rejected": 2}
    assert value(samples, "millrace_changes_total", table=TOPIC, outcome="ignored") == 1
    reason = "expect_column_values_to_be_between on amount"
    assert value(samples, "millrace_letters_total", table=TOPIC, stage="contract", reason=reason) == 2
    assert value(samples, "millrace_freshness_seconds_count", table=TOPIC) == 2  # a snapshot's row is no commit
    assert value(samples, "millrace_freshness_seconds_bucket", table=TOPIC, le="7200") == 0
    assert value(samples, "millrace_freshness_seconds_bucket", table=TOPIC, le="+Inf") == 2
    assert value(samples, "millrace_stale_writes_refused_total") >= 1
    assert value(samples, "millrace_lake_files", table=f"changes/{TOPIC}") == 1
    assert value(samples, "millrace_lake_flush_seconds_count") >= 1
    for stage in ("decode", "contract", "views", "online", "commit"):
        assert value(samples, "millrace_stage_seconds_count", stage=stage) >= 1
    assert value(samples, "millrace_table_paused", table=TOPIC) == 0
    assert value(samples, "millrace_slot_lag_bytes", source="shop") == 20
    assert value(samples, "millrace_slot_retained_wal_bytes", source="shop") == 3_000
    assert value(samples, "millrace_source_up", source="depot") == 0


def test_the_freshness_of_a_replayed_letter_is_left_out(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.broker.append(
        next(iter(platform.broker.all(TOPIC))),
        key(1),
        envelope("c", row(1), lsn=10),
        {"millrace.replay-of": b"shop.public.orders/0/0"},
    )
    worker = platform.run()
    assert worker.tally.topics[TOPIC]["accepted"] == 1
    assert TOPIC not in worker.tally.freshness


def test_every_metric_is_documented_and_every_documented_one_is_there(tmp_path: Path) -> None:
    families, _ = scraped(Metrics(Platform(tmp_path).start(), lambda: SLOTS))
    named = set(re.findall(r"`(millrace_[a-z_]+)", DOCS.read_text().split("### Metrics")[1].split("\n### ")[0]))
    exported = {name for name in families if name.startswith("millrace_")}
    assert {name.removesuffix("_total") for name in named} == exported


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc",
        "text/plain; version=x; escaping=allow-utf-8",
        "text/plain; version=1.x, application/openmetrics-text; version=1.0.0",
        "application/openmetrics-text; version=" + "9" * 5_000,
    ],
)
def test_a_version_that_is_none_gets_the_plain_text(tmp_path: Path, accept: str) -> None:
    of_worker = Metrics(Platform(tmp_path).start(), lambda: SLOTS)
    of_server = ServerMetrics(Counts(1))
    for body, content_type in (of_worker.exposition(accept), of_server.exposition(accept, {"redis": True})):
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert list(text_string_to_metric_families(body.decode()))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_batch_counts_as_its_values_do_one_by_one(values: list[float], share: float) -> None:
    bounds = (0.1, 1, 10, 50)
    batch, single = Histogram(bounds), Histogram(bounds)
    batch.add_all(np.array(values))
    for one in values:
        single.add(one)
    assert batch.cumulative() == single.cumulative()
    assert batch.cumulative() == [
        *((f"{bound:g}", sum(v <= bound for v in values)) for bound in bounds),
        ("+Inf", len(values)),
    ]
    assert batch.sum == pytest.approx(sum(values))
    found = batch.quantile(share)
    assert found is not None
    bucket = np.searchsorted(bounds, np.sort(values)[int(np.ceil(share * len(values))) - 1])
    low, high = [0.0, *bounds][bucket], [*bounds, 50][bucket]
    assert low <= found <= high + 1e-9


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (
            "expect_column_values_to_be_between on wind: 1048.36 (max_value=250)",
            "expect_column_values_to_be_between on wind",
        ),
        (
            "expect_column_pair_values_a_to_be_greater_than_b on a, b: 1, 2",
            "expect_column_pair_values_a_to_be_greater_than_b on a, b",
        ),
        ("column price (numeric(10,2)): 'NAN': expected a number", "column price"),
        ("column id: the primary key is missing or null", "column id"),
        ("not JSON: unexpected end of data: line 1", "not JSON"),
        ("unknown operation 'x': Debezium's are c, u, d, r, t and m", "unknown operation ..."),
        (
            "record of 5,242,880 bytes is larger than worker.max_record_bytes (4,194,304)",
            "record of ... bytes is larger than worker.max_record_bytes",
        ),
        ("view plane: its function raised ValueError: 7", "view plane"),
    ],
)
def test_a_reason_is_counted_without_its_values(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
