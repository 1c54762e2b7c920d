"""The stock Feast SDK and command line over the lake: apply, materialize, push, retrieve, save, log."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore
from feast.data_source import PushMode
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage

from stores.delta import DeltaLake
from stores.feast_lake import LakeLoggingDestination, SavedDatasetLakeStorage
from stores.history import feature_properties
from stores.rows import rows_schema
from stores.view import Feature, View
from tests.integration.lake_repo import applied, at, feast, fill_orders, make, online

ORDERS = [
    {"id": 1, "buyer": 7, "amount": 1.5, "status": "new", "placed": at(1)},
    {"id": 2, "buyer": 7, "amount": 2.5, "status": "new", "placed": at(2)},
    {"id": 3, "buyer": 8, "amount": 3.5, "status": "new", "placed": at(3)},
    {"id": 2, "buyer": 7, "amount": 2.75, "status": "paid", "placed": at(2), "_op": "u"},
    {"id": 3, "_op": "d"},
]

PUSHED = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from stores.feast_lake import LakeSource

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
clicks = PushSource(
    name="clicks",
    batch_source=LakeSource(
        name="clicks.lake", table="features/last_click", timestamp_field="at", created_timestamp_column="made"
    ),
)
last_click = FeatureView(
    name="last_click",
    entities=[customer],
    source=clicks,
    ttl=timedelta(hours=10),
    schema=[
        Field(name="customer_id", dtype=Int64),
        Field(name="page", dtype=String),
        Field(name="seconds", dtype=Float64),
    ],
)


@on_demand_feature_view(sources=[last_click], schema=[Field(name="minutes", dtype=Float64)])
def in_minutes(inputs):
    inputs["minutes"] = inputs["seconds"] / 60
    return inputs[["minutes"]]
"""


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
    FeatureStore(repo_path=str(repo)).materialize_incremental(at(50))
    assert online(repo, features, [{"customer_id": 8}])["cents"] == [900]


def test_pulling_the_latest_materializes_the_same(tmp_path):
    """`pull_latest_features`, Feast's other way to materialize."""
    repo = make(tmp_path / "repo", config="materialization: {pull_latest_features: true}")
    fill_orders(repo, ORDERS)
    applied(repo).materialize(at(0), at(30))
    found = online(repo, ["last_order:amount", "last_order_cents:cents"], [{"customer_id": 7}, {"customer_id": 8}])
    assert (found["amount"], found["cents"]) == ([2.75, None], [275, None])


def test_a_table_that_is_not_there_is_named(tmp_path):
    store = applied(make(tmp_path / "repo"))
    with pytest.raises(LookupError, match=r"has no table changes/shop\.public\.orders"):
        store.materialize(at(0), at(30))
    frame = pd.DataFrame({"id": [1], "event_timestamp": [at(1)]})
    with pytest.raises(LookupError, match="has no table features/order_now"):
        store.get_historical_features(frame, ["order_now:status"]).to_df()


def test_the_worker_alone_writes_the_views_of_captured_tables(tmp_path):
    store = applied(make(tmp_path / "repo"))
    view = store.get_feature_view("order_now")
    with pytest.raises(ValueError, match="leave offline=False"):
        store._get_provider().offline_write_batch(store.config, view, pa.table({"id": [1]}), None)


def test_a_deleted_row_is_seen_until_its_delete(tmp_path):
    repo = make(tmp_path / "repo")
    store = applied(repo)
    view = View("shop", "order_now", "order_now", "state", (Feature("id", 4, pa.int64()),), (STATUS,))
    rows = [
        {"id": 1, "status": "new", "event_timestamp": at(1), "_deleted": False},
        {"id": 1, "status": "paid", "event_timestamp": at(3), "_deleted": False},
        {"id": 1, "event_timestamp": at(5), "_deleted": True},
        {"id": 1, "status": "again", "event_timestamp": at(7), "_deleted": False},
    ]
    fill_features(repo, view, rows)
    frame = pd.DataFrame({"id": [1] * 9, "event_timestamp": [at(h) for h in range(9)]})
    found = store.get_historical_features(frame, ["order_now:status"]).to_df()
    assert found["status"].tolist() == [None, "new", "new", "paid", "paid", None, None, "again", "again"]


def test_pushed_rows_are_kept_once_and_can_be_corrected(tmp_path):
    store = applied(make(tmp_path / "repo", PUSHED))
    first = pd.DataFrame(
        {
            "customer_id": [7, 7, 8],
            "page": ["home", "cart", "home"],
            "seconds": [60.0, 90.0, 30.0],
            "at": [at(1), at(2), at(2)],
            "made": [at(1), at(2), at(2)],
        }
    )
    store.push("clicks", first, to=PushMode.ONLINE_AND_OFFLINE)
    store.push("clicks", first, to=PushMode.OFFLINE)
    store.push("clicks", first.iloc[[1]].assign(page="pay", made=at(6)), to=PushMode.OFFLINE)
    frame = pd.DataFrame({"customer_id": [7, 7, 8, 8, 9], "event_timestamp": [at(h) for h in (1, 9, 9, 13, 9)]})
    job = store.get_historical_features(frame, ["last_click:page", "in_minutes:minutes"])
    found = job.to_df()
    assert found["page"].tolist() == ["home", "pay", "home", None, None]
    assert found["minutes"].tolist()[:3] == [1.0, 1.5, 0.5]
    seen = store.get_historical_features(
        frame.assign(event_timestamp=at(5)), ["last_click:page"], filter_by_created_timestamp=True
    )
    assert seen.to_df()["page"].tolist() == ["cart", "cart", "home", "home", None]
    store.materialize(at(0), at(10))
    assert online(tmp_path / "repo", ["last_click:page"], [{"customer_id": 7}])["page"] == ["pay"]


