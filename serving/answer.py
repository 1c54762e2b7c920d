"""Answers in Feast's shape: what all features of a view share is written once, and all is put together by one call."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from serving.moments import NEVER
from serving.on_demand import Derived
from serving.plan import Plan, Rows
from serving.status import NAMES, of_values

KEPT = 256
"""Entities of a request up to which what is the same for each of them is kept as JSON: about a megabyte in all."""

Column = dict[str, Any]
"""The values, statuses and event times of one feature, in order: as lists, or as JSON that is written already."""


def features_answer(
    plan: Plan, rows: Rows, entities: Mapping[str, Sequence[Any]], derived: Sequence[Derived], versions: bool
) -> bytes:
    """The body of an answer to `POST /get-online-features`.

    First the join keys as the request gave them, then the features in the order asked; `derived` are those of
    on-demand views.
    """
    present, never = _repeated("PRESENT", rows.count), _repeated(NEVER, rows.count)
    columns = _stored_columns(plan, rows, present)
    for one in derived:
        columns[one.name] = _column(one.values, of_values(one.values), never)
    features = [name for name in plan.requested if name in columns]  # an on-demand view may leave one out
    results = [_column(values, present, never) for values in entities.values()]
    results += map(columns.__getitem__, features)
    metadata: dict[str, Any] = {"feature_names": [*entities, *features]}
    if versions:
        metadata["feature_view_metadata"] = versions_of(plan)
    return orjson.dumps({"results": results, "metadata": metadata})


def _column(values: Sequence[Any], statuses: Any, times: Any) -> Column:
    return {"values": values, "statuses": statuses, "event_timestamps": times}


def _stored_columns(plan: Plan, rows: Rows, present: orjson.Fragment) -> dict[str, Column]:
    times = [orjson.Fragment(orjson.dumps(view.shown)) for view in rows.views]
    return {
        feature.name: {  # `_column`, without the call
            "values": values,
            "statuses": present if statuses is None else [NAMES[status] for status in statuses],
            "event_timestamps": times[feature.view],
        }
        for feature, values, statuses in plan.columns(rows)
        if feature.asked
    }


def _repeated(text: str, count: int) -> orjson.Fragment:
    return _kept(text, count) if count <= KEPT else _written(text, count)


def _written(text: str, count: int) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps([text] * count))


_kept = lru_cache(maxsize=2 * KEPT)(_written)


def versions_of(plan: Plan) -> list[dict[str, Any]]:
    """An answer's `feature_view_metadata`, as Feast's: the views read, each once, without a version that is 0."""
    known = {view.name: view.version for view in reversed(plan.views)}
    return [version_of(name, known[name]) for name in dict.fromkeys(view.name for view in plan.views)]


def version_of(name: str, version: int) -> dict[str, Any]:
    """A view in `feature_view_metadata`."""
    return {"name": name, "version": version} if version else {"name": name}
