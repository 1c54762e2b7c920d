"""A contract: the Great Expectations suite of one table, and its verdicts on batches of typed rows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from validation import suite, trial
from validation.catalogue import EXPECTATIONS
from validation.check import Check
from validation.compiled import compile_rule
from validation.errors import ContractError, RuleError
from validation.rule import Reason, Rule, SuiteReport

if TYPE_CHECKING:
    from validation.gx import Failing

logger = logging.getLogger(__name__)

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Positions = np.ndarray[tuple[int], np.dtype[np.int64]]

_LONGEST_VALUE = 200
"""Characters of a value that a reason shows."""

_GX_ROUNDS = 32
"""Rounds of a batch that Great Expectations judges, which takes it 10 to 25 ms each: one row may change thousands of
times in a poll. A row of a later round is judged by itself, as it would be in a poll of its own."""


@dataclass(frozen=True, slots=True)
class Contract:
    """The rules of one table; `load` makes it.

    `name` is the suite's, `version` twelve hex digits of the SHA-256 of its canonical JSON. `rules` give
    a verdict a row, `table_rules` one for many rows (see `validation.window`).
    """

    file: Path
    name: str
    version: str
    schema: pa.Schema
    rules: tuple[Rule, ...]
    table_rules: tuple[Rule, ...]
    _compiled: tuple[tuple[Rule, Check], ...]
    _by_gx: tuple[Rule, ...]
    _columns: tuple[str, ...]

    def by_row(self) -> "Contract":
        """The contract without the rules that look across the rows of a batch."""
        rules = tuple(rule for rule in self.rules if not rule.needs_whole_batch)
        compiled = tuple((rule, check) for rule, check in self._compiled if not rule.needs_whole_batch)
        by_gx = tuple(rule for rule in self._by_gx if not rule.needs_whole_batch)
        return replace(self, rules=rules, _compiled=compiled, _by_gx=by_gx)

    def check(self, table: pa.Table, rounds: Sequence[Positions] = ()) -> "Verdict":
        """The verdict on each row of a batch.

        `rounds` parts the rows, by position, for the rules that look across them: each such rule is judged in
        every part by itself, and where there are no rounds over all rows. Of the rules that Great Expectations itself
        evaluates that goes for the first 32 rounds, and each row of the others is judged by itself.

        The table has at least the columns that the rules name, in the types that the contract was loaded
        for: types are the decoder's task, and checked before. Uniqueness is judged within the batch, or its
        rounds. Rows that fail warning and info rules are counted and logged, in one line a batch.

        Raises `ValueError` for another type, and `EvaluationFailed` where Great Expectations gives up.
        """
        arrays = {column: self._array(table, column) for column in self._columns}
        rounds = rounds if len(rounds) > 1 else ()
        failures = [*self._compiled_failures(arrays, table.num_rows, rounds), *self._gx_failures(table, rounds)]
        verdict = _verdict(table, failures)
        if any(failure.rule.severity != "critical" for failure in failures):
            self._log(verdict)
        return verdict

    def validate(
        self, table: pa.Table, docs: Path, hidden: Callable[[str], bool] = lambda column: False
    ) -> SuiteReport:
        """Evaluate the whole suite by Great Expectations, and write its Data Docs into the folder `docs`; of columns
        that are `hidden` without any value.

        `mostly` counts here: an expectation succeeds if enough rows pass it. An expectation that Great
        Expectations cannot evaluate has an error, and never succeeds. Raises `ContractError` for kwargs that it
        does not accept, of a contract that was loaded without being verified.
        """
        from validation import gx

        rules = sorted((*self.rules, *self.table_rules), key=lambda rule: rule.index)
        for rule in rules:
            try:
                gx.verify(rule)
            except RuleError as error:
                raise ContractError(self.file, rule.index, error.problem, error.instead, rule.expectation) from error
        return gx.run_suite(self.name, rules, table.select(self.schema.names), docs, hidden)

    def _compiled_failures(
        self, arrays: Mapping[str, pa.Array], rows: int, rounds: Sequence[Positions]
    ) -> "list[Failure]":
        failures: list[Failure] = []
        for rule, check in self._compiled:
            columns = [arrays[column] for column in rule.columns]
            parted = rounds and rule.needs_whole_batch
            mask = _in_rounds(check, columns, rows, rounds) if parted else _mask(check, columns)
            if mask is not None:
                failures.append(Failure(rule, mask, {}))
        return failures

    def _gx_failures(self, table: pa.Table, rounds: Sequence[Positions]) -> "list[Failure]":
        if not self._by_gx or not table.num_rows:
            return []
        from validation import gx

        across = [rule for rule in self._by_gx if rounds and rule.needs_whole_batch]
        by_row = [rule for rule in self._by_gx if rule not in across]
        failures = {one.rule.index: _failure(one, table.num_rows) for one in gx.failing(by_row, table) if one.rows.size}
        parts = _judged_in(rounds, across, table) if across else []
        for i, rule in enumerate(across):
            mask, errors = np.zeros(table.num_rows, dtype=np.bool_), dict[int, str]()
            for positions, found in parts:
                mask[positions[found[i].rows]] = True
                errors |= {int(positions[row]): error for row, error in found[i].errors.items()}
            if mask.any():
                failures[rule.index] = Failure(rule, mask, errors)
        return [failures[rule.index] for rule in self._by_gx if rule.index in failures]

    def _array(self, table: pa.Table, column: str) -> pa.Array:
        chunks = table.column(column)
        expected = self.schema.field(column).type
        if chunks.type != expected:
            raise ValueError(f"column {column} is {chunks.type}, but contract {self.file} was loaded for {expected}")
        return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()

    def _log(self, verdict: "Verdict") -> None:
        lenient = [failure for failure in verdict.failures if failure.rule.severity != "critical"]
        level = logging.WARNING if any(f.rule.severity == "warning" for f in lenient) else logging.INFO
        told = "; ".join(
            f"{failure.count} fail {failure.rule.expectation} on {', '.join(failure.rule.columns)}"
            f" ({', '.join(filter(None, (failure.rule.severity, failure.rule.detail)))})"
            for failure in lenient
        )
        logger.log(level, "%s: of %d rows %s", self.name, len(verdict.rejected), told)


@dataclass(frozen=True, slots=True)
class Failure:
    """One rule and the rows of a batch that fail it; `errors` says where it could not be evaluated."""

    rule: Rule
    rows: Mask
    errors: Mapping[int, str]

    @property
    def count(self) -> int:
        """The number of failing rows."""
        return int(self.rows.sum())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a contract says of a batch.

    `rejected` has one value a row, True where a critical rule fails; `rejects` counts them; `failures`
    holds the rules that any row fails.
    """

    rejected: pa.BooleanArray
    rejects: int
    failures: tuple[Failure, ...]
    _table: pa.Table

    @property
    def counts(self) -> Mapping[str, int]:
        """Failing rows by rule id; a rule that no row fails is left out."""
        return {failure.rule.id: failure.count for failure in self.failures}

    def reasons(self, row: int) -> tuple[Reason, ...]:
        """The rules of any severity that a row fails, with what stood there."""
        return tuple(self._reason(failure, row) for failure in self.failures if failure.rows[row])

    def critical(self) -> Mapping[int, list[Reason]]:
        """For each rejected row, in ascending order, the critical rules that it fails: `reasons` for many rows."""
        found: dict[int, list[Reason]] = {int(row): [] for row in np.flatnonzero(self.rejected)}
        for failure in self.failures:
            if failure.rule.severity == "critical":
                rows = np.flatnonzero(failure.rows)
                columns = [self._table.column(name).take(rows).to_pylist() for name in failure.rule.columns]
                detail = failure.rule.detail
                for row, *values in zip(rows.tolist(), *columns, strict=True):
                    found[row].append(_reason(failure, row, values, detail))
        return found

    def _reason(self, failure: Failure, row: int) -> Reason:
        values = [self._table.column(name)[row].as_py() for name in failure.rule.columns]
        return _reason(failure, row, values, failure.rule.detail)


