"""What is captured, and which features are made of it. Plain Feast objects; `cdc_source` is the only addition."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64, Int64, String

from millrace.declare import cdc_source

customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)

# <source in millrace.yaml>.<schema>.<table>
customers = cdc_source("shop.public.customers")
# The event time of an order is its own column; its customer is the entity's key under another name.
orders = cdc_source("shop.public.orders", event_time="placed_at", field_mapping={"customer_id": "id"})

# A state view: its join key is the table's primary key, so a row is an entity. A deleted row's features go.
customer_facts = FeatureView(
    name="customer_facts",
    entities=[customer],
    source=customers,
    schema=[
        Field(name="id", dtype=Int64),
        Field(name="name", dtype=String),
        Field(name="tier", dtype=String),
        Field(name="credit", dtype=Float64),
    ],
)

# An event view: many rows an entity, the newest is its value.
last_order = FeatureView(
    name="last_order",
    entities=[customer],
    source=orders,
    ttl=timedelta(days=30),
    schema=[Field(name="id", dtype=Int64), Field(name="amount", dtype=Float64)],
)

model = FeatureService(name="model", features=[customer_facts, last_order])
