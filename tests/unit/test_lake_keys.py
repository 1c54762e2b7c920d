"""What the lake holds of a row is found by its primary key, whatever the files of a Delta table tell of its bounds."""

import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from connectors.table import Column, Table
from stores.delta import DeltaLake
from stores.history import change_properties, feature_properties
from stores.lake_schema import statistics
from stores.rows import rows_schema
from streams.changes import changes_schema, contract_schema
from streams.decide import changes_table, features_table
from streams.pipeline import Flow
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC, envelope
from tests.worker_platform import CUSTOMER, SUITE, Platform
from validation.contract import load

KEYS: dict[str, tuple[Column, Any, Any]] = {
    "small": (Column("id", "numeric(20,0)", pa.decimal128(20, 0), "decimal", nullable=False), "123", "7"),
    "beyond a long": (
        Column("id", "numeric(20,0)", pa.decimal128(20, 0), "decimal", nullable=False),
        "12345678901234567891",
        "7",
    ),
    "beyond a double": (
        Column("id", "numeric(38,18)", pa.decimal128(38, 18), "decimal", nullable=False),
        "12345678901234567890.123456789012345678",
        "1.000000000000000000",
    ),
    "beside NaN": (Column("id", "float8", pa.float64(), "float", nullable=False), 1.5, "NaN"),
    "NaN": (Column("id", "float8", pa.float64(), "float", nullable=False), "NaN", 1.5),
}


@pytest.fixture
def platform(tmp_path: Path, named: str) -> Platform:
    """One whose lake is on Delta, with such a key and an event view."""
    found = Platform(tmp_path)
    (tmp_path / "lake").mkdir()
    lake = DeltaLake(str(tmp_path / "lake"))
    found.lake = lake  # type: ignore[assignment]
    table = Table(ORDERS.source, ORDERS.schema, ORDERS.name, TOPIC, (KEYS[named][0], *ORDERS.columns[1:]), ("id",))
    contract = tmp_path / "by_key.json"
    contract.write_text(json.dumps(SUITE))
    view = StreamView(CUSTOMER, table, "placed_at")
    found.flow = Flow(table, load(contract, contract_schema(table)), (view,))
    lake.create(changes_table(TOPIC), changes_schema(table), change_properties(TOPIC, ("id",)))
    lake.create(features_table(CUSTOMER.name), rows_schema(CUSTOMER), feature_properties(CUSTOMER, TOPIC))
    return found


def created(id_: Any, customer: str, amount: float, lsn: int) -> tuple[bytes, bytes]:
    row = {"id": id_, "customer": customer, "amount": amount, "placed_at": "2024-01-01T00:00:00Z"}
    return orjson.dumps({"id": id_}), envelope("c", row, lsn=lsn)


@pytest.mark.parametrize("named", KEYS)
def test_a_change_that_is_sent_again_stands_once(platform: Platform, named: str) -> None:
    _, id_, other = KEYS[named]
    first = created(id_, "ann", 1.0, 10)
    platform.produce(first, created(other, "bob", 2.0, 11))
    platform.run()
    platform.produce(first)
    platform.run()
    assert platform.changes() == [(10, "c"), (11, "c")]


@pytest.mark.parametrize("named", KEYS)
def test_a_row_that_is_deleted_without_old_values_is_not_served(platform: Platform, named: str) -> None:
    _, id_, other = KEYS[named]
    platform.produce(created(id_, "ann", 1.0, 10), created(other, "bob", 2.0, 11))
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob")) == (1.0, 2.0)
    platform.produce((orjson.dumps({"id": id_}), envelope("d", None, before={"id": id_}, lsn=20)))
    platform.run()
    assert (platform.customer("ann"), platform.customer("bob")) == (None, 2.0)


def test_files_tell_no_bounds_of_decimals() -> None:
    """delta-rs writes these as doubles, by which whoever reads the table skips files that have the value."""
    schema = pa.schema([("id", pa.decimal128(20, 0)), ("amount", pa.float64()), ("_lsn", pa.int64())])
    assert statistics(schema) == {"delta.dataSkippingStatsColumns": "`amount`,`_lsn`"}
    assert statistics(schema.remove(0)) == {}
    wide = pa.schema([(f"c{i}", pa.decimal128(9, 2) if i < 3 else pa.int64()) for i in range(50)])
    told = statistics(wide)["delta.dataSkippingStatsColumns"].split(",")
    assert (told[0], told[-1], len(told)) == ("`c3`", "`c49`", 32)
