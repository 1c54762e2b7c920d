"""What `millrace lookup` and `millrace search` answer, from the stores that model services read."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from millrace.repo import Repo
from millrace.wiring import embedder, flows, online, vectors
from serving.lookup import InvalidLookup, OnlineLookup, Status
from serving.search import search
from stores.view import View


def look_up(
    repo: Repo, features: Sequence[str], entity: Mapping[str, str], now: datetime | None = None
) -> dict[str, Any]:
    """One entity's features, by view, `view:feature` or feature service; `now` (UTC) is the time that a view's
    `ttl` counts back from, the clock's by default. Raises `InvalidLookup`."""
    views = _views(repo)
    redis, pgvector = online(repo), vectors(repo)
    lookup = OnlineLookup((v, pgvector if v.vector is not None and pgvector is not None else redis) for v in views)
    wanted = [name for feature in features for name in _of_service(repo, feature)]
    keys = _typed(views, wanted, entity)
    found = lookup.lookup(wanted, keys, full_feature_names=True, now=now)
    moments = found.event_timestamps.columns
    return {
        "entity": dict(entity),
        "features": {
            name: {
                "value": found.values[name][0].as_py(),
                "status": Status(found.statuses[name][0].as_py()).name,
                "event_timestamp": moments[i][0].as_py(),
            }
            for i, name in enumerate(found.values.column_names)
        },
    }


def search_text(repo: Repo, name: str | None, text: str, top: int) -> dict[str, Any]:
    """The entities of a vector view nearest to a text. Raises `InvalidLookup` and `StoreRefused`."""
    found = [v for v in _views(repo) if v.vector is not None and name in (None, v.name)]
    if len(found) != 1:
        known = ", ".join(v.name for v in _views(repo) if v.vector is not None) or "none"
        raise InvalidLookup(f"name one vector view with --view; there are: {known}")
    (view,) = found
    store = vectors(repo)
    if store is None:
        raise InvalidLookup("feature_store.yaml names no vector store: add online_store.vectors")
    table = search(store, embedder(repo), view, text, top)
    return {"view": view.name, "text": text, "results": table.to_pylist()}


def _views(repo: Repo) -> list[View]:
    return [v.view for flow in flows(repo).values() for v in flow.views]


def _of_service(repo: Repo, name: str) -> list[str]:
    """A feature service as the features it serves; anything else as it is."""
    for service in repo.store.list_feature_services():
        if service.name == name:
            return [f"{p.name}:{feature.name}" for p in service.feature_view_projections for feature in p.features]
    return [name]


def _typed(views: Sequence[View], wanted: Sequence[str], entity: Mapping[str, str]) -> pa.Table:
    """The entity's keys in their declared types, from text. Raises `InvalidLookup`."""
    names = {feature.partition(":")[0] for feature in wanted}
    types = {key.name: key.arrow_type for view in views if view.name in names for key in view.join_keys}
    columns = {}
    for name, value in entity.items():
        try:
            columns[name] = pa.array([value]).cast(types.get(name, pa.string()))
        except pa.ArrowInvalid as error:
            raise InvalidLookup(f"join key {name}: {value!r} is no {types[name]}") from error
    return pa.table(columns)
