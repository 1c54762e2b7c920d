"""The lake in Feast's words: a data source, a storage of saved datasets, a destination of feature logs.

Where the lake is does not stand in these objects, but once, in `feature_store.yaml`:
`offline_store: {type: stores.feast_offline.LakeOfflineStore, path: ...}`.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as pt
from feast.data_source import DataSource
from feast.errors import FeastObjectNotFoundException
from feast.feature_logging import LoggingDestination
from feast.feature_store import FeatureStore
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.core.SavedDataset_pb2 import SavedDatasetStorage as SavedDatasetStorageProto
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType

from stores.delta import DeltaLake
from stores.entity_keys import DUMMY
from stores.lake_schema import check_name
from stores.rows import EMBEDDING, META

ADDED = frozenset([field.name for field in (*META, *EMBEDDING)] + ["_op", "_commit_ts"])
"""The columns that the worker adds to those of the source table or the view."""


def lake_of(config: RepoConfig) -> DeltaLake:
    """The lake of a feature repo; a relative path counts from the repo's folder.

    Raises `ValueError` if the repo's offline store is not the lake.
    """
    path = getattr(config.offline_store, "path", None)
    if path is None:
        raise ValueError(
            "feature_store.yaml does not name the lake: write"
            " offline_store: {type: stores.feast_offline.LakeOfflineStore, path: <folder or URL>}"
        )
    if "://" not in path and config.repo_path is not None:
        path = str(Path(config.repo_path) / path)
    return DeltaLake(path, config.offline_store.storage_options)


def store_of(config: RepoConfig) -> FeatureStore:
    """The feature store of a feature repo: the way to its registry."""
    store = FeatureStore(config=config)
    if config.repo_path is not None:
        store.repo_path = Path(config.repo_path)  # a relative path of the registry counts from there
    return store


class LakeSource(DataSource):
    """One table of the lake: `changes/<topic>` of a captured table, `features/<view>` for a `PushSource`, or
    `datasets/<name>`.

    `timestamp_field` names the column of the event time. A table of changes also has `_commit_ts`, the commit
    time in PostgreSQL; the event and commit times of a feature table answer to whatever names the source
    gives them. The table need not exist when the source is applied. A view over `datasets/<name>` is materialized, and
    not joined: joins read `features/<view>`.
    """

    def __init__(
        self,
        *,
        name: str,
        table: str,
        timestamp_field: str | None = None,
        created_timestamp_column: str | None = None,
        field_mapping: dict[str, str] | None = None,
        description: str | None = "",
        tags: dict[str, str] | None = None,
        owner: str | None = "",
    ) -> None:
        check_name(table)
        super().__init__(
            name=name,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )
        self.table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeSource) and bool(super().__eq__(other)) and self.table == other.table

    def __hash__(self) -> int:
        return int(super().__hash__())

    def source_type(self) -> "DataSourceProto.SourceType.ValueType":
        return DataSourceProto.CUSTOM_SOURCE

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> "LakeSource":
        return LakeSource(
            name=data_source.name,
            table=json.loads(data_source.custom_options.configuration)["table"],
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type="stores.feast_lake.LakeSource",
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            custom_options=_options(self.table),
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def validate(self, config: RepoConfig) -> None:
        """Raises `ValueError` if the repo has no lake; the table itself comes with the first changes."""
        lake_of(config)

    def get_table_query_string(self) -> str:
        return f'"{self.table}"'

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The columns that a user may name, with their Arrow types.

        Feast asks for them only to infer what a view does not declare, and on a push. Of a feature table they
        are those of its view in the registry: the next rows that are pushed bring the table's. Raises
        `ValueError` if neither view nor table is there.
        """
        kind, owner = self.table.split("/", 1)
        columns = _declared(config, owner) if kind == "features" else None
        if columns is None:
            columns = self._stored(lake_of(config))
        times = [name for name in (self.timestamp_field, self.created_timestamp_column) if name]
        taken = {name for name, _ in columns}
        return columns + [(name, str(META[0].type)) for name in times if name not in taken]

    def _stored(self, lake: DeltaLake) -> list[tuple[str, str]]:
        if not lake.exists(self.table):
            raise ValueError(
                f"source {self.name}: the lake has no table {self.table} to infer columns from yet: declare the"
                " schema of the view with all its fields, and the value_type of its entities"
            )
        schema = lake.snapshot(self.table).schema
        return [(f.name, _feast_name(f.type)) for f in schema if f.name not in ADDED]

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        return _value_type


