"""Features of what is in stock, from another database than the shop's."""

from datetime import timedelta
from typing import Any

from entities import badge, sku, warehouse  # type: ignore[import-not-found]  # beside this file
from feast import FeatureView, Field
from feast.stream_feature_view import stream_feature_view
from feast.types import Bytes, Float32, Int32, String, UnixTimestamp

from millrace.declare import cdc_source

stock = cdc_source("bazaar_depot.yard.stock", event_time="counted_at")
badges = cdc_source("bazaar_depot.yard.Badges", field_mapping={"validUntil": "valid_until"})


# A state view by a function over lists.
@stream_feature_view(
    entities=[warehouse, sku],
    ttl=timedelta(0),
    mode="python",
    schema=[
        Field(name="warehouse", dtype=String),
        Field(name="sku", dtype=Int32),
        Field(name="free", dtype=Int32),
        Field(name="share_reserved", dtype=Float32),
        Field(name="level", dtype=String),
    ],
    source=stock,
)
def stock_level(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    free = [on_hand - reserved for on_hand, reserved in zip(rows["on_hand"], rows["reserved"], strict=True)]
    return {
        **rows,
        "free": free,
        "share_reserved": [r / o for r, o in zip(rows["reserved"], rows["on_hand"], strict=True)],
        "level": ["out" if f <= 0 else "low" if f < 5 else "plenty" for f in free],
    }


badge_owner = FeatureView(
    name="badge_owner",
    entities=[badge],
    source=badges,
    schema=[
        Field(name="token", dtype=Bytes),
        Field(name="owner", dtype=String),
        Field(name="valid_until", dtype=UnixTimestamp),
    ],
)
