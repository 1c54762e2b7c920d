"""The stock Feast SDK and command line over the lake: apply, materialize, push, retrieve, save, log."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore
from feast.data_source import PushMode
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage

from stores.delta import DeltaLake
from stores.errors import StoreRefused
from stores.feast_lake import LakeLoggingDestination, SavedDatasetLakeStorage
from stores.feast_offline import LakeOfflineStore
from stores.history import feature_properties
from stores.rows import rows_schema
from stores.view import Feature, View
from tests.integration.lake_repo import BOUGHT, SQLITE, applied, at, feast, fill_orders, make, online
from tests.redis_server import RedisServer

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


@pytest.fixture
def redis() -> Iterator[str]:
    """The online store plug-in over a Redis, for feature_store.yaml."""
    server = RedisServer().start()
    yield f"{{type: stores.feast_online.MillraceOnlineStore, connection_string: '{server.connection_string}'}}"
    server.stop()


@pytest.mark.parametrize("plug_in", [False, True])
def test_the_command_line_applies_before_any_change_and_materializes_after(
    tmp_path: Path, redis: str, plug_in: bool
) -> None:
    repo = make(tmp_path / "repo", online_store=redis if plug_in else SQLITE)
    feast(repo, "apply")
    fill_orders(repo, BOUGHT)
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


def test_pulling_the_latest_materializes_the_same(tmp_path: Path) -> None:
    """`pull_latest_features`, Feast's other way to materialize."""
    repo = make(tmp_path / "repo", config="materialization: {pull_latest_features: true}")
    fill_orders(repo, BOUGHT)
    applied(repo).materialize(at(0), at(30))
    found = online(repo, ["last_order:amount", "last_order_cents:cents"], [{"customer_id": 7}, {"customer_id": 8}])
    assert (found["amount"], found["cents"]) == ([2.75, None], [275, None])


def test_a_stream_view_is_written_through_feast(tmp_path: Path, redis: str) -> None:
    """Its registry entry lists the join key among the features."""
    repo = make(tmp_path / "repo", online_store=redis)
    store = applied(repo)
    row = {"customer_id": [70], "cents": [11], "placed": [at(1)], "_commit_ts": [at(1)]}
    store.write_to_online_store("last_order_cents", pd.DataFrame(row))
    assert online(repo, ["last_order_cents:cents"], [{"customer_id": 70}])["cents"] == [11]


@pytest.mark.parametrize("latest", ["true", "false"])
def test_rows_without_an_entity_are_not_materialized(tmp_path: Path, redis: str, latest: str) -> None:
    config = f"materialization: {{pull_latest_features: {latest}}}"
    repo = make(tmp_path / "repo", config=config, online_store=redis)
    nobody = {"id": 9, "buyer": None, "amount": 1.0, "status": "new", "placed": at(4)}
    fill_orders(repo, [nobody, *BOUGHT, {**nobody, "id": 10}])
    applied(repo).materialize(at(0), at(30))
    found = online(repo, ["last_order:amount", "last_order_cents:cents"], [{"customer_id": 7}, {"customer_id": 8}])
    assert (found["amount"], found["cents"]) == ([2.75, None], [275, None])


def test_a_pushed_row_without_an_entity_is_refused_online_and_not_materialized(tmp_path: Path, redis: str) -> None:
    store = applied(make(tmp_path / "repo", PUSHED, online_store=redis))
    rows = {"customer_id": pd.array([None, 77], "Int64"), "page": ["a", "b"], "seconds": [1.0, 2.0]}
    frame = pd.DataFrame({**rows, "at": [at(1)] * 2, "made": [at(1)] * 2})
    for one in (frame, frame[::-1]):
        with pytest.raises(ValueError, match="join key 'customer_id' is null in 1 of 2 rows"):
            store.push("clicks", one, to=PushMode.ONLINE)
    store.push("clicks", frame, to=PushMode.OFFLINE)
    store.materialize(at(0), at(10))
    assert online(tmp_path / "repo", ["last_click:page"], [{"customer_id": 77}])["page"] == ["b"]


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = applied(make(tmp_path / "repo"))
    with pytest.raises(LookupError, match=r"has no table changes/shop\.public\.orders"):
        store.materialize(at(0), at(30))
    frame = pd.DataFrame({"id": [1], "event_timestamp": [at(1)]})
    with pytest.raises(LookupError, match="has no table features/order_now"):
        store.get_historical_features(frame, ["order_now:status"]).to_df()


