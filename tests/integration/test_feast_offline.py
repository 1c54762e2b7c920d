"""The stock Feast SDK and command line over the lake: apply, materialize, push, retrieve, save, log."""

from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from tests.integration.lake_repo import at, feast, fill_orders, make, online

ORDERS = [
    {"id": 1, "buyer": 7, "amount": 1.5, "status": "new", "placed": at(1)},
    {"id": 2, "buyer": 7, "amount": 2.5, "status": "new", "placed": at(2)},
    {"id": 3, "buyer": 8, "amount": 3.5, "status": "new", "placed": at(3)},
    {"id": 2, "buyer": 7, "amount": 2.75, "status": "paid", "placed": at(2), "_op": "u"},
    {"id": 3, "_op": "d"},
]


def test_the_command_line_applies_before_any_change_and_materializes_after(tmp_path):
    repo = make(tmp_path / "repo")
    feast(repo, "apply")
    fill_orders(repo, ORDERS)
    feast(repo, "materialize", at(0).isoformat(), at(30).isoformat())
    features = ["last_order:amount", "last_order:status", "last_order_cents:cents"]
    found = online(repo, features, [{"customer_id": 7}, {"customer_id": 8}])
    assert found == {
        "customer_id": [7, 8],
        "amount": [2.75, None],
        "status": ["paid", None],
        "cents": [275, None],
    }
    assert online(repo, ["order_now:status"], [{"id": 1}, {"id": 2}, {"id": 3}])["status"] == ["new", "paid", None]
    fill_orders(repo, [{"id": 4, "buyer": 8, "amount": 9.0, "status": "late", "placed": at(40)}])
    feast(repo, "materialize-incremental", at(50).isoformat())
    assert online(repo, features, [{"customer_id": 8}])["cents"] == [900]


def test_pulling_the_latest_gives_the_same(tmp_path):
    """`pull_latest_features`, Feast's other way to materialize."""
    repo = make(tmp_path / "repo")
    with (repo / "feature_store.yaml").open("a") as config:
        config.write("materialization: {pull_latest_features: true}\n")
    fill_orders(repo, ORDERS)
    feast(repo, "apply")
    FeatureStore(repo_path=str(repo)).materialize(at(0), at(30))
    found = online(repo, ["last_order:amount", "last_order_cents:cents"], [{"customer_id": 7}, {"customer_id": 8}])
    assert found["amount"] == [2.75, None] and found["cents"] == [275, None]
