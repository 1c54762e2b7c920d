"""The rule of `stores.rows.FeatureWriter` applied in order to the rows of a batch, over what a store holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.versions import LEAST_ORDER, Version, versions
from stores.view import View


@dataclass(frozen=True, slots=True)
class Entity:
    """What a store holds of an entity, or will: its version (None if no change was ever streamed for it), the
    event time in microseconds, whether it is undecided, and, if a row of the batch has won, its position."""

    version: Version | None
    event_time: int
    undecided: bool = False
    position: int | None = None


Entities = Mapping[bytes, Entity]
"""By entity key."""


def fold(view: View, keys: Sequence[bytes], table: pa.Table, stored: Entities) -> tuple[dict[bytes, Entity], int]:
    """Apply feature rows in order, each by the rule; `keys` are the rows' entity keys.

    Returns what then holds for each entity of the batch, and how many rows were applied.
    """
    now = {key: stored[key] for key in keys if key in stored}
    applied = 0
    stamps = versions(view, table)
    changes = zip(
        keys,
        stamps.orders.tolist(),
        stamps.lsns.tolist(),
        [row.tobytes() for row in stamps.rows],
        stamps.deleted.tolist(),
        _event_times(table).tolist(),
        strict=True,
    )
    for position, (key, order, lsn, row, deleted, time) in enumerate(changes):
        version, before = Version(order, lsn, row), now.get(key)
        held = before.version if before else None
        if held is not None and not held.yields_to(version, deleted):
            continue
        marked = before is not None and before.undecided
        now[key] = Entity(version, time, marked or _unsettles(view, version, deleted, held), position)
        applied += 1
    return now, applied


def fold_decisions(
    view: View, keys: Sequence[bytes], table: pa.Table, stored: Entities
) -> tuple[dict[bytes, Entity], int]:
    """`fold` for the rows that decide entities, one each: undecided are those that hold another row."""
    now, applied = fold(view, keys, table, stored)
    for key, deleted in zip(keys, table["_deleted"].to_pylist(), strict=True):
        entity = now[key]
        gone = entity.version is not None and entity.version.order == LEAST_ORDER
        settled = entity.position is not None or (deleted and gone)
        now[key] = replace(entity, undecided=not settled)
    return now, applied


def fold_plain(_: View, keys: Sequence[bytes], table: pa.Table, stored: Entities) -> tuple[dict[bytes, Entity], int]:
    """Apply rows that have no version of their own: each if its event time is later than the stored one, or
    equal to it where no change was ever streamed. What is known of versions stays."""
    now = {key: stored[key] for key in keys if key in stored}
    applied = 0
    for position, (key, time) in enumerate(zip(keys, _event_times(table).tolist(), strict=True)):
        before = now.get(key, Entity(None, time))
        if time > before.event_time or (time == before.event_time and before.version is None):
            now[key] = replace(before, event_time=time, position=position)
            applied += 1
    return now, applied


def _unsettles(view: View, version: Version, deleted: bool, held: Version | None) -> bool:
    """Whether an applied row leaves open which of the entity's rows is now the newest."""
    if view.kind == "state":
        return False
    return deleted or (held is not None and held.row == version.row and version.order < held.order)


def _event_times(table: pa.Table) -> np.ndarray:
    return np.asarray(pc.fill_null(table["event_timestamp"].cast(pa.int64()), LEAST_ORDER))
