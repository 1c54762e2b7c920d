"""What Great Expectations itself does behind its one door."""

import json
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from great_expectations.expectations import registry

from validation import gx
from validation.catalogue import DOMAIN_KWARGS, EXPECTATIONS, IGNORE_ROW_IF
from validation.compiled import COMPILED, compile_rule
from validation.contract import Contract, load
from validation.errors import ContractError, EvaluationFailed, RuleError
from validation.rule import Rule

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("amount", pa.decimal128(10, 2))])


def rule(expectation: str, index: int = 0, **kwargs: Any) -> Rule:
    named = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    columns = tuple(kwargs.get("column_list", named))
    return Rule(f"{expectation}{index}", index, f"expect_{expectation}", columns, kwargs, "critical")


def contract(tmp_path: Path, *expectations: tuple[str, dict[str, Any]], verify: bool = True) -> Contract:
    path = tmp_path / "public.payments.json"
    entries = [{"type": f"expect_{name}", "kwargs": kwargs} for name, kwargs in expectations]
    path.write_text(json.dumps({"name": "public.payments", "expectations": entries}))
    return load(path, SCHEMA, verify=verify)


def batch(*texts: str | None) -> pa.Table:
    rows = len(texts)
    return pa.table(
        [pa.array(range(rows)), pa.array(texts, pa.string()), pa.nulls(rows, SCHEMA.types[2])], schema=SCHEMA
    )


# The catalogue


def test_the_catalogue_holds_the_expectations_of_great_expectations() -> None:
    assert set(EXPECTATIONS) == set(registry.list_registered_expectation_implementations())
    assert {name for name in COMPILED if EXPECTATIONS[name].level != "row"} == set()


@pytest.mark.parametrize("name", sorted(EXPECTATIONS))
def test_the_catalogue_tells_the_kwargs_and_the_level(name: str) -> None:
    model, signature = registry.get_expectation_impl(name), EXPECTATIONS[name]
    domain = set(DOMAIN_KWARGS[signature.domain])
    fields = {key: field for key, field in model.__fields__.items() if key not in NOT_KWARGS}
    assert {key for key, field in fields.items() if field.required} == domain | signature.required
    if signature.level == "sql":
        return
    assert set(fields) == domain | signature.required | signature.optional
    assert (getattr(model, "map_metric", None) is not None) == (signature.level == "row")
    if signature.domain in IGNORE_ROW_IF:
        assert fields["ignore_row_if"].default == IGNORE_ROW_IF[signature.domain][0]


NOT_KWARGS = {
    "id", "meta", "notes", "result_format", "catch_exceptions", "rendered_content", "severity", "description",
    "batch_id", "windows", "library_metadata",
}  # fmt: skip


# Rows


def test_a_rule_that_is_not_compiled_goes_to_great_expectations(tmp_path: Path) -> None:
    made = contract(tmp_path, ("column_values_to_match_strftime_format", {"column": "text", "strftime_format": "%Y"}))
    verdict = made.check(batch("2013", "soon", None, "12"))
    assert verdict.rejected.to_pylist() == [False, True, False, True]
    (reason,) = verdict.reasons(1)
    assert (reason.expectation, reason.value) == ("expect_column_values_to_match_strftime_format", "'soon'")


def test_a_row_condition_goes_to_great_expectations(tmp_path: Path) -> None:
    kwargs = {"column": "text", "row_condition": "id >= 1", "condition_parser": "pandas"}
    made = contract(tmp_path, ("column_values_to_not_be_null", kwargs))
    assert made.check(batch(None, None, "a")).rejected.to_pylist() == [False, True, False]


@pytest.mark.parametrize(
    ("expectation", "kwargs"),
    [
        ("of_type", {"column": "id", "type_": "int64"}),
        ("of_type", {"column": "amount", "type_": "float64"}),
        ("of_type", {"column": "text", "type_": "str"}),
        ("in_type_list", {"column": "id", "type_list": ["str", "int64"]}),
        ("in_type_list", {"column": "id"}),
    ],
)
def test_a_type_with_a_row_condition_holds_of_every_row(
    tmp_path: Path, expectation: str, kwargs: dict[str, Any]
) -> None:
    condition = {"row_condition": "id >= 1", "condition_parser": "pandas"}
    made = contract(tmp_path, (f"column_values_to_be_{expectation}", kwargs | condition))
    assert made.check(batch("a", None, "b")).failures == ()
    assert made.validate(batch("a", None, "b"), tmp_path / "docs", shown).success


