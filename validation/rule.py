"""One expectation of a contract, and what its evaluation says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]

_DOMAIN = frozenset({"column", "column_A", "column_B", "column_list"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation of a suite.

    `id` is the expectation's own id in the file, or `<columns>:<expectation>` with a counter where that
    repeats; `index` its place in the suite, from 0; `columns` the columns that it reads (none: the table
    as a whole); `kwargs` exactly those of the file, column names and `mostly` included; `notes` are the
    author's, for Data Docs.
    """

    id: str
    index: int
    expectation: str
    columns: tuple[str, ...]
    kwargs: Mapping[str, Any]
    severity: Severity
    notes: str | tuple[str, ...] | None = None

    @property
    def detail(self) -> str:
        """What the rule asks, for people: its kwargs without the columns."""
        return ", ".join(f"{key}={value!r}" for key, value in self.kwargs.items() if key not in _DOMAIN)

    @property
    def reads_all_columns(self) -> bool:
        """Whether it looks beyond `columns`: at the table, by a condition, which may name any column, or at its place
        among the columns."""
        return not self.columns or self.conditional or self.kwargs.get("column_index") is not None

    @property
    def conditional(self) -> bool:
        """Whether only the rows that a condition takes are judged: it may read any column, and what it raises quotes
        what it read."""
        return self.kwargs.get("row_condition") is not None

    @property
    def needs_whole_batch(self) -> bool:
        """Whether a row's verdict depends on other rows of the batch."""
        return self.expectation in _ACROSS_ROWS


_ACROSS_ROWS = frozenset(
    {
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_be_decreasing",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_outliers",
        "expect_compound_columns_to_be_unique",
    }
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one row fails one rule. `column` joins several with a comma; `value` is what stood there, cut."""

    expectation: str
    column: str
    value: str
    severity: Severity
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Great Expectations says of one rule over many rows.

    `success` honours `mostly`; `observed` is the observed value of a table-level rule, `failed` the number
    of failing rows of a row-level one; `error` is set where Great Expectations could not evaluate the
    rule, and `success` is then False. `rows` is the number of rows it looked at.
    """

    rule: Rule
    success: bool
    rows: int
    observed: Any = None
    failed: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """A whole suite evaluated by Great Expectations; `page` is the start of its Data Docs, an HTML file."""

    name: str
    success: bool
    rows: int
    outcomes: tuple[Outcome, ...]
    page: Path
