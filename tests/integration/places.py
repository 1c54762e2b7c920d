"""Feature rows of places with a vector, for the tests of the vector store."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from stores.rows import EMBEDDING, TIMESTAMP, FeatureRows, rows_schema
from stores.view import Feature, Metric, Vector, View

FLOATS = pa.list_(pa.float32())
NOON = datetime(2013, 2, 12, 12, tzinfo=UTC)
MODEL = "a-model"
RETENTION = 7 * 86_400.0


def place_view(name: str, metric: Metric = "cosine", length: int = 3) -> View:
    features = (
        Feature("state", 2, pa.string()),
        Feature("altitude", 4, pa.int64()),
        Feature("opened", 8, TIMESTAMP),
        Feature("v", 16, FLOATS),
    )
    keys = (Feature("faa", 2, pa.string()), Feature("runway", 3, pa.int32()))
    return View("places", name, name, "state", keys, features, vector=Vector("v", length, metric, ("state",)))


def place_rows(
    view: View,
    vectors: Sequence[Any] | np.ndarray,
    *,
    lsn: int = 1,
    deleted: bool = False,
    model: str | None = MODEL,
    states: Sequence[str | None] | None = None,
) -> FeatureRows:
    """Row i is of the entity (a<i>, 1): at altitude i, in the state i modulo 10."""
    count = len(vectors)

    def unless_deleted(values: Sequence[Any]) -> Sequence[Any]:
        return [None] * count if deleted else values

    columns: dict[str, Any] = {
        "faa": [f"a{i}" for i in range(count)],
        "runway": [1] * count,
        "state": unless_deleted(states or [f"s{i % 10}" for i in range(count)]),
        "altitude": unless_deleted(range(count)),
        "opened": unless_deleted([NOON + timedelta(days=i) for i in range(count)]),
        "v": unless_deleted([None if v is None else list(map(float, v)) for v in vectors]),
        "event_timestamp": [NOON] * count,
        "created_timestamp": [NOON] * count,
        "_lsn": [lsn] * count,
        "_row": [None] * count,
        "_deleted": [deleted] * count,
        "_partition": [0] * count,
        "_offset": range(count),
        "_text_hash": unless_deleted([i.to_bytes(16) for i in range(count)]),
        "_model": unless_deleted([None if v is None else model for v in vectors]),
    }
    schema = pa.schema([*rows_schema(view), *EMBEDDING])
    return FeatureRows(view, pa.table({name: pa.array(columns[name], schema.field(name).type) for name in columns}))