def test_an_answer_that_does_not_say_which_rows_fail_is_an_error_that_names_the_rule() -> None:
    """Of numbers Great Expectations looks at the type of the column alone."""
    wrong = rule("column_values_to_be_of_type", column="id", type_="str")
    with pytest.raises(EvaluationFailed, match="_of_type on id: it judges the column as a whole, and does not say"):
        gx.failing([wrong], batch("a"))
    (found,) = gx.failing([rule("column_values_to_be_of_type", column="id", type_="int64")], batch("a"))
    assert found.rows.tolist() == []


def test_one_value_that_cannot_be_evaluated_does_not_save_the_others(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["a"]}
    made = contract(tmp_path, ("column_values_to_match_json_schema", {"column": "text", "json_schema": schema}))
    verdict = made.check(batch('{"a": 1}', "{}", '{"a": 2}', "not json", None, "{}", '{"a": 3}'))
    assert verdict.rejected.to_pylist() == [False, True, False, True, False, True, False]
    assert verdict.reasons(3)[0].detail.startswith("cannot be evaluated: ")
    assert verdict.reasons(1)[0].detail.startswith("json_schema=")


def test_a_rule_across_rows_that_cannot_be_evaluated_stops(tmp_path: Path) -> None:
    made = contract(tmp_path, ("column_values_to_be_increasing", {"column": "text"}), verify=False)
    with pytest.raises(EvaluationFailed, match="cannot evaluate expect_column_values_to_be_increasing on text"):
        made.check(batch("a", "b"))


def test_a_row_that_a_condition_across_rows_cannot_stand_fails_alone(tmp_path: Path) -> None:
    """Otherwise one such row would stop its table for ever."""
    kwargs = {"column": "id", "row_condition": 'text.astype("int") > 5', "condition_parser": "pandas"}
    made = contract(tmp_path, ("column_values_to_be_unique", kwargs))
    texts = pa.array(["6", "x", "7", "1", None, "y"], pa.string())
    ids = pa.array([1, 1, 1, 1, 2, 2])
    verdict = made.check(pa.table([ids, texts, pa.nulls(6, SCHEMA.types[2])], schema=SCHEMA))
    assert verdict.rejected.to_pylist() == [True, True, True, False, True, True]
    for row, told in ((0, "row_condition="), (1, "cannot be evaluated: "), (4, "cannot be evaluated: ")):
        assert verdict.reasons(row)[0].detail.startswith(told)


@pytest.mark.parametrize("name", ["column_values_to_be_increasing", "column_value_z_scores_to_be_less_than"])
def test_a_row_whose_statistics_cannot_be_conditional_fails_alone(tmp_path: Path, name: str) -> None:
    kwargs: dict[str, Any] = {"column": "amount", "row_condition": 'text.astype("float") > 0'}
    if "scores" in name:
        kwargs |= {"threshold": 9, "double_sided": True}
    kwargs["condition_parser"] = "pandas"
    made = contract(tmp_path, (name, kwargs))
    texts = pa.array(["1", "x", "2", "3"], pa.string())
    amounts = pa.array([Decimal(n) for n in (1, 2, 3, 4)], SCHEMA.types[2])
    verdict = made.check(pa.table([pa.array(range(4)), texts, amounts], schema=SCHEMA))
    assert verdict.rejected.to_pylist() == [False, True, False, False]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each evaluation by Great Expectations had."""
    sizes: list[int] = []
    validate = gx._validate

    def counted(rules: Sequence[Rule], table: pa.Table, result_format: dict[str, Any]) -> list[Any]:
        sizes.append(table.num_rows)
        return validate(rules, table, result_format)

    monkeypatch.setattr(gx, "_validate", counted)
    return sizes


def test_rows_with_the_same_nulls_are_looked_at_together(tmp_path: Path, evaluated: list[int]) -> None:
    """Every eighth row has a null that the condition cannot stand: by halving as they come, all would be looked at one
    by one."""
    kwargs = {"column": "id", "row_condition": 'text.str.startswith("a")', "condition_parser": "pandas"}
    made = contract(tmp_path, ("column_values_to_be_unique", kwargs))
    rows = 64
    texts = [None if i % 8 == 5 else "a" for i in range(rows)]
    table = pa.table([pa.array(range(rows)), pa.array(texts), pa.nulls(rows, SCHEMA.types[2])], schema=SCHEMA)
    evaluated.clear()
    assert made.check(table).rejected.to_pylist() == [text is None for text in texts]
    assert len(evaluated) < rows / 2


def test_rows_that_raise_are_not_looked_for_without_end(
    tmp_path: Path, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a poll of thousands it would take minutes, in which the worker loses its membership, and begins again."""
    schema = {"type": "object", "required": ["a"]}
    made = contract(tmp_path, ("column_values_to_match_json_schema", {"column": "text", "json_schema": schema}))
    monkeypatch.setattr(gx, "CALLS", 6)
    evaluated.clear()
    texts = ["{"] * 12 + ['{"a": 1}'] * 20
    verdict = made.check(batch(*texts))
    assert len(evaluated) < 10
    assert verdict.rejected.to_pylist() == [True] * 16 + [False] * 16  # four of them beside eight that raise
    assert all(verdict.reasons(i)[0].detail.startswith("cannot be evaluated: ") for i in range(16))


