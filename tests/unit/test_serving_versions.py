"""Older versions of views, which an SQL registry is asked for: others do not wait for it."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.registry.sql import SqlRegistry
from feast.types import Int64
from sqlalchemy.exc import OperationalError

from serving.access import OpenAccess
from serving.applied import Applied
from serving.aside import Aside
from serving.http import GetOnlineFeatures, Seen
from serving.refusals import refusal
from serving.request import RequestLimits
from stores.errors import StoreUnavailable
from tests.unit.online_features import Connected, online_features


class Redis(Connected):
    """Has nothing of any entity."""

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        return [[None, None]] * len(commands)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> GetOnlineFeatures:
    """Of a view of two versions."""
    folder: Path = tmp_path_factory.mktemp("versions")
    config = RepoConfig(
        project="shop",
        provider="local",
        registry={
            "registry_type": "sql",
            "path": f"sqlite:///{folder}/registry.sqlite",
            "enable_online_feature_view_versioning": True,
        },
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    )
    item = Entity(name="item", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")
    for names in (["size"], ["size", "weight"]):
        fields = [Field(name=name, dtype=Int64) for name in names]
        FeatureStore(config=config).apply(
            [item, FeatureView(name="items", entities=[item], schema=fields, source=source)]
        )
    registry: Any = SimpleNamespace(current=Applied(config).take())
    return GetOnlineFeatures(registry, online_features(Redis()), OpenAccess(), RequestLimits(), Aside("versions", 1, 1))


def body(feature: str) -> bytes:
    return orjson.dumps({"features": [feature], "entities": {"id": [1]}})


def test_a_request_is_answered_while_another_waits_for_a_version(
    features: GetOnlineFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answers = threading.Event(), threading.Event()
    found = SqlRegistry.get_feature_view_by_version

    def slow(self: SqlRegistry, *asked: Any) -> Any:
        begun.set()
        answers.wait(5)  # seconds: it comes sooner, unless the event loop waits here
        return found(self, *asked)

    monkeypatch.setattr(SqlRegistry, "get_feature_view_by_version", slow)

    async def both() -> bytes:
        versioned = asyncio.create_task(features(body("items@v0:size"), "", Seen()))
        assert await asyncio.to_thread(begun.wait, 10)
        plain = await features(body("items:weight"), "", Seen())
        assert orjson.loads(plain)["metadata"]["feature_names"] == ["id", "weight"]
        assert not versioned.done()
        answers.set()
        return await versioned

    assert orjson.loads(asyncio.run(both()))["metadata"]["feature_names"] == ["id", "size"]


def test_a_registry_that_is_away_is_said_to_be(features: GetOnlineFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: SqlRegistry, *asked: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(SqlRegistry, "get_feature_view_by_version", away)
    with pytest.raises(StoreUnavailable) as raised:
        asyncio.run(features(body("items@v1:weight"), "", Seen()))
    assert refusal(raised.value).status == 503
