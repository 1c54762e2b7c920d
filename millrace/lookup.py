"""What `millrace lookup` and `millrace search` answer, from the stores that model services read."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace.repo import Repo
from millrace.wiring import embedder, flows, in_process, vectors
from serving.plan import InvalidRequest
from serving.request import from_text
from serving.search import current, search
from serving.snapshot import Asked, Snapshot
from stores.vector_filters import Filters

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def look_up(
    repo: Repo, features: Sequence[str], entity: Mapping[str, str], now: datetime | None = None
) -> dict[str, Any]:
    """One entity's features, by view, `view:feature` or feature service, as `millrace serve` answers them; `now` is the
    time that a view's `ttl` counts back from, the clock's by default. Raises `InvalidRequest`."""
    lookup = in_process(repo)
    shown: dict[str, Any] = {}
    for name in features:
        asked = _asked(lookup.registry.current, name)
        types = lookup.registry.current.plan(asked).plan.known_keys
        keys = {key: [from_text(key, text, types.get(key))] for key, text in entity.items()}
        found = lookup.get(keys, asked.features, asked.service, asked.full_feature_names, now)
        values = found.to_arrow()
        for feature, (status,) in found.statuses.items():
            (micros,) = found.event_times[feature]
            moment = None if micros is None else EPOCH + timedelta(microseconds=micros)
            shown[feature] = {"value": values[feature][0].as_py(), "status": status, "event_timestamp": moment}
    return {"entity": dict(entity), "features": shown}


def search_text(
    repo: Repo, name: str | None, text: str, top: int, now: datetime | None = None, filters: Filters | None = None
) -> dict[str, Any]:
    """The entities of a vector view nearest to a text, of those that `filters` let pass; features older than the view's
    `ttl` are null, as the statuses say. `now` is as `look_up` has it. Raises `InvalidRequest` and `StoreRefused`."""
    views = [v.view for flow in flows(repo).values() for v in flow.views if v.view.vector is not None]
    found = [view for view in views if name in (None, view.name)]
    if len(found) != 1:
        known = ", ".join(view.name for view in views) or "none"
        raise InvalidRequest(f"name one vector view with --view; there are: {known}")
    (view,) = found
    store = vectors(repo)
    if store is None:
        raise InvalidRequest("feature_store.yaml names no vector store: add online_store.vectors")
    moment = (now or datetime.now(UTC)).timestamp()
    found, statuses = current(view, search(store, embedder(repo), view, text, top, filters), moment)
    return {"view": view.name, "text": text, "results": found.to_pylist(), "statuses": statuses}


def _asked(snapshot: Snapshot, name: str) -> Asked:
    """The features that a name stands for. Raises `InvalidRequest`."""
    if name in snapshot.services:
        return Asked((), name, True)
    if ":" in name:
        return Asked((name,), None, True)
    return Asked(tuple(f"{name}:{feature}" for feature in snapshot.features(name)), None, True)
