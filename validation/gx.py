"""The one door to Great Expectations: rules over frames, and Data Docs.

Import this module only where it is needed: Great Expectations takes some five seconds and 250 MB.
Great Expectations is not thread-safe, and wrong without an exception where threads share a context: every
thread has a context of its own.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations
import numpy as np
import pyarrow as pa
import pyarrow.types as pat
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    ExpectationValidationResult,
)
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from validation.bounds import as_moment
from validation.catalogue import EXPECTATIONS, Reading
from validation.condition import alone
from validation.errors import EvaluationFailed, RuleError
from validation.frames import frame
from validation.rule import Outcome, Rule, SuiteReport

_ROWS_FORMAT = {
    "result_format": "COMPLETE",
    "partial_unexpected_count": 0,
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}
_SUMMARY_FORMAT = {"result_format": "SUMMARY"}
_INDEXES = "unexpected_index_list"

CALLS = 1_000
"""Evaluations, of 10 to 25 ms each, that may go into finding the rows that a rule raises on: a worker that takes
minutes for a poll loses its membership, and reads the same poll again."""

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]
_COUNTS = frozenset(
    f"{what}_{unit}" for what in ("element", "unexpected", "missing") for unit in ("count", "percent")
) | {"unexpected_percent_total", "unexpected_percent_nonmissing"}


@dataclass(frozen=True, slots=True)
class Failing:
    """The rows that fail a rule, by position. `errors` names what Great Expectations raised on a row."""

    rule: Rule
    rows: Positions
    errors: Mapping[int, str] = field(default_factory=dict)


def verify(rule: Rule) -> None:
    """Raises `RuleError` if Great Expectations does not accept the kwargs of the rule."""
    try:
        _expectation(rule)
    except ValueError as error:
        raise RuleError(
            f"Great Expectations does not accept it: {_in_one_line(error)}", "correct its kwargs"
        ) from error


def failing(rules: Sequence[Rule], table: pa.Table) -> list[Failing]:
    """The rows that fail each of these row-level rules, in the order of the rules.

    One value that an expectation cannot stand makes Great Expectations give up the whole batch. The rows
    are then halved until it stands alone: that row fails, with what was raised as the reason. Where so many raise
    that this would take more than `CALLS` evaluations, rows that could not be told apart by then fail together. Of a
    rule whose verdicts hang on other rows only its condition can be split so, and the rows that the condition stands
    are judged without the others; what else such a rule raises is raised, as `EvaluationFailed`.
    """
    results = _validate(rules, table, _ROWS_FORMAT)
    return [_failing(rule, result, table) for rule, result in zip(rules, results, strict=True)]


def failing_alone(rules: Sequence[Rule], table: pa.Table) -> list[Failing]:
    """As `failing`, of rules whose verdicts hang on other rows and of each row by itself: where it has no other beside
    it, it fails only if the condition of the rule raises on it."""
    raised = [_raising(alone(rule, table.column_names), table) if rule.conditional else {} for rule in rules]
    return [Failing(rule, _positions(errors), errors) for rule, errors in zip(rules, raised, strict=True)]


def outcomes(rules: Sequence[Rule], table: pa.Table) -> list[Outcome]:
    """What Great Expectations says of each rule over all rows, in the order of the rules."""
    results = _validate(rules, table, _SUMMARY_FORMAT)
    return [_outcome(rule, result, table) for rule, result in zip(rules, results, strict=True)]


def errors(rules: Sequence[Rule], table: pa.Table) -> list[str | None]:
    """What each rule raises over these rows, in the order of the rules; None of one that can be evaluated."""
    by_row = [rule for rule in rules if EXPECTATIONS[rule.expectation].level == "row"]
    try:
        results = _validate(by_row, table, _ROWS_FORMAT)
        found = {rule.index: _error(one) or _unlisted(one) for rule, one in zip(by_row, results, strict=True)}
        by_table = [rule for rule in rules if rule.index not in found]
        found |= {outcome.rule.index: outcome.error for outcome in outcomes(by_table, table)}
    except Exception as error:  # noqa: BLE001  # some rules raise beside what is caught, and take the others with them
        if len(rules) == 1:
            return [f"{type(error).__name__}: {_in_one_line(error)}"]
        return [one for rule in rules for one in errors([rule], table)]
    return [found[rule.index] for rule in rules]


def run_suite(
    name: str, rules: Sequence[Rule], table: pa.Table, docs: Path, hidden: Callable[[str], bool]
) -> SuiteReport:
    """Evaluate all rules of a suite, of rows and of tables, and write Data Docs to the folder `docs`. Of columns that
    are `hidden` neither tells a value, nor what a condition, which may read any column, made of them."""
    results = _validate(rules, table, _SUMMARY_FORMAT)
    for rule, result in zip(rules, results, strict=True):
        if any(map(hidden, table.column_names if rule.conditional else rule.columns)):
            _hide(result)
    found = [_outcome(rule, result, table) for rule, result in zip(rules, results, strict=True)]
    page = _write_docs(name, rules, results, docs)
    return SuiteReport(name, all(one.success for one in found), table.num_rows, tuple(found), page)


def _hide(result: ExpectationValidationResult) -> None:
    """Leave of a result only what counts rows: what it observed, the values that it did not expect, and the words of
    an exception can each be somebody's data."""
    result.result = {name: value for name, value in result.result.items() if name in _COUNTS}
    if _error(result) is not None:
        result.exception_info = {
            "raised_exception": True,
            "exception_message": "it could not be evaluated; why is not shown, for it can quote personal data",
            "exception_traceback": None,
        }


