"""Replayed letters against what stands already, whatever the lake holds, is staged or came in the same batch."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from connectors.table import Column, Table
from stores.history import change_properties, feature_properties, newest
from stores.lake import TopicPartition
from stores.memory_lake import MemoryLake
from stores.rows import rows_schema
from stores.view import Feature, Vector, View
from streams.changes import changes_schema
from streams.decide import changes_table, features_table
from streams.letters import REPLAY_OF
from streams.messages import Headers, Records, joined
from streams.pipeline import Flow, Outcome, take
from streams.replays import replayed as replayed_changes
from streams.replays import settle_replays
from streams.transform import transform
from streams.views import StreamView
from tests.envelopes import envelope
from validation.contract import load

LINES = Table(
    source="shop",
    schema="public",
    name="lines",
    topic="shop.public.lines",
    columns=(
        Column("position", "text", pa.string(), "plain", nullable=False),
        Column("lsn", "integer", pa.int32(), "plain", nullable=False),
        Column("customer", "text", pa.string(), "plain", nullable=True),
    ),
    primary_key=("position", "lsn"),
)
"""A composite key, of columns that are called as what stands beside them here."""

LAST = View(
    "p", "last", "last", "event", (Feature("customer", 2, pa.string()),), (Feature("position", 2, pa.string()),)
)
FLOW_FOLDER = Path(tempfile.mkdtemp())
(FLOW_FOLDER / "lines.json").write_text(json.dumps({"name": "lines", "expectations": [], "meta": {}}))
FLOW = Flow(LINES, load(FLOW_FOLDER / "lines.json", changes_schema(LINES)), (StreamView(LAST, LINES),))

Known = tuple[tuple[str, int], int]
"""A row's key, and the LSN of one of its changes."""

knowns = st.tuples(st.tuples(st.sampled_from("ab"), st.integers(1, 2)), st.integers(1, 6))
histories = st.lists(knowns, max_size=8, unique=True)


def rows(known: Sequence[Known], start: int) -> pa.Table:
    """The changes of one history, as the worker would have taken them."""
    values = [
        envelope("c", {"position": name, "lsn": number, "customer": customer(lsn)}, lsn=lsn)
        for (name, number), lsn in known
    ]
    count = len(known)
    records = Records(LINES.topic, [0] * count, list(range(start, start + count)), [b"{}"] * count, values)
    return take(records, FLOW, 10_000).accepted.changes.rows


def customer(lsn: int) -> str:
    """Whom the change at an LSN gives its row to."""
    return "ann" if lsn < 4 else "bob"


def committed(lsn: int) -> datetime:
    """When the change at an LSN was committed, as `envelope` says."""
    return datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(microseconds=lsn)


@given(histories, histories, st.lists(st.tuples(knowns, st.booleans()), min_size=1, max_size=10))
def test_a_replay_passes_only_if_it_stands_nowhere(
    held: list[Known], staged: list[Known], batch: list[tuple[Known, bool]]
) -> None:
    lake = MemoryLake()
    table = changes_table(LINES.topic)
    lake.create(table, changes_schema(LINES), change_properties(LINES.topic, LINES.primary_key))
    lake.append(table, rows(held, 0), {(LINES.topic, 0): 100})
    values = [
        envelope("u", {"position": name, "lsn": number, "customer": customer(lsn)}, lsn=lsn)
        for ((name, number), lsn), _ in batch
    ]
    headers = {i: {REPLAY_OF: b"shop.public.lines/0/0"} for i, (_, replayed) in enumerate(batch) if replayed}
    count = len(batch)
    records = Records(LINES.topic, [0] * count, list(range(200, 200 + count)), [b"{}"] * count, values, headers)
    outcome = take(records, FLOW, 10_000)
    settled = settle_replays(lake, [rows(staged, 100)], outcome, replayed_changes(outcome))

    standing = {*held, *staged, *(known for known, replayed in batch if not replayed)}
    everything = {*standing, *(known for known, _ in batch)}
    passed, served, stored = [], [], []
    for place, (known, replayed) in enumerate(batch):
        if not replayed or known not in standing:
            offset, (key, lsn) = 200 + place, known
            following = min((at for k, at in everything if k == key and at > lsn), default=None)
            passed.append(offset)
            stored.append((offset, lsn, customer(lsn), False, committed(lsn)))
            if not replayed or following is None:
                served.append(offset)
            elif customer(following) != customer(lsn):
                stored.append((offset, following, customer(lsn), True, committed(following)))
        standing.add(known)
    assert settled.accepted.changes.rows["_offset"].to_pylist() == passed
    (view_rows,), (served_rows,) = settled.rows(), settled.served()
    columns = ("_offset", "_lsn", "customer", "_deleted", "created_timestamp")
    assert list(zip(*(view_rows.table[name].to_pylist() for name in columns), strict=True)) == stored
    assert served_rows.table["_offset"].to_pylist() == served
    assert settled.ignored == count - len(passed)


