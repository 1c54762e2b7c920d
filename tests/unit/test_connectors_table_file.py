"""Reflected tables as a file."""

import re

import pyarrow as pa
import pytest

from connectors.table import Column, Table
from connectors.table_file import dumps, loads

TABLE = Table(
    source="nyc",
    schema="public",
    name='Mixed "é"',
    topic="nyc.public.Mixed____",
    columns=(
        Column("id", "integer", pa.int32(), "plain", False),
        Column("price", "numeric(10,2)", pa.decimal128(10, 2), "decimal", True, toastable=True),
        Column("at", "timestamp with time zone", pa.timestamp("us", tz="UTC"), "timestamptz", True),
        Column("words", "text[]", pa.list_(pa.string()), "array", True, "plain", toastable=True, has_default=True),
        Column("v", "vector(3)", pa.list_(pa.float32()), "vector", True, toastable=True),
        Column("sum", "integer", pa.null(), "none", True, generated=True),
        Column("secret", "text", pa.null(), "none", True, excluded=True),
    ),
    primary_key=("id",),
)


def test_round_trip() -> None:
    assert loads(dumps([TABLE, TABLE])) == (TABLE, TABLE)
    assert dumps(loads(dumps([TABLE]))) == dumps([TABLE])


def test_a_file_of_before_columns_told_of_their_defaults() -> None:
    text = dumps([TABLE])
    before = re.sub(r',\s*"has_default": (true|false)', "", text)
    assert "has_default" in text and "has_default" not in before
    assert not any(column.has_default for column in loads(before)[0].columns)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "tables": []}', '{"version": 1}', dumps([TABLE]).replace("int32", "int33")]
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a file of tables|another version|unknown Arrow type|Expecting"):
        loads(text)


def test_a_column_by_its_name() -> None:
    assert TABLE.column("v").sql_type == "vector(3)"
    with pytest.raises(KeyError):
        TABLE.column("w")
