"""Reading a contract, and its verdicts on a batch."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from validation.contract import Contract, load
from validation.errors import ContractError
from validation.regex import Pattern

SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("temp", pa.float64()),
        ("wind_dir", pa.int64()),
        ("price", pa.decimal128(10, 2)),
        ("day", pa.date32()),
        ("local", pa.timestamp("us")),
        ("at", pa.timestamp("us", tz="UTC")),
        ("cancelled", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("clock", pa.time64("us")),
    ]
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*expectations: dict[str, Any], **suite: Any) -> Path:
        path = tmp_path / "public.weather.json"
        path.write_text(json.dumps({"name": "public.weather", "expectations": list(expectations)} | suite))
        return path

    return write


def expect(name: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{name}", "kwargs": kwargs, "severity": severity}


def column_batch(column: str, values: list[Any]) -> pa.Table:
    """A batch in which only one column matters."""
    nulls = {field.name: pa.nulls(len(values), field.type) for field in SCHEMA}
    return pa.table(nulls | {column: pa.array(values, SCHEMA.field(column).type)}, schema=SCHEMA)


def rejected(contract: Contract, table: pa.Table) -> list[int]:
    return [row for row, bad in enumerate(contract.check(table).rejected.to_pylist()) if bad]


def test_a_critical_rule_rejects_and_names_expectation_column_and_value(write: Write) -> None:
    contract = load(write(expect("column_values_to_be_between", column="temp", min_value=-40, max_value=50)), SCHEMA)
    verdict = contract.check(column_batch("temp", [12.5, 1048.36, None, float("nan"), float("inf")]))
    assert verdict.rejected.to_pylist() == [False, True, False, False, True]
    assert verdict.rejects == 2
    assert verdict.counts == {"temp:expect_column_values_to_be_between": 2}
    assert verdict.reasons(0) == ()
    (reason,) = verdict.reasons(1)
    assert reason.expectation == "expect_column_values_to_be_between"
    assert (reason.column, reason.value, reason.severity) == ("temp", "1048.36", "critical")
    assert reason.detail == "min_value=-40, max_value=50"


def test_the_critical_reasons_of_many_rows_are_those_of_each(write: Write) -> None:
    contract = load(
        write(
            expect("column_values_to_be_between", column="temp", min_value=0),
            expect("column_values_to_not_be_null", "warning", column="origin"),
            expect("column_values_to_be_in_set", column="origin", value_set=["EWR"]),
        ),
        SCHEMA,
    )
    table = column_batch("temp", [-1.0, 1.0, -2.0, None])
    table = table.set_column(table.schema.names.index("origin"), "origin", [["JFK", None, "EWR", "LGA"]])
    verdict = contract.check(table)
    critical = {row: [r for r in verdict.reasons(row) if r.severity == "critical"] for row in (0, 2, 3)}
    assert verdict.critical() == critical
    assert [len(reasons) for reasons in critical.values()] == [2, 1, 1]


def test_warning_and_info_count_and_log_one_line_a_batch(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    contract = load(
        write(
            expect("column_values_to_not_be_null", "warning", column="temp"),
            expect("column_values_to_be_in_set", "info", column="origin", value_set=["EWR"]),
        ),
        SCHEMA,
    )
    table = column_batch("origin", ["JFK", "EWR", None])
    with caplog.at_level(logging.INFO, logger="validation.contract"):
        verdict = contract.check(table)
    assert verdict.rejects == 0
    assert verdict.rejected.to_pylist() == [False] * 3
    assert verdict.counts == {
        "temp:expect_column_values_to_not_be_null": 3,
        "origin:expect_column_values_to_be_in_set": 1,
    }
    assert [reason.severity for reason in verdict.reasons(0)] == ["warning", "info"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "public.weather: of 3 rows 3 fail expect_column_values_to_not_be_null on temp (warning); "
        "1 fail expect_column_values_to_be_in_set on origin (info, value_set=['EWR'])"
    )


def test_a_batch_without_failures_logs_nothing(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    contract = load(write(expect("column_values_to_not_be_null", "warning", column="temp")), SCHEMA)
    with caplog.at_level(logging.INFO):
        verdict = contract.check(column_batch("temp", [1.0]))
    assert (verdict.failures, caplog.records) == ((), [])


def test_mostly_does_not_spare_a_row(write: Write) -> None:
    contract = load(write(expect("column_values_to_not_be_null", column="temp", mostly=0.5)), SCHEMA)
    assert rejected(contract, column_batch("temp", [1.0, 2.0, None])) == [2]


def test_long_values_are_cut(write: Write) -> None:
    contract = load(write(expect("column_value_lengths_to_equal", column="origin", value=3)), SCHEMA)
    (reason,) = contract.check(column_batch("origin", ["x" * 5_000_000])).reasons(0)
    assert reason.value == f"'{'x' * 199}... (5000002 characters)"


def test_reasons_of_a_pair_name_both_columns(write: Write) -> None:
    contract = load(write(expect("column_pair_values_to_be_equal", column_A="temp", column_B="wind_dir")), SCHEMA)
    # A 64-bit integer and a float: Great Expectations compares these itself.
    table = column_batch("temp", [1.5])
    (reason,) = contract.check(table).reasons(0)
    assert (reason.column, reason.value) == ("temp, wind_dir", "1.5, null")


def test_chunks_slices_and_empty_batches(write: Write) -> None:
    contract = load(write(expect("column_values_to_be_unique", column="origin")), SCHEMA)
    table = pa.concat_tables([column_batch("origin", ["a", "b"]), column_batch("origin", ["c", "a"])])
    assert rejected(contract, table) == [0, 3]
    assert rejected(contract, table.slice(1)) == []
    assert rejected(contract, table.slice(0, 0)) == []


def test_many_columns_together_are_told_apart(tmp_path: Path) -> None:
    """The number of possible combinations is above 2**63."""
    random = Random(2013)
    rows = [tuple(random.randrange(500) for _ in range(8)) for _ in range(995)]
    rows += random.choices(rows, k=5)
    names = [f"c{number}" for number in range(8)]
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    path = tmp_path / "public.combinations.json"
    path.write_text(
        json.dumps({"name": "x", "expectations": [expect("compound_columns_to_be_unique", column_list=names)]})
    )
    times = Counter(rows)
    assert rejected(load(path, table.schema), table) == [i for i, row in enumerate(rows) if times[row] > 1]


def test_only_texts_beyond_ascii_reach_pythons_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It backtracks: over a text of ASCII, which RE2 settles in linear time, it may take for ever."""
    pattern = Pattern("^(a+)+$")
    reached: list[str] = []
    monkeypatch.setattr(pattern, "_search", reached.append)
    found = pattern.found(pa.array(["aaa", "\u00e9", None, "aab", "\u00e9", "aaa"]))
    assert found.to_pylist() == [True, False, None, False, False, True]
    assert reached == ["\u00e9"]