def replayed_over(later: Records, letter: Records, stream_view: StreamView | None = None) -> tuple[MemoryLake, Outcome]:
    """A lake whose view was filled from the later change, and the letter of an earlier one that is replayed then."""
    flow = FLOW if stream_view is None else replace(FLOW, views=(stream_view,))
    lake = MemoryLake()
    names = {"changes": changes_table(LINES.topic), "view": features_table("last")}
    lake.create(names["changes"], changes_schema(LINES), change_properties(LINES.topic, LINES.primary_key))
    lake.create(names["view"], rows_schema(LAST), feature_properties(LAST, LINES.topic))
    first, replay = take(later, flow, 10_000), take(letter, flow, 10_000)
    settled = settle_replays(lake, [first.accepted.changes.rows], replay, replayed_changes(replay))
    for outcome in (first, settled):
        offsets: dict[TopicPartition, int] = {(LINES.topic, 0): outcome.records.offsets[0] + 1}
        lake.append(names["changes"], outcome.accepted.changes.rows, offsets)
        lake.append(names["view"], outcome.rows()[0].table, offsets)
    return lake, settled


def test_a_row_that_left_for_no_entity_unseen_does_not_come_back() -> None:
    """All changes that told of the entity were letters, and the view's table was filled from what the lake held: only
    the row's next change tells that it left."""
    lake, settled = replayed_over(line(None, lsn=5, offset=1), line("ann", lsn=3, offset=2, headers=REPLAYED))
    assert settled.rows()[0].table["_deleted"].to_pylist() == [False, True]
    assert not newest(lake, LAST).num_rows


def test_a_mark_is_for_a_row_that_left_and_not_for_one_that_was_dropped() -> None:
    """That the next change of a row made no row of the view is the transform's doing, and told by its own mark."""
    shown = {"customer": pa.string(), "position": pa.string()}
    dropping = transform("last", lambda frame: frame[frame["_lsn"] < 5], "pandas", shown)
    letter = line("ann", lsn=3, offset=2, headers=REPLAYED)
    lake, settled = replayed_over(line("ann", lsn=5, offset=1), letter, StreamView(LAST, LINES, transform=dropping))
    assert settled.rows()[0].table["_deleted"].to_pylist() == [False]
    assert not newest(lake, LAST).num_rows


def test_a_change_of_the_same_poll_whose_text_may_be_rejected_does_not_follow() -> None:
    """A model refuses it after this: what it was to replace has to be served, and not to be marked as left."""
    text = View(
        "p",
        "text",
        "text",
        "state",
        (Feature("lsn", 3, pa.int32()),),
        (Feature("position", 2, pa.string()), Feature("vector", 16, pa.list_(pa.float32()))),
        vector=Vector("vector", 4, "cosine", ("position",)),
    )
    flow = replace(FLOW, views=(*FLOW.views, StreamView(text, LINES)))
    lake = MemoryLake()
    lake.create(changes_table(LINES.topic), changes_schema(LINES), change_properties(LINES.topic, LINES.primary_key))
    both = joined([line("ann", lsn=3, offset=1, headers=REPLAYED), line(None, lsn=5, offset=2)])[0]
    for declared, late in ((FLOW, [True, False]), (flow, [False, False])):
        outcome = take(both, declared, 10_000)
        settled = settle_replays(lake, [], outcome, replayed_changes(outcome))
        assert settled.accepted.late.tolist() == late
        assert settled.rows()[0].table["_deleted"].to_pylist() == ([False, True] if late[0] else [False])


REPLAYED: Headers = {REPLAY_OF: b"shop.public.lines/0/0"}


def line(customer: str | None, lsn: int, offset: int, headers: Headers | None = None) -> Records:
    """The record of one change of one line."""
    value = envelope("u", {"position": "a", "lsn": 1, "customer": customer}, lsn=lsn)
    return Records(LINES.topic, [0], [offset], [b"{}"], [value], {0: headers} if headers else {})
