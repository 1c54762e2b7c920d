"""What a search shows of entities whose features are older than their view's `ttl`."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from millrace.commands.read import show_search
from serving.console.look_up import Searched, search
from serving.search import current
from stores.view import View
from tests.integration.places import NOON, place_view

NOW = (NOON + timedelta(days=10)).timestamp()
FOUND = pa.table(
    {
        "faa": ["JFK", "LGA", "EWR"],
        "runway": pa.array([1, 2, 3], pa.int32()),
        "state": ["NY", "NY", None],
        "event_timestamp": [NOON, NOON + timedelta(days=8), None],
        "distance": [0.1, 0.2, 0.3],
    }
)


class Index:
    """Finds `FOUND`, whatever is searched."""

    def model(self, view: View) -> str:
        return "a-model"

    def search(
        self, view: View, vector: Any, top_k: int, filters: Any = None, features: Sequence[str] | None = None
    ) -> pa.Table:
        return FOUND


def view(ttl: timedelta | None) -> View:
    return dataclasses.replace(place_view("places"), ttl=ttl)


def test_the_console_withholds_them() -> None:
    names, rows = search(Index(), Searched(view(timedelta(days=3)), ["state"]), [1.0], 3, NOW)
    assert names == ["distance", "faa", "runway", "state", "event_timestamp", "status"]
    assert [(row[1], row[3], row[5]) for row in rows] == [
        ("JFK", "", "OUTSIDE_MAX_AGE"),
        ("LGA", "NY", "PRESENT"),
        ("EWR", "", "PRESENT"),
    ]
    assert rows[0][4] == NOON.isoformat()


def test_so_does_the_command() -> None:
    found, statuses = current(view(timedelta(days=3)), FOUND, NOW)
    assert found["state"].to_pylist() == [None, "NY", None]
    assert found.schema == FOUND.schema
    told = show_search({"view": "places", "text": "a text", "results": found.to_pylist(), "statuses": statuses})
    assert [line.endswith("  OUTSIDE_MAX_AGE") for line in told.splitlines()] == [True, False, False]


def test_nothing_is_too_old_for_a_view_without_a_ttl() -> None:
    found, statuses = current(view(None), FOUND, datetime.now(UTC).timestamp())
    assert found.equals(FOUND)
    assert statuses == ["PRESENT"] * 3