def test_columns_that_no_rule_names_may_be_missing_or_more(write: Write) -> None:
    contract = load(write(expect("column_values_to_not_be_null", column="temp")), SCHEMA)
    assert rejected(contract, pa.table({"temp": pa.array([None, 1.0], pa.float64()), "_lsn": [1, 2]})) == [0]


def test_another_type_than_the_declared_one_is_refused(write: Write) -> None:
    contract = load(write(expect("column_values_to_not_be_null", column="temp")), SCHEMA)
    with pytest.raises(ValueError, match=r"column temp is string, but contract .*\.json was loaded for double"):
        contract.check(pa.table({"temp": ["12.5"]}))


@pytest.mark.parametrize(
    ("column", "kwargs", "values", "failing"),
    [
        ("price", {"min_value": 0.1, "max_value": 1.1}, [Decimal("0.10"), Decimal("1.10"), Decimal("1.11")], [2]),
        ("price", {"max_value": 1e300}, [Decimal("99999999.99")], []),
        ("price", {"min_value": 1e9}, [Decimal("99999999.99"), None], [0]),
        ("wind_dir", {"min_value": 2**53, "strict_min": True}, [2**53, 2**53 + 1], [0]),
        ("wind_dir", {"max_value": 1.5}, [1, 2], [1]),
        ("day", {"min_value": "2013-02-12"}, [date(2013, 2, 11), date(9999, 12, 31)], [0]),
        ("local", {"max_value": "2013-02-12T00:00:00"}, [datetime(2013, 2, 12), datetime(9999, 12, 31)], [1]),
        ("at", {"min_value": "2013-02-12T01:00:00+01:00"}, [datetime(2013, 2, 12, tzinfo=UTC)], []),
    ],
)
def test_between_at_its_edges(
    write: Write, column: str, kwargs: dict[str, Any], values: list[Any], failing: list[int]
) -> None:
    contract = load(write(expect("column_values_to_be_between", column=column, **kwargs)), SCHEMA)
    assert rejected(contract, column_batch(column, values)) == failing


