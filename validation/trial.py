"""Rules that Great Expectations evaluates, tried over made-up rows of the contract's types before they are applied.

A rule that raises there would reject every row, or stop the worker. What a rule raises can hang on the content as
well (text that is a date, or JSON), so it is refused only if it raises over each of several samples. A rule across rows
that raises over one row, or over nulls alone, stops the worker at the first such batch, and is refused as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from validation.condition import CONDITION, alone
from validation.errors import RuleError
from validation.kinds import Kind, kind_of
from validation.rule import Rule

_TEXTS = (["1", "2", "4"], ["a", "b", "d"], ["2013-02-12", "2013-02-13", "2013-02-15"])
"""Texts that are numbers and JSON, that are neither, and that are dates."""
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class _Part:
    """What is tried of a rule: itself without its row condition, or `condition` alone, as `tried` with any verdict."""

    rule: Rule
    tried: Rule
    condition: str | None


def first_refused(rules: Sequence[Rule], schema: pa.Schema) -> tuple[Rule, RuleError] | None:
    """The first of these rules that Great Expectations raises on whatever rows of this schema it sees, or of a rule
    across rows whatever few, and why."""
    parts = [part for rule in rules for part in _parts(rule, schema.names)]
    parts = [replace(part, tried=replace(part.tried, index=index)) for index, part in enumerate(parts)]
    samples = [made_up_rows(schema, texts) for texts in _TEXTS]
    reasons = _over_few_rows(parts, samples) | _over_any_rows(parts, samples)
    for part in parts:
        if part.tried.index in reasons:
            return part.rule, _refusal(part, reasons[part.tried.index])
    return None


def _parts(rule: Rule, columns: Sequence[str]) -> Iterator[_Part]:
    """A condition is tried apart, for it may leave none of the rows that the rule needs."""
    kwargs = {key: value for key, value in rule.kwargs.items() if key not in CONDITION}
    yield _Part(rule, replace(rule, kwargs=kwargs), None)
    if rule.conditional:
        yield _Part(rule, alone(rule, columns), str(rule.kwargs["row_condition"]))


def _calls(part: _Part) -> bool:
    """Whether a condition calls methods of a column, `text.astype("int") > 5`: they can take what stands in the table,
    and none of the samples. Over no rows they fail only where they are written wrong."""
    parser = part.tried.kwargs.get("condition_parser", "pandas")
    return part.condition is not None and parser == "pandas" and "(" in part.condition


def _over_any_rows(parts: Sequence[_Part], samples: Sequence[pa.Table]) -> dict[int, str]:
    """What those of the parts raise that raise whatever rows they see."""
    reasons = _raised_on_each(parts, samples)
    called = [part for part in parts if part.tried.index in reasons and _calls(part)]
    settled = _raised(called, samples[0].slice(0, 0))
    spared = {part.tried.index for part in called} - settled.keys()
    return {index: reason for index, reason in reasons.items() if index not in spared}


def _over_few_rows(parts: Sequence[_Part], samples: Sequence[pa.Table]) -> dict[int, str]:
    """What those rules across rows raise that raise over one row, or over nulls alone: a batch may have no others."""
    across = [part for part in parts if part.condition is None and part.rule.needs_whole_batch]
    schema = samples[0].schema
    nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
    one = [sample.slice(0, 1) for sample in samples]
    return _raised_on_each(across, [nulls]) | _raised_on_each(across, one)


def _raised_on_each(parts: Sequence[_Part], samples: Sequence[pa.Table]) -> dict[int, str]:
    """What those of the parts raise that raise on each of the samples: what they raised on the first."""
    left, reasons = parts, dict[int, str]()
    for sample in samples:
        raised = _raised(left, sample)
        reasons = {index: reasons.get(index, reason) for index, reason in raised.items()}
        left = [part for part in left if part.tried.index in raised]
    return reasons


def _raised(parts: Sequence[_Part], table: pa.Table) -> dict[int, str]:
    if not parts:
        return {}
    from validation import gx  # It takes seconds, and most contracts have only compiled rules.

    errors = gx.errors([part.tried for part in parts], table)
    return {part.tried.index: error for part, error in zip(parts, errors, strict=True) if error is not None}


def _refusal(part: _Part, reason: str) -> RuleError:
    cut = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
    if part.condition is None:
        return RuleError(
            f"Great Expectations cannot evaluate it on columns of these types: {cut}",
            "correct its kwargs, or use an expectation for values of that type",
        )
    return RuleError(
        f"its row_condition {part.condition!r} cannot be evaluated: {cut}",
        "correct it: it takes the table's own columns, and compares numbers, booleans, text, and times without a zone",
    )


# The samples


def made_up_rows(schema: pa.Schema, texts: Sequence[str]) -> pa.Table:
    """Three rows without a null, of different values, with these texts."""
    return pa.table([_column(field.type, texts) for field in schema], schema=schema)


def _column(arrow_type: pa.DataType, texts: Sequence[str]) -> pa.Array:
    if pat.is_list(arrow_type):
        return pa.array([[value] for value in _column(arrow_type.value_type, texts).to_pylist()], arrow_type)
    kind = kind_of(arrow_type)
    if kind == "timestamp":
        zone = None if arrow_type.tz is None else UTC
        return pa.array([datetime(2013, 2, 11, tzinfo=zone) + timedelta(days=n) for n in _NUMBERS], arrow_type)
    if kind == "decimal":
        return pa.array([Decimal(n).scaleb(-arrow_type.scale) for n in _NUMBERS], arrow_type)
    if kind in ("text", "bytes"):
        return pa.array([text if kind == "text" else text.encode() for text in texts], arrow_type)
    value = _VALUES.get(kind)
    return pa.nulls(len(_NUMBERS), arrow_type) if value is None else pa.array(map(value, _NUMBERS), arrow_type)


_NUMBERS = (1, 2, 4)
_VALUES: Mapping[Kind, Callable[[int], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda n: n != 1,
    "date": lambda n: date(2013, 2, 11) + timedelta(days=n),
    "time": lambda n: time(9, n),
}
