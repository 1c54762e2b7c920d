"""`millrace verify`: PostgreSQL = online = lake, entity by entity; each record once a change in the lake, or a letter.

What PostgreSQL holds goes through the same contract, transforms and casts as a change, and must come out as
what the online store serves and what the lake holds as newest, event times included. Rows that the contract or any view
of the table rejects have no known feature: for their entities, and those of their last accepted changes, only online
and lake are compared. No text is embedded: a vector is known by the hash of its text, and a row that the model alone
refuses is a mismatch. What differs is looked at again while changes may be in flight; what still differs then is a
mismatch.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from connectors.rows import Rows, read_rows
from connectors.source import Source
from connectors.table import Table
from millrace.progress import Told
from millrace.repo import Repo
from millrace.wiring import embedder, flows, lake, source, stores, topics
from stores.comparison import EVENT_TIME, PLACES, Comparison, comparison
from stores.history import every_newest
from stores.lake import Lake
from stores.rows import EMBEDDING
from stores.view import Feature, View
from streams.accounted import Account, account, letter_places
from streams.backfill import UnknownView
from streams.broker import BrokerUnavailable
from streams.changes import Changes, as_snapshot, carried
from streams.embed import text_hashes
from streams.embedders import Embedder
from streams.letters import read
from streams.messages import Partition
from streams.pipeline import Flow, Flows, process
from streams.views import Projected, StreamView, fitting, names_of_rows

SHOWN = 20
TEXT_HASH = Feature(EMBEDDING[0].name, 1, EMBEDDING[0].type)
INTERVAL_SECONDS = 0.5

Scan = Callable[[View], Iterator[pa.Table]]
"""`FeatureWriter.scan`, or one that leaves deleted entities out and has no `_present`."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One entity whose value differs: what each place holds; None where it holds nothing."""

    view: str
    entity: Mapping[str, Any]
    postgres: Mapping[str, Any] | None
    online: Mapping[str, Any] | None
    lake: Mapping[str, Any] | None


@dataclass(slots=True)
class ViewReport:
    """One view compared. `rejected` counts the rows of PostgreSQL that the contract or a view of the table, be it
    another one, does not let through; `examples` are the first of the mismatches."""

    entities: int = 0
    rejected: int = 0
    mismatches: int = 0
    examples: list[Mismatch] = field(default_factory=list)
    looks: int = 0


@dataclass(frozen=True, slots=True)
class Database:
    """A source database and its connections."""

    source: Source
    engine: Engine


@contextmanager
def _databases(repo: Repo) -> Iterator[dict[str, Database]]:
    """All sources of `millrace.yaml`, by name."""
    with ExitStack() as opened:
        sources = [source(repo, name) for name in repo.settings.sources]
        yield {origin.name: Database(origin, opened.enter_context(origin.opened())) for origin in sources}


@dataclass(frozen=True, slots=True)
class Verifier:
    """Compares views, each until it agrees or `patience_seconds` are over."""

    lake: Lake
    scan: Scan
    embedder: Embedder
    patience_seconds: float
    told: Told

    def view(self, flow: Flow, stream_view: StreamView, database: Database, sample: int | None) -> ViewReport:
        """Compare all entities of one view, or `sample` of them, drawn once; then again and again those that differed,
        until all have agreed at some look or patience ends."""
        deadline = time.monotonic() + self.patience_seconds
        told, report, asked = _comparable_to_postgres(stream_view), ViewReport(), None
        compared = _with_text(stream_view.view)
        while True:
            with comparison(compared, told, asked) as held:
                report.looks, report.rejected = report.looks + 1, self._look(held, flow, stream_view, database)
                if report.looks == 1:
                    report.entities = held.entities()
                    if sample is not None and sample < report.entities:
                        report.entities = sample
                        held.draw(sample, random.getrandbits(32))
                asked = held.differing()
                if not asked.num_rows or time.monotonic() > deadline:
                    report.mismatches, report.examples = asked.num_rows, _examples(held, compared, asked)
                    return report
            time.sleep(INTERVAL_SECONDS)

    def _look(self, held: Comparison, flow: Flow, stream_view: StreamView, database: Database) -> int:
        """Fill it with what the three places hold of a view; how many of PostgreSQL's rows are rejected."""
        rejected: list[pa.Array] = []
        read = self._counted(stream_view.view.name)
        for rows in _rows(flow.table, database):
            read(len(rows.table))
            accepted = process(as_snapshot(flow.table, rows.table), flow)
            bad = rows.table.take(pa.array(sorted(accepted.bad), pa.int64()))
            for unknown in (bad, rows.undecodable):
                rejected.append(names_of_rows(as_snapshot(flow.table, unknown)))
                held.leave_free(_keys(stream_view, unknown))
            (projected,) = (p for view, p in accepted.projected if view is stream_view)
            held.put("postgres", self._with_hashes(projected, accepted.changes))
        for table in self.scan(stream_view.view):
            read(len(table))
            held.put("online", _present(table))
        ids = pa.chunked_array(rejected, pa.binary(16)).combine_chunks()
        for table in every_newest(self.lake, stream_view.view):
            read(len(table))
            held.put("lake", table)
            # Where a row's last accepted change had it: PostgreSQL may have it elsewhere by one that was rejected.
            held.leave_free(table.filter(pc.is_in(table["_row"], ids)).select(_join_keys(stream_view)))
        return len(ids)

    def _counted(self, view: str) -> Callable[[int], None]:
        """Tells how many rows of a view were read, of all three places; how many there are nobody knows before."""
        read = 0

        def count(rows: int) -> None:
            nonlocal read
            read += rows
            self.told(f"comparing {view}", read, None)

        count(0)
        return count

    def _with_hashes(self, projected: Projected, changes: Changes) -> pa.Table:
        """The rows, of a view with a vector with the hashes of their texts."""
        rows = projected.rows.table
        if projected.rows.view.vector is None:
            return rows
        return rows.append_column(TEXT_HASH.name, text_hashes(projected, changes, self.embedder))


