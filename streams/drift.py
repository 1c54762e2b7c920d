"""A table that is no longer what it was when it was applied, as its own records tell.

A column that is gone arrives as if it were null, and one that is new is not asked for: neither must happen in
silence. Debezium writes every column that it captures into every row image, and in each partition a change of
the schema comes between two records, so that the last record of each tells whether there was one: the last one that is
no replayed letter, and the last that is.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from connectors.source import EXCLUDED
from connectors.table import Column, Table
from connectors.table_file import loads
from stores.errors import StoreRefused
from stores.lake import Lake
from stores.lake_schema import merged_schema
from streams.changes import carried
from streams.decide import changes_table
from streams.decode import NotAnEnvelope, row_image
from streams.letters import REPLAY_OF
from streams.messages import Records
from streams.pipeline import Flow, Flows, Outcome
from streams.sizes import Size, sizes
from streams.snapshots import READ, SnapshotBase, no_base, snapshot_base

log = logging.getLogger(__name__)

TABLE_PROPERTY = "millrace.table"
"""Property of the lake's `changes/<topic>`: the table as reflected at apply, so that a start needs no database."""

APPLIED_PROPERTY = "millrace.applied"
"""Property of the same: the LSN at which the last apply ended. Columns that records from before it lack are null,
and a snapshot completes them; that later ones lack them is news."""


_DAY = 86_400_000_000
_LEAST = -(2**63)
"""-infinity, of which there is no absolute value."""

ASKED_SECONDS, AWAY_SECONDS = 1.0, 10.0
"""Between two questions to a database for a table's types, and to one that did not answer, for which all tables waited:
bad records may come in every poll."""

UNANSWERED_SECONDS = 60.0
"""Until a database that did not answer is asked again because of the size of values alone."""

SourceTable = Callable[[Table], Table | None]
"""A table as its database has it now; None if that cannot be known."""


def unasked(table: Table) -> None:
    """Where there is no database to ask."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The columns that records lack, those that records lack which are older than the last apply, and those that
    they have and the table has not. `key` has the columns that records are keyed by if these are not the primary
    key, `key_before` those of records that are older than the last apply."""

    missing: tuple[str, ...]
    before: tuple[str, ...]
    unknown: tuple[str, ...]
    key: tuple[str, ...] = ()
    key_before: tuple[str, ...] = ()


def drift(records: Records, table: Table, applied: int, base: SnapshotBase = no_base) -> Drift | None:
    """What the newest row images have of other columns than the table that was applied at the LSN `applied`; None
    if nothing. `base` is asked if a row that a snapshot read without an LSN lacks any. Raises `StoreUnavailable`."""
    expected = {field.name for field in carried(table)}
    missing, before, unknown = set[str](), set[str](), set[str]()
    keys: dict[bool, tuple[str, ...]] = {}  # by whether they are older than the apply
    for newest in _newest(records):
        lacks = expected - set(newest.image) if newest.image is not None else set[str]()
        unknown |= set(newest.image or ()) - expected
        key = tuple(newest.key or ())
        rekeyed = bool(key) and set(key) != set(table.primary_key)
        if not (lacks or rekeyed):
            continue
        old = _is_older(newest, applied, base)
        (before if old else missing).update(lacks)
        if rekeyed:
            keys[old] = key
    if not (missing or before or unknown or keys):
        return None
    gone, gone_before, new = (tuple(sorted(names)) for names in (missing, before, unknown))
    return Drift(gone, gone_before, new, keys.get(False, ()), keys.get(True, ()))


@dataclass(frozen=True, slots=True)
class _Newest:
    """A record that is the newest of its partition to have a row image (creates, updates and reads have), or a key."""

    image: dict[str, object] | None
    key: dict[str, object] | None
    lsn: int | None
    read: bool
    replayed: bool


def _is_older(record: _Newest, applied: int, base: SnapshotBase) -> bool:
    """Whether a record is from before the apply. A row of an incremental snapshot, which has no LSN, counts by the base
    of that (`streams.snapshots`); of an earlier snapshot, replayed or of no known base, it tells nothing of now."""
    if record.lsn is not None or not record.read:
        return record.lsn is not None and record.lsn < applied
    start = None if record.replayed else base()
    return start is None or start - READ < applied


