"""The flights of New York, 2013: what is captured, and which features are made of it."""

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from millrace.declare import cdc_source

airport = Entity(name="airport", join_keys=["faa"], value_type=ValueType.STRING)
plane = Entity(name="plane", join_keys=["tailnum"], value_type=ValueType.STRING)

airports = cdc_source("nyc.public.airports")
planes = cdc_source("nyc.public.planes")
weather = cdc_source(
    "nyc.public.weather",
    event_time="time_hour",
    field_mapping={"origin": "faa", "wind_speed": "wind"},
)
flights = cdc_source("nyc.public.flights", event_time="updated_at")

# A state view: the key is the table's primary key, a row is an entity.
airport_facts = FeatureView(
    name="airport_facts",
    entities=[airport],
    source=airports,
    schema=[
        Field(name="faa", dtype=String),
        Field(name="name", dtype=String),
        Field(name="lat", dtype=Float64),
        Field(name="lon", dtype=Float64),
        Field(name="alt", dtype=Int64),
        Field(name="tzone", dtype=String),
    ],
)

plane_facts = FeatureView(
    name="plane_facts",
    entities=[plane],
    source=planes,
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="year", dtype=Int32),
        Field(name="manufacturer", dtype=String),
        Field(name="model", dtype=String),
        Field(name="engines", dtype=Int32),
        Field(name="seats", dtype=Int32),
    ],
)

# An event view: many rows an entity, the newest is its value.
weather_now = FeatureView(
    name="weather_now",
    entities=[airport],
    source=weather,
    ttl=timedelta(hours=3),
    schema=[
        Field(name="faa", dtype=String),
        Field(name="temp", dtype=Float64),
        Field(name="humid", dtype=Float64),
        Field(name="wind", dtype=Float64),
        Field(name="precip", dtype=Float64),
        Field(name="pressure", dtype=Float64),
        Field(name="visib", dtype=Float64),
    ],
)


# An event view with a transform: what a plane's latest arrival tells of its next flight. Rows that the function
# leaves out (flights that have not arrived) are counted as skipped.
@stream_feature_view(
    entities=[plane],
    ttl=timedelta(days=3),
    mode="pandas",
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="route", dtype=String),
        Field(name="dep_delay", dtype=Float32),
        Field(name="arr_delay", dtype=Float32),
        Field(name="made_up", dtype=Float32),
        Field(name="late", dtype=Bool),
        Field(name="sched_dep", dtype=UnixTimestamp),
    ],
    source=flights,
)
def plane_last_flight(df: pd.DataFrame) -> pd.DataFrame:
    df = df[df["status"] == "arrived"].copy()
    df["route"] = df["origin"] + "-" + df["dest"]
    df["made_up"] = df["dep_delay"] - df["arr_delay"]
    df["late"] = df["arr_delay"] > 15
    return df


# A vector view: its text is embedded as it changes.
airport_search = FeatureView(
    name="airport_search",
    entities=[airport],
    source=airports,
    schema=[
        Field(name="faa", dtype=String),
        Field(name="name", dtype=String),
        Field(name="tzone", dtype=String),
        Field(
            name="description",
            dtype=Array(Float32),
            vector_index=True,
            vector_length=256,
            vector_search_metric="cosine",
            tags={"embeds": "name, tzone"},
        ),
    ],
)

delay_model = FeatureService(name="delay_model", features=[weather_now, plane_last_flight, plane_facts])
