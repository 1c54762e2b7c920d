"""Features of what is sold: state and event views, one that is searched by meaning."""

from datetime import timedelta

import pandas as pd
from entities import customer, line, order, region, sample, sku, vendor  # type: ignore[import-not-found]  # beside this file
from feast import FeatureService, FeatureView, Field
from feast.stream_feature_view import stream_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    String,
    UnixTimestamp,
    Uuid,
)

from millrace.declare import cdc_source

goods = cdc_source("bazaar_shop.public.goods")
measurements = cdc_source("bazaar_shop.public.measurements", field_mapping={"id": "sample_id"})
lines = cdc_source(
    "bazaar_shop.public.Order Lines",
    field_mapping={"Order Id": "order_id", "Line No": "line_no", "Unit Price": "unit_price"},
)
sales = cdc_source(
    "bazaar_shop.public.Order Lines",
    name="sales",
    event_time="sold_at",
    field_mapping={"Vendor": "vendor", "Region": "region", "Unit Price": "unit_price", "Sold At": "sold_at"},
)
orders = cdc_source("bazaar_shop.public.orders", event_time="placed_at")

# A state view over every scalar type: the join keys are the table's composite primary key.
goods_facts = FeatureView(
    name="goods_facts",
    entities=[vendor, sku],
    source=goods,
    schema=[
        Field(name="vendor", dtype=String),
        Field(name="sku", dtype=Int32),
        Field(name="bin", dtype=Int32),
        Field(name="pieces", dtype=Int32),
        Field(name="barcode", dtype=Int64),
        Field(name="weight", dtype=Float32),
        Field(name="volume", dtype=Float64),
        Field(name="price", dtype=Float64),
        Field(name="tax", dtype=Decimal),
        Field(name="mass", dtype=Decimal),
        Field(name="fragile", dtype=Bool),
        Field(name="unit", dtype=String),
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="label", dtype=String),
        Field(name="grade", dtype=String),
        Field(name="batch", dtype=Uuid),
        Field(name="made_on", dtype=UnixTimestamp),
        Field(name="opens", dtype=String),
        Field(name="listed", dtype=UnixTimestamp),
        Field(name="updated", dtype=UnixTimestamp),
        Field(name="warranty", dtype=String),
        Field(name="seal", dtype=Bytes),
        Field(name="details", dtype=Json),
        Field(name="attributes", dtype=String),
        Field(name="scanner", dtype=String),
    ],
)

# A state view over every list, and over vectors that the table itself holds.
sample_lists = FeatureView(
    name="sample_lists",
    entities=[sample],
    source=measurements,
    schema=[
        Field(name="sample_id", dtype=String),
        Field(name="small", dtype=Array(Int32)),
        Field(name="whole", dtype=Array(Int32)),
        Field(name="big", dtype=Array(Int64)),
        Field(name="single", dtype=Array(Float32)),
        Field(name="double", dtype=Array(Float64)),
        Field(name="words", dtype=Array(String)),
        Field(name="codes", dtype=Array(String)),
        Field(name="truths", dtype=Array(Bool)),
        Field(name="marks", dtype=Array(Bytes)),
        Field(name="days", dtype=Array(UnixTimestamp)),
        Field(name="instants", dtype=Array(UnixTimestamp)),
        Field(name="shape", dtype=Array(Float32)),
        Field(name="half", dtype=Array(Float32)),
    ],
)

# Quoted names, renamed on the way.
order_lines = FeatureView(
    name="order_lines",
    entities=[order, line],
    source=lines,
    schema=[
        Field(name="order_id", dtype=Int64),
        Field(name="line_no", dtype=Int32),
        Field(name="unit_price", dtype=Float64),
        Field(name="quantity", dtype=Int64),
        Field(name="Vendor", dtype=String),
    ],
)


# An event view of a composite key, by a function over columns: the vendor's newest sale in a region.
@stream_feature_view(
    entities=[vendor, region],
    ttl=timedelta(days=100_000),
    mode="pandas",
    schema=[
        Field(name="vendor", dtype=String),
        Field(name="region", dtype=String),
        Field(name="total", dtype=Float64),
        Field(name="large", dtype=Bool),
        Field(name="sold", dtype=UnixTimestamp),
    ],
    source=sales,
)
def vendor_last_sale(df: pd.DataFrame) -> pd.DataFrame:
    df["total"] = df["unit_price"].astype(float) * df["quantity"]
    df["large"] = df["total"] >= 100
    df["sold"] = df["sold_at"]
    return df[df["quantity"] > 0]


# An event view by projection: a customer's newest order.
customer_last_order = FeatureView(
    name="customer_last_order",
    entities=[customer],
    source=orders,
    ttl=timedelta(days=100_000),
    schema=[
        Field(name="customer", dtype=String),
        Field(name="amount", dtype=Float64),
        Field(name="status", dtype=String),
        Field(name="note", dtype=String),
    ],
)

# A vector view: goods found by the meaning of title and description.
goods_search = FeatureView(
    name="goods_search",
    entities=[vendor, sku],
    source=goods,
    schema=[
        Field(name="vendor", dtype=String),
        Field(name="sku", dtype=Int32),
        Field(name="title", dtype=String),
        Field(name="pieces", dtype=Int32),
        Field(
            name="meaning",
            dtype=Array(Float32),
            vector_index=True,
            vector_length=256,
            vector_search_metric="l2",
            tags={"embeds": "title, description"},
        ),
    ],
)

offer = FeatureService(name="offer", features=[goods_facts[["price", "title"]], vendor_last_sale])
