"""Replayed letters against what stands already, whatever the lake holds, is staged or came in the same batch."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.table import Column, Table
from stores.history import change_properties
from stores.memory_lake import MemoryLake
from stores.view import Feature, View
from streams.changes import changes_schema
from streams.decide import changes_table
from streams.letters import REPLAY_OF
from streams.messages import Records
from streams.pipeline import Flow, take
from streams.replays import replayed as replayed_changes
from streams.replays import settle_replays
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
        Column("customer", "text", pa.string(), "plain", nullable=False),
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
        envelope("c", {"position": name, "lsn": number, "customer": "ann"}, lsn=lsn) for (name, number), lsn in known
    ]
    count = len(known)
    records = Records(LINES.topic, [0] * count, list(range(start, start + count)), [b"{}"] * count, values)
    return take(records, FLOW, 10_000).accepted.changes.rows


@settings(deadline=None)
@given(histories, histories, st.lists(st.tuples(knowns, st.booleans()), min_size=1, max_size=10))
def test_a_replay_passes_only_if_it_stands_nowhere(
    held: list[Known], staged: list[Known], batch: list[tuple[Known, bool]]
) -> None:
    lake = MemoryLake()
    table = changes_table(LINES.topic)
    lake.create(table, changes_schema(LINES), change_properties(LINES.topic, LINES.primary_key))
    lake.append(table, rows(held, 0), {(LINES.topic, 0): 100})
    values = [
        envelope("u", {"position": name, "lsn": number, "customer": "ann"}, lsn=lsn)
        for ((name, number), lsn), _ in batch
    ]
    headers = {i: {REPLAY_OF: b"shop.public.lines/0/0"} for i, (_, replayed) in enumerate(batch) if replayed}
    count = len(batch)
    records = Records(LINES.topic, [0] * count, list(range(200, 200 + count)), [b"{}"] * count, values, headers)
    outcome = take(records, FLOW, 10_000)
    settled = settle_replays(lake, [rows(staged, 100)], outcome, replayed_changes(outcome))

    standing = {*held, *staged, *(known for known, replayed in batch if not replayed)}
    newest = {key: max(lsn for k, lsn in [*standing, *(b for b, _ in batch)] if k == key) for (key, _), _ in batch}
    passed, served = [], []
    for place, (known, replayed) in enumerate(batch):
        if not replayed or known not in standing:
            passed.append(200 + place)
            if not replayed or known[1] == newest[known[0]]:
                served.append(200 + place)
        standing.add(known)
    assert settled.accepted.changes.rows["_offset"].to_pylist() == passed
    (view_rows,), (served_rows,) = settled.rows(), settled.served()
    assert view_rows.table["_offset"].to_pylist() == passed
    assert served_rows.table["_offset"].to_pylist() == served
    assert settled.ignored == count - len(passed)