def test_a_row_that_changes_thousands_of_times_in_a_poll_is_not_judged_as_often(
    tmp_path: Path, evaluated: list[int]
) -> None:
    """Each round of a rule across rows is an evaluation. A row of its own fails where its condition raises."""
    kwargs = {"column": "id", "row_condition": 'text.astype("int") > 5', "condition_parser": "pandas"}
    made = contract(
        tmp_path, ("column_values_to_be_unique", kwargs), ("column_values_to_be_increasing", {"column": "id"})
    )
    rows = 3_000
    texts = ["x" if i in (7, 2_900) else "6" for i in range(rows)]
    table = pa.table([pa.array([1] * rows), pa.array(texts), pa.nulls(rows, SCHEMA.types[2])], schema=SCHEMA)
    twice = np.array([0, 1])
    evaluated.clear()
    verdict = made.check(table, [twice, *(np.array([i]) for i in range(2, rows))])
    assert len(evaluated) < 60
    assert np.flatnonzero(verdict.rejected).tolist() == [0, 1, 7, 2_900]
    pairs = [np.array([i, i + 1]) for i in range(0, rows, 2)]
    evaluated.clear()
    found = np.flatnonzero(made.check(table, pairs).rejected).tolist()
    assert len(evaluated) < 200
    assert found == [*range(6), *range(7, 64), 2_900]


def test_integers_keep_their_digits_next_to_nulls(tmp_path: Path) -> None:
    big = 2**53 + 1
    table = pa.table([pa.array([big, None, 5]), pa.array(["a", "b", "c"]), pa.nulls(3, SCHEMA.types[2])], schema=SCHEMA)
    found = gx.failing(
        [
            rule("column_values_to_match_regex", 0, column="id", regex=f"^({big}|5)$"),
            rule("column_values_to_be_in_set", 1, column="id", value_set=[big - 1, 5]),
        ],
        table,
    )
    assert [one.rows.tolist() for one in found] == [[], [0]]


def test_decimals_are_in_a_set_of_pairs_as_in_one_of_values(tmp_path: Path) -> None:
    one = ("column_values_to_be_in_set", {"column": "amount", "value_set": [19.99, 5]})
    pairs = {"column_A": "amount", "column_B": "text", "value_pairs_set": [[19.99, "a"], [5, "b"], [None, "c"]]}
    made = contract(tmp_path, one, ("column_pair_values_to_be_in_set", pairs))
    amounts = pa.array([Decimal("19.99"), Decimal("5.00"), None, Decimal("19.98"), None], SCHEMA.types[2])
    table = pa.table([pa.array(range(5)), pa.array(["a", "b", "c", "a", "a"]), amounts], schema=SCHEMA)
    verdict = made.check(table)
    assert [failure.rows.tolist() for failure in verdict.failures] == [
        [False, False, False, True, False],
        [False, False, False, True, True],
    ]


