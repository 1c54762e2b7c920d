"""Three places compared by DuckDB are compared as one would entity by entity."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stores.comparison import PLACES, Place, comparison
from stores.rows import TIMESTAMP
from stores.view import Feature, View

KEYS = (Feature("select", 4, pa.int64()), Feature("code", 2, pa.string()))
FEATURES = (
    Feature("from", 5, pa.float64()),
    Feature("seen", 8, TIMESTAMP),
    Feature("sizes", 13, pa.list_(pa.float32())),
    Feature("times", 18, pa.list_(TIMESTAMP)),
    Feature("made_up", 2, pa.string()),
)
VIEW = View("p", "v", "v", "state", KEYS, FEATURES)
TOLD = ("from", "seen", "sizes", "times", "event_timestamp")
"""PostgreSQL knows nothing of `made_up`."""

Row = dict[str, Any]

MOMENTS = st.sampled_from(
    [datetime(1969, 12, 31, 23, 59, 58, 300_000, UTC), datetime(1969, 12, 31, 23, 59, 58, tzinfo=UTC)]
    + [datetime(2024, 1, 1, 0, 0, second, micro, UTC) for second in (0, 1) for micro in (0, 1, 999_999)]
)
NUMBERS = st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf])
ROWS = st.fixed_dictionaries(
    {
        "select": st.sampled_from([1, 2]),
        "code": st.sampled_from(["a", "b\0", "ä"]),
        "from": st.none() | NUMBERS,
        "seen": st.none() | MOMENTS,
        "sizes": st.none() | st.lists(st.none() | NUMBERS, max_size=2),
        "times": st.none() | st.lists(st.none() | MOMENTS, max_size=2),
        "made_up": st.none() | st.sampled_from(["x", "y"]),
        "event_timestamp": MOMENTS,
    }
)
HELD = st.fixed_dictionaries({place: st.lists(ROWS, max_size=6) for place in PLACES})
FREE = st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from(["a", "ä"])), max_size=2)


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = [(f.name, f.arrow_type) for f in (*KEYS, *FEATURES)] + [("event_timestamp", TIMESTAMP)]
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types})


def key(row: Row) -> tuple[Any, ...]:
    return row["select"], row["code"]


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    return [plain(v) for v in value] if isinstance(value, list) else value


def values(row: Row, names: Sequence[str]) -> list[Any]:
    return [plain(row[name]) for name in names]


def expected(
    held: Mapping[Place, Sequence[Row]], free: set[tuple[Any, ...]], told: Sequence[str]
) -> set[tuple[Any, ...]]:
    names = [*(feature.name for feature in FEATURES), "event_timestamp"]
    online, lake = ({key(row): row for row in held[place]} for place in ("online", "lake"))
    differing = set()
    for entity in {key(row) for rows in held.values() for row in rows}:
        served, stored = online.get(entity), lake.get(entity)
        rows = [row for row in held["postgres"] if key(row) == entity]
        newest = [row for row in rows if row["event_timestamp"] == max(r["event_timestamp"] for r in rows)]
        same = (served and values(served, names)) == (stored and values(stored, names))
        right = any(served and values(served, told) == values(row, told) for row in newest) if rows else served is None
        if not same or not (right or entity in free):
            differing.add(entity)
    return differing


def one_an_entity(rows: Sequence[Row]) -> list[Row]:
    return list({key(row): row for row in rows}.values())


SOME = {"select": 1, "code": "a", "from": 1.0, "seen": None, "sizes": [math.nan], "times": None, "made_up": "x"}
AT = {"event_timestamp": datetime(2024, 1, 1, tzinfo=UTC)}
EARLIER = {"event_timestamp": datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC)}


@given(HELD, FREE, st.sampled_from([2, 500_000]), st.sampled_from([TOLD, TOLD[:-1]]))
@example({"postgres": [{**SOME, **AT}], "online": [], "lake": []}, [], 2, TOLD)
@example({"postgres": [SOME | AT | {"from": 2.0}, SOME | AT], "online": [SOME | AT], "lake": [SOME | AT]}, [], 2, TOLD)
@example({"postgres": [], "online": [SOME | AT, SOME | AT], "lake": [SOME | AT]}, [(1, "a")], 2, TOLD)
@example({"postgres": [SOME | AT], "online": [SOME | EARLIER], "lake": [SOME | AT]}, [], 2, TOLD[:-1])
@example({"postgres": [SOME | AT], "online": [SOME | EARLIER], "lake": [SOME | EARLIER]}, [], 2, TOLD)
@example({"postgres": [SOME | AT], "online": [SOME | EARLIER], "lake": [SOME | EARLIER]}, [], 2, TOLD[:-1])
@settings(max_examples=60)
def test_what_differs(
    held: dict[str, list[Row]], free: list[tuple[Any, ...]], bucket: int, told: Sequence[str]
) -> None:
    rows = {place: held[place] if place == "postgres" else one_an_entity(held[place]) for place in PLACES}
    wanted = expected(rows, set(free), told)
    with comparison(VIEW, told) as places:
        for place in PLACES:
            half = len(rows[place]) // 2
            places.put(place, table(rows[place][:half]))
            places.put(place, table(rows[place][half:]))
        places.put("online", table(rows["online"][:1]))  # SCAN may give an entity twice
        places.leave_free(pa.table({"a": pa.array([k for k, _ in free], pa.int64()), "b": [c for _, c in free]}))
        with patch("stores.comparison.BUCKET_ENTITIES", bucket):
            differing = places.differing()
        assert places.entities() == len({key(row) for place in rows.values() for row in place})
        shown = {place: places.held(place, differing) for place in PLACES}
    keys = [key(row) for row in differing.to_pylist()]
    assert set(keys) == wanted and len(keys) == len(wanted)
    for place in ("online", "lake"):
        names = [*(f.name for f in FEATURES), "event_timestamp"]
        of = {key(row): values(row, names) for row in rows[place] if key(row) in wanted}
        assert {entity: [plain(v) for v in features.values()] for entity, features in shown[place].items()} == of
    asked = table([{**SOME, **AT, "select": k, "code": c} for k, c in keys[:1]]).select([k.name for k in KEYS])
    with comparison(VIEW, told, asked) as places:
        for place in PLACES:
            places.put(place, table(rows[place]))
        assert places.entities() == len(asked)
        assert {key(row) for row in places.differing().to_pylist()} <= set(keys[:1])


def test_a_sample_is_as_large_as_asked_and_the_same_by_its_seed() -> None:
    rows = table([{**SOME, **AT, "select": i} for i in range(100)])
    drawn = []
    for seed in (1, 1, 2):
        with comparison(VIEW, TOLD) as places:
            places.put("lake", rows)
            places.draw(10, seed)
            drawn.append(places.differing().to_pylist())
    assert [len(sample) for sample in drawn] == [10, 10, 10]
    assert drawn[0] == drawn[1] != drawn[2]
