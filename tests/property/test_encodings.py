"""Any value that PostgreSQL can hold and a type carries comes back from the JSON that Debezium writes for it,
and bad values are found wherever they stand."""

import base64
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.encodings import MISFITS, PLACEHOLDER, Undecodable, decode, from_json, is_placeholder, misfits
from connectors.table import Column
from connectors.to_json import encode

EPOCH = datetime(1970, 1, 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def microseconds(value: datetime) -> int:
    delta = value - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def json_float(value: float) -> float | str:
    """Jackson writes what JSON has no number for as a string."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def json_number(value: float) -> float | int | str:
    """As another writer may put it: a whole number without its point, as long as JSON readers take it."""
    whole = value.is_integer() and -(2**63) <= value < 2**64 and str(value) != "-0.0"
    return int(value) if whole else json_float(value)


def json_numeric(value: Decimal) -> str:
    return format(value, "f")


def json_instant(value: datetime) -> str:
    return value.strftime("%Y").zfill(4) + value.strftime("-%m-%dT%H:%M:%S.%fZ")


def of(kind: pa.DataType, encoding: Any, element: Any = None) -> Column:
    return Column("c", "a type", kind, encoding, True, element)


# A column, its values, and what Debezium writes for one.
TYPES: dict[str, tuple[Column, st.SearchStrategy[Any], Any]] = {
    "smallint": (of(pa.int16(), "plain"), st.integers(-(2**15), 2**15 - 1), int),
    "integer": (of(pa.int32(), "plain"), st.integers(-(2**31), 2**31 - 1), int),
    "bigint": (of(pa.int64(), "plain"), st.integers(-(2**63), 2**63 - 1), int),
    "real": (of(pa.float32(), "float"), st.floats(width=32), json_float),
    "double": (of(pa.float64(), "float"), st.floats() | st.integers(-(2**63), 2**64 - 1).map(float), json_number),
    "numeric": (
        of(pa.decimal128(38, 10), "decimal"),
        st.decimals(-(10**27), 10**27, places=10),
        json_numeric,
    ),
    "boolean": (of(pa.bool_(), "plain"), st.booleans(), bool),
    "text": (of(pa.string(), "plain"), TEXT, str),
    "bytea": (of(pa.binary(), "bytes"), st.binary(), lambda b: base64.b64encode(b).decode()),
    "date": (of(pa.date32(), "date"), st.dates(), lambda d: (d - date(1970, 1, 1)).days),
    "timestamp": (of(pa.timestamp("us"), "timestamp"), st.datetimes(), microseconds),
    "timestamptz": (
        of(pa.timestamp("us", tz="UTC"), "timestamptz"),
        st.datetimes(timezones=st.just(UTC)),
        json_instant,
    ),
    "integer[]": (of(pa.list_(pa.int32()), "array", "plain"), st.lists(st.none() | st.integers(-9, 9)), list),
    "text[]": (of(pa.list_(pa.string()), "array", "plain"), st.lists(st.none() | TEXT), list),
    "vector": (
        of(pa.list_(pa.float32()), "vector"),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)),
        list,
    ),
}


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
@settings(max_examples=25)
def test_round_trip(name: str, data: st.DataObject) -> None:
    column, values, written = TYPES[name]
    rows = data.draw(st.lists(st.none() | values, max_size=10))
    message = orjson.dumps([None if row is None else written(row) for row in rows])
    decoded = decode(orjson.loads(message), column)
    assert decoded.type == column.arrow_type
    np.testing.assert_equal(decoded.to_pylist(), rows)
    back = orjson.loads(orjson.dumps(encode(decoded, column)))
    np.testing.assert_equal(decode(back, column).to_pylist(), rows)


@given(st.lists(st.none() | st.times(), max_size=30))
def test_a_time_of_day_becomes_its_text(rows: list[time | None]) -> None:
    written = [
        None if t is None else ((t.hour * 60 + t.minute) * 60 + t.second) * 1_000_000 + t.microsecond for t in rows
    ]
    decoded = decode(written, of(pa.string(), "time")).to_pylist()
    assert decoded == [None if t is None else t.isoformat("microseconds") for t in rows]
    assert encode(pa.array(decoded, pa.string()), of(pa.string(), "time")) == written


SCALARS = (None, True, False, 0, 1, -1, 2**15, 2**31, -(2**63), 2**63, 1.0, 1.5, 1e39, "", "a", "1.5", "NaN", "NAN")
CONTAINERS: tuple[object, ...] = ({}, [], [1, None], ["a"], [1.5], [True], [[1]])
SPECIAL = (*SCALARS, "AP8B", "infinity", "2020-01-01T00:00:00.5Z", *CONTAINERS)
ANYTHING = st.sampled_from(SPECIAL) | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)


@pytest.mark.parametrize("name", TYPES)
@given(rows=st.lists(ANYTHING, max_size=8))
@example(rows=[1.5, True])
@settings(max_examples=30)
def test_a_batch_is_as_good_as_its_values(name: str, rows: list[Any]) -> None:
    """Whatever JSON arrives: a value is bad in a batch exactly if it is bad alone, and the good ones come out
    of the batch as they come out alone."""
    column = TYPES[name][0]
    alone: list[Any] = []
    bad = []
    for index, row in enumerate(rows):
        try:
            alone += decode([row], column).to_pylist()
        except Undecodable:
            bad.append(index)
    try:
        np.testing.assert_equal(decode(rows, column).to_pylist(), alone)
        assert not bad
    except Undecodable as error:
        assert [index for index, _, _ in error.bad] == bad


DECIMALS = st.from_regex(r"[+-]?[0-9]{0,4}(\.[0-9]{0,4})?([eE][+-]?[0-9])?", fullmatch=True) | st.just("NAN")


@given(DECIMALS)
@example("1E+2")
@example("+.5")
def test_what_a_look_at_a_column_marks_does_not_fit(written: str) -> None:
    column = of(pa.decimal128(5, 2), "decimal")
    raw = pa.array([written])
    marked = misfits(raw, column)
    assert marked is not None
    if marked[0].as_py():
        with pytest.raises(MISFITS):
            from_json(raw, column)


@given(st.lists(st.none() | st.just(PLACEHOLDER) | TEXT))
def test_placeholders_are_found_where_they_stand(rows: list[str | None]) -> None:
    found = is_placeholder(rows, of(pa.string(), "plain"))
    assert found is not None
    assert found.to_pylist() == [row == PLACEHOLDER for row in rows]
