"""Feast's objects for the lake: what the registry keeps of them, and which columns they name."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import FileSource
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.types import from_value_type

from stores.feast_lake import LakeLoggingDestination, LakeSource, SavedDatasetLakeStorage, lake_of
from stores.history import feature_properties
from stores.rows import EMBEDDING, TIMESTAMP, rows_schema
from stores.view import Feature, View


def source(table: str = "changes/shop.public.orders", **settings: Any) -> LakeSource:
    given = {
        "timestamp_field": "placed",
        "created_timestamp_column": "_commit_ts",
        "field_mapping": {"buyer": "customer_id"},
        "description": "orders",
        "tags": {"team": "shop"},
        "owner": "shop@example.com",
    }
    return LakeSource(name="orders.lake", table=table, **{**given, **settings})


@pytest.fixture
def config(tmp_path: Path) -> RepoConfig:
    (tmp_path / "lake").mkdir()
    return RepoConfig(
        project="shop",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "stores.feast_offline.LakeOfflineStore", "path": "lake"},
        entity_key_serialization_version=3,
        repo_path=str(tmp_path),
    )


def test_a_source_comes_back_from_the_registry() -> None:
    proto = DataSourceProto.FromString(source().to_proto().SerializeToString())
    assert DataSource.from_proto(proto) == source()


@pytest.mark.parametrize("changed", [{"table": "changes/shop.public.items"}, {"timestamp_field": "paid"}, {"tags": {}}])
def test_sources_that_differ_are_not_equal(changed: dict[str, Any]) -> None:
    assert source(**changed) != source()
    assert source() != FileSource(name="orders.lake", path="orders.parquet")


def test_a_source_names_a_table_of_the_lake() -> None:
    with pytest.raises(ValueError, match="is not a table name"):
        source(table="orders")


def test_a_storage_and_a_destination_come_back_from_the_registry() -> None:
    storage = SavedDatasetStorage.from_proto(SavedDatasetLakeStorage("datasets/delays").to_proto())
    assert isinstance(storage, SavedDatasetLakeStorage) and storage.table == "datasets/delays"
    logging = LoggingConfig.from_proto(LoggingConfig(LakeLoggingDestination(table="logs/delays"), 0.5).to_proto())
    assert logging is not None and logging.sample_rate == 0.5
    assert isinstance(logging.destination, LakeLoggingDestination) and logging.destination.table == "logs/delays"


def test_the_lake_is_where_the_repo_says(config: RepoConfig, tmp_path: Path) -> None:
    assert lake_of(config).root == str(tmp_path / "lake")
    source().validate(config)
    other = config.model_copy()
    other.offline_config = {"type": "file"}
    other._offline_store = None
    with pytest.raises(ValueError, match=r"stores\.feast_offline\.LakeOfflineStore"):
        source().validate(other)


def test_the_columns_of_a_table_are_those_of_its_source_and_its_times(config: RepoConfig) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int16()),
            pa.field("items", pa.list_(pa.string())),
            pa.field("price", pa.decimal128(10, 2)),
            pa.field("day", pa.date32()),
            pa.field("placed", TIMESTAMP),
            *(pa.field(name, pa.int64()) for name in ("_lsn", "_offset")),
            pa.field("_op", pa.string()),
            pa.field("_commit_ts", TIMESTAMP),
        ]
    )
    lake_of(config).create("changes/shop.public.orders", schema, {})
    columns = dict(source().get_table_column_names_and_types(config))
    assert list(columns) == ["id", "items", "price", "day", "placed", "_commit_ts"]
    to_feast = LakeSource.source_datatype_to_feast_value_type()
    types = [to_feast(columns[name]) for name in ("id", "items", "price", "day", "placed")]
    assert [t.name for t in types] == ["INT32", "STRING_LIST", "STRING", "UNIX_TIMESTAMP", "UNIX_TIMESTAMP"]
    assert [from_value_type(t) for t in types]


def test_the_columns_of_a_feature_table_are_those_of_its_view(config: RepoConfig) -> None:
    view = View("shop", "last", "last", "event", (Feature("k", 4, pa.int64()),), (Feature("x", 5, pa.float64()),))
    schema = pa.schema([*rows_schema(view), *EMBEDDING])
    lake_of(config).create("features/last", schema, feature_properties(view, ""))
    columns = source("features/last").get_table_column_names_and_types(config)
    assert [name for name, _ in columns] == ["k", "x", "placed", "_commit_ts"]


def test_columns_are_not_guessed_before_the_first_change(config: RepoConfig) -> None:
    for table in ("changes/shop.public.orders", "features/unknown"):
        with pytest.raises(ValueError, match=f"the lake has no table {table} to infer columns from yet"):
            source(table).get_table_column_names_and_types(config)