def test_the_version_follows_the_content_not_the_layout(write: Write, tmp_path: Path) -> None:
    path = write(expect("column_values_to_not_be_null", column="temp"))
    first = load(path, SCHEMA).version
    assert len(first) == 12
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert load(path, SCHEMA).version == first
    assert load(write(expect("column_values_to_not_be_null", column="origin")), SCHEMA).version != first


def test_ids_are_those_of_the_file_or_made_unique(write: Write) -> None:
    rule = expect("column_values_to_not_be_null", column="temp")
    contract = load(write(rule, rule, rule | {"id": "7f0c"}), SCHEMA)
    made = "temp:expect_column_values_to_not_be_null"
    assert [one.id for one in contract.rules] == [made, f"{made}#2", "7f0c"]


def test_a_suite_as_great_expectations_writes_it(write: Write) -> None:
    entry = expect("column_values_to_not_be_null", column="temp") | {"meta": {}, "notes": ["why", "so"], "id": None}
    contract = load(write(entry, id=None, meta={"great_expectations_version": "1.24.1"}, notes=None), SCHEMA)
    assert contract.rules[0].notes == ("why", "so")


def test_types_that_the_columns_have_anyway_cost_nothing(write: Write) -> None:
    contract = load(
        write(
            expect("column_values_to_be_of_type", column="temp", type_="float64"),
            expect("column_values_to_be_in_type_list", column="origin", type_list=["str", "bytes"]),
        ),
        SCHEMA,
    )
    assert rejected(contract, column_batch("temp", [1.0, None])) == []


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("column_values_to_not_be_null", {"column": "tmp"}, "unknown column 'tmp'", "did you mean 'temp'?"),
    ("column_values_to_not_be_nul", {"column": "temp"}, "unknown expectation", "expect_column_values_to_not_be_null"),
    ("column_values_to_not_be_null", {}, "column is missing", "write it"),
    ("column_values_to_not_be_null", {"column": 5}, "5 is no name of a column", "quotes"),
    ("column_values_to_not_be_null", {"column": "temp", "most": 1}, "unknown kwarg 'most'", "'mostly'"),
    ("column_values_to_not_be_null", {"column": "temp", "mostly": 2}, "mostly is 2", "between 0 and 1"),
    ("column_values_to_match_like_pattern", {"column": "origin", "like_pattern": "E%"}, "in a database", "regex"),
    ("column_values_to_be_between", {"column": "temp"}, "neither min_value nor max_value", "at least one"),
    ("column_values_to_be_between", {"column": "temp", "min_value": 2, "max_value": 1}, "above", "exchange"),
    ("column_values_to_be_between", {"column": "temp", "min_value": "low"}, "min_value is 'low'", "write a number"),
    ("column_values_to_be_between", {"column": "temp", "min_value": True}, "min_value is True", "write a number"),
    ("column_values_to_be_between", {"column": "temp", "min_value": "nan"}, "min_value", "write a number"),
    ("column_values_to_be_between", {"column": "temp", "min_value": 2**53 + 1}, "64-bit float", "exactly"),
    ("column_values_to_be_between", {"column": "temp", "min_value": 10**400}, "64-bit float", "exactly"),
    ("column_values_to_be_between", {"column": "temp", "min_value": {"$PARAMETER": "x"}}, "parameter", "the value"),
    ("column_values_to_be_between", {"column": "temp", "min_value": 1, "strict_min": 1}, "strict_min is 1", "true"),
    ("column_values_to_be_between", {"column": "origin", "min_value": 1}, "origin is string", "lengths"),
    ("column_values_to_be_between", {"column": "temp", "min_value": "2013-02-12"}, "cannot be compared", "number"),
    ("column_values_to_be_between", {"column": "temp", "min_value": "2013-02-30"}, "no date", "that exists"),
    ("column_values_to_be_between", {"column": "day", "min_value": 1}, "cannot be compared", "2013-02-12"),
    ("column_values_to_be_between", {"column": "day", "max_value": "2013-02-12T00:00:00"}, "compared", "a date"),
    ("column_values_to_be_between", {"column": "at", "min_value": "2013-02-12T00:00:00"}, "compared", "00Z"),
    ("column_values_to_be_between", {"column": "local", "min_value": "2013-02-12"}, "compared", "09:30:00"),
    ("column_values_to_be_between", {"column": "clock", "min_value": 1}, "time64", "regex"),
    ("column_values_to_be_in_set", {"column": "wind_dir", "value_set": ["1"]}, "can equal", "without quotes"),
    ("column_values_to_be_in_set", {"column": "origin", "value_set": [1]}, "can equal", "in quotes"),
    ("column_values_to_be_in_set", {"column": "day", "value_set": ["2013-02-12"]}, "can equal", "be_between"),
    ("column_values_to_be_in_set", {"column": "origin", "value_set": "EWR"}, "value_set is 'EWR'", "a list"),
    ("column_values_to_match_regex", {"column": "origin", "regex": "("}, "regex '(' is wrong", "Python's re"),
    ("column_values_to_match_regex", {"column": "origin", "regex": 1}, "regex is 1", "in quotes"),
    ("column_values_to_match_regex", {"column": "local", "regex": "^2013"}, "local is timestamp", "to_be_between"),
    ("column_values_to_not_match_regex", {"column": "local", "regex": "^2013"}, "other rows", "to_be_between"),
    ("column_values_to_match_regex_list", {"column": "local", "regex_list": ["^2"]}, "other rows", "to_be_between"),
    ("column_values_to_not_match_regex_list", {"column": "local", "regex_list": ["^2"]}, "other rows", "to_be_between"),
    ("column_value_lengths_to_equal", {"column": "local", "value": 19}, "other rows", "to_be_between"),
    ("column_value_lengths_to_be_between", {"column": "local", "max_value": 19}, "other rows", "to_be_between"),
    ("column_value_lengths_to_equal", {"column": "origin", "value": 1.5}, "value is 1.5", "whole number"),
    ("column_value_lengths_to_be_between", {"column": "origin"}, "neither", "at least one"),
    ("column_value_lengths_to_be_between", {"column": "origin", "max_value": 1e30}, "no text has", "leave it out"),
    ("column_value_lengths_to_be_between", {"column": "origin", "max_value": 10**30}, "no text has", "leave it out"),
    ("column_value_lengths_to_equal", {"column": "origin", "value": 10**400}, "no text has", "leave it out"),
    ("column_value_lengths_to_equal", {"column": "origin", "value": float("inf")}, "value is inf", "whole number"),
    ("column_values_to_be_between", {"column": "temp", "min_value": 1, "strict_min": None}, "strict_min", "true"),
    (
        "column_values_to_not_be_null",
        {"column": "temp", "condition_parser": "junk"},
        "condition_parser is 'junk'",
        "pandas, great_expectations",
    ),
    ("column_values_to_be_of_type", {"column": "wind_dir", "type_": "INTEGER"}, "every row", "int or int64"),
    ("column_values_to_be_in_type_list", {"column": "origin", "type_list": ["int"]}, "every row", "str"),
    ("column_values_to_be_unique", {"column": "tags"}, "told apart", "leave it out"),
    ("column_pair_values_to_be_equal", {"column_A": "day", "column_B": "origin"}, "compared", "of one type"),
    ("column_pair_values_to_be_equal", {"column_A": "at", "column_B": "local"}, "compared", "of one type"),
    ("column_pair_values_to_be_equal", {"column_A": "day", "column_B": "local"}, "compared", "of one type"),
    ("column_pair_values_a_to_be_greater_than_b", {"column_A": "at", "column_B": "day"}, "compared", "of one type"),
    ("multicolumn_values_to_be_equal", {"column_list": ["local", "day"]}, "day is date32", "of one type"),
    ("multicolumn_values_to_be_equal", {"column_list": ["origin", "local"]}, "origin is string", "of one type"),
    ("multicolumn_values_to_be_equal", {"column_list": ["local", "at"]}, "local is timestamp[us] and", "of one type"),
    ("multicolumn_values_to_be_equal", {"column_list": ["temp", "price", "origin"]}, "origin is string", "of one type"),
    ("multicolumn_values_to_be_equal", {"column_list": ["temp", "wind_dir", "day"]}, "day is date32", "of one type"),
    (
        "column_values_to_be_between",
        {"column": "origin", "min_value": 1, "row_condition": "temp > 1", "condition_parser": "pandas"},
        "origin is string",
        "lengths",
    ),
    (
        "column_pair_values_a_to_be_greater_than_b",
        {"column_A": "temp", "column_B": "temp", "ignore_row_if": "never"},
        "ignore_row_if is 'never'",
        "neither",
    ),
    ("compound_columns_to_be_unique", {"column_list": ["temp"]}, "two or more", "once"),
    ("compound_columns_to_be_unique", {"column_list": ["temp", "temp"]}, "two or more", "once"),
    ("column_values_to_match_regex_list", {"column": "origin", "regex_list": 5}, "does not accept", "kwargs"),
]


