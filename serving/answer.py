"""Answers in Feast's shape, assembled as bytes: what all features of a view share is written once."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from serving.lookup import Status
from serving.moments import NEVER
from serving.on_demand import Derived
from serving.plan import Plan, Rows, ViewRows

_NAMES = {int(status): status.name for status in Status}


def features_answer(
    plan: Plan, rows: Rows, entities: Mapping[str, Sequence[Any]], derived: Sequence[Derived], versions: bool
) -> bytes:
    """The body of an answer to `POST /get-online-features`.

    First the join keys as the request gave them, then the features in the order asked; `derived` are those of
    on-demand views.
    """
    names = list(entities)
    constant = _tail(rows.count)
    results = [b'{"values":' + orjson.dumps(values) + constant for values in entities.values()]
    columns = {**_stored_columns(plan, rows), **{column.name: _derived_column(column) for column in derived}}
    for name in plan.requested:
        if name in columns:  # an on-demand view may leave a feature out
            names.append(name)
            results.append(columns[name])
    metadata: dict[str, Any] = {"feature_names": names}
    if versions:
        metadata["feature_view_metadata"] = versions_of(plan)
    return b'{"results":[' + b",".join(results) + b'],"metadata":' + orjson.dumps(metadata) + b"}"


def _stored_columns(plan: Plan, rows: Rows) -> dict[str, bytes]:
    present = _repeated("PRESENT", rows.count)
    times = [_times(view) for view in rows.views]
    dumps = orjson.dumps
    columns = {}
    for place, (feature, values) in enumerate(zip(plan.features, plan.values(rows), strict=True)):
        statuses = plan.statuses(rows, place)
        shown = present if statuses is None else dumps([_NAMES[status] for status in statuses])
        columns[feature.name] = b'{"values":%b,"statuses":%b,%b' % (dumps(values), shown, times[feature.view])
    return columns


def _derived_column(column: Derived) -> bytes:
    values = column.values
    statuses = ["NULL_VALUE" if value is None else "PRESENT" for value in values]
    return b'{"values":%b,"statuses":%b,%b' % (
        orjson.dumps(values),
        orjson.dumps(statuses),
        b'"event_timestamps":%b}' % _repeated(NEVER, len(values)),
    )


def _times(view: ViewRows) -> bytes:
    return b'"event_timestamps":%b}' % orjson.dumps(view.shown)


@lru_cache(maxsize=1024)
def _tail(count: int) -> bytes:
    """What stands behind the values of a join key: always there, at no time."""
    return b',"statuses":%b,"event_timestamps":%b}' % (_repeated("PRESENT", count), _repeated(NEVER, count))


@lru_cache(maxsize=1024)
def _repeated(text: str, count: int) -> bytes:
    return orjson.dumps([text] * count)


def versions_of(plan: Plan) -> list[dict[str, Any]]:
    """An answer's `feature_view_metadata`, as Feast's: the views read, each once, without a version that is 0."""
    known = {view.name: view.version for view in reversed(plan.views)}
    return [
        {"name": name, "version": known[name]} if known[name] else {"name": name}
        for name in dict.fromkeys(view.name for view in plan.views)
    ]
