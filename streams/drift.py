"""A table that is no longer what it was when it was applied, as its own records tell.

A column that is gone arrives as if it were null, and one that is new is not asked for: neither must happen in
silence. Debezium writes every column that it captures into every row image, and in each partition a change of
the schema comes between two records, so that the last record of each tells whether there was one.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Column, Table
from connectors.table_file import loads
from stores.lake import Lake
from streams.changes import carried
from streams.decide import changes_table
from streams.messages import Records
from streams.pipeline import Flow, Flows, Outcome

log = logging.getLogger(__name__)

TABLE_PROPERTY = "millrace.table"
"""Property of the lake's `changes/<topic>`: the table as reflected at apply, so that a start needs no database."""

APPLIED_PROPERTY = "millrace.applied"
"""Property of the same: the LSN at which the last apply ended. Columns that records from before it lack are null,
and a snapshot completes them; that later ones lack them is news."""


_DAY = 86_400_000_000
_LEAST = -(2**63)
"""-infinity, of which there is no absolute value."""

ASKED_SECONDS = 1.0
"""Between two questions to a database for a table's types: bad records may come in every poll."""

SourceTable = Callable[[Table], Table | None]
"""A table as its database has it now; None if that cannot be known."""


def unasked(table: Table) -> None:
    """Where there is no database to ask."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The columns that records lack, those that records lack which are older than the last apply, and those that
    they have and the table has not."""

    missing: tuple[str, ...]
    before: tuple[str, ...]
    unknown: tuple[str, ...]


def drift(records: Records, table: Table, applied: int) -> Drift | None:
    """What the newest row images have of other columns than the table that was applied at the LSN `applied`; None
    if nothing."""
    expected = {field.name for field in carried(table)}
    missing, before, unknown = set[str](), set[str](), set[str]()
    for image, lsn in _newest_images(records):
        columns = set(image)
        (before if lsn is not None and lsn < applied else missing).update(expected - columns)
        unknown |= columns - expected
    if not (missing or before or unknown):
        return None
    return Drift(tuple(sorted(missing)), tuple(sorted(before)), tuple(sorted(unknown)))