@pytest.mark.parametrize(("expectation", "kwargs", "problem", "instead"), WRONG)
def test_a_mistake_in_a_rule_says_where_what_and_what_to_write(
    write: Write, expectation: str, kwargs: dict[str, Any], problem: str, instead: str
) -> None:
    path = write(expect("column_values_to_not_be_null", column="temp"), expect(expectation, **kwargs))
    with pytest.raises(ContractError) as raised:
        load(path, SCHEMA)
    error = raised.value
    assert (error.file, error.index, error.expectation) == (path, 1, f"expect_{expectation}")
    assert problem in error.problem
    assert instead in error.instead
    assert str(error) == f"{path}, expectations[1] (expect_{expectation}): {error.problem}; {error.instead}"


@pytest.mark.parametrize(
    ("content", "index", "problem"),
    [
        ("{", None, "not JSON"),
        ("[]", None, "no JSON object"),
        ('{"expectations": []}', None, "no name"),
        ('{"name": "x"}', None, "no list of expectations"),
        ('{"name": "x", "expectation": []}', None, "unknown key 'expectation'"),
        ('{"expectation_suite_name": "x", "expectations": []}', None, "0.x"),
        ('{"name": "\\ud800", "expectations": []}', None, "half a character"),
        ('{"name": "x", "expectations": ' + "[" * 100_000, None, "nested too deeply"),
        ('{"name": "x", "expectations": [1]}', 0, "no JSON object"),
        ('{"name": "x", "expectations": [{"kwargs": {}}]}', 0, "no type"),
        ('{"name": "x", "expectations": [{"expectation_type": "expect_x"}]}', 0, "0.x"),
        ('{"name": "x", "expectations": [{"type": "expect_table_row_count_to_equal", "kwargs": []}]}', 0, "kwargs"),
        ('{"name": "x", "expectations": [{"type": "expect_column_to_exist", "severty": ""}]}', 0, "'severty'"),
    ],
)
def test_a_mistake_in_the_file(tmp_path: Path, content: str, index: int | None, problem: str) -> None:
    path = tmp_path / "public.weather.json"
    path.write_text(content)
    with pytest.raises(ContractError) as raised:
        load(path, SCHEMA)
    assert raised.value.index == index
    assert problem in raised.value.problem


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"id": ["a"]}, r"its id is \['a'\]; write a text"),
        ({"id": 5}, "its id is 5; write a text"),
        ({"notes": {"a": 1}}, r"its notes are \{'a': 1\}; write a text, or a list of texts"),
        ({"notes": ["a", 1]}, "its notes are"),
    ],
)
def test_a_mistake_beside_the_kwargs(write: Write, entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        load(write(expect("column_values_to_not_be_null", column="temp") | entry), SCHEMA)


def test_an_unknown_severity(write: Write) -> None:
    with pytest.raises(ContractError, match="its severity is 'fatal'; write one of critical, warning, info"):
        load(write(expect("column_values_to_not_be_null", "fatal", column="temp")), SCHEMA)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="there is no such file"):
        load(tmp_path / "public.weather.json", SCHEMA)