# Evaluation

_local = threading.local()
_creating = threading.Lock()


def _batch_definition() -> Any:
    """This thread's own, in a context of its own."""
    if not hasattr(_local, "batch_definition"):
        source = _new_context().data_sources.add_pandas("batches")
        _local.batch_definition = source.add_dataframe_asset("batch").add_batch_definition_whole_dataframe("batch")
    return _local.batch_definition


def _new_context(sites: dict[str, Any] | None = None) -> Any:
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites=sites or {},
        analytics_enabled=False,
        progress_bars={"globally": False, "metric_calculations": False},
    )
    with _creating:  # The newest context is also a global of the library.
        return great_expectations.get_context(mode="ephemeral", project_config=config)


def _validate(
    rules: Sequence[Rule], table: pa.Table, result_format: dict[str, Any]
) -> list[ExpectationValidationResult]:
    """One result for each rule. Rules that read a table alike share one frame and one call."""
    found: dict[int, ExpectationValidationResult] = {}
    for reading, alike in _by_reading(rules).items():
        data = frame(table.select(_columns(alike, table)), reading)
        expectations = [_expectation(_as_read(rule, table.schema)) for rule in alike]
        suite = great_expectations.ExpectationSuite(name="rules", expectations=expectations)
        batch = _batch_definition().get_batch({"dataframe": data})
        for result in batch.validate(suite, result_format=result_format).results:
            # Results come in another order than the expectations went.
            found[result.expectation_config.meta["index"]] = result
    return [found[rule.index] for rule in rules]


def _by_reading(rules: Sequence[Rule]) -> dict[Reading, list[Rule]]:
    groups: dict[Reading, list[Rule]] = {}
    for rule in rules:
        groups.setdefault(EXPECTATIONS[rule.expectation].reading, []).append(rule)
    return groups


def _as_read(rule: Rule, schema: pa.Schema) -> Rule:
    """The rule over its frame: where dates are read as timestamps, a bound that is a date is one too."""
    statistics = EXPECTATIONS[rule.expectation].reading == "statistics"
    if not statistics or not any(pat.is_date(schema.field(column).type) for column in rule.columns):
        return rule
    bounds = {key: as_moment(rule.kwargs[key]) for key in ("min_value", "max_value") if key in rule.kwargs}
    return replace(rule, kwargs={**rule.kwargs, **bounds})


def _columns(rules: Sequence[Rule], table: pa.Table) -> list[str]:
    if any(rule.reads_all_columns for rule in rules):
        return list(table.column_names)
    return list(dict.fromkeys(column for rule in rules for column in rule.columns))


def _expectation(rule: Rule) -> Expectation:
    configuration = ExpectationConfiguration(
        type=rule.expectation,
        kwargs=dict(rule.kwargs),
        severity=rule.severity,
        notes=list(rule.notes) if isinstance(rule.notes, tuple) else rule.notes,
        meta={"index": rule.index},
    )
    return configuration.to_domain_obj()


def _error(result: ExpectationValidationResult) -> str | None:
    """What Great Expectations caught while evaluating: it then says neither pass nor which rows fail."""
    info = result.exception_info or {}
    entries = [info] if "raised_exception" in info else info.values()
    messages = {_in_one_line(entry["exception_message"]): None for entry in entries if entry["raised_exception"]}
    return "; ".join(messages) or None


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())


def _failing(rule: Rule, result: ExpectationValidationResult, table: pa.Table) -> Failing:
    error = _error(result)
    if error is None:
        return Failing(rule, _listed(rule, result))
    if rule.needs_whole_batch:
        return _failing_across(rule, table, error)
    errors: dict[int, str] = {}
    return Failing(rule, _positions(_isolated(rule, table, error, errors)), errors)