def _reason(failure: Failure, row: int, values: Sequence[object], detail: str) -> Reason:
    rule = failure.rule
    if row in failure.errors:
        detail = f"cannot be evaluated: {failure.errors[row]}"
    return Reason(rule.expectation, ", ".join(rule.columns), ", ".join(map(_shown, values)), rule.severity, detail)


def _verdict(table: pa.Table, failures: Sequence[Failure]) -> Verdict:
    rejected = np.zeros(table.num_rows, dtype=np.bool_)
    for failure in failures:
        if failure.rule.severity == "critical":
            rejected |= failure.rows
    return Verdict(pa.array(rejected), int(rejected.sum()), tuple(failures), table)


def load(path: Path, schema: pa.Schema, *, verify: bool = True) -> Contract:
    """Read `contracts/<schema>.<table>.json`, a native suite, for a table of these Arrow columns.

    Everything that can be known beforehand is checked: columns, expectations, kwargs, types. Rules that
    Great Expectations itself must evaluate are checked by it, and tried over a few made-up rows, which imports
    it and takes seconds: a worker, whose contracts were verified when they were applied, goes without
    (`verify` False). Raises `ContractError`.
    """
    parsed = suite.read(path, schema)
    compiled: list[tuple[Rule, Check]] = []
    by_gx: list[Rule] = []
    for rule in parsed.rules:
        try:
            check = compile_rule(rule, schema) if _level(rule) == "row" else None
            if verify and (check is None or rule.conditional):
                _verify(rule)
        except RuleError as error:
            raise ContractError(path, rule.index, error.problem, error.instead, rule.expectation) from error
        if check is not None:
            compiled.append((rule, check))
        elif _level(rule) == "row":
            by_gx.append(rule)
    table_rules = tuple(rule for rule in parsed.rules if _level(rule) == "table")
    conditional = [rule for rule, _ in compiled if rule.conditional]  # Their conditions are for `validate` alone.
    if verify and (refused := trial.first_refused([*by_gx, *conditional, *table_rules], schema)) is not None:
        rule, why = refused
        raise ContractError(path, rule.index, why.problem, why.instead, rule.expectation) from why
    rules = tuple(rule for rule in parsed.rules if _level(rule) == "row")
    return Contract(
        file=path,
        name=parsed.name,
        version=parsed.version,
        schema=schema,
        rules=rules,
        table_rules=table_rules,
        _compiled=tuple(compiled),
        _by_gx=tuple(by_gx),
        _columns=tuple(dict.fromkeys(column for rule in rules for column in rule.columns)),
    )