def test_the_worker_alone_writes_the_views_of_captured_tables(tmp_path: Path) -> None:
    store = applied(make(tmp_path / "repo"))
    view = store.get_feature_view("order_now")
    with pytest.raises(ValueError, match="leave offline=False"):
        store._get_provider().offline_write_batch(store.config, view, pa.table({"id": [1]}), None)


def test_a_deleted_row_is_seen_until_its_delete(tmp_path: Path) -> None:
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


def test_pushed_rows_are_kept_once_and_can_be_corrected(tmp_path: Path) -> None:
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


def test_of_corrections_in_one_push_the_latest_created_counts(tmp_path: Path, redis: str) -> None:
    store = applied(make(tmp_path / "repo", PUSHED, online_store=redis))
    rows = {"customer_id": [7, 7, 7], "page": ["second", "third", "first"], "seconds": [1.0] * 3, "at": [at(1)] * 3}
    frame = pd.DataFrame({**rows, "made": [at(3), at(4), at(2)]})
    store.push("clicks", frame, to=PushMode.ONLINE_AND_OFFLINE)
    assert online(tmp_path / "repo", ["last_click:page"], [{"customer_id": 7}])["page"] == ["third"]
    asked = pd.DataFrame({"customer_id": [7], "event_timestamp": [at(9)]})
    assert store.get_historical_features(asked, ["last_click:page"]).to_df()["page"].tolist() == ["third"]


