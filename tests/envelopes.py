"""A small captured table and Debezium envelopes of its changes, as the connector writes them."""

from typing import Any

import orjson
import pyarrow as pa

from connectors.snapshots import Base
from connectors.table import Column, Table
from streams.messages import Headers, Records

TOPIC = "shop.public.orders"

ORDERS = Table(
    source="shop",
    schema="public",
    name="orders",
    topic=TOPIC,
    columns=(
        Column("id", "bigint", pa.int64(), "plain", nullable=False),
        Column("customer", "text", pa.string(), "plain", nullable=True, toastable=True),
        Column("amount", "double precision", pa.float64(), "float", nullable=True),
        Column("placed_at", "timestamp with time zone", pa.timestamp("us", tz="UTC"), "timestamptz", nullable=True),
        Column("area", "polygon", pa.null(), "none", nullable=True),
    ),
    primary_key=("id",),
)


def envelope(
    op: str,
    after: dict[str, Any] | None,
    *,
    lsn: int | None,
    before: dict[str, Any] | list[Any] | str | None = None,
    ts_us: int | None = None,
) -> bytes:
    """The value of a record; its numbers and old values need not be what Debezium writes."""
    source = {"lsn": lsn, "ts_us": 1_700_000_000_000_000 + (lsn or 0) if ts_us is None else ts_us, "table": "orders"}
    return orjson.dumps({"op": op, "before": before, "after": after, "source": source})


def base(lsn: int) -> Base:
    """A snapshot's, at the commit time of a record there."""
    return Base(lsn, 0, 1_700_000_000_000_000 + lsn)


def key(id_: int) -> bytes:
    """The key of a record."""
    return orjson.dumps({"id": id_})


def row(
    id_: int, customer: str | int | None = "ann", amount: Any = 1.5, placed_at: str | None = "2024-01-01T00:00:00Z"
) -> dict[str, Any]:
    """A row image; its values need not be what their columns take."""
    return {"id": id_, "customer": customer, "amount": amount, "placed_at": placed_at}


def records(*values: tuple[bytes | None, bytes | None], headers: dict[int, Headers] | None = None) -> Records:
    """Records of partition 0 from offset 0 on, each a (key, value)."""
    return Records(
        TOPIC,
        [0] * len(values),
        list(range(len(values))),
        [k for k, _ in values],
        [v for _, v in values],
        headers or {},
    )
