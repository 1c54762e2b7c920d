"""Feast objects of every kind that is served."""

from datetime import timedelta
from typing import Any

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, RequestSource, ValueType
from feast.data_source import PushSource
from feast.labeling.label_view import LabelView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int32, Int64, String, UnixTimestamp

from tests.integration.serving_types import TYPES

APPLIED = (Entity, FeatureView, FeatureService, LabelView, OnDemandFeatureView)

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
flight = Entity(name="flight", join_keys=["flight"], value_type=ValueType.INT64)


def source(name: str) -> FileSource:
    return FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp")


ORIGIN, FLIGHT = Field(name="origin", dtype=String), Field(name="flight", dtype=Int64)

weather = FeatureView(
    name="weather",
    entities=[origin],
    ttl=timedelta(hours=1),
    schema=[
        ORIGIN,
        Field(name="temp", dtype=Float64),
        Field(name="wind", dtype=Int64),
        Field(name="sky", dtype=String),
    ],
    source=source("weather"),
)
airports = FeatureView(
    name="airports",
    entities=[origin],
    ttl=timedelta(0),
    schema=[ORIGIN, Field(name="name", dtype=String, tags={"personal": "true"})],
    source=source("airports"),
)
routes = FeatureView(
    name="routes",
    entities=[origin, flight],
    ttl=timedelta(0),
    schema=[ORIGIN, FLIGHT, Field(name="delay", dtype=Float64)],
    source=source("routes"),
)
cabins = FeatureView(
    name="cabins",
    entities=[flight],
    ttl=timedelta(0),
    schema=[FLIGHT, Field(name="temp", dtype=Float64), Field(name="seats", dtype=Int64)],
    source=source("cabins"),
)
totals = FeatureView(
    name="totals", entities=[], ttl=timedelta(0), schema=[Field(name="flights", dtype=Int64)], source=source("totals")
)

item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT32)
types = FeatureView(
    name="types",
    entities=[item],
    ttl=timedelta(0),
    schema=[Field(name="item", dtype=Int32), *(Field(name=name, dtype=dtype) for name, dtype in TYPES.items())],
    source=source("types"),
)

line = Entity(name="line", join_keys=["carrier"], value_type=ValueType.STRING)
lines = FeatureView(
    name="lines",
    entities=[line],
    ttl=timedelta(0),
    schema=[Field(name="carrier", dtype=String), Field(name="planes", dtype=Int64)],
    source=source("lines"),
)

seen = Entity(name="seen", join_keys=["seen"], value_type=ValueType.UNIX_TIMESTAMP)
moments = FeatureView(
    name="moments",
    entities=[seen, item],
    ttl=timedelta(0),
    schema=[Field(name="seen", dtype=UnixTimestamp), Field(name="item", dtype=Int32), Field(name="count", dtype=Int64)],
    source=source("moments"),
)

ratings = LabelView(
    name="ratings",
    entities=[origin],
    schema=[ORIGIN, Field(name="stars", dtype=Int64), Field(name="labeler", dtype=String)],
    source=PushSource(name="rated", batch_source=source("ratings")),
)


def fares_of(*features: str) -> FeatureView:
    """A view with those features: applied twice with others, it has two versions."""
    return FeatureView(
        name="fares",
        entities=[origin],
        ttl=timedelta(0),
        schema=[ORIGIN, *(Field(name=name, dtype=Float64) for name in features)],
        source=source("fares"),
    )


fares = fares_of("fare", "tax")

asked = RequestSource(name="asked", schema=[Field(name="offset", dtype=Float64)])


@on_demand_feature_view(
    sources=[weather, asked], schema=[Field(name="felt", dtype=Float64)], mode="python", name="felt_python"
)
def felt_python(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "felt": [
            None if temp is None else temp + offset
            for temp, offset in zip(inputs["temp"], inputs["offset"], strict=True)
        ]
    }


@on_demand_feature_view(
    sources=[weather, asked], schema=[Field(name="felt_twice", dtype=Float64)], mode="pandas", name="felt_pandas"
)
def felt_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
    frame = pd.DataFrame()
    frame["felt_twice"] = inputs["temp"] * 2 + inputs["offset"]
    return frame


@on_demand_feature_view(sources=[cabins], schema=[Field(name="rows", dtype=Int64)], mode="python", name="cabin_rows")
def cabin_rows(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"rows": [None if seats is None else seats // 6 for seats in inputs["seats"]]}


@on_demand_feature_view(
    sources=[cabins], schema=[Field(name="kelvin", dtype=Float64)], mode="pandas", name="cabin_kelvin"
)
def cabin_kelvin(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"kelvin": inputs["temp"] + 273})


SAME = [Field(name="temp", dtype=Float64), Field(name="colder", dtype=Float64)]
"""One of them is called as what the functions read."""


@on_demand_feature_view(sources=[cabins], schema=SAME, mode="python", name="cabin_same_python")
def cabin_same_python(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"temp": [t and 2 * t for t in inputs["temp"]], "colder": [t and t - 1 for t in inputs["temp"]]}


@on_demand_feature_view(sources=[cabins], schema=SAME, mode="pandas", name="cabin_same_pandas")
def cabin_same_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"temp": 2 * inputs["temp"], "colder": inputs["temp"] - 1})


@on_demand_feature_view(
    sources=[cabins, weather], schema=[Field(name="difference", dtype=Float64)], mode="python", name="outside"
)
def outside(inputs: dict[str, Any]) -> dict[str, Any]:
    both = zip(inputs["weather__temp"], inputs["cabins__temp"], strict=True)
    return {"difference": [None if None in (there, here) else there - here for there, here in both]}


@on_demand_feature_view(
    sources=[cabins], schema=[Field(name="endless", dtype=Float64)], mode="python", name="cabin_endless"
)
def cabin_endless(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"endless": [t and (t if t < 20 else float("inf")) for t in inputs["temp"]]}


def raised_before() -> OnDemandFeatureView:
    """The earlier version of `raised`."""

    @on_demand_feature_view(sources=[asked], schema=[Field(name="raised", dtype=Float64)], mode="python", name="raised")
    def before(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"raised": [offset + 1 for offset in inputs["offset"]]}

    return before


@on_demand_feature_view(
    sources=[asked],
    schema=[Field(name="raised", dtype=Float64), Field(name="doubled", dtype=Float64)],
    mode="python",
    name="raised",
)
def raised(inputs: dict[str, Any]) -> dict[str, Any]:
    offsets = inputs["offset"]
    return {"raised": [offset + 100 for offset in offsets], "doubled": [2 * offset for offset in offsets]}


departure = FeatureService(name="departure", features=[weather[["temp", "sky"]], airports])
both_ends = FeatureService(
    name="both_ends",
    features=[
        weather[["temp"]].with_name("weather_from").with_join_key_map({"origin": "from"}),
        weather[["temp"]].with_name("weather_to").with_join_key_map({"origin": "to"}),
    ],
)
felt = FeatureService(name="felt", features=[weather[["temp"]], felt_python, felt_pandas])
