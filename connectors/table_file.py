"""Reflected tables as JSON text, so that a worker starts without the source database."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from connectors.table import Column, Table

VERSION = 1

_SCALARS = (
    pa.bool_(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", tz="UTC"),
    pa.null(),
)
_BY_NAME = {str(kind): kind for kind in _SCALARS}
_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)")


def dumps(tables: Sequence[Table]) -> str:
    """The tables as indented JSON, the same text for the same tables."""
    return json.dumps({"version": VERSION, "tables": [_table(table) for table in tables]}, indent=1) + "\n"


def loads(text: str) -> tuple[Table, ...]:
    """The tables that `dumps` wrote. Raises `ValueError` if the text is none of its."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"written by another version ({document['version']})")
        return tuple(_read_table(table) for table in document["tables"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a file of tables: {type(error).__name__} {error}") from error


def _table(table: Table) -> dict[str, Any]:
    return {
        "source": table.source,
        "schema": table.schema,
        "name": table.name,
        "topic": table.topic,
        "primary_key": list(table.primary_key),
        "columns": [_column(column) for column in table.columns],
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "sql_type": column.sql_type,
        "arrow_type": _type_name(column.arrow_type),
        "encoding": column.encoding,
        "nullable": column.nullable,
        "element": column.element,
        "toastable": column.toastable,
        "generated": column.generated,
        "excluded": column.excluded,
        "has_default": column.has_default,
    }


def _read_table(table: dict[str, Any]) -> Table:
    return Table(
        source=table["source"],
        schema=table["schema"],
        name=table["name"],
        topic=table["topic"],
        columns=tuple(Column(**{**c, "arrow_type": _read_type(c["arrow_type"])}) for c in table["columns"]),
        primary_key=tuple(table["primary_key"]),
    )


def _type_name(kind: pa.DataType) -> str:
    return f"{_type_name(kind.value_type)}[]" if pa.types.is_list(kind) else str(kind)


def _read_type(name: str) -> pa.DataType:
    if name.endswith("[]"):
        return pa.list_(_read_type(name.removesuffix("[]")))
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if name not in _BY_NAME:
        raise ValueError(f"unknown Arrow type {name!r}")
    return _BY_NAME[name]
