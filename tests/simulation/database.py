"""A model of the source database and its connector: rows, transactions, and the envelopes that Debezium makes.

LSNs ascend along a row and inside a transaction, not across transactions that ran at the same time; delivery is in
commit order; all changes of a transaction have its commit time, by a clock that may be set back.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal
from zlib import crc32

import orjson

from connectors.encodings import PLACEHOLDER
from connectors.table import Table
from streams.messages import Partition
from tests.simulation.shop import NOTES, ORDERS, PARTITIONS

EPOCH = datetime(2023, 11, 14, tzinfo=UTC)
CUSTOMERS = ("ann", "bob", "cid")
IDS = 9

Row = dict[str, Any]
Bad = Literal["", "contract", "never"]
"""Whether a change passes: at once, once the contract no longer forbids it and its letter is replayed, or never."""


@dataclass(slots=True)
class Change:
    """One change of one row; of a truncate `id` is 0."""

    table: Table
    op: str
    id: int
    lsn: int
    before: Row | None
    after: Row | None
    bad: Bad = ""
    commit_us: int = 0
    place: tuple[Partition, int] | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        return self.table.name, self.id, self.lsn


@dataclass
class Database:
    """Rows, and everything that was ever committed, in the order of commits."""

    random: Random
    bad_share: float
    truncates: bool
    untold: float
    rows: dict[str, dict[int, Row]] = field(default_factory=lambda: {"orders": {}, "notes": {}})
    changes: list[Change] = field(default_factory=list)
    lsn: int = 100
    commit_us: int = int(EPOCH.timestamp()) * 1_000_000

    def commit(self) -> list[tuple[Partition, bytes | None, bytes | None, Change | None]]:
        """Run one transaction, or two at once; returns their records as the connector writes them."""
        transactions: list[list[Change]] = [[] for _ in range(self.random.choice((1, 1, 1, 2)))]
        locked: dict[tuple[str, int], int] = {}
        for _ in range(self.random.choice((1, 1, 2, 3, 6))):
            number = self.random.randrange(len(transactions))
            if self.truncates and len(transactions) == 1 and self.random.random() < 0.04:
                transactions[number].append(self._truncate())
                continue
            table = self.random.choice((ORDERS, ORDERS, NOTES))
            id_ = self.random.randint(1, IDS)
            if locked.setdefault((table.name, id_), number) == number:
                transactions[number] += self._change(table, id_, locked, number)
        self.random.shuffle(transactions)
        records = []
        for transaction in transactions:
            self.commit_us += self.random.choice((0, 500, 40_000, 900_000, -300_000))
            for change in transaction:
                change.commit_us = self.commit_us
                self.changes.append(change)
                records += self._records(change)
        return records

    def _truncate(self) -> Change:
        self.rows["notes"].clear()
        return Change(NOTES, "t", 0, self._lsn(), None, None)

    def _change(self, table: Table, id_: int, locked: dict[tuple[str, int], int], number: int) -> list[Change]:
        rows = self.rows[table.name]
        before = rows.get(id_)
        if before is None:
            return [self._put(table, id_, None, self._values(table))]
        act = self.random.random()
        if act < 0.2:
            del rows[id_]
            return [Change(table, "d", id_, self._lsn(), before, None)]
        if act < 0.28:
            other = self.random.randint(1, IDS)
            if other not in rows and locked.setdefault((table.name, other), number) == number:
                del rows[id_]
                gone = Change(table, "d", id_, self._lsn(), before, None)
                return [gone, self._put(table, other, None, before, shared=True)]
        values = self._values(table)
        wanted = self.random.choice((("customer",), ("placed_at",), ("placed_at",), ("title",), tuple(values)))
        return [self._put(table, id_, before, {c: v for c, v in values.items() if c in wanted or c == "amount"})]

    def _put(self, table: Table, id_: int, before: Row | None, values: Row, shared: bool = False) -> Change:
        lsn = self.lsn if shared else self._lsn()
        after = {**(before or {}), **values, "id": id_}
        if table is ORDERS:
            after["amount"] = float(lsn)
        bad: Bad = ""
        if self.random.random() < self.bad_share and table is ORDERS:
            bad = self.random.choice(("contract", "never"))
            after["amount"] = -float(lsn) if bad == "contract" else float(lsn)
        self.rows[table.name][id_] = after
        return Change(table, "u" if before else "c", id_, lsn, before, after, bad)

    def _values(self, table: Table) -> Row:
        placed_at = EPOCH + timedelta(microseconds=self.random.randrange(40_000_000))
        values: Row = {
            "customer": self.random.choice((*CUSTOMERS, None) if self.random.random() < 0.3 else CUSTOMERS),
            "placed_at": placed_at.isoformat().replace("+00:00", "Z"),
        }
        if table is NOTES:
            values["title"] = self.random.choice(("late", "early", "on time"))
            values["body"] = self.random.choice(("", "again", None))
        return values

    def _lsn(self) -> int:
        self.lsn += self.random.choice((1, 1, 8))
        return self.lsn

    def _records(self, change: Change) -> list[tuple[Partition, bytes | None, bytes | None, Change | None]]:
        key = None if change.op == "t" else orjson.dumps({"id": change.id})
        number = self.random.randrange(1_000) if key is None else crc32(key)
        partition = Partition(change.table.topic, number % PARTITIONS[change.table.topic])
        tombstone = [(partition, key, None, None)] if change.op == "d" else []
        return [(partition, key, self._envelope(change), change), *tombstone]

    def _envelope(self, change: Change) -> bytes:
        after, before = dict(change.after) if change.after else None, change.before
        if before and self.random.random() < self.untold:
            before = {"id": change.id} if change.op == "d" else None
        if after and before and before.get("customer") == after["customer"] and after["customer"]:
            after["customer"] = PLACEHOLDER
        if change.bad == "never":
            assert after is not None
            spoil = self.random.randrange(3)
            if spoil == 0:
                return b"{oops"
            after["amount" if spoil == 1 else "placed_at"] = "much" if spoil == 1 else None
        source = {"lsn": change.lsn, "ts_us": change.commit_us, "table": change.table.name}
        return orjson.dumps({"op": change.op, "before": before, "after": after, "source": source})
