"""Slow vector work beside plain requests: the plain ones keep their places, and what is too much is told so at once."""

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    RequestSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Int64, String

from serving.access import OpenAccess
from serving.aside import Aside
from serving.audit import NoAudit
from serving.counts import Counts
from serving.documents import RetrieveOnlineDocuments
from serving.features import OnlineFeatures
from serving.gate import Gate, Overloaded
from serving.http import Application, Beside, GetOnlineFeatures, HttpLimits, Post
from serving.request import RequestLimits
from serving.scales import Scales
from serving.search import Texts
from serving.snapshot import Snapshot
from stores.view import View
from tests.asked import NO_SITE, Asked
from tests.unit.charged_access import Charged
from tests.unit.local_feast import local_feast
from tests.unit.online_features import Connected

CONCURRENCY = 4
PLAIN = orjson.dumps({"features": ["plain:size"], "entities": {"faa": ["JFK"]}})
WITH_VECTORS = orjson.dumps({"features": ["texts:size"], "entities": {"faa": ["JFK"]}})
COMPUTING = threading.Event()
"""What the function of the view `computed` waits for."""
COMPUTED = orjson.dumps({"features": ["computed:twice"], "entities": {"n": [1]}})
BY_VECTOR = orjson.dumps({"features": ["texts:size"], "query": [1.0, 0.0]})
BY_TEXT = orjson.dumps({"features": ["texts:size"], "query_string": "a lake"})


def computing_view() -> OnDemandFeatureView:
    asked = RequestSource(name="asked", schema=[Field(name="n", dtype=Int64)])

    @on_demand_feature_view(sources=[asked], schema=[Field(name="twice", dtype=Int64)], mode="python", name="computed")
    def computed(inputs: dict[str, Any]) -> dict[str, Any]:
        from tests.unit import test_serving_aside

        test_serving_aside.COMPUTING.wait(30)
        return {"twice": [2 * n for n in inputs["n"]]}

    return computed


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    config = local_feast(tmp_path_factory.mktemp("aside"))
    config.online_store.__dict__["vectors"] = "postgresql://nowhere"
    airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    plain = [Field(name="faa", dtype=String), Field(name="size", dtype=Int64)]
    vector = Field(name="v", dtype=Array(Float32), vector_index=True, vector_length=2)
    store = FeatureStore(config=config)
    COMPUTING.set()  # apply tries the function
    store.apply(
        [
            airport,
            FeatureView(name="plain", entities=[airport], schema=plain, source=source),
            FeatureView(name="texts", entities=[airport], schema=[*plain, vector], source=source),
            computing_view(),
        ]
    )
    return Snapshot(config, store.registry)


class Hung:
    """A vector store and a model of texts that answer nothing until `released`, and have nothing then."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def search(self, view: View, *rest: Any) -> pa.Table:
        self.released.wait(30)
        names = ["distance", *(key.name for key in view.join_keys), *rest[-1], "event_timestamp"]
        return pa.table({name: pa.array([], pa.timestamp("us", "UTC") if "event" in name else None) for name in names})

    def read(self, views: list[View], keys: pa.Table) -> list[pa.Table]:
        self.released.wait(30)
        (view,) = views
        columns = {feature.name: pa.nulls(len(keys), feature.arrow_type) for feature in view.features}
        moments = pa.nulls(len(keys), pa.timestamp("us", "UTC"))
        return [pa.table({"_present": [False] * len(keys), "event_timestamp": moments, **columns})]


class HungModel:
    """As `serving.search.TextModel`."""

    model = "small"

    def __init__(self, hung: Hung) -> None:
        self.hung = hung

    def embed(self, texts: Any) -> np.ndarray:
        self.hung.released.wait(30)
        return np.ones((1, 2))


class Redis(Connected):
    """Has nothing of any entity, and says so once it `answers`."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def read(self, commands: Any) -> list[Any]:
        await self.answers.wait()
        return [[None, None]] * len(commands)


Ask = Callable[[str, bytes], "asyncio.Task[tuple[int, dict[str, str], Any]]"]


