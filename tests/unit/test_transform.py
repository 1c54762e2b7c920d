"""A stream feature view's own function: what goes in, what comes out, and which row is to blame."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from streams.transform import Untransformable, transform

SCHEMA = {"key": pa.string(), "double": pa.float64()}
ROWS = pa.table({"key": ["a", "b", "c", "d"], "value": pa.array([1.0, 2.0, None, 4.0]), "whole": [1, 2, 3, 4]})


def pandas(function: Any) -> Any:
    return transform("v", function, "pandas", SCHEMA)


def python(function: Any) -> Any:
    return transform("v", function, "python", SCHEMA)


def blamed(run: Any, rows: pa.Table = ROWS) -> dict[int, list[str]]:
    with pytest.raises(Untransformable) as caught:
        run(rows)
    return dict(caught.value.bad)


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    frame["double"] = frame["value"] * 2
    return frame


def test_pandas_sees_all_columns_and_returns_the_declared_ones() -> None:
    table, kept = pandas(doubled)(ROWS)
    assert table.to_pydict() == {"key": ["a", "b", "c", "d"], "double": [2.0, 4.0, None, 8.0]}
    assert kept.tolist() == [0, 1, 2, 3]


def test_pandas_may_drop_and_reorder_rows_and_the_index_tells_which() -> None:
    table, kept = pandas(lambda frame: doubled(frame)[frame["whole"] > 1].sort_values("key", ascending=False))(ROWS)
    assert table["key"].to_pylist() == ["d", "c", "b"]
    assert kept.tolist() == [3, 2, 1]


def test_python_sees_lists_and_returns_lists() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        assert rows["value"] == [1.0, 2.0, None, 4.0]
        return {"key": rows["key"], "double": [v and v * 2 for v in rows["value"]]}

    table, kept = python(function)(ROWS)
    assert table["double"].to_pylist() == [2.0, 4.0, None, 8.0]
    assert kept.tolist() == [0, 1, 2, 3]


def test_the_row_that_a_function_fails_on_is_found() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": rows["key"], "double": [v * 2 for v in rows["value"]]}

    bad = blamed(python(function))
    assert list(bad) == [2]
    assert bad[2][0].startswith("view v: its function raised TypeError: unsupported operand")


def test_a_result_beyond_a_float_is_blamed_and_an_infinity_is_a_value() -> None:
    results = [1e300, float("inf"), None, -1e39]
    schema = {"key": pa.string(), "double": pa.float32()}

    def lists(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": rows["key"], "double": [results[w - 1] for w in rows["whole"]]}

    def frames(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(double=[results[w - 1] for w in frame["whole"]])

    for run in (transform("v", lists, "python", schema), transform("v", frames, "pandas", schema)):
        bad = blamed(run)
        assert list(bad) == [0, 3]
        assert "view v: column double does not fit float: 1e+300 is out of range" in bad[0][0]
        assert run(ROWS.slice(1, 2))[0]["double"].to_pylist() == [float("inf"), None]


def test_every_row_that_a_function_fails_on_is_found() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": rows["key"], "double": [1 / (w % 2) for w in rows["whole"]]}

    assert list(blamed(python(function))) == [1, 3]


def test_rows_that_fail_only_together_are_all_blamed() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if len(rows["key"]) > 1:
            raise RuntimeError("too many")
        return {"key": rows["key"], "double": [0.0]}

    bad = blamed(python(function))
    assert list(bad) == [0, 1, 2, 3]
    assert "on none alone" in bad[0][0]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda frame: frame, "returned no column double"),
        (lambda frame: None, "returned NoneType, not a DataFrame"),
        (lambda frame: doubled(frame).set_index(np.arange(len(frame)) + 100), "an index that did not come in"),
        (lambda frame: pd.concat([doubled(frame)] * 2), "an index that did not come in"),
        (lambda frame: frame.assign(double="much"), "column double does not fit double"),
    ],
)
def test_what_a_pandas_function_must_not_return(function: Any, problem: str) -> None:
    assert problem in blamed(pandas(function))[0][0]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda rows: {"key": rows["key"]}, "returned no column double"),
        (lambda rows: [], "returned list, not a dict of lists"),
        (lambda rows: {"key": rows["key"], "double": [1.0] * 9}, "column double has 9 values for 1 rows"),
        (lambda rows: {"key": rows["key"], "double": [[]] * len(rows["key"])}, "column double does not fit double"),
    ],
)
def test_what_a_python_function_must_not_return(function: Any, problem: str) -> None:
    assert problem in blamed(python(function))[0][0]