def _newest(records: Records) -> Iterator[_Newest]:
    """Of each partition the newest image and the newest key, mostly of one record; what decoding would make a letter
    of for its envelope has none, nor has what is of no row. Of those that were replayed, which are older than their
    place says, likewise: they must not hide a live one."""
    images, keys = set[tuple[int, bool]](), set[tuple[int, bool]]()
    for i in range(len(records) - 1, -1, -1):
        replayed = REPLAY_OF in records.headers.get(i, {})
        line = records.partitions[i], replayed
        if line in images and line in keys:
            continue
        try:
            envelope = orjson.loads(records.values[i] or b"null")
            row = row_image(envelope, records.keys[i])
            keyed = orjson.loads(records.keys[i] or b"null")
        except (orjson.JSONDecodeError, NotAnEnvelope):
            continue
        op = envelope["op"]
        if op not in ("c", "u", "r", "d"):
            continue
        image = row if op != "d" and line not in images else None
        key = keyed if isinstance(keyed, dict) and line not in keys else None
        images |= {line} if image is not None else set()
        keys |= {line} if key is not None else set()
        yield _Newest(image, key, envelope["source"]["lsn"], op == "r", replayed)


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
        self._asked: dict[str, tuple[float, frozenset[str], Table | None]] = {}
        self._sizes: dict[str, frozenset[Size]] = {}
        self._sizes_next: dict[str, float] = {}
        self.held: dict[str, str] = {}

    def holds(self, records: Records) -> bool:
        """Whether these records must wait, by their columns. Raises `StoreUnavailable`."""
        flow, topic = self._flows[records.topic], records.topic
        if topic not in self._applied:
            self._applied[topic] = applied_table(self._lake, topic)[1]
        base = partial(snapshot_base, self._lake, topic)
        found = None if topic in self.held else drift(records, flow.table, self._applied[topic], base)
        if found is not None and (topic, found) not in self._said:
            self._judge(topic, flow, found)
        return topic in self.held

    def _judge(self, topic: str, flow: Flow, found: Drift) -> None:
        read = tuple(column for column in found.missing if users(flow, (column,)))
        applied, _ = applied_table(self._lake, topic)
        columns = {field.name for field in carried(applied)} if applied is not None else set()
        excluded = {column.name for column in applied.columns if column.excluded} if applied is not None else set()
        new = tuple(name for name in found.unknown if name not in excluded)
        if found.key:
            self._hold(topic, _rekeyed(flow, found.key))
        elif read:
            self._hold(
                topic,
                f"its records have no column {', '.join(read)} any more, which {', '.join(users(flow, read))} read: "
                "take it out of them, name the new one (field_mapping), or bring it back, then run millrace apply",
            )
        elif columns.issuperset(new) and new:
            self._hold(topic, f"it was applied with new columns ({', '.join(new)}): its workers start anew")
        else:
            self._said.add((topic, found))
            if found.missing or found.before or new:
                self._warn(topic, _columns_changed(replace(found, unknown=new)))
            if new != found.unknown:
                left_out = ", ".join(name for name in found.unknown if name in excluded)
                self._warn(topic, f"records hold {left_out}, which {EXCLUDED} leaves out: it is not taken from them")
            if found.key_before:
                self._warn(topic, _was_rekeyed(topic, found.key_before))

    def retyped(self, outcome: Outcome) -> bool:
        """Whether records must wait because values do not fit a column whose type is another one by now, or would be
        taken for others."""
        table, rejected = outcome.flow.table, _doubtful(outcome)
        new = self._new_sizes(outcome)
        if not (rejected or new):
            return False
        now = self._now(table, frozenset(column.name for column in rejected), anew=bool(new))
        if now is None:
            self._sizes_next[table.source] = time.monotonic() + UNANSWERED_SECONDS
            return False
        columns = {column.name: column for column in now.columns}
        another = [(was, columns.get(was.name, was)) for was in table.columns]
        retyped = [
            (was, is_)
            for was, is_ in another
            if (was in rejected and was.sql_type != is_.sql_type)
            or (was.encoding != is_.encoding and any(name == was.name for name, _ in new))
        ]
        if retyped:
            self._hold(table.topic, _retyped(outcome.flow, retyped))
        self._sizes[table.topic] = self._sizes.get(table.topic, frozenset()) | new
        return table.topic in self.held

    def _new_sizes(self, outcome: Outcome) -> frozenset[Size]:
        """The sizes that no values of the table had so far; none while its database does not answer."""
        table = outcome.flow.table
        if time.monotonic() < self._sizes_next.get(table.source, float("-inf")):
            return frozenset()
        return sizes(outcome) - self._sizes.get(table.topic, frozenset())

    def _now(self, table: Table, doubtful: frozenset[str], *, anew: bool) -> Table | None:
        """The table in its database. Unless it is to be asked `anew`, the answer to an earlier poll is good enough for
        `ASKED_SECONDS`, but not for columns that were not doubtful then; none for `AWAY_SECONDS`, for any."""
        asked, columns, now = self._asked.get(table.topic, (float("-inf"), doubtful, None))
        outdated = time.monotonic() >= asked + (AWAY_SECONDS if now is None else ASKED_SECONDS)
        if anew or outdated or (now is not None and not doubtful <= columns):
            now = self._source_table(table)
            self._asked[table.topic] = time.monotonic(), doubtful, now
        return now

    def _warn(self, topic: str, what: str) -> None:
        log.warning("%s: %s", topic, what, extra={"event": "columns_changed", "table": topic})

    def _hold(self, topic: str, why: str) -> None:
        self.held[topic] = f"{topic} is held: {why}. Nothing of it is lost, and the other tables go on"
        log.error("%s", self.held[topic], extra={"event": "held", "table": topic})


