"""`millrace apply`: check everything first (`millrace.check_repo`), change nothing until all of it holds, then set
everything up.

In this order, each step repeatable: the source databases, the topics, the lake, the connectors, Feast's own apply. What
fails before Feast's leaves what runs, or starts, to what was applied before; of tables and columns that are declared no
more the connectors may send nothing any longer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.types as pt

from connectors.altered import altered
from connectors.connect import Connect
from connectors.debezium import connector_config
from connectors.lock import alone
from connectors.snapshots import Base, base
from connectors.table import Column, Table
from connectors.table_file import dumps
from millrace.anew import begin, digest, note
from millrace.check_repo import (
    Captured,
    Plan,
    applied_views,
    captured_again,
    check_connectors,
    check_declared,
    check_source,
    check_sources,
    check_stores,
    coming_back,
    has_changes,
    lake_tables,
    not_captured,
    placed,
)
from millrace.made_again import dropped, note_captured_again, note_stored
from millrace.made_of import made_anew, note_made_of, other_versions
from millrace.owed import owe, owed, told
from millrace.repo import Repo, register
from millrace.try_functions import try_functions
from millrace.wiring import connect, embedder, lake, topics, vectors
from millrace.workers import running_workers
from stores.lake import Lake
from stores.view import View
from streams.decide import LakeTableName, changes_table, features_table
from streams.declarations import source_of
from streams.drift import APPLIED_PROPERTY, TABLE_PROPERTY, applied_table
from streams.kafka import MAX_MESSAGE_BYTES
from streams.snapshots import begin_first
from streams.views import StreamView

Say = Callable[[str], None]

CONNECTOR_SECONDS = 60.0


def apply(repo: Repo, say: Say) -> dict[str, object]:
    """Check, then set up. Returns what was done, for people and machines.

    Raises `SettingsError`, `DeclarationError`, `ContractError`, `SourceNotReady`, `ConfigInvalid`, `UnderWay` while
    another apply is at one of the sources, and what the services raise; up to the last check nothing has been changed,
    but that the lake knows of tables that were not captured for a while: whoever mends by hand what apply refuses
    leaves no other trace of that.
    """
    say("checking the declarations, the sources and the contracts")
    plan = check_declared(repo)
    with ExitStack() as others_out:
        # By name: of two that have several none waits for the other. And by slot: two with one are refused below.
        for one in {captured.source.slot: captured.source for captured in plan.captured}.values():
            others_out.enter_context(alone(one, "apply"))
        return _apply(repo, plan, say)


def _apply(repo: Repo, plan: Plan, say: Say) -> dict[str, object]:
    client, store = connect(repo), lake(repo)
    unread, warnings = _check(repo, plan, client)
    fixed = [f for captured in plan.captured for f in check_source(captured, client, fix=True)]
    heard = {t.topic for c in plan.captured for t in c.tables if has_changes(repo, c, t.topic)}
    added = [t for c in plan.captured for t in not_captured(c, client) if t not in heard]
    new = _new(store, plan, added, heard, applied_views(repo), unread.back)
    made, to_be_made = _ensure_topics(repo, plan), _to_be_made(new, plan)
    for name, schema, properties in lake_tables(plan):
        store.create(name, schema, properties)
        if name in to_be_made:
            owe(store, name)
    connectors = {c.source.name: _set_up_connector(repo, c, client, unread.back, say) for c in plan.captured}
    say("applying to Feast")
    views = _take_up(repo, plan)
    for name in (versions := other_versions(store, views)):
        owe(store, features_table(name))
    new = replace(new, views=tuple(dict.fromkeys([*new.views, *versions])))
    note_stored(repo, [t.topic for t in plan.tables if t.topic not in unread.topics])
    _tell(new, _topics(plan), say)
    for warning in warnings:
        say(warning)
    _tell_unread(unread, say)
    note_made_of(store, views)
    told(store, _to_be_made(new, plan))
    return {
        **_report(repo, plan, new, unread),
        "connectors": connectors,
        "topics_made": list(made),
        "warnings": warnings,
        "fixed": [f.message for f in fixed if f.severity == "fixed"],
    }


@dataclass(frozen=True, slots=True)
class Unread:
    """What the lake may have otherwise than the databases, until it is read anew: tables that were dropped and
    `made_again`, or of which a partition was dropped (`lost_partitions`); those that were not captured for a while
    (`captured_again`); and the sources that come `back`, with all their tables."""

    made_again: Sequence[str]
    lost_partitions: Collection[str]
    captured_again: Sequence[str]
    back: Set[str]

    @property
    def topics(self) -> set[str]:
        """All but those of the sources that come back."""
        return {*self.made_again, *self.lost_partitions, *self.captured_again}


def _unread(repo: Repo, plan: Plan, client: Connect) -> Unread:
    back = coming_back(repo, plan, client)
    lost = dropped(repo, [t.topic for t in plan.tables])
    replaced = {*lost.made_again, *lost.gone}
    missed = {topic for topic in captured_again(repo, plan, client) if topic not in replaced}
    missed = {*missed, *lost.captured_again, *lost.unpublished}
    return Unread(
        lost.made_again, lost.partitions, sorted(topic for topic in missed if source_of(topic) not in back), back
    )


def _check(repo: Repo, plan: Plan, client: Connect) -> tuple[Unread, list[str]]:
    """What the lake lacks, and what is said of the views' functions. Raises for what cannot be set up."""
    check_stores(repo, plan)
    check_connectors(repo, plan, client)
    unread = _unread(repo, plan, client)
    # Before connectors and publications have these tables: by that they are found.
    note_captured_again(repo, unread.captured_again)
    check_sources(plan, client)
    with placed(repo):
        return unread, try_functions(plan)


