"""Measure the lake: what an append costs, and point-in-time joins beside Feast's own file store.

Prints one JSON object a measurement.

    python -m benchmarks.lake [--rows 2000000] [--entities 100000] [--feast-rows 100000]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64

from stores.asof import Join, asof
from stores.delta import DeltaLake
from stores.feast_lake import LakeSource
from stores.history import feature_properties, newest
from stores.rows import TIMESTAMP, rows_schema
from stores.view import Feature, Kind, View

FEATURES = tuple(f"f{i}" for i in range(5))
SPAN = 100_000_000 * 1_000_000
"""Microseconds over which event times are spread."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--entities", type=int, default=100_000)
    arguments.add_argument("--feast-rows", type=int, default=100_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        appends(root / "appends")
        for kind in ("state", "event"):
            joins(root / kind, kind, given.rows, given.entities)
        beside_feast(root / "feast", given.feast_rows, given.feast_rows // 20)


def view_of(name: str, kind: Kind) -> View:
    keys = (Feature("k", 4, pa.int64()),)
    return View("bench", name, name, kind, keys, tuple(Feature(f, 5, pa.float64()) for f in FEATURES))


def rows(view: View, count: int, seed: int, *, versions: int = 1) -> pa.Table:
    """Random rows, 20 an entity; in an event view each source row has `versions` of them, an hour apart."""
    random = np.random.default_rng(seed)
    source = np.arange(count) // versions
    times = random.integers(0, SPAN, count)[source] + np.arange(count) % versions * 3_600 * 1_000_000
    if view.kind == "state":
        times.sort()
    row = np.zeros((count, 2), np.int64)
    row[:, 0] = source
    columns: dict[str, Any] = {name: random.random(count) for name in FEATURES}
    columns |= {
        "k": source % max(1, count // 20),
        "event_timestamp": pa.array(times, TIMESTAMP),
        "created_timestamp": pa.array(times, TIMESTAMP),
        "_lsn": np.arange(count),
        "_row": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(row.tobytes())])
        if view.kind == "event"
        else pa.nulls(count, pa.binary(16)),
        "_deleted": np.zeros(count, bool),
        "_partition": np.zeros(count, np.int32),
        "_offset": np.arange(count),
    }
    schema = rows_schema(view)
    return pa.table(
        [pa.array(columns[n]) if isinstance(columns[n], np.ndarray) else columns[n] for n in schema.names],
        schema=schema,
    )


def lake_with(folder: Path, view: View, table: pa.Table, files: int) -> DeltaLake:
    folder.mkdir(parents=True)
    lake = DeltaLake(str(folder))
    lake.create(f"features/{view.name}", rows_schema(view), feature_properties(view, "t"))
    size = max(1, -(-table.num_rows // files))
    for start in range(0, table.num_rows, size):
        lake.append(f"features/{view.name}", table.slice(start, size), {})
    return lake


def appends(folder: Path, batch: int = 5_000, commits: int = 200) -> None:
    """A worker's flushes: 5,000 rows each, one application transaction a partition."""
    view = view_of("v", "event")
    table = rows(view, batch, 1)
    lake = lake_with(folder, view, table.slice(0, 0), 1)
    seconds = []
    for i in range(commits):
        offsets = pa.array(np.arange(i * batch, (i + 1) * batch))
        numbered = table.set_column(table.schema.get_field_index("_offset"), "_offset", offsets)
        seconds.append(timed(partial(lake.append, "features/v", numbered, {("t", 0): (i + 1) * batch}))[0])
    milliseconds = np.array(seconds) * 1_000
    report(
        "append",
        rows=batch,
        commits=commits,
        p50_ms=np.percentile(milliseconds, 50),
        p99_ms=np.percentile(milliseconds, 99),
        last_50_p50_ms=np.percentile(milliseconds[-50:], 50),
        rows_per_second=batch * commits / sum(seconds),
    )
    report("compact", files=commits, seconds=timed(lambda: lake.compact("features/v"))[0])


def joins(folder: Path, kind: Kind, count: int, entities: int) -> None:
    """Point-in-time joins and newest rows over a big feature table."""
    view = view_of("v", kind)
    join = Join("features/v", {"k": "k"}, FEATURES, timedelta(days=400))
    random = np.random.default_rng(2)
    spine = pa.table({"k": random.integers(0, count // 20, entities)})
    times = pa.chunked_array([pa.array(random.integers(0, SPAN, entities), TIMESTAMP)])
    for versions in (1, 3) if kind == "event" else (1,):
        lake = lake_with(folder / str(versions), view, rows(view, count, 1, versions=versions), 20)
        for known in (False, True):
            seconds = best(partial(asof, lake, spine, times, join, known=known))
            report("asof", kind=kind, rows=count, entities=entities, versions=versions, known=known, seconds=seconds)
        report("newest", kind=kind, rows=count, versions=versions, seconds=best(partial(newest, lake, view)))
        few = spine.slice(0, 10)
        seconds = best(partial(newest, lake, view, few))
        report("newest of 10 entities", kind=kind, rows=count, versions=versions, seconds=seconds)


def beside_feast(folder: Path, count: int, entities: int) -> None:
    """`get_historical_features` of the stock SDK over the lake and over Feast's file store, the same rows."""
    view = view_of("v", "event")
    table = rows(view, count, 1)
    lake_with(folder / "lake", view, table, 1)
    pq.write_table(table, folder / "v.parquet")
    random = np.random.default_rng(3)
    moments = pd.to_datetime(random.integers(0, SPAN, entities), unit="us", utc=True)
    frame = pd.DataFrame({"k": random.integers(0, count // 20, entities), "event_timestamp": moments})
    asked = [f"v:{name}" for name in FEATURES]
    lake = {"type": "stores.feast_offline.LakeOfflineStore", "path": str(folder / "lake")}
    times: dict[str, Any] = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    for store, source in (
        (lake, LakeSource(name="v", table="features/v", **times)),
        ({"type": "file"}, FileSource(name="v", path=str(folder / "v.parquet"), **times)),
    ):
        feast = feature_store(folder, store, source)
        seconds = best(partial(answered, feast, frame, asked))
        report("get_historical_features", store=store["type"], rows=count, entities=entities, seconds=seconds)


def answered(feast: FeatureStore, frame: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    return feast.get_historical_features(frame, features).to_df()


def feature_store(folder: Path, offline: dict[str, str], source: Any) -> FeatureStore:
    name = offline["type"].rsplit(".", 1)[-1]
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / f"{name}.db"),
        online_store={"type": "sqlite", "path": str(folder / f"{name}.online")},
        offline_store=offline,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    schema = [Field(name=f, dtype=Float64) for f in FEATURES]
    store.apply([entity, FeatureView(name="v", entities=[entity], schema=schema, source=source)])
    return store


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def best(work: Callable[[], Any], times: int = 3) -> float:
    return min(timed(work)[0] for _ in range(times))


def report(measure: str, **figures: Any) -> None:
    rounded = {key: round(float(v), 4) if isinstance(v, float) else v for key, v in figures.items()}
    print(json.dumps({"measure": measure, **rounded}), flush=True)


if __name__ == "__main__":
    main()
