"""Rows that applications push, as feature rows: the values that Feast's own push would serve."""

import math
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stores.feast_push import pushed_rows
from stores.values import arrow_type_of
from stores.view import Feature, View

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
STRING, INT64, DOUBLE, FLOAT, UNIX_TIMESTAMP, JSON, UUID = 2, 4, 5, 6, 8, 32, 36
DOUBLE_LIST = 15
STRING_LIST, INT64_LIST, UNIX_TIMESTAMP_LIST, JSON_LIST = 12, 14, 18, 33


def pushed(value_type: int, values: list[Any]) -> list[Any]:
    """What is kept of a feature's values, one pushed row each."""
    x = Feature("x", value_type, arrow_type_of(value_type))
    view = View("shop", "v", "v", "event", (Feature("k", INT64, pa.int64()),), (x,))
    frame = pd.DataFrame({"k": [7] * len(values), "x": values, "at": [NOON] * len(values)})
    return pushed_rows(view, pa.Table.from_pandas(frame), "at", "").column("x").to_pylist()


def test_timestamps_are_kept_in_whole_seconds_as_they_are_served() -> None:
    assert pushed(UNIX_TIMESTAMP, [NOON.replace(microsecond=999_999), None]) == [NOON, None]
    assert pushed(UNIX_TIMESTAMP, [pd.Timestamp(NOON) + pd.Timedelta(1, "ns")]) == [NOON]
    assert pushed(UNIX_TIMESTAMP_LIST, [[NOON.replace(microsecond=5), None], []]) == [[NOON, None], []]
    assert pushed(UNIX_TIMESTAMP_LIST, [[pd.Timestamp(NOON) + pd.Timedelta(1, "ns")]]) == [[NOON]]


def test_whole_numbers_for_timestamps_are_seconds() -> None:
    assert pushed(UNIX_TIMESTAMP, [int(NOON.timestamp()), 0]) == [NOON, datetime(1970, 1, 1, tzinfo=UTC)]
    assert pushed(UNIX_TIMESTAMP_LIST, [[int(NOON.timestamp())], []]) == [[NOON], []]


def test_decimals_are_kept_as_the_nearest_floats() -> None:
    assert pushed(DOUBLE, [Decimal("19.90"), None]) == [19.9, None]
    assert pushed(FLOAT, [Decimal("0.1"), Decimal("19.90")]) == [float(np.float32(0.1)), float(np.float32(19.9))]
    assert pushed(DOUBLE_LIST, [[Decimal("19.90")]]) == [[19.9]]


def test_truth_values_for_text_are_pythons_words() -> None:
    assert pushed(STRING, [True, False, None]) == ["True", "False", None]


@pytest.mark.parametrize("given", [[float("nan"), 1.0], [None, 1.0], np.array([np.nan, 1.0])])
def test_what_is_no_number_in_a_list_of_floats_is_nan(given: Any) -> None:
    (kept,) = pushed(DOUBLE_LIST, [given])
    assert math.isnan(kept[0]) and kept[1] == 1.0


def test_a_moment_before_1970_is_cut_off_downwards() -> None:
    before = pd.Timestamp("1969-12-31 23:59:59.999999999", tz="UTC")
    view = View("shop", "v", "v", "event", (Feature("k", INT64, pa.int64()),), ())
    rows = pushed_rows(view, pa.Table.from_pandas(pd.DataFrame({"k": [7], "at": [before]})), "at", "")
    assert rows["event_timestamp"].to_pylist() == [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)]


def test_moments_in_the_hour_that_comes_twice() -> None:
    """When clocks are set back, local times do not tell the moment."""
    moments = pd.to_datetime(["2024-11-03 05:30:00.9", "2024-11-03 06:30:00.0"], utc=True)
    local = moments.tz_convert("America/New_York")
    key = Feature("k", UNIX_TIMESTAMP, arrow_type_of(UNIX_TIMESTAMP))
    view = View("shop", "v", "v", "event", (key,), ())
    rows = pushed_rows(view, pa.Table.from_pandas(pd.DataFrame({"k": local, "at": local})), "at", "")
    assert rows["event_timestamp"].to_pylist() == moments.to_pydatetime().tolist()
    assert rows["k"].to_pylist() == moments.floor("s").to_pydatetime().tolist()
    assert pushed(UNIX_TIMESTAMP, list(local)) == moments.floor("s").to_pydatetime().tolist()


def test_a_key_that_is_a_timestamp_has_whole_seconds() -> None:
    key = Feature("k", UNIX_TIMESTAMP, arrow_type_of(UNIX_TIMESTAMP))
    view = View("shop", "v", "v", "event", (key,), ())
    for given in (NOON.replace(microsecond=5), int(NOON.timestamp())):
        frame = pd.DataFrame({"k": [given], "at": [NOON]})
        assert pushed_rows(view, pa.Table.from_pandas(frame), "at", "")["k"].to_pylist() == [NOON]


def test_nulls_in_lists_are_kept_as_the_stand_ins_that_are_served() -> None:
    assert pushed(STRING_LIST, [["a", None], None]) == [["a", ""], None]
    assert pushed(INT64_LIST, [[None, 3]]) == [[0, 3]]


def test_uuid_objects_are_kept_as_their_text() -> None:
    """Of any version: Arrow stores their 16 bytes, and takes some of these for text."""
    ids = [uuid.UUID(int=5), uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), None]
    texts = [str(ids[0]), str(ids[1]), None]
    assert pushed(UUID, ids) == texts
    assert pushed(STRING, ids) == texts
    assert pushed(UUID, texts) == texts


def test_objects_are_kept_as_json() -> None:
    assert pushed(JSON, [{"a": 1, "b": [True, None]}, None]) == ['{"a": 1, "b": [true, null]}', None]
    assert pushed(JSON, ['{"a":1}', None]) == ['{"a":1}', None]
    assert pushed(JSON_LIST, [[{"a": 1}], [], None]) == [['{"a": 1}'], [], None]
    assert pushed(JSON_LIST, [['{"a":1}', None]]) == [['{"a":1}', "null"]]
    with pytest.raises(ValueError, match=r"column x of the pushed rows does not read as JSON: .*bytes"):
        pushed(JSON, [b"\xff"])