def _newest_images(records: Records) -> Iterator[tuple[dict[str, object], int | None]]:
    """The row image of the last create, update or read of each partition, and its LSN; what is no envelope is
    none."""
    seen: set[int] = set()
    for i in range(len(records) - 1, -1, -1):
        if records.partitions[i] in seen:
            continue
        try:
            envelope = orjson.loads(records.values[i] or b"null")
            image, lsn = envelope["after"], envelope["source"]["lsn"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            continue
        if isinstance(image, dict):
            seen.add(records.partitions[i])
            yield image, lsn if isinstance(lsn, int) else None


def users(flow: Flow, columns: tuple[str, ...]) -> list[str]:
    """Who reads one of the columns, for people: views, and the contract; none if nobody."""
    table, wanted = flow.table, set(columns)
    found = []
    for view in flow.views:
        names = [feature.name for feature in (*view.view.join_keys, *view.view.features)]
        read = {view.column(name) for name in names} | {view.column(view.event_time or "")}
        read |= set(view.view.vector.columns) if view.view.vector is not None else set()
        if wanted & read or view.transform is not None:
            found.append(f"view {view.view.name}" + ("" if wanted & read else " (by its function, perhaps)"))
    if wanted & {column for rule in (*flow.contract.rules, *flow.contract.table_rules) for column in rule.columns}:
        found.append(f"contract {flow.contract.name}")
    return found + (["the primary key"] if wanted & set(table.primary_key) else [])


def applied_table(lake: Lake, topic: str) -> tuple[Table | None, int]:
    """The table as it was last applied, None if it never was, and the LSN at which the apply ended."""
    properties = lake.properties(changes_table(topic))
    text = properties.get(TABLE_PROPERTY)
    return loads(text)[0] if text is not None else None, int(properties.get(APPLIED_PROPERTY, 0))


class Guard:
    """Holds the topics of tables that changed in a way that would hurt; `held` tells why. A worker that holds a
    topic takes none of its records, and starts anew once the table is applied (`millrace.anew`)."""

    def __init__(self, lake: Lake, flows: Flows, source_table: SourceTable) -> None:
        self._lake = lake
        self._flows = flows
        self._source_table = source_table
        self._applied: dict[str, int] = {}
        self._said: set[tuple[str, Drift]] = set()
        self._asked: dict[str, tuple[float, Table | None]] = {}
        self.held: dict[str, str] = {}

    def holds(self, records: Records) -> bool:
        """Whether these records must wait, by their columns. Raises `StoreUnavailable`."""
        flow, topic = self._flows[records.topic], records.topic
        if topic not in self._applied:
            self._applied[topic] = applied_table(self._lake, topic)[1]
        found = None if topic in self.held else drift(records, flow.table, self._applied[topic])
        if found is not None and (topic, found) not in self._said:
            self._judge(topic, flow, found)
        return topic in self.held

    def _judge(self, topic: str, flow: Flow, found: Drift) -> None:
        read = tuple(column for column in found.missing if users(flow, (column,)))
        applied, _ = applied_table(self._lake, topic)
        columns = {column.name for column in applied.columns} if applied is not None else set()
        if read:
            self._hold(
                topic,
                f"its records have no column {', '.join(read)} any more, which {', '.join(users(flow, read))} read: "
                "take it out of them, name the new one (field_mapping), or bring it back, then run millrace apply",
            )
        elif columns.issuperset(found.unknown) and found.unknown:
            self._hold(topic, f"it was applied with new columns ({', '.join(found.unknown)}): its workers start anew")
        else:
            self._said.add((topic, found))
            log.warning(
                "%s: its columns changed. Gone, so that they are null: %s (millrace resnapshot completes rows that "
                "came before the last apply). New, for the lake at the next millrace apply: %s",
                topic,
                ", ".join((*found.missing, *found.before)) or "none",
                ", ".join(found.unknown) or "none",
                extra={"event": "columns_changed", "table": topic},
            )

    def retyped(self, outcome: Outcome) -> bool:
        """Whether records must wait because values do not fit a column whose type is another one by now, or would be
        taken for others."""
        table, doubtful = outcome.flow.table, _doubtful(outcome)
        if not doubtful:
            return False
        now = self._now(table)
        types = {column.name: column.sql_type for column in now.columns} if now is not None else {}
        for column in doubtful:
            is_ = types.get(column.name, column.sql_type)
            if is_ != column.sql_type:
                hurt = ", ".join(users(outcome.flow, (column.name,))) or "the lake"
                self._hold(
                    table.topic,
                    f"column {column.name} was {column.sql_type} when it was applied and is {is_} now; values that do "
                    f"not fit would be lost to {hurt}: run millrace apply",
                )
        return table.topic in self.held

    def _now(self, table: Table) -> Table | None:
        """The table in its database; the answer to an earlier poll is good enough for `ASKED_SECONDS`."""
        asked, now = self._asked.get(table.topic, (float("-inf"), None))
        if time.monotonic() >= asked + ASKED_SECONDS:
            now = self._source_table(table)
            self._asked[table.topic] = time.monotonic(), now
        return now

    def _hold(self, topic: str, why: str) -> None:
        self.held[topic] = f"{topic} is held: {why}. Nothing of it is lost, and the other tables go on"
        log.error("%s", self.held[topic], extra={"event": "held", "table": topic})


def _doubtful(outcome: Outcome) -> list[Column]:
    """The columns whose values are rejected for their type, and timestamps that could be the days of a date or the
    microseconds of a time."""
    reasons = [why for rejection in outcome.rejections if rejection.stage == "schema" for why in rejection.reasons]
    return [
        column
        for column in outcome.flow.table.columns
        if any(why.startswith(f"column {column.name} (") for why in reasons)
        or (column.encoding == "timestamp" and _in_first_day(outcome.accepted.changes.rows[column.name]))
    ]


def _in_first_day(moments: pa.ChunkedArray) -> bool:
    """Whether a timestamp lies within a day of 1970-01-01T00:00:00."""
    micros = moments.cast(pa.int64())
    return bool(pc.any(pc.less(pc.abs_checked(micros.filter(pc.not_equal(micros, _LEAST))), _DAY)).as_py())