def _rekeyed(flow: Flow, key: tuple[str, ...]) -> str:
    table, views = flow.table, ", ".join(f"view {view.view.name}" for view in flow.views)
    return (
        f"its primary key is ({', '.join(key)}) now and was ({', '.join(table.primary_key)}) when it was applied, by "
        f"which {views} and the lake tell its rows apart: bring the old one back, then run millrace apply and "
        f"millrace resnapshot {table.topic}; or capture the table anew under a new source name"
    )


def _was_rekeyed(topic: str, key: tuple[str, ...]) -> str:
    return (
        f"its records from before the last apply are keyed by ({', '.join(key)}): if rows were deleted meanwhile, or "
        f"got another primary key, millrace resnapshot {topic} brings their deletes"
    )


def _columns_changed(found: Drift) -> str:
    gone, new = ", ".join((*found.missing, *found.before)) or "none", ", ".join(found.unknown) or "none"
    return (
        f"its columns changed. Gone, so that they are null: {gone} (millrace resnapshot completes rows that came "
        f"before the last apply). New, for the lake at the next millrace apply: {new}"
    )


def _retyped(flow: Flow, columns: Sequence[tuple[Column, Column]]) -> str:
    """Columns as they were applied and as they are now, for people."""
    told = " and ".join(
        f"column {was.name} was {was.sql_type} when it was applied and is {is_.sql_type} now" for was, is_ in columns
    )
    hurt = ", ".join(users(flow, tuple(was.name for was, _ in columns))) or "the lake"
    renamed = [was.name for was, is_ in columns if not _together(was, is_)]
    mend = (
        f"no column of the lake holds both types, so rename {', '.join(renamed)} in the database and in what reads it, "
        f"then run millrace apply and millrace resnapshot {flow.table.topic}"
        if renamed
        else "run millrace apply"
    )
    return f"{told}; its values would be lost to {hurt}, or wrong there: {mend}"


def _together(was: Column, is_: Column) -> bool:
    """Whether one column of the lake can hold the values of both."""
    try:
        merged_schema(pa.schema([(was.name, was.arrow_type)]), pa.schema([(is_.name, is_.arrow_type)]), was.name)
    except StoreRefused:
        return False
    return True


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