def _level(rule: Rule) -> str:
    return EXPECTATIONS[rule.expectation].level


def _verify(rule: Rule) -> None:
    from validation import gx

    gx.verify(rule)


def _mask(check: Check, columns: Sequence[pa.Array]) -> Mask | None:
    """The failing rows, None if there are none."""
    failing = check(*columns)
    if failing is None or not failing.true_count:
        return None
    mask: Mask = failing.fill_null(False).to_numpy(zero_copy_only=False)
    return mask


def _in_rounds(check: Check, columns: Sequence[pa.Array], rows: int, rounds: Sequence[Positions]) -> Mask | None:
    """The failing rows of a rule across rows, round by round."""
    mask = np.zeros(rows, dtype=np.bool_)
    for positions in rounds:
        if len(positions) == 1:
            continue  # All that is compiled across rows is uniqueness, and no row repeats itself.
        failing = _mask(check, [column.take(pa.array(positions)) for column in columns])
        if failing is not None:
            mask[positions] = failing
    return mask if mask.any() else None


def _judged_in(
    rounds: Sequence[Positions], rules: Sequence[Rule], table: pa.Table
) -> "list[tuple[Positions, list[Failing]]]":
    """What Great Expectations says of rules across rows, by the positions of the rows."""
    from validation import gx

    several = [positions for positions in rounds[:_GX_ROUNDS] if len(positions) > 1]
    judged = [(positions, gx.failing(rules, table.take(positions))) for positions in several]
    alone = [*(positions for positions in rounds[:_GX_ROUNDS] if len(positions) == 1), *rounds[_GX_ROUNDS:]]
    if alone:
        positions = np.concatenate(alone)
        judged.append((positions, gx.failing_alone(rules, table.take(positions))))
    return judged


def _failure(found: "Failing", rows: int) -> Failure:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[found.rows] = True
    return Failure(found.rule, mask, found.errors)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[:_LONGEST_VALUE]}... ({len(text)} characters)"
