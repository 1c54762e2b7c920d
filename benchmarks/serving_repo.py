"""The feature repo that the serving benchmark reads: one entity, three views, 50 features, in Feast's Redis layout."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

from stores.online import RedisAddress, RedisOnline
from stores.rows import FeatureRows, rows_schema
from stores.values import arrow_type_of
from stores.view import Feature, View

ENTITIES = 5_000
SIZES = {"driver_hourly": 30, "driver_daily": 10, "driver_profile": 10}
TYPES = (Float64, Float64, Float64, Int64, String)
"""Of five features three are floats, one is an integer, one a text."""

YAML = """
project: bench
provider: local
registry: {{path: {folder}/registry.db, cache_ttl_seconds: 60}}
online_store: {{type: redis, connection_string: "127.0.0.1:{port}"}}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""
MILLRACE = """
sources: {}
kafka: {bootstrap_servers: nowhere:9}
connect: {url: "http://nowhere:9"}
serve: {audit: false}
"""


def make_repo(folder: Path, port: int) -> FeatureStore:
    """Applies the repo with Feast and writes its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(YAML.format(folder=folder, port=port))
    (folder / "millrace.yaml").write_text(MILLRACE)
    store = FeatureStore(repo_path=str(folder))
    driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
    views = [_view(driver, name, size) for name, size in SIZES.items()]
    service = FeatureService(name="ranking", features=[views[0]])
    store.apply([driver, *views, service])
    online = RedisOnline(RedisAddress.parse(f"127.0.0.1:{port}"), 3_600)
    for view in views:
        online.write([rows(view.name, np.arange(ENTITIES), 0)])
    online.close()
    return store


def features(*views: str) -> list[str]:
    """References to all features of the views."""
    return [f"{view}:f{number}" for view in views for number in range(SIZES[view])]


def stored_view(name: str) -> View:
    """A view as the stores see it."""
    kinds = [TYPES[number % len(TYPES)].to_value_type().value for number in range(SIZES[name])]
    declared = tuple(Feature(f"f{number}", kind, arrow_type_of(kind)) for number, kind in enumerate(kinds))
    return View("bench", name, name, "state", (Feature("driver_id", 4, pa.int64()),), declared)


def _view(driver: Entity, name: str, size: int) -> FeatureView:
    fields = [Field(name=f"f{number}", dtype=TYPES[number % len(TYPES)]) for number in range(size)]
    source = FileSource(name=f"{name}_source", path="nowhere.parquet", timestamp_field="event_timestamp")
    return FeatureView(
        name=name,
        entities=[driver],
        ttl=timedelta(days=1),
        schema=[Field(name="driver_id", dtype=Int64), *fields],
        source=source,
    )


def rows(view_name: str, ids: npt.NDArray[np.int64], number: int) -> FeatureRows:
    """Values of a view's entities; those of a greater `number` are newer."""
    view = stored_view(view_name)
    rng, count = np.random.default_rng(number), len(ids)
    moments = pa.array([datetime.now(UTC)] * count, pa.timestamp("us", tz="UTC"))
    columns: dict[str, pa.Array | Sequence[object]] = {
        "driver_id": pa.array(ids),
        "event_timestamp": moments,
        "created_timestamp": moments,
        "_lsn": pa.array(np.full(count, number + 1, np.int64)),
        "_row": pa.nulls(count, pa.binary(16)),
        "_deleted": pa.array(np.zeros(count, bool)),
        "_partition": pa.array(np.zeros(count, np.int32)),
        "_offset": pa.array(np.arange(count)),
    }
    for feature in view.features:
        values = rng.random(count) * 1000
        if feature.value_type == 2:
            columns[feature.name] = pa.array([f"segment-{value:.0f}" for value in values])
        else:
            columns[feature.name] = pa.array(values).cast(feature.arrow_type, safe=False)
    schema = rows_schema(view)
    return FeatureRows(view, pa.table([columns[name] for name in schema.names], schema=schema))
