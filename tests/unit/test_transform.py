"""A stream feature view's own function: what goes in, what comes out, and which row is to blame."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

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


BIG = 2**53 + 1
"""No double: the next one below is another number."""
IDS = pa.table({"key": ["a", "b"], "n": pa.array([BIG, None], pa.int64())})


@pytest.mark.parametrize(
    "text",
    [
        lambda n: n.astype(str),
        lambda n: n.map(str),
        lambda n: n.apply("{}".format),
        lambda n: pd.Series([str(v) for v in n], n.index),
        lambda n: pd.Series([str(v) for v in np.asarray(n)], n.index),
        lambda n: n[n.notna()].map(str).reindex(n.index),
    ],
)
def test_an_integer_is_the_same_beside_a_null_as_alone(text: Any) -> None:
    schema = {"n": pa.int64(), "next": pa.int64(), "text": pa.string()}
    run = transform("v", lambda f: f.assign(next=f["n"] + 1, text=text(f["n"])), "pandas", schema)
    alone, together = run(IDS.slice(0, 1))[0], run(IDS)[0]
    assert together.to_pydict() == {
        "n": [BIG, None],
        "next": [BIG + 1, None],
        "text": [str(BIG), together["text"][1].as_py()],
    }
    assert together.slice(0, 1).equals(alone)


def test_the_type_of_a_column_does_not_hang_on_its_values() -> None:
    seen = []

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        seen.append({str(name): str(dtype) for name, dtype in frame.dtypes.items()})
        return frame.assign(double=0.0)

    run = transform("v", function, "pandas", SCHEMA, never_null=frozenset({"whole", "yes"}))
    rows = pa.table(
        {
            "key": ["a", "b"],
            "whole": [1, 2],
            "yes": [True, False],
            "long": pa.array([1, None], pa.int64()),
            "short": pa.array([1, None], pa.int16()),
            "maybe": pa.array([True, None]),
        }
    )
    for part in (rows, rows.slice(0, 1), rows.slice(1), rows.slice(0, 0)):
        run(part)
    types = {"key": "object", "whole": "int64", "yes": "bool", "long": "Int64", "short": "Int16", "maybe": "boolean"}
    assert seen[0] == types | {"key": seen[0]["key"]}
    assert all(types == seen[0] for types in seen)


def test_a_null_where_none_is_declared_changes_no_digit() -> None:
    run = transform("v", lambda f: f, "pandas", {"n": pa.int64()}, never_null=frozenset({"n"}))
    assert run(IDS)[0]["n"].to_pylist() == [BIG, None]


def test_an_array_of_integers_is_the_same_beside_one_with_a_null_as_alone() -> None:
    rows = pa.table({"n": pa.array([[BIG], [BIG, None], None, []], pa.list_(pa.int64()))})
    seen = []

    def function(frame: pd.DataFrame) -> pd.DataFrame:
        seen.append([None if v is None else (str(v.dtype), v.tolist()) for v in frame["n"]])
        return frame

    run = transform("v", function, "pandas", {"n": pa.list_(pa.int64())})
    assert run(rows)[0].equals(rows)
    for i in range(4):
        run(rows.slice(i, 1))
    assert seen[0] == [("int64", [BIG]), ("object", [BIG, None]), None, ("int64", [])]
    assert [value for (value,) in seen[1:]] == seen[0]


def test_what_nullable_columns_are_computed_to_comes_back() -> None:
    def function(frame: pd.DataFrame) -> pd.DataFrame:
        n, yes = frame["n"], frame["yes"]
        return frame.assign(
            ratio=n / frame["zero"],
            over=n > 1,
            no=~yes,
            root=np.sqrt(n),
            filled=n.fillna(7),
            either=n.fillna(frame["zero"]),
        )

    rows = pa.table({"n": [0, None, 4], "zero": [0, 0, 1], "yes": [True, None, False]})
    schema = {
        "ratio": pa.float64(),
        "over": pa.bool_(),
        "no": pa.bool_(),
        "root": pa.float32(),
        "filled": pa.int32(),
        "either": pa.string(),
        "n": pa.int16(),
    }
    table, _ = transform("v", function, "pandas", schema, never_null=frozenset({"zero"}))(rows)
    assert table.schema.equals(pa.schema(list(schema.items())))
    assert table.to_pydict() == {
        "ratio": [None, None, 4.0],
        "over": [False, None, True],
        "no": [False, None, True],
        "root": [0.0, None, 2.0],
        "filled": [0, 7, 4],
        "either": ["0", "0", "4"],
        "n": [0, None, 4],
    }


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


def test_where_it_fails_on_all_rows_with_the_same_nulls_it_is_asked_about_few() -> None:
    """Thousands of calls of a pandas function take many seconds, and a table that is all bad has to be paused soon."""
    count, calls = 7_500, []
    values = [None if row % 2 else float(row) for row in range(count)]
    rows = pa.table({"key": [str(row) for row in range(count)], "value": values})

    def function(given: dict[str, list[Any]]) -> dict[str, list[Any]]:
        calls.append(len(given["key"]))
        return {"key": given["key"], "double": [value * 2 for value in given["value"]]}

    bad = blamed(python(function), rows)
    assert list(bad) == list(range(1, count, 2))
    assert "TypeError" in bad[1][0]
    assert len(calls) < 100


def test_rows_that_fail_only_together_are_all_blamed() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if len(rows["key"]) > 1:
            raise RuntimeError("too many")
        return {"key": rows["key"], "double": [0.0]}

    bad = blamed(python(function))
    assert list(bad) == [0, 1, 2, 3]
    assert "on none alone" in bad[0][0]


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (2**70, pa.int64(), "OverflowError"),
        ("\ud800", pa.string(), "UnicodeEncodeError"),
        (b"\xff", pa.string(), "Invalid UTF8"),
        (Decimal("Infinity"), pa.float64(), "TypeError"),
        ({1: 2}, pa.string(), "does not fit string"),
    ],
)
def test_a_value_that_arrow_does_not_take_costs_its_own_row_alone(value: Any, kind: pa.DataType, problem: str) -> None:
    fitting = {pa.int64(): 1, pa.string(): "a", pa.float64(): Decimal("1.5")}[kind]
    schema = {"key": pa.string(), "double": kind}

    def lists(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": rows["key"], "double": [value if w == 2 else fitting for w in rows["whole"]]}

    def frames(frame: pd.DataFrame) -> pd.DataFrame:
        columns = {str(name): list(values) for name, values in frame.to_dict("list").items()}
        return frame.assign(double=pd.Series(lists(columns)["double"], frame.index, dtype=object))

    for run in (transform("v", lists, "python", schema), transform("v", frames, "pandas", schema)):
        bad = blamed(run)
        assert list(bad) == [1]
        assert f"view v: column double does not fit {kind}: " in bad[1][0]
        assert problem in bad[1][0]


def test_a_function_that_fails_while_its_values_are_read_is_blamed() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return {"key": rows["key"], "double": (1 / (w - 3) for w in rows["whole"])}

    bad = blamed(python(function))
    assert list(bad) == [2]
    assert "column double does not fit double: ZeroDivisionError: division by zero" in bad[2][0]


def test_a_reason_can_be_written_down_whatever_was_raised() -> None:
    def function(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        raise ValueError("half a character: \ud800")

    for (reason,) in blamed(python(function)).values():
        assert reason.encode().decode() == "view v: its function raised ValueError: half a character: \\ud800"


def test_an_index_that_is_set_in_place_does_not_move_values_to_other_rows() -> None:
    def function(frame: pd.DataFrame) -> pd.DataFrame:
        frame["double"] = frame["value"]
        frame.set_index("whole", inplace=True)
        return frame

    bad = blamed(pandas(function))
    assert list(bad) == [0, 1, 2, 3]
    assert "an index that did not come in" in bad[0][0]


def test_decimals_that_pass_become_the_nearest_doubles() -> None:
    prices = [Decimal("19.90"), None, Decimal("0.07"), Decimal("-99999999.99")]
    rows = pa.table({"key": ["a", "b", "c", "d"], "double": pa.array(prices, pa.decimal128(10, 2))})
    nearest = [19.9, None, 0.07, -99999999.99]
    for mode in ("pandas", "python"):
        run = transform("v", lambda rows: rows, mode, SCHEMA)
        assert run(rows)[0]["double"].to_pylist() == nearest

    def lists(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"key": rows["key"], "double": [None if v is None else [v, None] for v in rows["double"]]}

    table, _ = transform("v", lists, "python", {"key": pa.string(), "double": pa.list_(pa.float64())})(rows)
    assert table["double"].to_pylist() == [None if v is None else [v, None] for v in nearest]


NINE, DAY = datetime(2013, 2, 12, 9, 30), date(2013, 2, 12)
SEVEN = datetime(2013, 2, 12, 7, 30, tzinfo=UTC)
MOMENT = pa.timestamp("us", "UTC")
MIXED = pa.table(
    {
        "promised": pa.array([None, NINE]),
        "day": pa.array([DAY, DAY]),
        "price": pa.array([None, Decimal("1.50")], pa.decimal128(6, 2)),
        "delay": [0, 20],
        "text": ["1.5", "2.25"],
    }
)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("mode", "of_each", "kind", "results"),
    [
        ("python", lambda row: row["promised"] or row["day"], MOMENT, [SEVEN.replace(hour=0, minute=0), NINE]),
        ("pandas", lambda row: row["promised"] or row["day"], MOMENT, [SEVEN.replace(hour=0, minute=0), NINE]),
        ("python", lambda row: Decimal(row["text"]), pa.string(), ["1.5", "2.25"]),
        ("pandas", lambda row: Decimal(row["text"]), pa.string(), ["1.5", "2.25"]),
        ("python", lambda row: [Decimal(row["text"])], pa.list_(pa.string()), [["1.5"], ["2.25"]]),
        ("pandas", lambda row: row["price"] or 0.0, pa.float64(), [0.0, 1.5]),
        ("python", lambda row: row["delay"] and row["delay"] > 15, pa.bool_(), [False, True]),
        ("python", lambda row: row["delay"] or "none", pa.string(), ["none", "20"]),
        ("python", lambda row: row["delay"] or 0.5, pa.string(), ["0.5", "20"]),
        ("python", lambda row: [row["delay"] or 0.5], pa.list_(pa.string()), [["0.5"], ["20"]]),
        ("python", lambda row: [row["delay"] > 15 or 1], pa.list_(pa.int64()), [[1], [1]]),
        (
            "python",
            lambda row: SEVEN.astimezone(timezone(timedelta(minutes=6 * row["delay"]))),
            pa.string(),
            ["2013-02-12 07:30:00.000000Z", "2013-02-12 09:30:00.000000+0200"],
        ),
    ],
)
def test_a_value_is_the_same_beside_one_of_another_type_as_alone(
    mode: Literal["pandas", "python"], of_each: Any, kind: pa.DataType, results: list[Any], backwards: bool
) -> None:
    def lists(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"x": [of_each(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]}

    def frames(frame: pd.DataFrame) -> pd.DataFrame:
        given = {str(name): [None if v is pd.NaT else v for v in frame[name]] for name in frame}
        return frame.assign(x=pd.Series(lists(given)["x"], frame.index, dtype=object))

    run = transform("v", lists if mode == "python" else frames, mode, {"x": kind})
    rows = MIXED.take(pa.array([1, 0])) if backwards else MIXED
    expected = pa.array(results[::-1] if backwards else results, kind)
    assert run(rows)[0]["x"].combine_chunks().equals(expected)
    for i in range(2):
        assert run(rows.slice(i, 1))[0]["x"].combine_chunks().equals(expected.slice(i, 1))


def test_decimals_and_what_fills_their_nulls_are_numbers() -> None:
    """A column of two types, as pandas makes it of one and a number."""
    run = transform("v", lambda f: f.assign(x=f["price"].where(f["price"].notna(), 0.0)), "pandas", {"x": pa.float64()})
    assert run(MIXED)[0]["x"].to_pylist() == [0.0, 1.5]


def test_what_an_index_lacks_is_null() -> None:
    run = transform("v", lambda rows: {"x": pd.Index(rows["a"]).map({1: "one"})}, "python", {"x": pa.string()})
    assert run(pa.table({"a": [1, 2]}))[0]["x"].to_pylist() == ["one", None]


def test_lists_that_are_all_null_are_null() -> None:
    run = transform("v", lambda rows: {"x": [None for _ in rows["day"]]}, "python", {"x": pa.list_(pa.float32())})
    assert run(MIXED)[0]["x"].to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda frame: frame, "returned no column double"),
        (lambda frame: None, "returned NoneType, not a DataFrame"),
        (lambda frame: doubled(frame).set_index(np.arange(len(frame)) + 100), "an index that did not come in"),
        (lambda frame: pd.concat([doubled(frame)] * 2), "an index that did not come in"),
        (lambda frame: doubled(frame).set_index(["key", "whole"], drop=False), "an index that did not come in"),
        (lambda frame: doubled(frame).set_index(pd.Index([[0]] * len(frame))), "an index that did not come in"),
        (lambda frame: pd.concat([doubled(frame), frame[["key"]]], axis=1), "returned column key more than once"),
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
        (lambda rows: {"key": rows["key"], "double": 5.0}, "column double is of type float, not a list"),
        (lambda rows: {"key": "a", "double": [1.0] * len(rows["key"])}, "column key is of type str, not a list"),
        (lambda rows: {"key": {"a": 1}, "double": [1.0] * len(rows["key"])}, "column key is of type dict, not a list"),
        (lambda rows: {"key": rows["key"], "double": [[]] * len(rows["key"])}, "column double does not fit double"),
    ],
)
def test_what_a_python_function_must_not_return(function: Any, problem: str) -> None:
    assert problem in blamed(python(function))[0][0]