def _set_up_connector(repo: Repo, captured: Captured, client: Connect, back: Set[str], say: Say) -> str:
    """What became of the connector; that of a source that comes `back` stands still."""
    name, config = captured.source.name, connector_config(captured.source, captured.tables)
    if name in back:
        client.create_stopped(name, config)
        return "stopped"
    if client.offset_lsn(name) is None:
        _note_base(repo, captured, client)
    done = client.apply(name, config)
    say(f"connector {name}: {done}")
    client.restart_failed(name)
    client.wait_running(name, CONNECTOR_SECONDS)
    return done


def _take_up(repo: Repo, plan: Plan) -> list[StreamView]:
    """Have Feast, and the workers, go by the plan; returns the views under their names in the online store."""
    cut_off = begin(lake(repo), repo.project)
    # Before the registry names them: workers that start then find them set up.
    _describe(repo, plan, [t for t in plan.tables if applied_table(lake(repo), t.topic)[0] is None])
    register(repo, plan.contents)
    views = [_as_online(repo, view) for view in plan.views]
    _create_vector_tables(repo, [view.view for view in views])
    _describe(repo, plan, plan.tables)
    _note_declared(repo, plan, views, cut_off)
    return views


def _as_online(repo: Repo, view: StreamView) -> StreamView:
    """The view under the name that Feast, which has registered it by now, has for it in the online store."""
    return replace(view, view=replace(view.view, online_name=repo.online_name(view.view.name)))


def _note_declared(repo: Repo, plan: Plan, views: Sequence[StreamView], cut_off: bool) -> None:
    """Note in the lake what is declared: last of what workers go by, for they start anew at it. After an apply that was
    `cut_off` they do whatever is declared: one that started since may go by a part of that."""
    versions = {topic: contract.version for topic, contract in plan.contracts.items()}
    declared = digest(repo.path, views, versions, plan.personal)
    note(lake(repo), repo.project, f"{declared}-{uuid4().hex[:8]}" if cut_off else declared)


def _tell_unread(unread: Unread, say: Say) -> None:
    for topic in unread.made_again:
        say(f"{topic} was dropped and made again: run millrace resnapshot {topic}, its old rows still stand")
    for topic in unread.captured_again:
        say(
            f"{topic} was not captured for a while: run millrace resnapshot {topic}, rows that were deleted still stand"
        )
    for name in sorted(unread.back):
        say(f"source {name} was captured before, and its connector stands still: run millrace recover {name}")


@dataclass(frozen=True, slots=True)
class New:
    """What is new where something was applied before: the `tables` of which the connector takes no snapshot, for it has
    taken its own; by topic the columns that changes in the lake have not; the views that lack rows of such changes, all
    of them or, where the view was taken out for a while, some, and those that Feast has under another name online; by
    view the features that `made_anew` finds; and the tables that an apply that was cut off found (`owed`)."""

    tables: Sequence[str]
    columns: Mapping[str, tuple[str, ...]]
    views: tuple[str, ...]
    features: Mapping[str, tuple[str, ...]]
    owed: Sequence[str]

    def to_resnapshot(self, of_view: Mapping[str, str]) -> list[str]:
        """The topics whose tables are to be read anew; `of_view` has the topic of each view."""
        found = [*self.tables, *self.columns, *(of_view[name] for name in self.features), *self.owed]
        return list(dict.fromkeys(found))


def _new(store: Lake, plan: Plan, added: Sequence[str], heard: Set[str], known: Set[str], back: Set[str]) -> New:
    """`added` are topics that the connectors do not capture yet, `heard` those of which the lake has changes,
    `known` the views that are applied: of their tables it will have some soon. Of sources that come `back` all tables
    are read anew: there only a view that never had rows lacks anything."""
    heard = heard | {v.table.topic for v in plan.views if v.view.name in known}
    tables = [t for captured in plan.captured for t in captured.tables if captured.source.name not in back]
    before = {t.topic: applied_table(store, t.topic)[0] for t in tables if store.exists(changes_table(t.topic))}
    columns = {t.topic: altered(was, t).added for t in tables if (was := before.get(t.topic)) is not None}
    views = [(v.view, v.table.topic, v.table.source in back) for v in plan.views]
    return New(
        [topic for topic in added if source_of(topic) not in back],
        {topic: names for topic, names in columns.items() if names},
        tuple(
            view.name
            for view, topic, is_back in views
            if (topic in heard and not (store.exists(features_table(view.name)) and (is_back or view.name in known)))
            or owed(store, features_table(view.name))
        ),
        {v.view.name: new for v in plan.views if v.table.source not in back and (new := made_anew(store, v))},
        [t.topic for t in tables if owed(store, changes_table(t.topic))],
    )


