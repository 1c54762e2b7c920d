"""Changes of feature rows: some by hand, or any histories of them in any batches, and what should remain of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import strategies as st

from stores.rows import FeatureRows, rows_schema
from stores.view import Feature, Kind, View

EPOCH = datetime(2013, 2, 12, tzinfo=UTC)


def view(name: str, kind: Kind) -> View:
    """A view of the entity `id` with the features `x` and `name`."""
    features = (Feature("x", 4, pa.int64()), Feature("name", 2, pa.string()))
    return View("suite", name, name, kind, (Feature("id", 4, pa.int64()),), features)


@dataclass(frozen=True)
class Change:
    """One change of one source row; `minute` is its event time."""

    entity: int
    lsn: int
    x: int | None = None
    minute: int = 0
    row: int = 0
    deleted: bool = False
    name: str | None = "a name"

    @property
    def order(self) -> tuple[int, int, int]:
        return self.minute, self.lsn, self.row


def rows(view: View, *changes: Change) -> FeatureRows:
    """The changes as rows of a view, in their order."""
    records = [
        {
            "id": change.entity,
            "x": None if change.deleted else change.x,
            "name": None if change.deleted else change.name,
            "event_timestamp": EPOCH + timedelta(minutes=change.minute),
            "created_timestamp": EPOCH,
            "_lsn": change.lsn,
            "_row": change.row.to_bytes(16) if view.kind == "event" else None,
            "_deleted": change.deleted,
            "_partition": 0,
            "_offset": number,
        }
        for number, change in enumerate(changes)
    ]
    return FeatureRows(view, pa.Table.from_pylist(records, rows_schema(view)))


def none_remains(view: View, *entities: int) -> FeatureRows:
    """What `decide` is told of entities without a row left: only that."""
    schema = rows_schema(view)
    columns = {"id": pa.array(entities, pa.int64()), "_deleted": pa.array([True] * len(entities))}
    return FeatureRows(
        view,
        pa.table([columns.get(f.name, pa.nulls(len(entities), f.type)) for f in schema], schema=schema),
    )


@st.composite
def batches(draw: st.DrawFn, history: Sequence[Change]) -> list[list[Change]]:
    """The changes in any order, some of them twice, cut into batches anywhere."""
    doubled = draw(st.lists(st.sampled_from(history), max_size=4))
    return cut(draw, draw(st.permutations([*history, *doubled])))


@st.composite
def deliveries(draw: st.DrawFn, one: int) -> list[list[Change]]:
    """Changes of several rows of an entity: each row's in their order, with replays from an earlier one."""
    count, rows = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    partitions: list[list[Change]] = [[] for _ in range(rows)]
    for lsn in range(count):
        row = draw(st.integers(0, rows - 1))
        minute, deleted = draw(st.integers(0, 5)), draw(st.integers(0, 3)) == 0
        partitions[row].append(Change(one, lsn=lsn, x=lsn, row=row, minute=minute, deleted=deleted))
    offsets, sequence = [0] * rows, list[Change]()
    crashes = draw(st.integers(0, 3))
    while any(offset < len(partition) for offset, partition in zip(offsets, partitions, strict=True)):
        behind = [row for row in range(rows) if offsets[row] < len(partitions[row])]
        row = draw(st.sampled_from(behind))
        sequence.append(partitions[row][offsets[row]])
        offsets[row] += 1
        if crashes and draw(st.integers(0, 3)) == 0:
            crashes -= 1
            back = draw(st.integers(0, rows - 1))
            offsets[back] = draw(st.integers(0, offsets[back]))
    return cut(draw, sequence)


def cut(draw: st.DrawFn, changes: Sequence[Change]) -> list[list[Change]]:
    """The changes in batches, in their order."""
    parts: list[list[Change]] = [[]]
    for change in changes:
        if parts[-1] != [] and draw(st.booleans()):
            parts.append([])
        parts[-1].append(change)
    return parts


def newest(delivered: Sequence[Change]) -> Change | None:
    """The winner among the rows that remain, each as its last change left it: what the lake answers."""
    last = {row: max((c for c in delivered if c.row == row), key=lambda c: c.lsn) for row in {c.row for c in delivered}}
    return max((c for c in last.values() if not c.deleted), key=lambda c: c.order, default=None)


def remaining(view: View, one: int, delivered: Sequence[Change]) -> FeatureRows:
    """What `decide` is told of an entity."""
    winner = newest(delivered)
    return rows(view, winner) if winner else none_remains(view, one)
