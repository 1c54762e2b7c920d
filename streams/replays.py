"""Replayed letters: what the lake holds already is dropped, what it knows better stays out of event views.

A state view refuses an older version by itself. An event view cannot: the version it stores is that of the
winning row, and a replayed row that was changed or deleted since could win again. The lake knows.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from stores.lake import Lake
from streams.changes import Changes
from streams.decide import changes_table
from streams.letters import REPLAY_OF
from streams.pipeline import Accepted, Outcome

Key = tuple[Any, ...]


def settle_replays(lake: Lake, outcome: Outcome) -> Outcome:
    """The outcome without replayed changes that the lake holds, and without event rows that it knows newer.

    The lake must be up to date with everything this worker has staged. Raises `StoreUnavailable`.
    """
    replayed = {i for i, headers in outcome.records.headers.items() if REPLAY_OF in headers}
    changes = outcome.accepted.changes
    mask = np.isin(outcome.accepted.kept, np.fromiter(replayed, np.int64))
    if not mask.any():
        return outcome
    keys = _keys(changes)
    held = _held(lake, changes, [keys[i] for i in np.flatnonzero(mask)])
    lsns = changes.rows["_lsn"].to_pylist()
    doubled = mask.copy()
    outdated = np.zeros(len(changes), bool)
    seen: set[tuple[Key, int]] = set()
    for i in np.flatnonzero(mask):
        known = held.get(keys[i], set())
        doubled[i] = lsns[i] in known or (keys[i], lsns[i]) in seen
        outdated[i] = any(lsn > lsns[i] for lsn in known)
        seen.add((keys[i], lsns[i]))
    accepted = _without_event_rows(outcome.accepted, outdated).without(doubled)
    return replace(outcome, accepted=accepted, ignored=outcome.ignored + int(doubled.sum()))


def _keys(changes: Changes) -> list[Key]:
    columns = [changes.rows[name].to_pylist() for name in changes.table.primary_key]
    return list(zip(*columns, strict=True))


def _held(lake: Lake, changes: Changes, keys: list[Key]) -> dict[Key, set[int]]:
    """The LSNs of every change of these rows in the lake."""
    names = list(changes.table.primary_key)
    first = pc.field(names[0]).isin(list({key[0] for key in keys}))
    table = lake.scan(changes_table(changes.table.topic), [*names, "_lsn"], first).read_all()
    held: dict[Key, set[int]] = {key: set() for key in keys}
    for *key, lsn in zip(*(table[name].to_pylist() for name in [*names, "_lsn"]), strict=True):
        if tuple(key) in held:
            held[tuple(key)].add(lsn)
    return held


def _without_event_rows(accepted: Accepted, outdated: np.ndarray) -> Accepted:
    place = np.arange(len(accepted.changes))
    projected = tuple(
        (view, rows.only(~outdated[rows.positions], place) if view.view.kind == "event" else rows)
        for view, rows in accepted.projected
    )
    return replace(accepted, projected=projected)
