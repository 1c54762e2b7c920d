"""After a run: the database, the online stores and the lake agree, and every change is where it belongs."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.table import Table
from stores.asof import Join, asof
from stores.rows import TIMESTAMP
from stores.view import View
from streams.accounted import account, letter_places
from streams.decide import changes_table, features_table
from streams.letters import read
from streams.memory import MemoryTopics
from streams.views import StreamView
from tests.property.test_history import Change as Past
from tests.property.test_history import event_value, state_value
from tests.simulation.database import CUSTOMERS, IDS, Change, Row
from tests.simulation.doubles import vectors_of
from tests.simulation.run import Simulation
from tests.simulation.shop import (
    CUSTOMER_DOUBLE,
    CUSTOMER_LAST,
    GROUP,
    LETTERS,
    NOTE_TEXT,
    ORDER_NOW,
    doubled,
)

Entity = Any
MAX_BYTES = 1 << 20
Values = tuple[Any, ...]


def problems(simulation: Simulation) -> list[str]:
    """Everything that is not as it should be, one line each; empty if all is well."""
    checks = (_places, _accounts, _values, _doubles, _history)
    return [line for check in checks for line in check(simulation)]


def _accepted(simulation: Simulation, table: Table) -> Counter[tuple[str, int, int]]:
    rows = simulation.lake.scan(changes_table(table.topic)).read_all()
    keys = zip(rows["id"].to_pylist(), rows["_lsn"].to_pylist(), strict=True)
    return Counter((table.name, id_ or 0, lsn) for id_, lsn in keys)


def _places(simulation: Simulation) -> Iterable[str]:
    """Each change once in the lake, or among the letters, as its kind asks."""
    stored = {name: _accepted(simulation, flow.table) for name, flow in simulation.declared(True).items()}
    lettered = {(letter.origin, letter.offset) for letter in read(MemoryTopics(simulation.broker), LETTERS)}
    for change in simulation.database.changes:
        times = stored[change.table.topic].pop(change.key, 0)
        told = f"{change.table.name} {change.id}@{change.lsn} ({change.op}, {change.bad or 'good'})"
        if times > 1:
            yield f"{told} stands {times} times in the lake"
        if not change.bad and not times:
            yield f"{told} is not in the lake"
        if not change.bad and change.place in lettered:
            yield f"{told} is among the letters"
        if change.bad == "never" and (times or change.place not in lettered):
            yield f"{told}: in the lake {times} times, among the letters: {change.place in lettered}"
        if change.bad == "contract" and not times and change.place not in lettered:
            yield f"{told} is nowhere"
        if change.bad == "contract" and simulation.upgraded and not times:
            yield f"{told} was replayed and is not in the lake"
        if change.bad == "contract" and not simulation.upgraded and times:
            yield f"{told} is in the lake against its contract"
    for topic, rest in stored.items():
        yield from (f"{topic} holds {key}, which never was" for key in rest)


def _accounts(simulation: Simulation) -> Iterator[str]:
    """What `millrace verify` finds of the records agrees, of every eighth run: none is lost, none doubled."""
    if simulation.seed % 8:
        return
    topics = MemoryTopics(simulation.broker)
    letters = letter_places(read(topics, LETTERS))
    for topic, flow in simulation.declared(simulation.upgraded).items():
        committed = {p: offset for p, (offset, _) in topics.committed(GROUP, [topic]).items()}
        found = account(topics, simulation.lake, flow, committed, letters.get(topic, ()), MAX_BYTES)
        yield from found.examples
        parts = found.changes + found.letters + found.silent + found.repeated
        if not parts == found.records == sum(len(simulation.broker.log[p]) for p in committed):
            yield f"{topic}: not every record is one of these: {found}"


def _values(simulation: Simulation) -> Iterable[str]:
    """What the database says, the online store serves, and the lake holds as newest, for each entity."""
    for view in (view for flow in simulation.declared(simulation.upgraded).values() for view in flow.views):
        wanted, served = expected(simulation, view), _online(simulation, view.view)
        kept = _features(view.view, simulation.newest(simulation.lake, view.view))
        for entity in sorted({*wanted, *served, *kept}, key=repr):
            value, mark = served.get(entity, (None, False))
            right, lake = wanted.get(entity), kept.get(entity)
            if not value == right == lake:
                yield f"{view.view.name} {entity}: database {right}, online {value}, lake {lake}"
            if mark:
                yield f"{view.view.name} {entity} is undecided"


def _doubles(simulation: Simulation) -> Iterable[str]:
    """Every change makes its rows of a view once. (A truncate makes one for each version that it ends.)"""
    truncates = [change.lsn for change in simulation.database.changes if change.op == "t"]
    for flow in simulation.declared(True).values():
        for view in flow.views:
            rows = simulation.lake.scan(features_table(view.view.name)).read_all()
            rows = rows.filter(~np.isin(rows["_lsn"].to_numpy(), truncates))
            names = [view.view.join_keys[0].name, "_row", "_partition", "_offset", "_deleted"]
            places = Counter(zip(*(rows[name].to_pylist() for name in names), strict=True))
            yield from (f"{view.view.name} holds {place} {n} times" for place, n in places.items() if n > 1)


def _history(simulation: Simulation) -> Iterable[str]:
    """The point-in-time joins say what the changes say, of every other entity at its times: letters that were replayed
    too. (A truncate is not in this reading.)"""
    plan = simulation.plan
    assert plan is not None
    if simulation.seed % 8 or plan.truncates:
        return
    out = {"never"} if simulation.upgraded else {"never", "contract"}
    for view, entity_of, value in ((ORDER_NOW, "id", state_value), (CUSTOMER_LAST, "customer", event_value)):
        accepted = [
            change
            for change in sorted(simulation.database.changes, key=lambda change: change.lsn)
            if change.table is view.table and change.bad not in out
        ]
        past = [
            Past(
                change.id,
                None if change.after is None else change.after["customer" if view is CUSTOMER_LAST else "id"],
                _micros(change.after["placed_at"]) if change.after and view is CUSTOMER_LAST else change.commit_us,
                change.commit_us,
                change.lsn,
            )
            for change in (_with_home(accepted) if view is CUSTOMER_LAST else accepted)
        ]
        entities: Iterable[Entity] = CUSTOMERS if view is CUSTOMER_LAST else range(1, IDS + 1)
        spine = [(entity, place.event) for entity in entities for place in past[::4]]
        times = pa.chunked_array([pa.array([time for _, time in spine], TIMESTAMP)])
        keys = pa.table({"entity": [entity for entity, _ in spine] or pa.nulls(0, view.view.join_keys[0].arrow_type)})
        for known in (False, True):
            join = Join(features_table(view.view.name), {entity_of: "entity"}, ("amount",))
            found = pc.abs(
                asof(simulation.lake, keys, times, join, known=known)["amount"]
            ).to_pylist()  # see database.py
            for (entity, time), amount in zip(spine, found, strict=True):
                wanted = value(past, entity, time, 0, known)
                if amount != (wanted and wanted // 10):
                    yield f"{view.view.name} {entity} as of {time} ({known=}): {amount}, not {wanted and wanted // 10}"


def _with_home(accepted: Iterable[Change]) -> Iterator[Change]:
    """Those of the accepted changes, in their order, that the event view sees: the row has a customer by it, or had one
    by the last before it."""
    homes: dict[int, str | None] = {}
    for change in accepted:
        home = change.after["customer"] if change.after else None
        if home or homes.get(change.id):
            yield change
        homes[change.id] = home


def _micros(iso: str) -> int:
    return int(pa.scalar(datetime.fromisoformat(iso), TIMESTAMP).value)


def expected(simulation: Simulation, view: StreamView) -> dict[Entity, Values]:
    """The value of each entity by the changes that were accepted, in plain Python."""
    standing: dict[int, Change] = {}
    accepted = _accepted(simulation, view.table)
    for change in sorted(simulation.database.changes, key=lambda c: (c.lsn, c.op != "d")):
        if change.table is view.table and change.key in accepted:
            if change.op == "t":
                standing.clear()
            elif change.after is None:
                standing.pop(change.id, None)
            else:
                standing[change.id] = change
    if view.view.kind == "state":
        return {id_: values_of(view, change.after) for id_, change in standing.items() if change.after}
    best: dict[Entity, tuple[Any, ...]] = {}
    for id_, change in standing.items():
        row = change.after
        assert row is not None
        if row["customer"] is not None and (view is not CUSTOMER_DOUBLE or doubled(row["amount"])):
            place = row["placed_at"], change.lsn, mmh3.hash_bytes(f"{len(str(id_))}:{id_}"), id_
            best[row["customer"]] = max(best.get(row["customer"], ("",)), place)
    return {entity: values_of(view, standing[place[-1]].after) for entity, place in best.items()}


def values_of(view: StreamView, row: Row | None) -> Values:
    """The features that a row of the database makes."""
    assert row is not None
    if view is CUSTOMER_DOUBLE:
        return (2 * row["amount"],)
    if view is NOTE_TEXT:
        text = f"{row['title'] or ''}\n{row['body'] or ''}"
        return row["title"], vectors_of([text])[0].tolist()
    return tuple(row[feature.name] for feature in view.view.features)


def _features(view: View, table: pa.Table) -> dict[Entity, Values]:
    columns = [table[feature.name].to_pylist() for feature in view.features]
    return dict(zip(table[view.join_keys[0].name].to_pylist(), zip(*columns, strict=True), strict=True))


def _online(simulation: Simulation, view: View) -> dict[Entity, tuple[Values | None, bool]]:
    """For each entity what is served, and whether it is undecided."""
    store = simulation.vectors if view.vector else simulation.online
    served: dict[Entity, tuple[Values | None, bool]] = {}
    for (entity,), entry in store._of(view).items():
        features = entry.features
        values = None if features is None else tuple(features[feature.name] for feature in view.features)
        served[entity] = values, entry.undecided
    return served