def server(snapshot: Snapshot, hung: Hung, access: OpenAccess, redis: Redis | None = None) -> Ask:
    index: Any = SimpleNamespace(search=hung.search, read=hung.read, model=lambda view: "small")
    registry: Any = SimpleNamespace(current=snapshot)
    vectors, limits = Aside("vectors", 8, CONCURRENCY // 4), RequestLimits()
    texts = Texts(HungModel(hung), Aside("texts", 4, CONCURRENCY // 4))
    functions = Aside("on-demand views", 1, CONCURRENCY // 4)
    cells = Scales("large requests", 100 * CONCURRENCY, CONCURRENCY, 0)
    answering = OnlineFeatures(redis or Redis(), index, vectors, functions, cells, 1_000)
    features = GetOnlineFeatures(registry, answering, access, limits, Aside("versions", 1, 1))
    search = RetrieveOnlineDocuments(registry, index, texts, access, limits, vectors, cells)
    beside: Any = Beside(registry, SimpleNamespace(), access, NoAudit())
    posts: dict[str, Post] = {"/get-online-features": features, "/search": search}
    gate, bodies, counts = Gate(CONCURRENCY, 0), Scales("large bodies", 1 << 20, 1, 0), Counts(1).claim()
    answers = Scales("large answers", 1 << 20, 1, 0)
    application = Application(posts, {}, {}, gate, bodies, answers, HttpLimits(), counts, NoAudit(), beside, NO_SITE)

    async def asked(path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        answer = (await Asked("POST", path, body).of(application)).answer
        assert answer is not None
        return answer.status, dict(answer.headers), orjson.loads(answer.body)

    return lambda path, body: asyncio.create_task(asked(path, body))


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/search", BY_VECTOR, "vectors"),
        ("/search", BY_TEXT, "texts"),
        ("/get-online-features", WITH_VECTORS, "vectors"),
        ("/get-online-features", COMPUTED, "on-demand views"),
    ],
)
def test_plain_requests_are_answered_while_more_slow_work_hangs_than_there_are_places(
    snapshot: Snapshot, path: str, body: bytes, what: str
) -> None:
    async def scene() -> None:
        hung, access = Hung(), Charged()
        COMPUTING.clear()
        ask = server(snapshot, hung, access)
        slow = [ask(path, body) for _ in range(2 * CONCURRENCY)]
        try:
            await asyncio.sleep(0.1)
            refused = [await one for one in slow if one.done()]
            assert len(refused) == 2 * CONCURRENCY - 1
            for status, headers, answer in refused:
                assert (status, headers["retry-after"], answer["error"]) == (503, "1", "overloaded")
                assert what in answer["detail"]
            assert access.requests == 1  # what there was no room for costs its key nothing
            async with asyncio.timeout(1):
                assert (await ask("/get-online-features", PLAIN))[0] == 200
        finally:
            hung.released.set()
            COMPUTING.set()
        (answered,) = [one for one in slow if not one.done()]
        assert (await answered)[0] == 200
        assert (await ask(path, body))[0] == 200

    asyncio.run(scene())


def test_what_finds_no_room_for_vectors_costs_its_key_nothing_however_slow_the_rest_is(snapshot: Snapshot) -> None:
    asked = {"features": ["plain:size", "texts:size"], "entities": {"faa": ["JFK"]}, "full_feature_names": True}
    both = orjson.dumps(asked)

    async def scene() -> None:
        hung, access, redis = Hung(), Charged(), Redis()
        hung.released.set()
        redis.answers.clear()
        ask = server(snapshot, hung, access, redis)
        asking = [ask("/get-online-features", both) for _ in range(2)]
        await asyncio.sleep(0)  # until both wait for a store
        redis.answers.set()
        statuses = [status for status, _, _ in await asyncio.gather(*asking)]
        assert sorted(statuses) == [200, 503]
        assert access.entities == [1]

    asyncio.run(scene())


def test_so_much_work_runs_so_much_waits_and_the_rest_is_turned_away() -> None:
    async def scene() -> None:
        aside, released = Aside("vectors", 1, 2), threading.Event()
        working = [asyncio.create_task(aside.run(released.wait, 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="vectors"):
            aside.look()
        with pytest.raises(Overloaded):
            await aside.run(released.wait, 30)
        released.set()
        assert await asyncio.gather(*working) == [True, True]
        aside.look()

    asyncio.run(scene())
