"""What does not fit a column is named, every value of it; what fits is decoded as it is."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from connectors.encodings import PLACEHOLDER, Undecodable, decode, is_placeholder
from connectors.table import Column, Encoding

UTC_TIME = pa.timestamp("us", tz="UTC")


def column(kind: pa.DataType, encoding: Encoding, element: Encoding | None = None, sql_type: str = "a type") -> Column:
    return Column("c", sql_type, kind, encoding, True, element, toastable=True)


GOOD: list[tuple[Column, list[Any], list[Any]]] = [
    (column(pa.int16(), "plain"), [1, None, -32768], [1, None, -32768]),
    (column(pa.bool_(), "plain"), [True, None], [True, None]),
    (column(pa.string(), "plain"), ["", None, "é"], ["", None, "é"]),
    (column(pa.float64(), "float"), [1, 2.5, "-Infinity", None], [1.0, 2.5, float("-inf"), None]),
    (column(pa.float64(), "float"), ["Infinity"], [float("inf")]),
    (column(pa.float64(), "float"), [2**53 + 1, -(2**63), 2**64 - 1], [2.0**53, -(2.0**63), 2.0**64]),
    (column(pa.float32(), "float"), [2**53 + 1, None], [2.0**53, None]),
    (column(pa.string(), "decimal"), ["1.50", "NAN", "NEGATIVE_INFINITY"], ["1.50", "NaN", "-Infinity"]),
    (column(pa.date32(), "date"), [-1, None], [date(1969, 12, 31), None]),
    (column(pa.string(), "time"), [86_399_123_456, 0, None], ["23:59:59.123456", "00:00:00.000000", None]),
    (column(pa.timestamp("us"), "timestamp"), [-1], [datetime(1969, 12, 31, 23, 59, 59, 999_999)]),
    (column(UTC_TIME, "timestamptz"), ["2020-01-01T00:00:00.120Z"], [datetime(2020, 1, 1, 0, 0, 0, 120_000, UTC)]),
    (column(pa.string(), "interval"), ["P0Y0M1DT0H0M0S", None], ["P0Y0M1DT0H0M0S", None]),
    (column(pa.binary(), "bytes"), ["AP8B", "", None], [b"\x00\xff\x01", b"", None]),
    (column(pa.list_(pa.int32()), "array", "plain"), [[1, None], None, []], [[1, None], None, []]),
    (column(pa.list_(pa.float32()), "vector"), [[1.5, -2.0], None], [[1.5, -2.0], None]),
]

# Values of which every one is wrong.
BAD: list[tuple[Column, list[Any]]] = [
    (column(pa.int16(), "plain"), [32768, -32769, 1.0, 1.5, True, "1", 2**63, 2**70, [1], {"a": 1}]),
    (column(pa.int64(), "plain"), [2**63, 1.0, "x"]),
    (column(pa.bool_(), "plain"), [1, 0, "true"]),
    (column(pa.string(), "plain"), [1, True, ["a"], {"a": 1}]),
    (column(pa.float64(), "float"), ["nan", "1.5", True, [1.0], 10**400]),
    (column(pa.float32(), "float"), [1e39, -1e39, "x"]),
    (column(pa.decimal128(10, 2), "decimal"), ["NAN", "1.005", "123456789.00", 1.5, 1, "x", ""]),
    (column(pa.string(), "decimal"), ["x", "", "1.", 1.5, PLACEHOLDER]),
    (column(pa.date32(), "date"), [2_932_897, -719_163, -2_147_472_692, "2020-01-01", 1.0, 2**40]),
    (column(pa.string(), "time"), [86_400_000_000, -1, "12:00"]),
    (column(pa.timestamp("us"), "timestamp"), [9_223_372_036_825_200_000, -(2**63), -62_135_596_800_000_001, "x", 1.5]),
    (
        column(UTC_TIME, "timestamptz"),
        ["infinity", "-infinity", "+10000-01-01T00:00:00Z", "0000-12-31T00:00:00Z", "2020-01-01T00:00:00", 0],
    ),
    (column(pa.string(), "interval"), [86_400_000_000, True, ["P1D"]]),
    (column(pa.binary(), "bytes"), ["!", "A", "é", 5, ["AA=="]]),
    (column(pa.list_(pa.int32()), "array", "plain"), [["x"], [2**31], [[1]], 5, "ab", {"a": 1}]),
    (column(pa.list_(pa.string()), "array", "plain"), [["[Ljava.lang.String;@4fa8ff02"], [1]]),
    (column(pa.list_(pa.float32()), "vector"), [[None], ["x"], 1.5]),
]


@pytest.mark.parametrize(("one", "values", "expected"), GOOD)
def test_good_values(one: Column, values: list[Any], expected: list[Any]) -> None:
    array = decode(values, one)
    assert array.type == one.arrow_type
    assert array.to_pylist() == expected


@pytest.mark.parametrize("one", [one for one, _, _ in GOOD])
def test_nothing_and_nulls(one: Column) -> None:
    assert decode([], one) == pa.array([], one.arrow_type)
    assert decode([None, None], one) == pa.nulls(2, one.arrow_type)


@pytest.mark.parametrize(("one", "values"), BAD)
def test_each_bad_value_is_named_among_good_ones(one: Column, values: list[Any]) -> None:
    same = [v for c, v, _ in GOOD if (c.encoding, c.arrow_type) == (one.encoding, one.arrow_type)]
    good = same[0] if same else [None]
    mixed = [item for value in values for item in (*good, value)]
    wrong = [i for i in range(len(mixed)) if (i + 1) % (len(good) + 1) == 0]
    with pytest.raises(Undecodable) as caught:
        decode(mixed, one)
    assert [i for i, _, _ in caught.value.bad] == wrong
    assert [value for _, value, _ in caught.value.bad] == values
    assert all(reason.startswith("expected ") for _, _, reason in caught.value.bad)


def test_the_message_cuts_long_values() -> None:
    with pytest.raises(Undecodable) as caught:
        decode(["x" * 10_000], column(pa.int32(), "plain", sql_type="integer"))
    assert len(str(caught.value)) < 250
    assert "column c (integer): 1 values do not fit" in str(caught.value)


def test_what_is_not_carried_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="cannot be carried"):
        decode([1], column(pa.null(), "none"))


def placeholders(values: list[Any], of: Column) -> list[bool]:
    found = is_placeholder(values, of)
    assert found is not None
    return found.to_pylist()


def test_placeholders() -> None:
    text = column(pa.string(), "plain")
    assert placeholders(["a", None, PLACEHOLDER], text) == [False, False, True]
    assert placeholders(["a", None], text) == [False, False]
    assert placeholders([], text) == []
    ints = column(pa.list_(pa.int32()), "array", "plain", "integer[]")
    assert placeholders([[1], list(PLACEHOLDER.encode()), None], ints) == [False, True, False]
    assert is_placeholder([[1.5]], column(pa.list_(pa.float32()), "vector")) is None
