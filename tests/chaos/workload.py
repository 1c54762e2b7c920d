"""The workload: transactions whose statements follow from the seed alone, whatever strikes meanwhile.

One connection, so the order of commits is that of the ledger. When the connection breaks, PostgreSQL itself
says whether the transaction was committed (pg_xact_status); one that was not is done again, unchanged.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from tests.chaos.ledger import PRIMARY_KEY, TIERS, Change, Ledger, Row

Statement = tuple[sql.Composed, list[Any]]

KEYS = {"accounts": 150, "trades": 400, "articles": 60, "stock": 60}
"""How many primary keys each table has room for: few enough that the same ones come back."""

TABLES = (*["accounts"] * 4, *["trades"] * 6, *["articles"] * 1, *["stock"] * 2)
SHARE_BAD = 0.05
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = (
    "river",
    "mill",
    "wheel",
    "grain",
    "flour",
    "stone",
    "water",
    "race",
    "gate",
    "sluice",
    "cart",
    "bread",
    "oven",
)

HASTE, PACE = 0.004, 0.1
"""Seconds between two transactions: usually, and while a fault strikes, so that some go by all the while."""

PROBE_KEY = 0
"""The row of accounts and of stock that `Workload.probe` writes, and nobody else."""
INFINITE = "infinity"
"""A timestamp that PostgreSQL holds and no feature can."""


@dataclass(slots=True)
class Transaction:
    """Statements, and what they change if they are committed."""

    statements: list[Statement] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rolled_back: bool = False


class Planner:
    """Makes the next transaction from the seed and from what was committed before it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"workload {seed}")
        self._rows: dict[str, dict[int, Row]] = {table: {} for table in PRIMARY_KEY}
        self._v = 0

    def next(self) -> Transaction:
        """The next transaction; the planner takes it as committed, unless it is to be rolled back."""
        before = {table: dict(rows) for table, rows in self._rows.items()}
        made = Transaction()
        kinds: list[tuple[Callable[[Transaction], object], int]] = [
            (self._insert, 10),
            (self._update, 14),
            (self._update_often, 4),
            (self._many, 5),
            (self._change_key, 3),
            (self._delete, 5),
            (self._delete_and_insert, 3),
            (self._truncate, 1),
        ]
        (kind,) = self._random.choices([k for k, _ in kinds], [weight for _, weight in kinds])
        kind(made)
        if self._random.random() < 0.05:
            made.rolled_back = True
            made.changes = []
            self._rows = before
        return made

    def _insert(self, made: Transaction, table: str | None = None) -> None:
        table = table or self._random.choice(TABLES)
        for _ in range(self._random.randint(1, 4)):
            free = [key for key in range(1, KEYS[table] + 1) if key not in self._rows[table]]
            if not free:
                self._delete(made, table)
                return
            self._write(made, table, self._random.choice(free), {})

    def _update(self, made: Transaction, table: str | None = None) -> None:
        found = self._existing(made, table)
        if found:
            self._write(made, *found, self._rows[found[0]][found[1]])

    def _update_often(self, made: Transaction) -> None:
        found = self._existing(made)
        for _ in range(self._random.randint(2, 4)):
            if found:
                self._write(made, *found, self._rows[found[0]][found[1]])

    def _many(self, made: Transaction) -> None:
        for _ in range(self._random.randint(3, 8)):
            self._random.choice((self._insert, self._update, self._update, self._delete))(made)

    def _change_key(self, made: Transaction) -> None:
        found = self._existing(made)
        if not found:
            return
        table, key = found
        free = [k for k in range(1, KEYS[table] + 1) if k not in self._rows[table]]
        if not free:
            return
        new, primary = self._random.choice(free), PRIMARY_KEY[table]
        row = {**self._rows[table].pop(key), primary: new, "v": self._next_v()}
        self._rows[table][new] = row
        statement = sql.SQL("update {} set {} = %s, v = %s where {} = %s").format(
            sql.Identifier(table), sql.Identifier(primary), sql.Identifier(primary)
        )
        made.statements.append((statement, [new, row["v"], key]))
        made.changes += [Change(table, key, None), Change(table, new, row)]

    def _delete(self, made: Transaction, table: str | None = None) -> tuple[str, int] | None:
        found = self._existing(made, table)
        if not found:
            return None
        table, key = found
        del self._rows[table][key]
        statement = sql.SQL("delete from {} where {} = %s").format(
            sql.Identifier(table), sql.Identifier(PRIMARY_KEY[table])
        )
        made.statements.append((statement, [key]))
        made.changes.append(Change(table, key, None))
        return found

    def _delete_and_insert(self, made: Transaction) -> None:
        if found := self._delete(made):
            self._write(made, *found, {})

    def _truncate(self, made: Transaction) -> None:
        if self._random.random() < 0.5:
            self._update(made)
            return
        table = self._random.choice(("stock", "articles", "trades"))
        made.statements.append((sql.SQL("truncate {}").format(sql.Identifier(table)), []))
        made.changes += [Change(table, key, None, truncate=True) for key in (PROBE_KEY, *self._rows[table])]
        self._rows[table].clear()

    def _existing(self, made: Transaction, table: str | None = None) -> tuple[str, int] | None:
        """A row that stands; where there is none one is inserted instead."""
        table = table or self._random.choice(TABLES)
        if not self._rows[table]:
            self._insert(made, table)
            return None
        return table, self._random.choice(list(self._rows[table]))

    def _write(self, made: Transaction, table: str, key: int, before: Row) -> None:
        """Insert a row, or update some columns of the one before."""
        values = getattr(self, f"_{table}")(key)
        if before:
            columns = self._random.sample(sorted(values), self._random.randint(1, len(values)))
            values = {column: values[column] for column in columns}
        values["v"] = self._next_v()
        row = {**before, PRIMARY_KEY[table]: key, **values}
        names = [sql.Identifier(name) for name in (values if before else row)]
        if before:
            sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(name) for name in names)
            text = sql.SQL("update {} set {} where {} = %s")
            statement = text.format(sql.Identifier(table), sets, sql.Identifier(PRIMARY_KEY[table]))
            made.statements.append((statement, [*values.values(), key]))
        else:
            marks = sql.SQL(", ").join([sql.Placeholder()] * len(names))
            text = sql.SQL("insert into {} ({}) values ({})")
            statement = text.format(sql.Identifier(table), sql.SQL(", ").join(names), marks)
            made.statements.append((statement, list(row.values())))
        self._rows[table][key] = row
        made.changes.append(Change(table, key, row))

    def _accounts(self, key: int) -> dict[str, Any]:
        bad = self._bad()
        # Random text does not compress: above 2 kB it is TOASTed, and an update that leaves it alone omits it.
        bio = self._random.randbytes(self._random.choice((10, 1_500, 5_000))).hex()
        return {
            "owner": self._words(2),
            "balance": -1.0 if bad and self._random.random() < 0.5 else self._random.randrange(100_000) / 4,
            "tier": "tin" if bad else self._random.choice(TIERS),
            "bio": bio,
        }

    def _trades(self, key: int) -> dict[str, Any]:
        bad, infinite = self._bad(), self._random.random() < 0.01
        return {
            "account": self._random.randint(1, 40),
            "desk": self._random.choice("ABCDEFGH"),
            "amount": -5.0 if bad else self._random.randrange(4_000) / 4,
            "note": self._words(3),
            "at": INFINITE if infinite else self._moment(),
        }

    def _articles(self, key: int) -> dict[str, Any]:
        return {"title": "" if self._bad() else self._words(3), "body": self._words(self._random.randint(5, 600))}

    def _stock(self, key: int) -> dict[str, Any]:
        return {
            "shelf": self._random.randint(1, 10),
            "on_hand": -1 if self._bad() else self._random.randint(0, 1_000),
            "at": self._moment(),
        }

    def _moment(self) -> datetime:
        """An event time, early or late, that no other row ever has."""
        return EPOCH + timedelta(seconds=self._random.randrange(10_000_000), microseconds=self._v % 1_000_000)

    def _bad(self) -> bool:
        return self._random.random() < SHARE_BAD

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(WORDS) for _ in range(count))

    def _next_v(self) -> int:
        self._v += 1
        return self._v


