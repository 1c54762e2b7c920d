"""`millrace.client` against `feast serve` itself, on a real Redis."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Float64, Int64, String

from millrace.client import AsyncClient, Client, InvalidRequest, Status
from tests.feast_server import feast_repo, feast_serve
from tests.redis_server import RedisServer

AT = datetime(2013, 2, 12, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("feast")
    airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
    weather = FeatureView(
        name="weather",
        entities=[airport],
        schema=[
            Field(name="temp", dtype=Float64),
            Field(name="gusts", dtype=Array(Float64)),
            Field(name="count", dtype=Int64),
            Field(name="rain", dtype=Bool),
            Field(name="sky", dtype=String),
        ],
        ttl=timedelta(0),
        source=FileSource(name="weather_source", path="nowhere.parquet", timestamp_field="event_timestamp"),
    )
    server = RedisServer().start()
    service = FeatureService(name="delays", features=[weather[["temp", "sky"]]])
    store = feast_repo(folder, server.connection_string, [airport, weather, service])
    rows = {
        "faa": ["JFK", "EWR"],
        "temp": [39.5, np.inf],
        "gusts": [[1.5, 2.5], [0.0]],
        "count": [2**53 + 1, 1],
        "rain": [True, False],
        "sky": ["clear", "NaN"],
        "event_timestamp": [AT, AT],
    }
    store.write_to_online_store("weather", pd.DataFrame(rows))
    with feast_serve(folder) as running:
        yield running
    server.stop()


def test_features_of_every_kind(url: str) -> None:
    names = ["temp", "gusts", "count", "rain", "sky"]
    with Client(url, timeout=30) as client:
        found = client.get_online_features(
            [f"weather:{name}" for name in names], entities={"faa": ["JFK", "EWR", "XXX"]}
        )
    assert found.to_dict() == {
        "faa": ["JFK", "EWR", "XXX"],
        "temp": [39.5, np.inf, None],
        "gusts": [[1.5, 2.5], [0.0], None],
        "count": [2**53 + 1, 1, None],
        "rain": [True, False, None],
        "sky": ["clear", "NaN", None],
    }
    assert found.statuses["temp"][:2] == [Status.PRESENT, Status.PRESENT]
    assert found.event_timestamps["temp"] == [AT, AT, None]
    np.testing.assert_array_equal(found.to_numpy(["temp", "rain"]), [[39.5, 1], [np.inf, 0], [np.nan, np.nan]])
    assert found.to_arrow()["count"].to_pylist() == [2**53 + 1, 1, None]


def test_a_feature_service_with_full_names_async(url: str) -> None:
    async def ask() -> dict[str, list[object]]:
        async with AsyncClient(url, timeout=30) as client:
            many = [
                client.get_online_features(
                    feature_service="delays",
                    entities={"faa": pd.Series(["JFK"])},
                    full_feature_names=True,
                )
                for _ in range(5)
            ]
            return (await asyncio.gather(*many))[-1].to_dict()

    assert asyncio.run(ask()) == {"faa": ["JFK"], "weather__temp": [39.5], "weather__sky": ["clear"]}


def test_feasts_own_words_about_a_mistake(url: str) -> None:
    with Client(url, timeout=30) as client, pytest.raises(InvalidRequest, match="nowhere"):
        client.get_online_features(["nowhere:temp"], entities={"faa": ["JFK"]})
