"""Every kind of view: state, event, event by a function, vector; tables of three partitions and of one."""

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureView, Field, ValueType
from feast.stream_feature_view import stream_feature_view
from feast.types import Array, Bool, Float32, Float64, Int64, String

from millrace.declare import cdc_source

LONG = timedelta(days=100_000)

account = Entity(name="account", value_type=ValueType.INT64)
desk = Entity(name="desk", value_type=ValueType.STRING)
article = Entity(name="article", value_type=ValueType.INT64)
sku = Entity(name="sku", value_type=ValueType.INT64)
shelf = Entity(name="shelf", value_type=ValueType.INT64)

accounts = cdc_source("chaos_bank.public.accounts", field_mapping={"id": "account"})
trades = cdc_source("chaos_bank.public.trades", event_time="at")
desks = cdc_source("chaos_bank.public.trades", name="desks", event_time="at")
articles = cdc_source("chaos_bank.public.articles", field_mapping={"id": "article"})
stock = cdc_source("chaos_depot.public.stock")
counts = cdc_source("chaos_depot.public.stock", name="counts", event_time="at")

account_facts = FeatureView(
    name="account_facts",
    entities=[account],
    source=accounts,
    schema=[
        Field(name="account", dtype=Int64),
        Field(name="owner", dtype=String),
        Field(name="balance", dtype=Float64),
        Field(name="tier", dtype=String),
        Field(name="bio", dtype=String),
        Field(name="v", dtype=Int64),
    ],
)

account_last_trade = FeatureView(
    name="account_last_trade",
    entities=[account],
    source=trades,
    ttl=LONG,
    schema=[
        Field(name="account", dtype=Int64),
        Field(name="amount", dtype=Float64),
        Field(name="note", dtype=String),
        Field(name="v", dtype=Int64),
    ],
)


@stream_feature_view(
    entities=[desk],
    ttl=LONG,
    mode="pandas",
    schema=[
        Field(name="desk", dtype=String),
        Field(name="cents", dtype=Float64),
        Field(name="large", dtype=Bool),
        Field(name="v", dtype=Int64),
    ],
    source=desks,
)
def desk_last_trade(df: pd.DataFrame) -> pd.DataFrame:
    df["cents"] = df["amount"] * 100
    df["large"] = df["amount"] >= 500
    return df


article_search = FeatureView(
    name="article_search",
    entities=[article],
    source=articles,
    schema=[
        Field(name="article", dtype=Int64),
        Field(name="title", dtype=String),
        Field(name="v", dtype=Int64),
        Field(
            name="meaning",
            dtype=Array(Float32),
            vector_index=True,
            vector_length=256,
            vector_search_metric="cosine",
            tags={"embeds": "title, body"},
        ),
    ],
)

stock_level = FeatureView(
    name="stock_level",
    entities=[sku],
    source=stock,
    schema=[
        Field(name="sku", dtype=Int64),
        Field(name="on_hand", dtype=Int64),
        Field(name="v", dtype=Int64),
    ],
)

shelf_last_count = FeatureView(
    name="shelf_last_count",
    entities=[shelf],
    source=counts,
    ttl=LONG,
    schema=[
        Field(name="shelf", dtype=Int64),
        Field(name="on_hand", dtype=Int64),
        Field(name="v", dtype=Int64),
    ],
)
