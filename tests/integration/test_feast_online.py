"""The online store plug-in under the stock Feast SDK, on a real Redis and a real pgvector."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_source import PushMode
from feast.filter_models import ComparisonFilter
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Float64, Int64, Map, String, UnixTimestamp

from stores.errors import StoreRefused
from stores.feast_online import MillraceOnlineStore, MillraceOnlineStoreConfig
from stores.feast_protos import declared_keys, stored_view
from stores.online import RedisAddress, RedisOnline
from stores.rows import EMBEDDING, FeatureRows, rows_schema
from stores.vectors import PgVectors
from stores.view import View
from tests.integration.database import Database
from tests.redis_server import RedisServer

NOON = datetime(2026, 2, 12, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MODEL = "a-model"
AIRPORTS = 30
VECTORS = np.random.default_rng(3).normal(size=(AIRPORTS, 8)).astype(np.float32)

airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
gate = Entity(name="gate", join_keys=["number"], value_type=ValueType.INT64)


class Repo:
    """A feature repo in a folder: three views fed by push and by Parquet files."""

    def __init__(self, folder: Path, redis: str, database: Database) -> None:
        project = folder.name  # one database and one Redis serve all tests
        self.folder = folder
        (folder / "feature_store.yaml").write_text(
            f"project: {project}\nprovider: local\nregistry: {folder}/registry.db\n"
            "entity_key_serialization_version: 3\noffline_store:\n  type: file\n"
            "online_store:\n  type: stores.feast_online.MillraceOnlineStore\n"
            f"  connection_string: {redis}\n  vectors: {database.url}\n"
        )
        self.facts = self._view("facts", [airport], [Field(name="altitude", dtype=Int64)])
        self.texts = self._view(
            "texts",
            [airport],
            [
                Field(name="title", dtype=String),
                Field(name="rank", dtype=Float64),
                Field(name="seen", dtype=UnixTimestamp),
                _vector(),
            ],
        )
        self.gates = self._view("gates", [gate, airport], [Field(name="sign", dtype=String), _vector()])
        self.service = FeatureService(name="both", features=[self.texts[["title"]], self.facts])
        self.store = FeatureStore(repo_path=str(folder))
        self.redis = RedisOnline(RedisAddress.parse(redis), 3_600)
        self.vectors = PgVectors(database.url, 7 * 86_400)

    def apply(self) -> None:
        self.store.apply([airport, gate, self.facts, self.texts, self.gates, self.service])

    def _view(self, name: str, entities: list[Entity], fields: list[Field]) -> FeatureView:
        path = self.folder / f"{name}.parquet"
        batch = FileSource(name=f"{name}_file", path=str(path), timestamp_field="event_timestamp")
        keys = [Field(name=e.join_key, dtype=Int64 if e is gate else String) for e in entities]
        return FeatureView(
            name=name,
            entities=entities,
            ttl=timedelta(0),
            schema=[*keys, *fields],
            source=PushSource(name=f"{name}_push", batch_source=batch),
        )

    def view(self, view: FeatureView) -> View:
        """The view as the stream would write it."""
        applied = self.store.get_feature_view(view.name)
        return stored_view(self.store.config, applied, declared_keys(applied))

    def push(self, view: FeatureView, frame: pd.DataFrame) -> None:
        self.store.push(f"{view.name}_push", frame, to=PushMode.ONLINE)

    def features(self, features: Any, faa: list[str]) -> dict[str, list[Any]]:
        found = self.store.get_online_features(features, [{"faa": name} for name in faa]).to_dict()
        return dict(found)


def _vector() -> Field:
    return Field(
        name="meaning",
        dtype=Array(Float32),
        vector_index=True,
        vector_length=8,
        vector_search_metric="cosine",
        tags={"model": MODEL},
    )


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    server = RedisServer().start()
    yield server.connection_string
    server.stop()


@pytest.fixture
def repo(tmp_path: Path, redis: str, database: Database) -> Iterator[Repo]:
    made = Repo(tmp_path, redis, database)
    made.apply()
    yield made
    made.redis.close()
    made.vectors.close()
    asyncio.run(made.store.close())


def facts(altitudes: dict[str, int], time: datetime = NOON) -> pd.DataFrame:
    count = len(altitudes)
    return pd.DataFrame(
        {"faa": list(altitudes), "altitude": list(altitudes.values()), "event_timestamp": [time] * count}
    )


def texts(numbers: list[int], time: datetime = NOON, title: str = "title") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "faa": [f"a{i}" for i in numbers],
            "title": [f"{title} {i}" for i in numbers],
            "rank": [i / 2 for i in numbers],
            "seen": [NOON] * len(numbers),
            "meaning": [VECTORS[i].tolist() for i in numbers],
            "event_timestamp": [time] * len(numbers),
        }
    )


def streamed(view: View, row: dict[str, Any], lsn: int, *, deleted: bool = False) -> FeatureRows:
    """One row as the worker would write it."""
    fields = {"event_timestamp": NOON, "created_timestamp": NOON, "_lsn": lsn, "_deleted": deleted, "_model": MODEL}
    schema = rows_schema(view)
    if view.vector is not None:
        schema = pa.schema([*schema, *EMBEDDING])
    return FeatureRows(view, pa.Table.from_pylist([{**fields, **row}], schema))


def cosine_distances(query: np.ndarray) -> np.ndarray:
    return 1 - VECTORS @ query / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(query)


def test_a_service_reads_from_both_stores(repo: Repo) -> None:
    repo.push(repo.facts, facts({"a0": 100, "a1": 200}))
    repo.push(repo.texts, texts([0, 2]))
    faa = ["a1", "a0", "nowhere", "a2", "a0"]
    found = repo.features(repo.store.get_feature_service("both"), faa)
    assert found == {
        "faa": faa,
        "title": [None, "title 0", None, "title 2", "title 0"],
        "altitude": [200, 100, None, None, 100],
    }
    everything = repo.features(["texts:meaning", "texts:rank", "texts:seen", "facts:altitude"], ["a2"])
    assert everything["meaning"] == [VECTORS[2].tolist()]
    assert (everything["rank"], everything["altitude"]) == ([1.0], [None])
    assert everything["seen"][0].astimezone(UTC) == NOON


def test_the_stores_are_what_they_say(repo: Repo) -> None:
    """The vector view is in pgvector and not in Redis, the other one the other way round."""
    repo.push(repo.facts, facts({"a0": 100}))
    repo.push(repo.texts, texts([0]))
    key = pa.table({"faa": ["a0"]})
    (in_vectors,) = repo.vectors.read([repo.view(repo.texts)], key)
    assert in_vectors["title"].to_pylist() == ["title 0"]
    in_redis = repo.redis.read([repo.view(repo.facts), replace(repo.view(repo.texts), vector=None)], key)
    assert [table["_present"].to_pylist() for table in in_redis] == [[True], [False]]


def test_an_absent_entity_is_told_alike_by_both(repo: Repo) -> None:
    repo.push(repo.facts, facts({"a0": 100}))
    repo.push(repo.texts, texts([0]))
    repo.redis.write([streamed(repo.view(repo.facts), {"faa": "a0"}, 5, deleted=True)])
    repo.vectors.write([streamed(repo.view(repo.texts), {"faa": "a0", "_model": None}, 5, deleted=True)])
    response = repo.store.get_online_features(["texts:title", "facts:altitude"], [{"faa": "a0"}, {"faa": "zz"}]).proto
    names = list(response.metadata.feature_names.val)
    title, altitude = response.results[names.index("title")], response.results[names.index("altitude")]
    assert list(title.statuses) == list(altitude.statuses)
    assert list(title.event_timestamps) == list(altitude.event_timestamps)
    assert all(value.WhichOneof("val") is None for value in (*title.values, *altitude.values))


def test_asynchronous_reads(repo: Repo) -> None:
    repo.push(repo.facts, facts({"a0": 100}))
    repo.push(repo.texts, texts([0]))

    async def read() -> dict[str, list[Any]]:
        rows = [{"faa": "a0"}, {"faa": "zz"}]
        found = (await repo.store.get_online_features_async(["texts:title", "facts:altitude"], rows)).to_dict()
        await repo.store.push_async("texts_push", texts([0], NOON + HOUR, "later"), to=PushMode.ONLINE)
        return dict(found)

    found = asyncio.run(read())
    assert (found["title"], found["altitude"]) == (["title 0", None], [100, None])
    assert repo.features(["texts:title"], ["a0"])["title"] == ["later 0"]


def test_pushed_values_never_replace_newer_ones_from_the_stream(repo: Repo) -> None:
    vector = VECTORS[0].tolist()
    repo.redis.write([streamed(repo.view(repo.facts), {"faa": "a0", "altitude": 1}, 5)])
    repo.vectors.write([streamed(repo.view(repo.texts), {"faa": "a0", "title": "live", "meaning": vector}, 5)])
    for time, expected in ((NOON - HOUR, [["live"], [1]]), (NOON, [["live"], [1]]), (NOON + HOUR, [["new 0"], [7]])):
        repo.push(repo.facts, facts({"a0": 7}, time))
        repo.push(repo.texts, texts([0], time, "new"))
        found = repo.features(["texts:title", "facts:altitude"], ["a0"])
        assert [found["title"], found["altitude"]] == expected


def test_a_late_push_does_not_bring_a_deleted_row_back(repo: Repo) -> None:
    repo.redis.write([streamed(repo.view(repo.facts), {"faa": "a0"}, 5, deleted=True)])
    repo.vectors.write([streamed(repo.view(repo.texts), {"faa": "a0", "_model": None}, 5, deleted=True)])
    repo.push(repo.facts, facts({"a0": 7}, NOON - HOUR))
    repo.push(repo.texts, texts([0], NOON - HOUR))
    found = repo.features(["texts:title", "facts:altitude"], ["a0"])
    assert (found["title"], found["altitude"]) == ([None], [None])


def test_materialize(repo: Repo) -> None:
    facts({"a0": 1, "a1": 2}).to_parquet(repo.folder / "facts.parquet")
    frames = [texts(list(range(AIRPORTS)), NOON - HOUR, "old"), texts(list(range(5)), NOON, "new")]
    pd.concat(frames).to_parquet(repo.folder / "texts.parquet")
    gate_rows = {
        "number": [7],
        "faa": ["a3"],
        "sign": ["B7"],
        "meaning": [VECTORS[3].tolist()],
        "event_timestamp": [NOON],
    }
    pd.DataFrame(gate_rows).to_parquet(repo.folder / "gates.parquet")
    repo.store.materialize(NOON - 2 * HOUR, NOON + HOUR)
    found = repo.features(["texts:title", "facts:altitude"], ["a1", "a9"])
    assert (found["title"], found["altitude"]) == (["new 1", "old 9"], [2, None])
    found = repo.store.get_online_features(["gates:sign"], [{"number": 7, "faa": "a3"}]).to_dict()
    assert found["sign"] == ["B7"]


def test_documents_come_with_their_own_entities(repo: Repo) -> None:
    """Feast sorts the entity keys: rows in any other order would be given to the wrong entities."""
    numbers = list(range(AIRPORTS))
    repo.push(repo.texts, texts(numbers))
    for seed in range(5):
        query = np.random.default_rng(seed).normal(size=8).astype(np.float32)
        found = repo.store.retrieve_online_documents_v2(
            features=["texts:title", "texts:rank", "texts:meaning"], query=query.tolist(), top_k=7
        ).to_dict()
        distances = cosine_distances(query)
        assert {int(faa[1:]) for faa in found["faa"]} == set(np.argsort(distances)[:7].tolist())
        for row in range(7):
            number = int(found["faa"][row][1:])
            assert found["title"][row] == f"title {number}"
            assert found["rank"][row] == number / 2
            assert found["meaning"][row] == VECTORS[number].tolist()
            assert found["distance"][row] == pytest.approx(float(distances[number]), abs=1e-5)


def test_documents_of_composite_keys(repo: Repo) -> None:
    """Numbers of more than one digit and of either sign: the order is that of the values."""
    numbers = [9, 10, -1, 100, 2, 33, 4, -50]
    frame = pd.DataFrame(
        {
            "number": numbers,
            "faa": [f"a{i % 3}" for i in range(8)],
            "sign": [f"gate {number}" for number in numbers],
            "meaning": [VECTORS[i].tolist() for i in range(8)],
            "event_timestamp": [NOON] * 8,
        }
    )
    repo.push(repo.gates, frame)
    query = VECTORS[3]
    found = repo.store.retrieve_online_documents_v2(features=["gates:sign"], query=query.tolist(), top_k=6).to_dict()
    distances = cosine_distances(query)
    assert {numbers.index(number) for number in found["number"]} == set(np.argsort(distances[:8])[:6].tolist())
    for number, faa, sign, distance in zip(*(found[n] for n in ("number", "faa", "sign", "distance")), strict=True):
        place = numbers.index(number)
        assert (sign, faa) == (f"gate {number}", f"a{place % 3}")
        assert distance == pytest.approx(float(distances[place]), abs=1e-5)


def test_documents_are_filtered(repo: Repo) -> None:
    repo.push(repo.texts, texts(list(range(AIRPORTS))))
    found = repo.store.retrieve_online_documents_v2(
        features=["texts:title"],
        query=VECTORS[0].tolist(),
        top_k=5,
        filters=ComparisonFilter(type="in", key="title", value=["title 7", "title 9"]),
    ).to_dict()
    assert sorted(found["title"]) == ["title 7", "title 9"]
    nothing = repo.store.retrieve_online_documents_v2(
        features=["texts:title"],
        query=VECTORS[0].tolist(),
        top_k=5,
        filters=ComparisonFilter(type="eq", key="title", value="no such"),
    ).to_dict()
    assert nothing == {"title": [], "distance": []}


def test_documents_in_the_first_version_of_the_call(repo: Repo) -> None:
    repo.push(repo.texts, texts(list(range(AIRPORTS))))
    query = VECTORS[4]
    found = repo.store.retrieve_online_documents(
        query=query.tolist(), top_k=3, features=["texts:meaning", "texts:faa", "texts:distance"]
    ).to_dict()
    nearest = np.argsort(cosine_distances(query))[:3]
    assert found["meaning"] == [VECTORS[i].tolist() for i in nearest]
    assert found["faa"] == [f"a{i}" for i in nearest]
    assert found["distance"] == pytest.approx(cosine_distances(query)[nearest].tolist(), abs=1e-5)


def test_what_search_does_not_do(repo: Repo) -> None:
    with pytest.raises(ValueError, match="no keyword search here"):
        repo.store.retrieve_online_documents_v2(features=["texts:title"], query_string="word", top_k=1)
    with pytest.raises(ValueError, match="view facts has no vector field"):
        repo.store.retrieve_online_documents_v2(features=["facts:altitude"], query=[0.0] * 8, top_k=1)


def test_a_view_that_is_deleted_is_dropped(repo: Repo) -> None:
    repo.push(repo.facts, facts({"a0": 100}))
    repo.push(repo.texts, texts([0]))
    kept, facts_view, texts_view = repo.view(repo.gates), repo.view(repo.facts), repo.view(repo.texts)
    repo.store.apply([], objects_to_delete=[repo.service, repo.facts, repo.texts], partial=False)
    (read,) = repo.redis.read([facts_view], pa.table({"faa": ["a0"]}))
    assert read["_present"].to_pylist() == [False]
    with pytest.raises(StoreRefused, match="no table yet"):
        repo.vectors.model(texts_view)
    assert repo.vectors.model(kept) == MODEL


def test_teardown(repo: Repo) -> None:
    repo.push(repo.facts, facts({"a0": 100}))
    views = [repo.view(repo.texts), repo.view(repo.gates)]
    facts_view = repo.view(repo.facts)
    repo.store.teardown()
    for view in views:
        with pytest.raises(StoreRefused, match="no table yet"):
            repo.vectors.model(view)
    (read,) = repo.redis.read([facts_view], pa.table({"faa": ["a0"]}))
    assert read["_present"].to_pylist() == [False]


def test_views_without_a_column_form_go_by_feasts_own_code(repo: Repo) -> None:
    odd = repo._view("odd", [airport], [Field(name="counts", dtype=Map)])
    repo.store.apply([odd])
    frame = pd.DataFrame({"faa": ["a0"], "counts": [{"x": "1"}], "event_timestamp": [NOON]})
    repo.push(odd, frame)
    assert repo.features(["odd:counts"], ["a0"])["counts"] == [{"x": "1"}]


def test_what_feast_precomputes_for_a_service(repo: Repo) -> None:
    """It stands in a view that Feast makes up, without entities but with entity keys."""
    repo.push(repo.facts, facts({"a0": 1}))
    config, store = repo.store.config, MillraceOnlineStore()
    key = EntityKey(join_keys=["faa"], entity_values=[Value(string_val="a0")])
    store.write_precomputed_vector(config, "both", repo.store.project, key, b"a blob")
    other = EntityKey(join_keys=["faa"], entity_values=[Value(string_val="a1")])
    assert store.read_precomputed_vectors(config, "both", repo.store.project, [key, other]) == [b"a blob", None]
    assert repo.features(["facts:altitude"], ["a0"])["altitude"] == [1]


def test_a_view_whose_model_nobody_names(repo: Repo) -> None:
    unnamed = _vector()
    unnamed.tags = {}
    view = repo._view("unnamed", [airport], [Field(name="title", dtype=String), unnamed])
    repo.store.apply([view])
    row = texts([0])[["faa", "title", "meaning", "event_timestamp"]]
    with pytest.raises(StoreRefused, match="no table yet, run `millrace apply`"):
        repo.push(view, row)
    repo.vectors.create(repo.view(view), MODEL)
    with pytest.raises(StoreRefused, match="tag the vector field with its `model`"):
        repo.push(view, row)


def test_a_vector_view_needs_a_vector_store(tmp_path: Path, redis: str, database: Database) -> None:
    made = Repo(tmp_path, redis, database)
    yaml = tmp_path / "feature_store.yaml"
    yaml.write_text("\n".join(line for line in yaml.read_text().splitlines() if "vectors:" not in line))
    made.store = FeatureStore(repo_path=str(tmp_path))
    with pytest.raises(StoreRefused, match=r"add online_store\.vectors: a PostgreSQL URL"):
        made.apply()


def test_settings_that_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="key_ttl_seconds would forget"):
        MillraceOnlineStoreConfig(key_ttl_seconds=5)
    with pytest.raises(ValueError, match="single Redis"):
        MillraceOnlineStoreConfig(redis_type="redis_cluster")


def test_feast_takes_it_for_a_redis_store() -> None:
    """Versioned views, and whatever else Feast allows its Redis store alone."""
    assert MillraceOnlineStore()._is_versioned_read_supported()


def test_an_aliased_view_has_the_values_of_its_own_key(repo: Repo) -> None:
    """Whatever the order of the keys in the row that asks; a plain view and one with a vector."""
    repo.push(repo.facts, facts({"a0": 100, "a1": 200}))
    repo.push(repo.texts, texts([0, 1]))
    origin = [repo.facts.with_name("origin"), repo.texts[["title"]].with_name("origin_text")]
    dest = [
        repo.facts.with_name("dest").with_join_key_map({"faa": "d"}),
        repo.texts[["title"]].with_name("dest_text").with_join_key_map({"faa": "d"}),
    ]
    repo.store.apply([FeatureService(name="flight", features=[*origin, *dest])])
    service = repo.store.get_feature_service("flight")
    expected = {
        "origin__altitude": [100],
        "dest__altitude": [200],
        "origin_text__title": ["title 0"],
        "dest_text__title": ["title 1"],
    }
    rows = [{"faa": "a0", "d": "a1"}, {"d": "a1", "faa": "a0"}]

    async def later() -> list[dict[str, list[Any]]]:
        ask = repo.store.get_online_features_async
        return [dict((await ask(service, [row], full_feature_names=True)).to_dict()) for row in rows]

    found = [dict(repo.store.get_online_features(service, [row], full_feature_names=True).to_dict()) for row in rows]
    for answer in [*found, *asyncio.run(later())]:
        assert {name: answer[name] for name in expected} == expected


@pytest.mark.parametrize("setting", ["key_ttl_seconds: 5", "redis_type: redis_cluster"])
def test_a_setting_that_is_refused_does_not_show_the_password(tmp_path: Path, setting: str) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store:\n  type: stores.feast_online.MillraceOnlineStore\n  {setting}\n"
        "  vectors: postgresql://u:s3cr3t@h/v\n  connection_string: h:6379,password=s3cr3t\n"
    )
    with pytest.raises(Exception, match="online_store: ") as refused:
        FeatureStore(repo_path=str(tmp_path))
    assert "s3cr3t" not in str(refused.value)