def _check_kind(table: str, kind: str, what: str) -> None:
    """Raises `ValueError` unless the table is of this kind: `changes/` and `features/` are the worker's to write."""
    check_name(table)
    own, owner = table.split("/", 1)
    if own != kind:
        raise ValueError(f"{what} cannot be the lake's table {table!r}: write {kind}/{owner}")


def _options(table: str) -> DataSourceProto.CustomSourceOptions:
    return DataSourceProto.CustomSourceOptions(configuration=json.dumps({"table": table}).encode())


def _declared(config: RepoConfig, view: str) -> list[tuple[str, str]] | None:
    """The join keys and features of a view in the registry, as they are pushed; None if it is not there."""
    store = store_of(config)
    try:
        found: Any = store.registry.get_any_feature_view(view, store.project)
    except FeastObjectNotFoundException:
        return None
    fields = {field.name: field for field in (*found.entity_columns, *found.features)}
    return [(name, field.dtype.to_value_type().name) for name, field in fields.items() if name != DUMMY.name]


def _feast_name(type_: pa.DataType) -> str:
    """The Arrow type as Feast writes it: elements of lists are called item."""
    return str(pa.list_(pa.field("item", type_.value_type))) if pt.is_list(type_) else str(type_)


def _value_type(name: str) -> ValueType:
    """Feast's type for an Arrow type, or for the name of a Feast type."""
    if name in ValueType.__members__:
        return ValueType[name]
    if name.startswith("date"):
        return ValueType.UNIX_TIMESTAMP
    return ValueType.STRING if name.startswith("decimal") else pa_to_feast_value_type(name)


class SavedDatasetLakeStorage(SavedDatasetStorage):
    """A saved dataset as a table of the lake, such as `datasets/delays`. Raises `ValueError` for a table of any other
    kind."""

    _proto_attr_name = "custom_storage"

    def __init__(self, table: str) -> None:
        _check_kind(table, "datasets", "a saved dataset")
        self.table = table

    @staticmethod
    def from_proto(storage_proto: SavedDatasetStorageProto) -> "SavedDatasetLakeStorage":
        return SavedDatasetLakeStorage(json.loads(storage_proto.custom_storage.configuration)["table"])

    def to_proto(self) -> Any:
        return self._custom_storage_proto(_options(self.table))

    def to_data_source(self) -> DataSource:
        return LakeSource(name=self.table, table=self.table)  # Feast itself names the time, as of a file


class LakeLoggingDestination(LoggingDestination):
    """Served features, logged to a table of the lake, such as `logs/delays`. Raises `ValueError` for a table of any
    other kind."""

    _proto_kind = "lake_destination"

    def __init__(self, *, table: str) -> None:
        _check_kind(table, "logs", "a log of features")
        self.table = table

    @classmethod
    def from_proto(cls, config_proto: LoggingConfigProto) -> "LakeLoggingDestination":
        return cls(table=config_proto.custom_destination.config["table"])

    def to_proto(self) -> LoggingConfigProto:
        destination = LoggingConfigProto.CustomDestination(kind=self._proto_kind, config={"table": self.table})
        return LoggingConfigProto(custom_destination=destination)

    def to_data_source(self) -> DataSource:
        return LakeSource(name=self.table, table=self.table, timestamp_field="__log_timestamp")