def test_a_push_with_a_wrong_column_says_which(tmp_path):
    store = applied(make(tmp_path / "repo", PUSHED))
    row = {"customer_id": ["x"], "page": ["home"], "seconds": [1.0], "at": [at(1)], "made": [at(1)]}
    with pytest.raises(ValueError, match="missing_expected_columns: \\['made'\\]"):
        store.push("clicks", pd.DataFrame(row).drop(columns="made"), to=PushMode.OFFLINE)
    with pytest.raises(ValueError, match="column customer_id of the pushed rows does not read as int64"):
        store.push("clicks", pd.DataFrame(row), to=PushMode.OFFLINE)


@pytest.fixture
def pushed(tmp_path) -> FeatureStore:
    store = applied(make(tmp_path / "repo", PUSHED))
    rows = {"customer_id": [7, 8], "page": ["a", "b"], "seconds": [1.0, 2.0], "at": [at(1)] * 2, "made": [at(1)] * 2}
    store.push("clicks", pd.DataFrame(rows), to=PushMode.OFFLINE)
    return store


@pytest.mark.parametrize("place", ["file", "folder", "lake"])
def test_a_dataset_is_saved_and_read_back(pushed, tmp_path, place):
    storage = {
        "file": SavedDatasetFileStorage(str(tmp_path / "saved.parquet")),
        "folder": SavedDatasetFileStorage(str(tmp_path / "saved")),
        "lake": SavedDatasetLakeStorage("datasets/saved"),
    }[place]
    frame = pd.DataFrame({"customer_id": [7, 8], "event_timestamp": [at(2), at(3)]})
    job = pushed.get_historical_features(frame, ["last_click:page"])
    pushed.create_saved_dataset(job, "saved", storage)
    saved = FeatureStore(repo_path=str(pushed.repo_path)).get_saved_dataset("saved").to_df()
    assert sorted(zip(saved["customer_id"], saved["page"], strict=True)) == [(7, "a"), (8, "b")]
    with pytest.raises(Exception, match="already exists"):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    assert len(pushed.get_saved_dataset("saved").to_df()) == 2


@pytest.mark.parametrize("place", ["folder", "lake"])
def test_served_features_are_logged_and_read_back(pushed, tmp_path, place):
    destination = {
        "folder": FileLoggingDestination(path=str(tmp_path / "logs")),
        "lake": LakeLoggingDestination(table="logs/pages"),
    }[place]
    view = pushed.get_feature_view("last_click")
    service = FeatureService(name="pages", features=[view[["page"]]], logging_config=LoggingConfig(destination))
    pushed.apply(service)
    service = pushed.get_feature_service("pages")
    logs = pa.table(
        {
            "customer_id": [7],
            "last_click__page": ["a"],
            "last_click__page__timestamp": pa.array([at(1)], pa.timestamp("us", "UTC")),
            "last_click__page__status": pa.array([2], pa.int32()),
            "__log_timestamp": pa.array([at(4)], pa.timestamp("us", "UTC")),
            "__log_date": pa.array([at(4).date()]),
            "__request_id": ["one"],
        }
    )
    pushed.write_logged_features(logs, service)
    pushed.write_logged_features(logs, service)
    provider = pushed._get_provider()
    job = provider.retrieve_feature_service_logs(service, at(0), at(9), pushed.config, pushed.registry)
    assert job.to_df()["last_click__page"].tolist() == ["a", "a"]


def test_an_entity_frame_that_cannot_be_joined_is_refused(pushed):
    frame = pd.DataFrame({"customer_id": [7], "event_timestamp": [at(2)]})
    wrong = {
        "SQL": "select 1",
        "no column customer_id": frame.drop(columns="customer_id"),
        "does not read as int64": frame.assign(customer_id="seven"),
        "page is twice": frame.assign(page="x"),
    }
    for message, entity_df in wrong.items():
        with pytest.raises(ValueError, match=message):
            pushed.get_historical_features(entity_df, ["last_click:page"]).to_df()


STATUS = Feature("status", 2, pa.string())


def fill_features(repo: Path, view: View, rows: list[dict[str, object]]) -> None:
    """Feature rows as the worker writes them; commit time is event time, LSN and offset the place."""
    lake = DeltaLake(str(repo / "lake"))
    lake.create(f"features/{view.name}", rows_schema(view), feature_properties(view, "t"))
    filled = [
        {"created_timestamp": row["event_timestamp"], "_lsn": i, "_partition": 0, "_offset": i, **row}
        for i, row in enumerate(rows)
    ]
    lake.append(f"features/{view.name}", pa.Table.from_pylist(filled, rows_schema(view)), {})