def test_numbers_that_floats_do_not_tell_apart_are_in_no_set_over_decimals(tmp_path: Path) -> None:
    large = 2**53 + 1
    one = ("column_values_to_be_in_set", {"column": "amount", "value_set": [1, large]})
    pairs = {"column_A": "amount", "column_B": "text", "value_pairs_set": [[1, "a"], [large, "a"]]}
    for rule in (one, ("column_pair_values_to_be_in_set", pairs)):
        with pytest.raises(ContractError, match=rf"has {large}, and the values of a decimal column are compared as"):
            contract(tmp_path, rule)


@pytest.mark.parametrize("column", ["at", "day"])
@pytest.mark.parametrize(
    ("expectation", "kwargs"),
    [
        ("values_to_match_regex", {"regex": "00:00:00[+]00:00$|^2013-02-12$"}),
        ("values_to_match_regex_list", {"regex_list": ["00:00:00[+]00:00$|^2013-02-12$"]}),
        ("value_lengths_to_be_between", {"max_value": 25}),
    ],
)
def test_moments_and_dates_have_the_same_text_beside_others_as_alone(
    column: str, expectation: str, kwargs: dict[str, Any]
) -> None:
    """Timestamps without a zone have not, and are refused."""
    moments = [datetime(2013, 2, 12, tzinfo=UTC), datetime(2013, 2, 12, 9, 30, 0, 5, tzinfo=UTC), None]
    days = [date(2013, 2, 12), date(9999, 12, 31), None]
    table = pa.table({"at": pa.array(moments, pa.timestamp("us", tz="UTC")), "day": pa.array(days, pa.date32())})
    one = rule(f"column_{expectation}", column=column, **kwargs)
    assert compile_rule(one, table.schema) is None
    (together,) = gx.failing([one], table)
    alone = [row for row in range(table.num_rows) if gx.failing([one], table.slice(row, 1))[0].rows.size]
    assert together.rows.tolist() == alone


@pytest.mark.parametrize(
    ("what", "bounds", "holds"),
    [
        ("max", {"min_value": "2013-02-14", "max_value": "2013-02-14"}, True),
        ("max", {"min_value": "2013-02-14", "strict_min": True}, False),
        ("max", {"max_value": "2013-02-13"}, False),
        ("min", {"min_value": "2013-02-12"}, True),
        ("mean", {"min_value": "2013-02-13", "max_value": "2013-02-13T00:00:00"}, True),
    ],
)
def test_a_date_bounds_the_statistics_of_dates(what: str, bounds: dict[str, Any], holds: bool) -> None:
    """Great Expectations writes such a bound as a date, and does not compare one with the times that it takes."""
    table = pa.table({"day": pa.array([date(2013, 2, 12), None, date(2013, 2, 14)], pa.date32())})
    (outcome,) = gx.outcomes([rule(f"column_{what}_to_be_between", column="day", **bounds)], table)
    assert (outcome.success, outcome.error) == (holds, None)


