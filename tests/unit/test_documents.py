"""Bodies of searches that no store is asked for."""

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from serving.access import Caller, OpenAccess
from serving.aside import Aside
from serving.console import look_up
from serving.documents import RetrieveOnlineDocuments
from serving.gate import Overloaded
from serving.http import Seen
from serving.plan import InvalidRequest, NotDeclared
from serving.request import RequestLimits, TooLarge
from serving.scales import Scales
from serving.snapshot import Snapshot
from stores.errors import TooMuch
from stores.view import View
from tests.unit.charged_access import Charged
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
    texts = FeatureView(name="texts", entities=[airport], schema=fields, source=source)
    sizes = FeatureView(name="sizes", entities=[airport], schema=fields[:2], source=source)
    store.apply([airport, texts, sizes])
    return Snapshot(config, store.registry)


def search(snapshot: Snapshot, filters: Any) -> None:
    """Comes to the search itself, which has no store here, unless it is refused before."""
    ask(snapshot, None, filters=filters)


def ask(snapshot: Snapshot, index: Any, access: OpenAccess | None = None, taken: int = 0, **asked: Any) -> Any:
    """The answer to a search of a server that reads 1,000 values at once, of which so many are `taken`."""
    registry: Any = SimpleNamespace(current=snapshot)
    cells, limits, aside = Scales("large requests", 1_000, 10, 0), RequestLimits(cells=900), Aside("vectors", 1, 1)
    documents = RetrieveOnlineDocuments(registry, index, None, access or OpenAccess(), limits, aside, cells)
    body = json.dumps({"features": ["texts:size"], "query": [1.0, 0.0], **asked}).encode()

    async def asking() -> bytes:
        await cells.enter(taken)
        return await documents(body, "", Seen())

    return json.loads(asyncio.run(asking()))


class Index:
    """Holds as many airports as are asked for."""

    def search(self, view: View, vector: Any, top_k: int, filters: Any, features: Sequence[str]) -> pa.Table:
        names = [f"a{number}" for number in range(top_k)]
        found = {"faa": names, "event_timestamp": pa.array([0] * top_k, pa.timestamp("us", "UTC")), "size": [7] * top_k}
        found |= {"v": pa.array([[0.5, 0.5]] * top_k, pa.list_(pa.float32())), "distance": [0.5] * top_k}
        return pa.table({name: found[name] for name in ("faa", *features, "event_timestamp", "distance")})


class Full:
    """Holds more than is read at once."""

    def search(self, *asked: Any) -> pa.Table:
        raise TooMuch("view texts: more than is read at once")


def test_a_feature_that_is_asked_for_twice_is_answered_once(snapshot: Snapshot) -> None:
    """Else an answer is as many times as large as its longest text, as it is named often."""
    answer = ask(snapshot, Index(), features=["texts:size"] * 900, top_k=2)
    assert answer["metadata"]["feature_names"] == ["size", "distance", "faa"]
    assert [result["values"] for result in answer["results"]] == [[7, 7], [0.5, 0.5], ["a0", "a1"]]


def test_a_search_is_for_so_many_values_at_most(snapshot: Snapshot) -> None:
    both = ["texts:size", "texts:v"]
    assert len(ask(snapshot, Index(), features=both, top_k=300)["results"][0]["values"]) == 300
    with pytest.raises(TooLarge, match=r"301 entities reads 903 values .* at most 900 .* fewer \(top_k\)"):
        ask(snapshot, Index(), features=both, top_k=301)


def test_a_search_whose_texts_are_too_long_together_is_told_to_ask_for_fewer(snapshot: Snapshot) -> None:
    with pytest.raises(TooLarge, match=r"more than is read at once: search for fewer \(top_k\)"):
        ask(snapshot, Full())


def test_the_console_refuses_as_the_api_does(snapshot: Snapshot) -> None:
    caller = Caller("anonymous", personal=True)
    with pytest.raises(NotDeclared, match="'sizes' has no vector field"):
        ask(snapshot, Index(), features=["sizes:size"])
    with pytest.raises(NotDeclared, match="'sizes' has no vector field"):
        look_up.searched(snapshot, caller, "sizes", "a text")
    wanted = look_up.searched(snapshot, caller, "texts", "a text")
    with pytest.raises(TooLarge, match=r"more than is read at once: search for fewer \(top_k\)"):
        look_up.search(Full(), wanted, [1.0, 0.0], 5, 0.0)  # type: ignore[arg-type]  # it holds nothing


def test_a_large_search_is_weighed_with_what_else_is_read_and_a_small_one_passes(snapshot: Snapshot) -> None:
    access = Charged()
    with pytest.raises(Overloaded):
        ask(snapshot, Index(), access, taken=900, top_k=101)
    assert access.entities == []
    ask(snapshot, Index(), access, taken=900, top_k=100)
    assert access.entities == [1]


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