def _to_be_made(new: New, plan: Plan) -> list[LakeTableName]:
    """The tables of the lake that what is new calls for."""
    topics = map(changes_table, new.to_resnapshot(_topics(plan)))
    return [*topics, *map(features_table, new.views)]


def _topics(plan: Plan) -> dict[str, str]:
    """The topic of each view."""
    return {view.view.name: view.table.topic for view in plan.views}


def _tell(new: New, of_view: Mapping[str, str], say: Say) -> None:
    """What has to be read, or made, of what was there before it was declared; `of_view` has the topic of each view."""
    for topic in new.tables:
        say(f"{topic} is captured from now on: run millrace resnapshot {topic} for the rows that it has")
    for topic, columns in new.columns.items():
        say(f"{topic}: {', '.join(columns)} captured from now on, null in older rows: run millrace resnapshot {topic}")
    for name, features in new.features.items():
        anew = f"run millrace resnapshot {of_view[name]}"
        say(f"view {name}: {', '.join(features)} new, null or out of date in rows that were served before: {anew}")
    for topic in sorted({*new.owed} - {*new.tables, *new.columns, *(of_view[name] for name in new.features)}):
        say(f"{topic}: an apply that did not end began to capture more of it: run millrace resnapshot {topic}")
    for name in new.views:
        say(f"view {name} lacks rows of changes that its table has already: run millrace backfill --view {name}")


def _report(repo: Repo, plan: Plan, new: New, unread: Unread) -> dict[str, object]:
    """What is declared, and what is left to do."""
    return {
        "project": repo.project,
        "views": {v.view.name: v.view.kind for v in plan.views},
        "tables": [t.topic for t in plan.tables],
        "made_again": unread.made_again,
        "captured_again": unread.captured_again,
        "to_recover": sorted(unread.back),
        "to_resnapshot": new.to_resnapshot(_topics(plan)),
        "to_backfill": list(new.views),
        "workers": sorted(running_workers(repo.workers_folder)),
    }


def _note_base(repo: Repo, captured: Captured, client: Connect) -> None:
    """A connector without a position begins with a snapshot of all its tables, or has just begun."""
    state, start = client.state(captured.source.name), _now(captured)
    for table in captured.tables:
        begin_first(lake(repo), table.topic, start, under_way=state is not None and state.state != "STOPPED")


def _ensure_topics(repo: Repo, plan: Plan) -> Sequence[str]:
    kafka = repo.settings.kafka
    partitions = {t.topic: c.source.partitions for c in plan.captured for t in c.tables}
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    broker, kept = topics(repo), {"retention.ms": str(kafka.retention_seconds * 1_000)}
    made = broker.ensure(partitions, {**size, **kept})
    told = broker.ensure({c.source.notifications_topic: 1 for c in plan.captured}, kept)
    own = broker.ensure({repo.letters_topic: 1}, {**size, "retention.ms": "-1"})
    return [*made, *told, *own, *broker.ensure({repo.control_topic: 1}, {"retention.ms": "3600000"})]


def _now(captured: Captured) -> Base:
    """Where the source's log is."""
    with captured.source.opened() as engine:
        return base(engine, captured.source)


def _describe(repo: Repo, plan: Plan, tables: Sequence[Table]) -> None:
    """Note in the lake what workers go by: the tables, up to where the log may know others."""
    ends = {captured.source.name: _now(captured).lsn for captured in plan.captured}
    for table in tables:
        name = changes_table(table.topic)
        kept = dumps([as_kept(table, lake(repo).snapshot(name).schema)])
        lake(repo).describe(name, {TABLE_PROPERTY: kept, APPLIED_PROPERTY: str(ends[table.source])})


def as_kept(table: Table, kept: pa.Schema) -> Table:
    """The table with its numbers as wide as the lake has them, where a column was narrowed in the source."""
    return replace(table, columns=tuple(_as_kept(column, kept) for column in table.columns))


def _as_kept(column: Column, kept: pa.Schema) -> Column:
    number = pt.is_integer(column.arrow_type) or pt.is_floating(column.arrow_type) or pt.is_decimal(column.arrow_type)
    return replace(column, arrow_type=kept.field(column.name).type) if number and column.name in kept.names else column


def _create_vector_tables(repo: Repo, views: Sequence[View]) -> None:
    embedding = [view for view in views if view.vector is not None]
    store = vectors(repo) if embedding else None
    if store is not None:
        model = embedder(repo).model
        for view in embedding:
            store.create(view, model)
