"""What the benchmarks stream: a table of 12 columns with a view of 10 features, texts with their vectors, events."""

from feast import Entity, FeatureView, Field, ValueType
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

from millrace.declare import cdc_source

payment = Entity(name="payment", join_keys=["id"], value_type=ValueType.INT64)
customer = Entity(name="customer", value_type=ValueType.INT64)

payment_facts = FeatureView(
    name="payment_facts",
    entities=[payment],
    source=cdc_source("load.public.payments"),
    schema=[
        Field(name="id", dtype=Int64),
        Field(name="account", dtype=Int64),
        Field(name="amount", dtype=Float64),
        Field(name="fee", dtype=Float64),
        Field(name="items", dtype=Int32),
        Field(name="score", dtype=Float32),
        Field(name="status", dtype=String),
        Field(name="country", dtype=String),
        Field(name="device", dtype=String),
        Field(name="confirmed", dtype=Bool),
        Field(name="updated_at", dtype=UnixTimestamp),
    ],
)

note_search = FeatureView(
    name="note_search",
    entities=[payment],
    source=cdc_source("load.public.notes"),
    schema=[
        Field(name="id", dtype=Int64),
        Field(name="text", dtype=String),
        Field(
            name="embedding",
            dtype=Array(Float32),
            vector_index=True,
            vector_length=256,
            vector_search_metric="cosine",
            tags={"embeds": "text"},
        ),
    ],
)

last_visit = FeatureView(
    name="last_visit",
    entities=[customer],
    source=cdc_source("load.public.visits", event_time="at", field_mapping={"id": "visit"}),
    schema=[Field(name="customer", dtype=Int64), Field(name="visit", dtype=Int64)],
)
