"""Windows of rows for the expectations that look at many rows at once."""

import time
from collections.abc import Callable, Sequence
from threading import Lock

import pyarrow as pa

from validation.contract import Contract
from validation.rule import Outcome, Rule


class Window:
    """The rows of one table since the window opened, for the contract's table-level rules.

    It opens with the first row and is `due` after `seconds`, or when it holds `rows` rows, whichever comes
    first. The batches are kept, not copied, and only the columns that the rules read, so memory is bounded
    by `rows`: rows that come while a full window waits to be closed are left out. `close` takes hundreds
    of milliseconds, beside the stream: one thread may add while another closes.
    """

    def __init__(
        self,
        contract: Contract,
        rows: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = contract.table_rules
        self._columns = _columns(contract)
        self._most_rows = rows
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._batches: list[pa.Table] = []
        self._rows = 0
        self._opened: float | None = None

    def add(self, table: pa.Table) -> None:
        """Add a batch of accepted rows, with the columns and types of the contract."""
        if not self._rules or not table.num_rows:
            return
        with self._lock:
            if self._opened is None:
                self._opened = self._clock()
            batch = table.select(self._columns).slice(0, self._most_rows - self._rows)
            if batch.num_rows:
                self._batches.append(batch)
                self._rows += batch.num_rows

    @property
    def due(self) -> bool:
        """Whether it is time to close the window."""
        if self._opened is None:
            return False
        return self._rows >= self._most_rows or self._clock() - self._opened >= self._seconds

    def close(self) -> list[Outcome]:
        """Evaluate the table-level rules over the rows of the window, and open the next one.

        An empty list if no row came. A rule that Great Expectations cannot evaluate has an error in its
        outcome.
        """
        rows = self.drain()
        return [] if rows is None else evaluate(self._rules, rows)

    def drain(self) -> pa.Table | None:
        """The rows of the window, None if none came; the next one opens. For who evaluates them elsewhere."""
        with self._lock:
            batches, self._batches = self._batches, []
            self._rows, self._opened = 0, None
        return pa.concat_tables(batches) if batches else None


def evaluate(rules: Sequence[Rule], rows: pa.Table) -> list[Outcome]:
    """Evaluate table-level rules over rows, by Great Expectations."""
    from validation import gx  # It takes seconds, and many contracts have no table-level rule.

    return gx.outcomes(rules, rows)


def _columns(contract: Contract) -> list[str]:
    if any(rule.reads_all_columns for rule in contract.table_rules):
        return list(contract.schema.names)
    return list(dict.fromkeys(column for rule in contract.table_rules for column in rule.columns))
