"""A feature repo over a lake of its own, for the tests of the offline store: no service, no network."""

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureStore
from feast.base_feature_view import BaseFeatureView

from stores.delta import DeltaLake
from stores.history import change_properties
from stores.rows import TIMESTAMP

ROOT = Path(__file__).parents[2]
START = datetime(2024, 1, 1, tzinfo=UTC)

CONFIG = """
project: shop
provider: local
registry: registry.db
online_store: ONLINE
offline_store: {type: stores.feast_offline.LakeOfflineStore, path: lake}
entity_key_serialization_version: 3
"""

SQLITE = "{type: sqlite, path: online.db}"

DECLARATIONS = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64, Int64, String

from millrace.declare import cdc_source

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
order = Entity(name="order", join_keys=["id"], value_type=ValueType.INT64)

orders = cdc_source("shop.public.orders", event_time="placed", field_mapping={"buyer": "customer_id"})
order_rows = cdc_source("shop.public.orders", name="order_rows")

last_order = FeatureView(
    name="last_order",
    entities=[customer],
    source=orders,
    ttl=timedelta(days=0),
    schema=[
        Field(name="customer_id", dtype=Int64),
        Field(name="amount", dtype=Float64),
        Field(name="status", dtype=String),
    ],
)
order_now = FeatureView(
    name="order_now",
    entities=[order],
    source=order_rows,
    ttl=timedelta(days=0),
    schema=[Field(name="id", dtype=Int64), Field(name="status", dtype=String)],
)


@stream_feature_view(
    entities=[customer],
    source=orders,
    mode="pandas",
    ttl=timedelta(days=0),
    schema=[Field(name="customer_id", dtype=Int64), Field(name="cents", dtype=Int64)],
)
def last_order_cents(df):
    df["cents"] = (df["amount"] * 100).round().astype("int64")
    return df
"""

ORDERS = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("buyer", pa.int64()),
        pa.field("amount", pa.float64()),
        pa.field("status", pa.string()),
        pa.field("placed", TIMESTAMP),
        pa.field("_op", pa.string()),
        pa.field("_lsn", pa.int64()),
        pa.field("_commit_ts", TIMESTAMP),
        pa.field("_partition", pa.int32()),
        pa.field("_offset", pa.int64()),
    ]
)


def at(hours: float) -> datetime:
    """Hours after the start of the tests' time."""
    return START + timedelta(hours=hours)


BOUGHT = [
    {"id": 1, "buyer": 7, "amount": 1.5, "status": "new", "placed": at(1)},
    {"id": 2, "buyer": 7, "amount": 2.5, "status": "new", "placed": at(2)},
    {"id": 3, "buyer": 8, "amount": 3.5, "status": "new", "placed": at(3)},
    {"id": 2, "buyer": 7, "amount": 2.75, "status": "paid", "placed": at(2), "_op": "u"},
    {"id": 3, "_op": "d"},
]


def make(folder: Path, declarations: str = DECLARATIONS, config: str = "", online_store: str = SQLITE) -> Path:
    """A repo folder with an empty lake; `config` is added to feature_store.yaml."""
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(CONFIG.replace("ONLINE", online_store) + config)
    (folder / "definitions.py").write_text(declarations)
    (folder / "lake").mkdir()
    return folder


def applied(repo: Path) -> FeatureStore:
    """The repo's objects in its registry, applied within this process."""
    declared = runpy.run_path(str(repo / "definitions.py")).values()
    store = FeatureStore(repo_path=str(repo))
    store.apply([thing for thing in declared if isinstance(thing, Entity | BaseFeatureView)])
    return store


def feast(repo: Path, *arguments: str) -> str:
    """Run Feast's command line in the repo, as a user does; its output."""
    command = [sys.executable, "-m", "feast.cli.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill_orders(repo: Path, changes: Sequence[Mapping[str, Any]]) -> DeltaLake:
    """Append changes of the table orders; each has its place in the sequence as LSN, offset and commit hour."""
    lake = DeltaLake(str(repo / "lake"))
    lake.create("changes/shop.public.orders", ORDERS, change_properties("shop.public.orders", ["id"]))
    held = lake.next_offset("changes/shop.public.orders", "shop.public.orders", 0) or 0
    rows = [
        {"_op": "c", "_lsn": 100 + i, "_commit_ts": at(i), "_partition": 0, "_offset": i, **change}
        for i, change in enumerate(changes, held)
    ]
    lake.append(
        "changes/shop.public.orders",
        pa.Table.from_pylist(rows, ORDERS),
        {("shop.public.orders", 0): held + len(rows)},
    )
    return lake


def online(repo: Path, features: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What the stock SDK reads from the repo's online store."""
    store = FeatureStore(repo_path=str(repo))
    answer: dict[str, list[Any]] = store.get_online_features(list(features), [dict(row) for row in rows]).to_dict()
    return answer
