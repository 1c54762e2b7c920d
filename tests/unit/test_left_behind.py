"""A row that leaves an entity by a change whose old values were rejected, and a worker that ends in between."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.table import Column
from stores.errors import StoreUnavailable
from stores.history import change_properties, feature_properties
from stores.rows import rows_schema
from streams.changes import changes_schema, contract_schema
from streams.decide import LakeTableName, changes_table, features_table, rejected_table
from streams.pipeline import Flow
from streams.views import StreamView
from tests.envelopes import ORDERS, TOPIC, envelope, key, row
from tests.worker_platform import CUSTOMER, SUITE, Killed, Platform, UnreliableLake
from validation.contract import load

FIRST, SECOND, THIRD, FOURTH = (f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3, 4))
TABLES = (features_table("customer_last"), rejected_table(TOPIC), changes_table(TOPIC))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Row 2, the newest of ann, was to move to bob by a change that is rejected, and moves to cleo by a good one."""
    found = Platform(tmp_path)
    found.produce(
        (key(1), envelope("c", row(1, "ann", 1.0, FIRST), lsn=10)),
        (key(2), envelope("c", row(2, "ann", 2.0, SECOND), lsn=11)),
    )
    found.run()
    found.produce((key(2), envelope("u", row(2, "bob", -1.0, THIRD), before=row(2, "ann", 2.0, SECOND), lsn=12)))
    found.run()
    assert len(found.letters()) == 1 and found.customer("ann") == 2.0
    found.produce((key(2), envelope("u", row(2, "cleo", 3.0, FOURTH), before=row(2, "bob", -1.0, THIRD), lsn=13)))
    return found


def check(platform: Platform) -> None:
    assert (platform.customer("ann"), platform.customer("cleo")) == (1.0, 3.0)
    (version,) = platform.online.inspect(CUSTOMER, pa.table({"customer": ["ann"]})).to_pylist()
    assert not version["_undecided"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("table", TABLES)
def test_a_kill_at_a_write_to_the_lake(platform: Platform, table: LakeTableName, when: str) -> None:
    getattr(platform.lake, when)[table] = [Killed()]
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    check(platform)


def test_a_kill_as_the_entity_is_decided(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(platform.online, "decide", killed)
    with pytest.raises(Killed):
        platform.run()
    platform.run()
    check(platform)


def test_a_lake_that_is_away_as_the_changes_are_written(platform: Platform) -> None:
    platform.lake.before[changes_table(TOPIC)] = [StoreUnavailable("the lake", "no space left")]
    platform.run()
    check(platform)


UNTOLD: dict[str, tuple[Column, Any, Any]] = {
    "text, a default": (Column("x", "text", pa.string(), "plain", nullable=False, has_default=True), "sent", "new"),
    "integer, a default": (Column("x", "integer", pa.int32(), "plain", nullable=False, has_default=True), 5, 1),
    "text": (Column("x", "text", pa.string(), "plain", nullable=False), "sent", ""),
    "integer": (Column("x", "integer", pa.int32(), "plain", nullable=False), 5, 0),
    "double": (Column("x", "double precision", pa.float64(), "float", nullable=False), 5.5, 0.0),
    "boolean": (Column("x", "boolean", pa.bool_(), "plain", nullable=False), True, False),
    "bytea": (Column("x", "bytea", pa.binary(), "bytes", nullable=False), "AAE=", ""),
    "numeric": (Column("x", "numeric", pa.string(), "decimal", nullable=False), "5", "0"),
    "numeric(50,2)": (Column("x", "numeric(50,2)", pa.string(), "decimal", nullable=False), "5.00", "0.00"),
    "numeric(10,2)": (Column("x", "numeric(10,2)", pa.decimal128(10, 2), "decimal", nullable=False), "5.00", "0.00"),
    "interval": (Column("x", "interval", pa.string(), "interval", nullable=False), "P1D", "P0Y0M0DT0H0M0S"),
    "time": (Column("x", "time", pa.string(), "time", nullable=False), 36_000_000_000, 0),
    "date": (Column("x", "date", pa.date32(), "date", nullable=False), 19_000, 0),
    "timestamp": (Column("x", "timestamp", pa.timestamp("us"), "timestamp", nullable=False), 10**15, 0),
    "integer[]": (Column("x", "int[]", pa.list_(pa.int32()), "array", nullable=False, element="plain"), [1], []),
}
"""By the column's type a value, and what Debezium 3.6.3 has in its place in a delete without old values."""


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_delete_without_old_values_of_a_table_with_columns_that_take_no_null(tmp_path: Path, kind: str) -> None:
    column, value, instead = UNTOLD[kind]
    table = replace(ORDERS, columns=(*ORDERS.columns, column))
    found = Platform(tmp_path)
    found.lake = UnreliableLake()
    contract = tmp_path / "more.json"
    contract.write_text(json.dumps(SUITE))
    found.flow = Flow(table, load(contract, contract_schema(table)), (StreamView(CUSTOMER, table, "placed_at"),))
    found.lake.create(changes_table(TOPIC), changes_schema(table), change_properties(TOPIC, ("id",)))
    found.lake.create(features_table(CUSTOMER.name), rows_schema(CUSTOMER), feature_properties(CUSTOMER, TOPIC))
    found.produce((key(1), envelope("c", {**row(1, "ann", 1.0), "x": value}, lsn=10)))
    found.run()
    assert found.customer("ann") == 1.0
    old: dict[str, Any] = {"id": 1, "customer": None, "amount": None, "placed_at": None, "x": instead}
    found.produce((key(1), envelope("d", None, before=old, lsn=20)))
    found.run()
    assert found.customer("ann") is None
