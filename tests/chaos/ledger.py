"""What PostgreSQL committed, as the generator knows it: nothing here comes from the code under test.

Every written version of a row carries a number `v` of its own, in all tables. So each change is found again in
the lake and among the letters by it, and what must be served follows from the order of the commits.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Row = Mapping[str, Any]
"""Column to value."""

PRIMARY_KEY = {"accounts": "id", "trades": "id", "articles": "id", "stock": "sku"}

TIERS = ("bronze", "silver", "gold")


def acceptable(table: str, row: Row) -> bool:
    """Whether the contracts of tests/repos/chaos and its columns' types let a row through."""
    match table:
        case "accounts":
            return 0 <= row["balance"] <= 1_000_000 and row["tier"] in TIERS
        case "trades":
            return 0 <= row["amount"] <= 1_000 and isinstance(row["at"], datetime)
        case "articles":
            return 1 <= len(row["title"]) <= 80
        case "stock":
            return 0 <= row["on_hand"] <= 100_000
    raise ValueError(table)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row. `row` is the row after it, None for a delete; `truncate` one that TRUNCATE made."""

    table: str
    key: int
    row: Row | None
    truncate: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it must reach the stores, rather than the letters."""
        return self.row is None or acceptable(self.table, self.row)


@dataclass(slots=True)
class Ledger:
    """All committed changes in the order of their commits; written by the workload, read by the verdict."""

    changes: list[Change] = field(default_factory=list)
    transactions: int = 0
    moments: list[tuple[datetime, int]] = field(default_factory=list)
    """After each commit, before the next one: the time, and how many changes were committed by then."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, changes: Sequence[Change]) -> None:
        """A transaction was committed; a rolled back one has none."""
        with self._lock:
            self.changes += changes
            self.transactions += 1
            self.moments.append((datetime.now(UTC), len(self.changes)))

    def until(self, changes: int) -> "Ledger":
        """The ledger as it was when it had so many changes."""
        return Ledger(self.changes[:changes])

    def rows(self, table: str) -> dict[int, Row]:
        """What the table holds, by primary key."""
        return _replayed(c for c in self.changes if c.table == table)

    def accepted_rows(self, table: str) -> dict[int, Row]:
        """For each row of the table its newest version that was let through."""
        return _replayed(c for c in self.changes if c.table == table and c.accepted)

    def keys(self, table: str, column: str) -> set[Any]:
        """Every value that the column ever had in a committed version."""
        found = {c.row[column] for c in self.changes if c.table == table and c.row is not None}
        return found | ({c.key for c in self.changes if c.table == table} if column == PRIMARY_KEY[table] else set())

    def versions(self, table: str, *, accepted: bool) -> dict[int, int]:
        """The `v` of every written version that must be in the lake, or else among the letters, and its key."""
        written = (c for c in self.changes if c.table == table and c.row is not None and c.accepted == accepted)
        return {c.row["v"]: c.key for c in written if c.row is not None}

    def deletes(self, table: str) -> Counter[int]:
        """How often each row was deleted by itself, rather than by a TRUNCATE."""
        return Counter(c.key for c in self.changes if c.table == table and c.row is None and not c.truncate)

    def newest(self, table: str, column: str) -> dict[Any, Row]:
        """For each value of `column` the row with the newest event time `at`, which no two rows share."""
        by_entity: defaultdict[Any, list[Row]] = defaultdict(list)
        for row in self.accepted_rows(table).values():
            by_entity[row[column]].append(row)
        return {entity: max(rows, key=lambda row: row["at"]) for entity, rows in by_entity.items()}


def _replayed(changes: Iterator[Change]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for change in changes:
        if change.row is None:
            rows.pop(change.key, None)
        else:
            rows[change.key] = change.row
    return rows