def test_a_pushed_view_can_change_its_fields(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", PUSHED)
    row = {"customer_id": [7], "seconds": [1.0], "at": [at(1)], "made": [at(1)]}
    applied(repo).push("clicks", pd.DataFrame({**row, "page": ["home"]}), to=PushMode.OFFLINE)
    (repo / "definitions.py").write_text(PUSHED.replace('Field(name="page"', 'Field(name="device"'))
    store = applied(repo)
    frame = pd.DataFrame({"customer_id": [7, 7], "event_timestamp": [at(1), at(3)]})
    job = store.get_historical_features(frame, ["last_click:device", "last_click:seconds"])
    with pytest.raises(StoreRefused, match=r"has no column device, .* push rows that have it"):
        job.to_df()
    with pytest.raises(ValueError, match=r"missing_expected_columns: \['device'\].* \['page'\]"):
        store.push("clicks", pd.DataFrame({**row, "page": ["home"]}), to=PushMode.OFFLINE)
    later = {**row, "at": [at(2)], "made": [at(2)], "seconds": [2.0], "device": ["phone"]}
    store.push("clicks", pd.DataFrame(later), to=PushMode.OFFLINE)
    found = job.to_df()
    assert (found["device"].tolist(), found["seconds"].tolist()) == ([None, "phone"], [1.0, 2.0])


WITHOUT_ENTITIES = """
from feast import FeatureView, Field, PushSource
from feast.types import Int64

from stores.feast_lake import LakeSource

totals = FeatureView(
    name="totals",
    entities=[],
    source=PushSource(name="sums", batch_source=LakeSource(name="l", table="features/totals", timestamp_field="at")),
    schema=[Field(name="total", dtype=Int64)],
)
"""


@pytest.mark.parametrize("latest", ["true", "false"])
def test_a_pushed_view_without_entities(tmp_path: Path, redis: str, latest: str) -> None:
    config = f"materialization: {{pull_latest_features: {latest}}}"
    repo = make(tmp_path / "repo", WITHOUT_ENTITIES, config=config, online_store=redis)
    store = applied(repo)
    everyone = [{"__dummy_id": ""}]  # what Feast itself asks for, beside views with entities
    rows = pd.DataFrame({"total": [5, 6], "at": [at(1), at(2)]})
    store.push("sums", rows, to=PushMode.ONLINE_AND_OFFLINE)
    assert online(repo, ["totals:total"], everyone)["total"] == [6]
    frame = pd.DataFrame({"event_timestamp": [at(0), at(1), at(9)]})
    found = store.get_historical_features(frame, ["totals:total"]).to_arrow()
    assert (found.column_names, found["total"].to_pylist()) == (["event_timestamp", "total"], [None, 5, 6])
    job = store.get_historical_features(None, ["totals:total"], start_date=at(0), end_date=at(9))
    assert (job.metadata.keys, job.to_arrow().to_pylist()) == ([], [{"event_timestamp": at(9), "total": 6}])
    store.push("sums", rows.assign(total=[7, 8], at=[at(3), at(4)]), to=PushMode.OFFLINE)
    assert online(repo, ["totals:total"], everyone)["total"] == [6]
    store.materialize(at(0), at(9))
    assert online(repo, ["totals:total"], everyone)["total"] == [8]


EVERY_TYPE = """
from feast import Entity, FeatureView, Field, PushSource, ValueType
from feast.types import Array, Bytes, Decimal, Float32, Int64, Json, String, UnixTimestamp, Uuid

from stores.feast_lake import LakeSource

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
types = {
    "number": Float32, "seen": UnixTimestamp, "seen_by_clock": UnixTimestamp, "settings": Json, "device": Uuid,
    "price": Decimal, "pages": Array(String), "counts": Array(Int64), "visits": Array(UnixTimestamp),
    "raw": Array(Bytes),
}
last_visit = FeatureView(
    name="last_visit",
    entities=[customer],
    source=PushSource(
        name="visits", batch_source=LakeSource(name="lake", table="features/last_visit", timestamp_field="at")
    ),
    schema=[Field(name="customer_id", dtype=Int64), *(Field(name=n, dtype=t) for n, t in types.items())],
)
"""


def test_what_was_pushed_is_trained_on_as_it_is_served(tmp_path: Path, redis: str) -> None:
    repo = make(tmp_path / "repo", EVERY_TYPE, online_store=redis)
    store = applied(repo)
    moment = at(1).replace(microsecond=999_999)
    rows = {
        "number": [0.1, None],
        "seen": [moment, None],
        "seen_by_clock": [pd.Timestamp(moment) + pd.Timedelta(1, "ns"), pd.Timestamp(at(-40 * 365 * 24.7))],
        "settings": [{"a": 1}, {"b": "x"}],
        "device": ["6ba7b810-9dad-11d1-80b4-00c04fd430c8", None],
        "price": [Decimal("1.50"), None],
        "pages": [["home", None], None],
        "counts": [[1, 3], []],
        "visits": [[moment], []],
        "raw": [[b"\x00", None], []],
    }
    store.push(
        "visits", pd.DataFrame({"customer_id": [7, 8], **rows, "at": [at(2)] * 2}), to=PushMode.ONLINE_AND_OFFLINE
    )
    features = [f"last_visit:{name}" for name in rows]
    served = online(repo, features, [{"customer_id": 7}, {"customer_id": 8}])
    frame = pd.DataFrame({"customer_id": [7, 8], "event_timestamp": [at(3)] * 2})
    trained = store.get_historical_features(frame, features).to_arrow().to_pydict()
    trained["settings"] = [json.loads(text) for text in trained["settings"]]
    assert [None if value is None else str(value) for value in served["device"]] == trained["device"]
    assert [None if value is None else str(value) for value in served["price"]] == trained["price"]
    for name in rows.keys() - {"device", "price"}:
        assert served[name] == trained[name], name


def test_a_push_with_a_wrong_column_says_which(tmp_path: Path) -> None:
    store = applied(make(tmp_path / "repo", PUSHED))
    row = {"customer_id": ["x"], "page": ["home"], "seconds": [1.0], "at": [at(1)], "made": [at(1)]}
    with pytest.raises(ValueError, match="missing_expected_columns: \\['made'\\]"):
        store.push("clicks", pd.DataFrame(row).drop(columns="made"), to=PushMode.OFFLINE)
    with pytest.raises(ValueError, match="column customer_id of the pushed rows does not read as int64"):
        store.push("clicks", pd.DataFrame(row), to=PushMode.OFFLINE)


@pytest.fixture
def pushed(tmp_path: Path) -> FeatureStore:
    store = applied(make(tmp_path / "repo", PUSHED))
    rows = {"customer_id": [7, 8], "page": ["a", "b"], "seconds": [1.0, 2.0], "at": [at(1)] * 2, "made": [at(1)] * 2}
    store.push("clicks", pd.DataFrame(rows), to=PushMode.OFFLINE)
    return store


@pytest.mark.parametrize("place", ["file", "folder", "lake"])
def test_a_dataset_is_saved_and_read_back(pushed: FeatureStore, tmp_path: Path, place: str) -> None:
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


def test_a_dataset_of_times_in_nanoseconds_is_saved_in_microseconds(pushed: FeatureStore) -> None:
    times = pd.to_datetime([at(2)] * 2).as_unit("ns") + pd.to_timedelta([1_999, 1_000], "ns")
    job = pushed.get_historical_features(
        pd.DataFrame({"customer_id": [7, 8], "event_timestamp": times}), ["last_click:page"]
    )
    pushed.create_saved_dataset(job, "precise", SavedDatasetLakeStorage("datasets/precise"))
    saved = pushed.get_saved_dataset("precise").to_df().sort_values("customer_id")
    assert saved["event_timestamp"].tolist() == [at(2) + timedelta(microseconds=1)] * 2
    assert saved["page"].tolist() == ["a", "b"]


def test_without_an_end_all_that_is_known_now_counts(pushed: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the store itself: the SDK fills in the local time, without a zone."""
    recent = datetime.now(UTC) - timedelta(minutes=30)
    row = {"customer_id": [99], "page": ["now"], "seconds": [1.0], "at": [recent], "made": [recent]}
    pushed.push("clicks", pd.DataFrame(row), to=PushMode.OFFLINE)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        job = LakeOfflineStore.get_historical_features(
            pushed.config, [pushed.get_feature_view("last_click")], ["last_click:page"], None, pushed.registry, "shop"
        )
        assert job.to_df()["page"].tolist() == ["now"]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("place", ["folder", "lake"])
def test_served_features_are_logged_and_read_back(pushed: FeatureStore, tmp_path: Path, place: str) -> None:
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


def test_an_entity_frame_that_cannot_be_joined_is_refused(pushed: FeatureStore) -> None:
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


@pytest.mark.parametrize("place", ["file", "lake"])
def test_a_saved_dataset_keeps_rows_with_nulls_in_the_entity_frame(
    pushed: FeatureStore, tmp_path: Path, place: str
) -> None:
    """With an aliased view Feast takes all columns of the frame, a label too, for join keys."""
    view = pushed.get_feature_view("last_click")
    service = FeatureService(
        name="both",
        features=[
            view[["page"]].with_name("a"),
            view[["page"]].with_name("b").with_join_key_map({"customer_id": "b_id"}),
        ],
    )
    pushed.apply(service)
    columns = {"customer_id": pd.array([7, 8, 9, None], "Int64"), "b_id": pd.array([8, None, 7, 7], "Int64")}
    frame = pd.DataFrame({**columns, "label": [1.0, None, 0.0, 1.0], "event_timestamp": [at(2)] * 4})
    asked = {"plain": ["last_click:page"], "aliased": pushed.get_feature_service("both")}
    for name, features in asked.items():
        job = pushed.get_historical_features(frame, features, full_feature_names=name == "aliased")
        file = SavedDatasetFileStorage(str(tmp_path / f"{name}.parquet"))
        storage = file if place == "file" else SavedDatasetLakeStorage(f"datasets/{name}")
        pushed.create_saved_dataset(job, name, storage)
        assert len(pushed.get_saved_dataset(name).to_df()) == len(job.to_df()) == 4


def test_what_feast_saves_and_logs_is_no_table_of_the_workers() -> None:
    for table in ("features/last_click", "changes/shop.public.orders", "logs/pages"):
        with pytest.raises(ValueError, match=rf"a saved dataset cannot be the lake's table '{table}': write datasets/"):
            SavedDatasetLakeStorage(table)
    for table in ("features/last_click", "changes/shop.public.orders", "datasets/pages"):
        with pytest.raises(ValueError, match=rf"a log of features cannot be the lake's table '{table}': write logs/"):
            LakeLoggingDestination(table=table)
    with pytest.raises(ValueError, match="is not a table name"):
        SavedDatasetLakeStorage("datasets/a/b")