def _failing_across(rule: Rule, table: pa.Table, error: str) -> Failing:
    """The failing rows of a rule across rows, which raised `error`: those that its condition raises on, and of the
    others those that fail among themselves."""
    errors = _raising(alone(rule, table.column_names), table) if rule.conditional else {}
    if not errors:
        raise EvaluationFailed(rule, error)
    rest = np.setdiff1d(np.arange(table.num_rows), list(errors))
    failing = _positions(errors)
    if rest.size:
        part = table.take(pa.array(rest))
        (result,) = _validate([rule], part, _ROWS_FORMAT)
        found = _failing(rule, result, part)
        failing = np.concatenate([failing, rest[found.rows]])
        errors |= {int(rest[row]): raised for row, raised in found.errors.items()}
    return Failing(rule, failing, errors)


def _raising(condition: Rule, table: pa.Table) -> dict[int, str]:
    """The rows on which a condition raises, and what."""
    (result,) = _validate([condition], table, _ROWS_FORMAT)
    error, errors = _error(result), dict[int, str]()
    if error is not None:
        list(_isolated(condition, table, error, errors))  # Which rows fail besides means nothing here.
    return errors


def _isolated(rule: Rule, table: pa.Table, error: str, errors: dict[int, str]) -> Iterator[int]:
    """The failing rows of a table on which the rule raised `error`; `errors` gets those that raise, and what."""
    calls, raising = 0, deque([(_by_nulls(table), error)])
    while raising:
        rows, raised = raising.popleft()
        if len(rows) == 1 or calls >= CALLS:
            errors |= dict.fromkeys(rows.tolist(), raised)
            yield from rows.tolist()
            continue
        for half in np.array_split(rows, 2):
            calls += 1
            (result,) = _validate([rule], table.take(pa.array(half)), _ROWS_FORMAT)
            again = _error(result)
            if again is None:
                yield from half[_listed(rule, result)].tolist()
            else:
                raising.append((half, again))


def _listed(rule: Rule, result: ExpectationValidationResult) -> Positions:
    """The failing rows that an answer without an error names; none of one that says that all pass."""
    unlisted = _unlisted(result)
    if unlisted is not None:
        raise EvaluationFailed(rule, unlisted)
    return _positions(result.result.get(_INDEXES, ()))


def _unlisted(result: ExpectationValidationResult) -> str | None:
    """Why an answer without an error does not say which rows fail, where some do: a type expectation looks at the
    values only of a column of objects."""
    if result.success or _INDEXES in result.result:
        return None
    return "it judges the column as a whole, and does not say which rows fail"


def _by_nulls(table: pa.Table) -> Positions:
    """The positions of the rows, those with nulls in the same columns beside one another: what raises on one raises on
    the others, most of the time, and a half without any is done in one call."""
    return np.lexsort([np.asarray(column.is_null()) for column in table.columns])


def _positions(rows: Iterable[int]) -> Positions:
    return np.array(list(rows), dtype=np.int64)


def _outcome(rule: Rule, result: ExpectationValidationResult, table: pa.Table) -> Outcome:
    error = _error(result)
    if error is not None:
        return Outcome(rule, success=False, rows=table.num_rows, error=error)
    details = result.to_json_dict()["result"]
    return Outcome(
        rule,
        success=bool(result.success),
        rows=table.num_rows,
        observed=details.get("observed_value"),
        failed=details.get("unexpected_count") if EXPECTATIONS[rule.expectation].level == "row" else None,
    )


# Data Docs


def _write_docs(name: str, rules: Sequence[Rule], results: Sequence[ExpectationValidationResult], docs: Path) -> Path:
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": store,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context = _new_context({"docs": site})
    suite = great_expectations.ExpectationSuite(name=name, expectations=list(map(_expectation, rules)))
    context.suites.add(suite)
    now = datetime.now(UTC)
    key = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(name),
        run_id=RunIdentifier(run_name=now.strftime("%Y%m%dT%H%M%SZ"), run_time=now),
        batch_identifier=name,
    )
    context.validation_results_store.set(key, _suite_result(name, results, now))
    context.build_data_docs()
    return docs.resolve() / "index.html"


def _suite_result(
    name: str, results: Sequence[ExpectationValidationResult], now: datetime
) -> ExpectationSuiteValidationResult:
    passed = sum(bool(result.success) for result in results)
    return ExpectationSuiteValidationResult(
        suite_name=name,
        success=passed == len(results),
        results=list(results),
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100.0 * passed / len(results) if results else None,
        },
        meta={
            "great_expectations_version": great_expectations.__version__,
            "validation_time": now.strftime("%Y%m%dT%H%M%S.%fZ"),
            "active_batch_definition": {"datasource_name": "millrace", "data_asset_name": name},
        },
    )
