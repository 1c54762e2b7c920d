"""What stock Feast materializes: rows of one commit, columns that a rename hides, a view over a file."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from stores.delta import DeltaLake
from stores.feast_offline import LakeOfflineStore
from stores.lake import TableMissing
from stores.rows import TIMESTAMP
from tests.integration.lake_repo import BOUGHT, applied, at, fill_orders, make, online

OF_A_FILE = """
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
scores = FeatureView(
    name="scores",
    entities=[customer],
    source=FileSource(name="scores_file", path="scores.parquet", timestamp_field="at"),
    schema=[Field(name="customer_id", dtype=Int64), Field(name="score", dtype=Float64)],
)
"""


def test_a_view_over_a_file_is_served_and_not_joined(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", OF_A_FILE)
    rows = {"customer_id": pd.array([7, None], "Int64"), "score": [0.5, 0.7], "at": [at(1)] * 2}
    pd.DataFrame(rows).to_parquet(repo / "scores.parquet")
    store = applied(repo)
    store.materialize(at(0), at(9))
    assert online(repo, ["scores:score"], [{"customer_id": 7}])["score"] == [0.5]
    frame = pd.DataFrame({"customer_id": [7], "event_timestamp": [at(2)]})
    with pytest.raises(ValueError, match=r"view scores has a FileSource: the lake joins views of captured tables"):
        store.get_historical_features(frame, ["scores:score"])


OF_A_DATASET = """
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, Int64

from stores.feast_lake import LakeSource

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
scores = FeatureView(
    name="scores",
    entities=[customer],
    source=LakeSource(name="scores_saved", table="datasets/scores", timestamp_field="at"),
    schema=[Field(name="customer_id", dtype=Int64), Field(name="score", dtype=Float64)],
)
"""


def test_a_view_over_a_saved_dataset_is_served_and_not_joined(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", OF_A_DATASET)
    store = applied(repo)
    with pytest.raises(TableMissing, match="has no table datasets/scores: Feast's create_saved_dataset makes it"):
        store.materialize(at(0), at(9))
    rows = {"customer_id": [7, 7, None], "score": [0.5, 0.6, 0.7], "at": pa.array([at(1), at(2), at(1)], TIMESTAMP)}
    DeltaLake(str(repo / "lake")).replace("datasets/scores", pa.table(rows))
    store.materialize(at(0), at(9))
    assert online(repo, ["scores:score"], [{"customer_id": 7}])["score"] == [0.6]
    frame = pd.DataFrame({"customer_id": [7], "event_timestamp": [at(2)]})
    for entities, end in ((frame, None), (None, at(9))):
        with pytest.raises(ValueError, match=r"view scores has a LakeSource of datasets/scores: the lake joins views"):
            store.get_historical_features(entities, ["scores:score"], end_date=end)


BY_COMMIT = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, Int64

from millrace.declare import cdc_source

customer = Entity(name="customer", join_keys=["buyer"], value_type=ValueType.INT64)
last_bought = FeatureView(
    name="last_bought",
    entities=[customer],
    source=cdc_source("shop.public.orders"),
    ttl=timedelta(days=0),
    schema=[Field(name="buyer", dtype=Int64), Field(name="amount", dtype=Float64)],
)
"""


@pytest.mark.parametrize("latest", ["true", "false"])
def test_of_the_rows_of_one_commit_the_last_is_materialized(tmp_path: Path, latest: str) -> None:
    config = f"materialization: {{pull_latest_features: {latest}}}"
    repo = make(tmp_path / "repo", BY_COMMIT, config=config)
    buyers, orders = 40, 800
    changes = [
        {"id": i, "buyer": i % buyers, "amount": float(i), "status": "new", "placed": at(1), "_commit_ts": at(2)}
        for i in range(orders)
    ]
    fill_orders(repo, changes)
    applied(repo).materialize(at(0), at(10))
    found = online(repo, ["last_bought:amount"], [{"buyer": buyer} for buyer in range(buyers)])["amount"]
    assert found == [float(orders - buyers + buyer) for buyer in range(buyers)]


def test_all_rows_of_a_captured_table_are_pulled_but_of_those_with_the_same_times_the_last(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", BY_COMMIT)
    commits = [(1, 7, at(1)), (2, 7, at(2)), (3, 7, at(2)), (4, 8, at(2)), (5, None, at(3))]
    fill_orders(
        repo,
        [
            {"id": i, "buyer": buyer, "amount": float(i), "status": "new", "placed": at(1), "_commit_ts": moment}
            for i, buyer, moment in commits
        ],
    )
    store = applied(repo)
    source = store.get_feature_view("last_bought").batch_source
    window = at(0), at(10)
    job = LakeOfflineStore.pull_all_from_table_or_query(
        store.config, source, ["buyer"], ["amount"], source.timestamp_field, None, *window
    )
    assert sorted(job.to_arrow()["amount"].to_pylist()) == [1.0, 3.0, 4.0]


def test_a_rename_that_shadows_a_column_is_materialized(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", SHADOWING)
    fill_orders(repo, BOUGHT)
    applied(repo).materialize(at(0), at(30))
    found = online(repo, ["bought:amount", "bought_cents:cents"], [{"id": 7}, {"id": 1}])
    assert (found["amount"], found["cents"]) == ([2.75, None], [275, None])


SHADOWING = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64, Int64

from millrace.declare import cdc_source

customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)
orders = cdc_source("shop.public.orders", event_time="placed", field_mapping={"buyer": "id"})
bought = FeatureView(
    name="bought",
    entities=[customer],
    source=orders,
    ttl=timedelta(days=0),
    schema=[Field(name="id", dtype=Int64), Field(name="amount", dtype=Float64)],
)


@stream_feature_view(
    entities=[customer],
    source=orders,
    mode="pandas",
    ttl=timedelta(days=0),
    schema=[Field(name="id", dtype=Int64), Field(name="cents", dtype=Int64)],
)
def bought_cents(df):
    df["cents"] = (df["amount"] * 100).round().astype("int64")
    return df
"""
