"""Bodies of searches that no store is asked for."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from serving.access import OpenAccess
from serving.aside import Aside
from serving.documents import RetrieveOnlineDocuments
from serving.http import Seen
from serving.plan import InvalidRequest
from serving.request import RequestLimits, TooLarge
from serving.snapshot import Snapshot
from tests.unit.local_feast import local_feast


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("texts")
    config = local_feast(folder)
    fields = [
        Field(name="faa", dtype=String),
        Field(name="size", dtype=Int64),
        Field(name="v", dtype=Array(Float32), vector_index=True, vector_length=2),
    ]
    airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    store = FeatureStore(config=config)
    store.apply([airport, FeatureView(name="texts", entities=[airport], schema=fields, source=source)])
    return Snapshot(config, store.registry)


def search(snapshot: Snapshot, filters: Any) -> None:
    """Comes to the search itself, which has no store here, unless it is refused before."""
    registry: Any = SimpleNamespace(current=snapshot)
    documents = RetrieveOnlineDocuments(registry, None, None, OpenAccess(), RequestLimits(), Aside("vectors", 1, 1))
    body = json.dumps({"features": ["texts:size"], "query": [1.0, 0.0], "filters": filters}).encode()
    asyncio.run(documents(body, "", Seen()))


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"type": "and", "filters": [inner]}
    return inner


SIZE = {"type": "eq", "key": "size", "value": 1}
LIST = {"type": "in", "key": "size", "value": [[1], [2]]}


@pytest.mark.parametrize(
    "filters",
    [
        nested(16, SIZE),
        nested(16, LIST),
        {"type": "in", "key": "size", "value": list(range(1_000))},
        {"type": "or", "filters": [SIZE] * 999},
    ],
)
def test_filters_up_to_the_bounds_are_searched_by(snapshot: Snapshot, filters: Any) -> None:
    with pytest.raises(InvalidRequest, match="no vector store"):
        search(snapshot, filters)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (nested(17, LIST), "at most 16"),
        (nested(160, SIZE), "at most 16"),
        (nested(250, SIZE), "at most 16"),
        ({"type": "eq", "key": "size", "value": json.loads("[" * 500 + "]" * 500)}, "at most 16"),
        ({"type": "in", "key": "size", "value": list(range(1_001))}, "at most 1000"),
        ({"type": "in", "key": "size", "value": [0] * 70_000}, "at most 1000"),
        ({"type": "or", "filters": [SIZE] * 1_000}, "at most 1000"),
        ({"type": "or", "filters": [{"type": "and", "filters": []}] * 1_000}, "at most 1000"),
    ],
)
def test_filters_beyond_the_bounds_are_not(snapshot: Snapshot, filters: Any, said: str) -> None:
    with pytest.raises(TooLarge, match=said):
        search(snapshot, filters)