def _with_text(view: View) -> View:
    """The view with what stands for the text of its vector, if it has one, as another feature."""
    text = (TEXT_HASH,) if view.vector else ()
    return replace(view, features=(*view.features, *text))


def _examples(held: Comparison, view: View, differing: pa.Table) -> list[Mismatch]:
    """The first of these entities, side by side."""
    shown = differing.slice(0, SHOWN)
    postgres, online, lake = (held.held(place, shown) for place in PLACES)
    return [
        Mismatch(view.name, entity, *(place.get(tuple(entity.values())) for place in (postgres, online, lake)))
        for entity in shown.to_pylist()
    ]


def _rows(table: Table, database: Database) -> Iterator[Rows]:
    columns = [table.column(field.name) for field in carried(table)]
    return read_rows(database.engine, database.source, table, columns)


def _keys(stream_view: StreamView, rows: pa.Table) -> pa.Table:
    """The entities that rows of the table belong to, by their join keys. A row with a key that does not fit is of none:
    it is a letter."""
    keys = stream_view.view.join_keys
    columns = [fitting(rows[name], key.arrow_type) for name, key in zip(stream_view.key_columns, keys, strict=True)]
    return pa.table(columns, _join_keys(stream_view))


def _join_keys(stream_view: StreamView) -> list[str]:
    return [key.name for key in stream_view.view.join_keys]


def _present(table: pa.Table) -> pa.Table:
    return table.filter(table["_present"]) if "_present" in table.column_names else table


def _comparable_to_postgres(stream_view: StreamView) -> list[str]:
    """What PostgreSQL's rows can tell: the event time if it is one of their columns, and the features, but not the
    vector, nor what only Debezium writes so, of which a function may have made any."""
    spelled = {column.name for column in stream_view.table.columns if column.encoding == "interval"}
    time_told = [] if stream_view.event_time is None else [EVENT_TIME]
    if spelled and stream_view.transform is not None:
        return time_told
    view = stream_view.view
    named = [feature.name for feature in view.features if view.vector is None or feature.name != view.vector.name]
    text = [TEXT_HASH.name] if view.vector and not spelled.intersection(view.vector.columns) else []
    return [*time_told, *text, *(name for name in named if stream_view.column(name) not in spelled)]


def verify_views(repo: Repo, views: Sequence[str], sample: int | None, patience: float, told: Told) -> dict[str, Any]:
    """Compare the named views, or all; the report as plain values. Without names and sample the records of all tables
    are accounted for as well: what the topics retain is read whole. `problems` names what it could not learn: what is
    in flight is None then, and all that was compared is told."""
    declared = flows(repo)
    by_name = {v.view.name: (flow, v) for flow in declared.values() for v in flow.views}
    for name in views:
        if name not in by_name:
            raise UnknownView(f"there is no view {name} over a captured table; there are {', '.join(by_name)}")
    verifier = Verifier(lake(repo), stores(repo).scan, embedder(repo), patience, told)
    reports = {}
    with _databases(repo) as databases:
        for name in views or by_name:
            flow, view = by_name[name]
            reports[name] = verifier.view(flow, view, databases[flow.table.source], sample)
    problems: list[str] = []
    offsets = _offsets(repo, sorted(declared), problems)
    tables = {} if offsets is None or views or sample else _accounts(repo, declared, offsets, problems, told)
    return {
        "views": {name: asdict(report) for name, report in reports.items()},
        "entities": sum(report.entities for report in reports.values()),
        "mismatches": sum(report.mismatches for report in reports.values()),
        "tables": {topic: asdict(account) for topic, account in tables.items()},
        "lost": sum(account.lost for account in tables.values()),
        "doubled": sum(account.doubled for account in tables.values()),
        "in_flight": {
            "records": None if offsets is None else sum(end - committed for committed, end in offsets.values()),
            "seconds": repo.settings.worker.flush_seconds,
        },
        "problems": problems,
    }


Offsets = Mapping[Partition, tuple[int, int]]
"""From which the group has yet to commit, and the end."""


def _offsets(repo: Repo, topic_names: Sequence[str], problems: list[str]) -> Offsets | None:
    """None while the broker does not tell."""
    try:
        return topics(repo).committed(repo.group, topic_names)
    except BrokerUnavailable as error:
        problems.append(f"what is in flight is not known: {error}")
        return None


def _accounts(repo: Repo, declared: Flows, offsets: Offsets, problems: list[str], told: Told) -> dict[str, Account]:
    """What became of the records of each topic below these offsets, asked before: what they say to be done stands by
    then in the lake and among the letters."""
    accounts: dict[str, Account] = {}
    broker, most = topics(repo), repo.settings.worker.max_record_bytes
    committed = {partition: offset for partition, (offset, _) in offsets.items()}
    try:
        letters = letter_places(read(broker, repo.letters_topic))
        for topic, flow in declared.items():
            advance = _advance(told, topic, committed)
            accounts[topic] = account(broker, lake(repo), flow, committed, letters.get(topic, ()), most, advance)
    except BrokerUnavailable as error:
        problems.append(f"what became of the records is not known: {error}")
    return accounts


def _advance(told: Told, topic: str, committed: Mapping[Partition, int]) -> Callable[[int], None]:
    """Tells how many records of a topic were read. It retains as many as were committed, or fewer."""
    most = sum(offset for partition, offset in committed.items() if partition.topic == topic)
    what = f"accounting for the records of {topic}, {most:,} at most"
    told(what, 0, most)
    return lambda records: told(what, records, most)
