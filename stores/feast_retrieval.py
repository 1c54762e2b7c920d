"""A retrieval from the lake that runs when its result is asked for, and parquet files in Feast's words."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pt
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from stores.feast_history import EVENT_TIME
from stores.feast_lake import SavedDatasetLakeStorage, lake_of


class LakeRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Feast's handle on one retrieval; `retrieve` is called anew for every result that is asked for."""

    def __init__(
        self,
        config: RepoConfig,
        retrieve: Callable[[], pa.Table],
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config = config
        self._retrieve = retrieve
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = [_as_served(view) for view in on_demand_feature_views]
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._retrieve()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._retrieve().to_pandas()
        return frame

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Keep the result in the lake, or as parquet: one file if the path ends so, else a folder.

        Raises `SavedDatasetLocationAlreadyExists`, and `ValueError` for any other storage, and for a result that could
        not be read back.
        """
        if isinstance(storage, SavedDatasetLakeStorage):
            self._persist_in_lake(storage.table, allow_overwrite)
        elif isinstance(storage, SavedDatasetFileStorage):
            self._persist_as_parquet(storage.to_data_source(), allow_overwrite)
        else:
            raise ValueError(f"a dataset is saved in the lake or as parquet, not in a {type(storage).__name__}")

    def _rows_to_keep(self) -> pa.Table:
        rows = self.to_arrow()
        if EVENT_TIME not in rows.column_names:
            raise ValueError(
                f"a dataset is read back by its column {EVENT_TIME}, and this one has none, only "
                f"{', '.join(rows.column_names)}: give the time of the entity frame that name before you retrieve it"
            )
        return rows

    def _persist_in_lake(self, table: str, allow_overwrite: bool) -> None:
        lake = lake_of(self._config)
        if lake.exists(table) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=table)
        lake.replace(table, _in_microseconds(self._rows_to_keep()))

    def _persist_as_parquet(self, source: FileSource, allow_overwrite: bool) -> None:
        filesystem, path = location(self._config, source.path, source.file_options.s3_endpoint_override)
        present = filesystem.get_file_info(path).type != pafs.FileType.NotFound
        if present and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=source.path)
        if path.endswith(".parquet"):
            pq.write_table(self._rows_to_keep(), path, filesystem=filesystem)
            return
        rows = self._rows_to_keep()
        if present:
            filesystem.delete_dir_contents(path)
        pq.write_to_dataset(rows, path, filesystem=filesystem)


def _as_served(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """The view with its function given numbers as online, where Feast makes its frame of Python's: integers of 64 bits,
    and doubles."""
    view = copy(view)
    transform = view.transform_arrow

    def widened(rows: pa.Table, full_feature_names: bool = False) -> pa.Table:
        wide = pa.schema([field.with_type(_wide(field.type)) for field in rows.schema], rows.schema.metadata)
        return transform(rows.cast(wide), full_feature_names)

    view.transform_arrow = widened
    return view


def _wide(kind: pa.DataType) -> pa.DataType:
    if pt.is_list(kind):
        return pa.list_(_wide(kind.value_type))
    if pt.is_signed_integer(kind):
        return pa.int64()
    return pa.float64() if pt.is_floating(kind) else kind


def _in_microseconds(rows: pa.Table) -> pa.Table:
    """The rows as the lake can hold them; the times of an entity frame may have nanoseconds."""
    for place, field in enumerate(rows.schema):
        if pt.is_timestamp(field.type) and field.type.unit == "ns":
            floored = pc.floor_temporal(rows.column(place), unit="microsecond")
            rows = rows.set_column(place, field.name, floored.cast(pa.timestamp("us", field.type.tz)))
    return rows


def location(config: RepoConfig, path: str, endpoint: str | None) -> tuple[Any, str]:
    """The file system and the path of a file or folder that a feature repo names."""
    uri = FileSource.get_uri_for_file_path(config.repo_path, path)
    filesystem, place = FileSource.create_filesystem_and_path(uri, endpoint or "")
    return filesystem or pafs.LocalFileSystem(), place