class Workload(threading.Thread):
    """Commits one planned transaction after the other, up to `allow`, and keeps the ledger."""

    def __init__(self, dsn: str, seed: int, ledger: Ledger) -> None:
        super().__init__(name="workload", daemon=True)
        self._dsn = dsn
        self._planner = Planner(seed)
        self._ledger = ledger
        self.pause = HASTE
        """Seconds between two transactions."""
        self._allowed = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # commits and the ledger's entries have one order
        self._probes = 0
        self._attempts = 0
        self.probe_stands = False
        """Whether the newest probe was not truncated away."""
        self.done = 0
        self.failure: BaseException | None = None
        self._connection: psycopg.Connection[Any] | None = None

    def allow(self, transactions: int) -> None:
        """Let it go on until so many transactions are done in all."""
        with self._changed:
            self._allowed = max(self._allowed, transactions)
            self._changed.notify_all()

    def wait(self, transactions: int, timeout: float = 180.0) -> None:
        """Return once so many transactions are done."""
        with self._changed:
            reached = self._changed.wait_for(lambda: self.done >= transactions or self.failure, timeout)
        if self.failure is not None:
            raise self.failure
        if not reached:
            raise TimeoutError(f"the workload did {self.done} of {transactions} transactions in {timeout:g} s")

    def probe(self) -> int:
        """Commit a new version of the probe's row in a table of each source; returns its negative `v`."""
        self._probes += 1
        v = -self._probes
        account = {"id": PROBE_KEY, "owner": "probe", "balance": 1.0, "tier": "gold", "bio": "", "v": v}
        item = {"sku": PROBE_KEY, "shelf": PROBE_KEY, "on_hand": 1, "at": EPOCH - timedelta(days=1), "v": v}
        made = Transaction()
        for table, row in (("accounts", account), ("stock", item)):
            text = sql.SQL("insert into {} ({}) values ({}) on conflict ({}) do update set v = excluded.v")
            statement = text.format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join([sql.Placeholder()] * len(row)),
                sql.Identifier(PRIMARY_KEY[table]),
            )
            made.statements.append((statement, list(row.values())))
            made.changes.append(Change(table, PROBE_KEY, row))
        self._do(made)
        return v

    def run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self.done < self._allowed)
                self._do(self._planner.next())
                with self._changed:
                    self.done += 1
                    self._changed.notify_all()
                time.sleep(self.pause)
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _do(self, planned: Transaction) -> None:
        with self._turn:
            while not self._tried(planned):
                time.sleep(0.1)
            self._ledger.commit(planned.changes)
            for change in planned.changes:
                if change.key == PROBE_KEY:
                    self.probe_stands = change.row is not None

    def _tried(self, planned: Transaction) -> bool:
        """Whether the transaction is through, as it was meant to be."""
        self._attempts += 1
        try:
            connection = self._open()
            connection.execute("insert into attempts values (%s)", [self._attempts])
            for statement, values in planned.statements:
                connection.execute(statement, values)
            if planned.rolled_back:
                connection.rollback()
            else:
                connection.commit()
            return True
        except psycopg.OperationalError:
            self._connection = None
            return planned.rolled_back or self._committed(self._attempts)

    def _committed(self, attempt: int) -> bool:
        """Whether a transaction was whose connection broke. Its row is written again, which waits for its end if that
        is yet to come, and taken back. The number of a transaction tells nothing: one that a server had not written
        down before it was killed it gives to another."""
        while True:
            try:
                with psycopg.connect(self._dsn, connect_timeout=5) as connection:
                    again = "insert into attempts values (%s) on conflict do nothing"
                    known = connection.execute(again, [attempt]).rowcount == 0
                    connection.rollback()
                    return known
            except psycopg.OperationalError:
                pass  # it is not back yet: asked again below
            time.sleep(0.1)

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._dsn, connect_timeout=5)
        return self._connection
