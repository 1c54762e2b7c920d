"""Feast's offline store over the lake: `offline_store: {type: stores.feast_offline.LakeOfflineStore, path: ...}`.

Point-in-time retrieval reads `features/<view>`, which the worker wrote, so it needs neither the sources nor
their transforms. Materialization reads the source's table, `changes/<topic>`, as it stands now: Feast's engine
applies the view's own transform to it.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast.data_source import DataSource, PushSource
from feast.errors import FeastJoinKeysDuringMaterialization
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    _get_requested_on_demand_feature_views,
    make_tzaware,
)
from pydantic import Field, StrictStr

from stores.entity_keys import DUMMY, with_dummy
from stores.feast_declared import as_declared, declared
from stores.feast_history import EVENT_TIME, at_end, at_entities, request
from stores.feast_lake import ADDED, LakeLoggingDestination, LakeSource, lake_of
from stores.feast_push import claim, pushed_rows, pushed_view
from stores.feast_retrieval import LakeRetrievalJob, location
from stores.history import current, feature_properties
from stores.lake import Snapshot
from stores.rows import META, rows_schema


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """`path` is a folder, absolute or relative to the feature repo, or an object store URL; then
    `storage_options` are those of delta-rs."""

    type: Literal["stores.feast_offline.LakeOfflineStore"] = "stores.feast_offline.LakeOfflineStore"
    path: StrictStr
    storage_options: dict[str, str] = Field(default_factory=dict)


class LakeOfflineStore(OfflineStore):
    """See Feast's `OfflineStore` for what each method is asked for."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The features that each row of `entity_df` had at its time, rows in its order.

        Without `entity_df` all entities that have a value at `end_date` (by default now), of an event time
        not before `start_date`; then the views need the same join keys.
        """
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        views, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
        requests = [request(view, features, full_feature_names) for view, features in views.items()]
        known = filter_by_created_timestamp
        if entity_df is None:
            end = make_tzaware(end_date) if end_date else datetime.now(UTC)
            start = make_tzaware(start_date) if start_date else None
            keys = [key for asked in requests for key in asked.join.join_keys.values() if key != DUMMY.name]
            earliest, latest = start or end, end

            def retrieve() -> pa.Table:
                return at_end(lake_of(config), requests, start, end, known)

        elif isinstance(entity_df, pd.DataFrame):
            time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
            moments = pd.to_datetime(entity_df[time], utc=True)
            keys = [column for column in entity_df.columns if column != time]
            earliest, latest = moments.min(), moments.max()

            def retrieve() -> pa.Table:
                return at_entities(lake_of(config), requests, entity_df.assign(**{time: moments}), time, known)

        else:
            raise ValueError("the lake takes a pandas entity_df, not SQL: read your query into a DataFrame first")
        return LakeRetrievalJob(
            config,
            retrieve,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(feature_refs, list(dict.fromkeys(keys)), earliest, latest),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Of the rows that the source holds now, with an event time in the window, the newest an entity.

        A row with a null join key belongs to no entity.
        """
        columns = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return LakeRetrievalJob(
            config, lambda: _pull(config, data_source, *columns, start_date, end_date, newest_by=join_key_columns)
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The rows that the source holds now, with an event time in the window, newest first.

        Each source row once, in its newest version, and none that is deleted. A row of a view's source with a
        null join key belongs to no entity, and is left out; a saved dataset has all its rows that have an event time,
        and all its columns: Feast asks for the join keys and the features alone. With no feature
        names, as for a view with a transform, all columns of the source; with feature names, of the rows of a
        captured table that agree in entity and times the newest.
        """
        columns = (join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        # Feast then keeps one row an entity by its times alone, any of those that one transaction wrote.
        captured = isinstance(data_source, LakeSource) and data_source.table.startswith("changes/")
        times = [time for time in (timestamp_field, created_timestamp_column) if time]
        newest_by = [*join_key_columns, *times] if captured and join_key_columns and feature_name_columns else None
        return LakeRetrievalJob(
            config, lambda: _pull(config, data_source, *columns, start_date, end_date, newest_by=newest_by)
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add pushed rows to `features/<view>`. Raises `ValueError` for a view that the worker writes, and
        `StoreRefused` where another project that shares the lake pushes to a view of that name."""
        source = feature_view.batch_source
        name = f"features/{feature_view.name}"
        if not isinstance(feature_view.stream_source, PushSource) or getattr(source, "table", None) != name:
            raise ValueError(
                f"view {feature_view.name}: only rows of a PushSource whose batch_source is a LakeSource with"
                f" table={name!r} can be written; the worker writes the views of captured tables"
                " (leave offline=False)"
            )
        view = pushed_view(config.project, feature_view)
        rows = pushed_rows(view, table, source.timestamp_field, source.created_timestamp_column)
        lake = lake_of(config)
        lake.create(name, rows_schema(view), feature_properties(view, topic=""))
        claim(lake, name, config.project)
        lake.append(name, rows, {})
        if progress is not None:
            progress(rows.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add logs to a table of the lake, or as files to a folder of parquet."""
        destination = logging_config.destination
        rows = pq.read_table(data) if isinstance(data, Path) else data
        if isinstance(destination, LakeLoggingDestination):
            lake = lake_of(config)
            lake.create(destination.table, source.get_schema(registry), {})
            lake.append(destination.table, rows, {})
        elif isinstance(destination, FileLoggingDestination):
            filesystem, folder = location(config, destination.path, destination.s3_endpoint_override)
            ds.write_dataset(
                rows,
                folder,
                filesystem=filesystem,
                format="parquet",
                basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
                partitioning=destination.partition_by,
                existing_data_behavior="overwrite_or_ignore",
            )
        else:
            raise ValueError(f"features are logged to the lake or to parquet, not to {type(destination).__name__}")


def _pull(
    config: RepoConfig,
    source: DataSource,
    join_keys: Sequence[str],
    features: Sequence[str],
    timestamp_field: str,
    created: str | None,
    start: datetime | None,
    end: datetime | None,
    *,
    newest_by: Sequence[str] | None,
) -> pa.Table:
    table = _table(config, source)
    times = [time for time in (timestamp_field, created) if time]
    given = table.schema.names if _saved(source) else [] if features else _user_columns(table, source)
    wanted = dict.fromkeys([*given, *join_keys, *features, *times])
    stored = {name: _stored(table, name, timestamp_field, created) for name in wanted}
    if not {stored[key] for key in join_keys} <= set(table.schema.names):
        raise FeastJoinKeysDuringMaterialization(table.name, set(join_keys), set(table.schema.names))
    rows = current(
        table,
        stored,
        stored[timestamp_field],
        start=start and make_tzaware(start),
        end=end and make_tzaware(end),
        keys=[] if _saved(source) else [stored[key] for key in join_keys],
        newest_by=newest_by if newest_by is None else [stored[name] for name in newest_by],
    )
    if features and isinstance(source, LakeSource) and not _saved(source):
        rows = as_declared(rows, declared(config, source, [*join_keys, *features], times), times)
    return rows if join_keys else with_dummy(rows)


def _saved(source: DataSource) -> bool:
    """Whether it holds what Feast saved or logged: a view's source has an event time of its own.

    Of a saved dataset any join key may be null.
    """
    return not source.timestamp_field


def _table(config: RepoConfig, source: DataSource) -> Snapshot:
    if isinstance(source, LakeSource):
        return lake_of(config).snapshot(source.table)
    if isinstance(source, FileSource):
        filesystem, path = location(config, source.path, source.file_options.s3_endpoint_override)
        data = ds.dataset(path, filesystem=filesystem, format="parquet")
        return Snapshot(source.path, 0, data.schema, {}, data)
    raise ValueError(
        f"source {source.name}: the lake reads LakeSource, and parquet FileSource, not {type(source).__name__}"
    )


def _user_columns(table: Snapshot, source: DataSource) -> list[str]:
    """The columns of the source table, or of the view, without those that the lake adds and those whose name the
    source gives to another column."""
    renames = source.field_mapping
    shadowed = {new for old, new in renames.items() if old in table.schema.names} - renames.keys()
    return [name for name in table.schema.names if name not in ADDED | shadowed]


def _stored(table: Snapshot, name: str, timestamp_field: str, created: str | None) -> str:
    """The column that holds what the source calls `name`: a feature table has its times under our names."""
    if name in table.schema.names or "_deleted" not in table.schema.names:
        return name
    ours: dict[str | None, str] = {timestamp_field: EVENT_TIME, created: META[1].name}
    return ours.get(name, name)