def test_threads_do_not_disturb_one_another() -> None:
    """Each thread evaluates rules of its own over rows of its own."""
    wrong: list[tuple[int, list[int]]] = []

    def evaluate(limit: int) -> None:
        table = pa.table({"text": [str(row % 4) for row in range(20)]})
        for _ in range(4):
            (found,) = gx.failing([rule("column_values_to_be_in_set", column="text", value_set=[str(limit)])], table)
            if found.rows.tolist() != [row for row in range(20) if row % 4 != limit]:
                wrong.append((limit, found.rows.tolist()))

    threads = [threading.Thread(target=evaluate, args=(limit,)) for limit in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What is refused when a contract is loaded


VALUES: dict[str, tuple[pa.DataType, Any]] = {
    "int": (pa.int32(), 5),
    "big": (pa.int64(), 5),
    "real": (pa.float32(), 1.5),
    "double": (pa.float64(), 1.5),
    "decimal": (pa.decimal128(10, 2), Decimal("1.50")),
    "flag": (pa.bool_(), True),
    "text": (pa.string(), "a"),
    "bytes": (pa.binary(), b"a"),
    "date": (pa.date32(), date(2013, 2, 12)),
    "stamp": (pa.timestamp("us"), datetime(2013, 2, 12)),
    "zoned": (pa.timestamp("us", tz="UTC"), datetime(2013, 2, 12, tzinfo=UTC)),
    "time": (pa.time64("us"), time(9, 30)),
}
TYPED = pa.table({name: pa.array([value, None], kind) for name, (kind, value) in VALUES.items()})
TYPE_NAMES = ["int", "int64", "float", "float64", "bool", "str", "object", "date", "datetime64[us]", "Timestamp", "INT"]


def test_type_names_mean_what_they_mean_to_great_expectations() -> None:
    rules = [
        rule(expectation, index, column=column, **{key: [name] if key == "type_list" else name})
        for index, (column, name, (expectation, key)) in enumerate(
            (column, name, how)
            for column in VALUES.keys() - {"real", "time", "bytes"}
            for name in TYPE_NAMES
            for how in (("column_values_to_be_of_type", "type_"), ("column_values_to_be_in_type_list", "type_list"))
        )
    ]
    for one, outcome in zip(rules, gx.outcomes(rules, TYPED), strict=True):
        try:
            compile_rule(one, TYPED.schema)
        except RuleError:
            assert not outcome.success, one
        else:
            assert outcome.success, one


@pytest.mark.parametrize(
    "refused",
    [
        rule("column_values_to_be_between", column="text", min_value=1),
        rule("column_values_to_be_between", column="text", min_value="a"),
        rule("column_values_to_be_between", column="time", min_value=1),
        rule("column_values_to_be_between", column="bytes", min_value=1),
        rule("column_values_to_be_between", column="date", min_value="2013-02-11T00:00:00"),
        rule("column_values_to_be_between", column="stamp", min_value="2013-02-11"),
        rule("column_values_to_be_between", column="stamp", min_value="2013-02-11T00:00:00Z"),
        rule("column_values_to_be_between", column="zoned", min_value="2013-02-11T00:00:00"),
        rule("column_values_to_be_between", column="zoned", min_value="2013-02-11"),
        rule("column_values_to_be_between", column="double", min_value="2013-02-11"),
        rule("column_values_to_be_in_set", column="text", value_set=[5]),
        rule("column_values_to_be_in_set", column="big", value_set=["5"]),
        rule("column_values_to_be_in_set", column="date", value_set=["2013-02-12"]),
        rule("column_values_to_be_in_set", column="time", value_set=["09:30:00"]),
        rule("column_values_to_be_in_set", column="bytes", value_set=["a"]),
        rule("column_pair_values_a_to_be_greater_than_b", column_A="text", column_B="big"),
        rule("column_pair_values_to_be_equal", column_A="text", column_B="big"),
        rule("column_pair_values_to_be_equal", column_A="time", column_B="stamp"),
        rule("column_pair_values_a_to_be_greater_than_b", column_A="zoned", column_B="stamp"),
    ],
    ids=lambda one: f"{one.expectation}-{one.columns[0]}-{list(one.kwargs.values())[-1]}",
)
def test_great_expectations_never_passes_what_is_refused(refused: Rule) -> None:
    with pytest.raises(RuleError):
        compile_rule(refused, TYPED.schema)
    try:
        (outcome,) = gx.outcomes([refused], TYPED)
    except ValueError:
        return  # Great Expectations does not take the kwargs either.
    assert not outcome.success


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_a_kwarg_that_is_null_is_taken_where_great_expectations_takes_it(tmp_path: Path, name: str) -> None:
    """A suite that Great Expectations writes can hold nulls; one that it does not take fails in `millrace validate`."""
    column: dict[str, Any] = (
        {"column": "text"} if EXPECTATIONS[name].domain == "column" else {"column_A": "id", "column_B": "id"}
    )
    column = {"column_list": ["id", "amount"]} if EXPECTATIONS[name].domain == "columns" else column
    column = {"column": "id"} if name == "expect_column_values_to_be_between" else column
    needed = {
        "value_set": ["a"],
        "value_pairs_set": [[1, 1]],
        "regex": "a",
        "value": 1,
        "type_": "str",
        "min_value": 1,
        "max_value": 2,
    }
    given = {key: needed[key] for key in needed if key in EXPECTATIONS[name].required | EXPECTATIONS[name].optional}
    for key in EXPECTATIONS[name].optional:
        kwargs: dict[str, Any] = {**column, **given, key: None}
        try:
            gx.verify(rule(name.removeprefix("expect_"), **kwargs))
        except RuleError:
            with pytest.raises(ContractError, match=key):
                contract(tmp_path, (name.removeprefix("expect_"), kwargs), verify=False)
        else:
            contract(tmp_path, (name.removeprefix("expect_"), kwargs), verify=False)


# A whole suite


def shown(column: str) -> bool:
    """No column is hidden."""
    return False


def test_a_suite_is_evaluated_and_written_as_data_docs(tmp_path: Path) -> None:
    made = contract(
        tmp_path,
        ("column_values_to_not_be_null", {"column": "text", "mostly": 0.5}),
        ("table_row_count_to_equal", {"value": 4}),
        ("column_values_to_be_between", {"column": "amount", "min_value": 0.1, "max_value": 1}),
        ("column_max_to_be_between", {"column": "id", "max_value": 2}),
        ("column_mean_to_be_between", {"column": "text", "min_value": 0}),
        ("column_values_to_be_of_type", {"column": "id", "type_": "int64"}),
        ("column_pair_values_to_be_equal", {"column_A": "id", "column_B": "id"}),
        verify=False,
    )
    amounts = pa.array([Decimal("0.10"), Decimal("1.00"), None, Decimal("1.01")], SCHEMA.types[2])
    table = pa.table([pa.array([1, 2, 3, None]), pa.array(["a", None, "b", "c"]), amounts], schema=SCHEMA)
    report = made.validate(table.append_column("_lsn", pa.array(range(4))), tmp_path / "docs", shown)

    assert [outcome.rule.index for outcome in report.outcomes] == list(range(7))
    assert [outcome.success for outcome in report.outcomes] == [True, True, False, False, False, True, True]
    assert [outcome.failed for outcome in report.outcomes] == [1, None, 1, None, None, None, 0]
    assert [outcome.observed for outcome in report.outcomes][1:4] == [4, None, 3]
    assert [outcome.error is not None for outcome in report.outcomes] == [False] * 4 + [True] + [False] * 2
    assert (report.name, report.rows, report.success) == ("public.payments", 4, False)
    assert report.page == (tmp_path / "docs" / "index.html").resolve()
    page = report.page.read_text()
    assert "public.payments" in page
    (validation,) = (tmp_path / "docs" / "validations").rglob("*.html")
    assert "amount" in validation.read_text()


def test_of_a_hidden_column_no_value_is_told(tmp_path: Path) -> None:
    made = contract(
        tmp_path,
        ("column_values_to_be_in_set", {"column": "text", "value_set": ["a"]}),
        ("column_most_common_value_to_be_in_set", {"column": "text", "value_set": ["a"]}),
        ("column_mean_to_be_between", {"column": "text", "min_value": 0}),
        ("column_values_to_be_between", {"column": "id", "min_value": 70}),
        verify=False,
    )
    amounts = pa.array([None, None, None], SCHEMA.types[2])
    table = pa.table([pa.array([61, 62, 63]), pa.array(["Zoe", "Zoe", "a"]), amounts], schema=SCHEMA)
    report = made.validate(table, tmp_path / "docs", lambda column: column == "text")
    assert [outcome.success for outcome in report.outcomes] == [False] * 4
    assert [outcome.failed for outcome in report.outcomes] == [2, None, None, 3]
    assert report.outcomes[2].error is not None
    assert "Zoe" not in repr(report)
    pages = "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html"))
    assert "Zoe" not in pages
    assert "61" in pages, "of other columns the unexpected values are shown"


def test_kwargs_that_nobody_verified_are_one_line_of_validate(tmp_path: Path) -> None:
    kwargs = {"column": "id", "threshold": "high", "double_sided": True}
    made = contract(tmp_path, ("column_value_z_scores_to_be_less_than", kwargs), verify=False)
    with pytest.raises(ContractError, match=r"expectations\[0\] .*does not accept it: .*threshold"):
        made.validate(batch("a"), tmp_path / "docs", shown)


def test_a_suite_that_holds(tmp_path: Path) -> None:
    made = contract(tmp_path, ("column_values_to_not_be_null", {"column": "text"}))
    assert made.validate(batch("a"), tmp_path / "docs", shown).success


def test_verify_says_in_one_line_what_great_expectations_refuses() -> None:
    wrong = rule("column_value_z_scores_to_be_less_than", column="id", threshold="high", double_sided=True)
    with pytest.raises(RuleError) as raised:
        gx.verify(wrong)
    assert "\n" not in raised.value.problem
    assert "threshold" in raised.value.problem
