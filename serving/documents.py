"""`POST /retrieve-online-documents` and `/search`: the entities of a vector view nearest to a vector or a text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from feast.utils import _parse_feature_ref
from feast.value_type import ValueType
from pydantic import TypeAdapter, ValidationError

from serving.access import Access
from serving.answer import version_of
from serving.aside import Aside
from serving.http import Seen
from serving.moments import NEVER, rfc3339
from serving.plan import InvalidRequest
from serving.refresh import Registry
from serving.request import RequestLimits, TooLarge, asked, document, flag
from serving.scales import Scales
from serving.search import Texts, VectorIndex, nearest, outdated, vector_view, withhold_search
from serving.snapshot import Snapshot
from serving.status import Status, of_values
from stores.json_values import decoder
from stores.values import encode
from stores.vector_filters import Filters
from stores.view import Feature, View

FIELDS = frozenset(
    {
        "features",
        "feature_service",
        "full_feature_names",
        "include_feature_view_version_metadata",
        "top_k",
        "query",
        "query_string",
        "distance_metric",
        "api_version",
        "filters",
    }
)
TOP_K = 10
DISTANCE = "distance"
"""What a search answers beside features and join keys."""
_DISTANCE = Feature(DISTANCE, ValueType.DOUBLE.value, pa.float64())
FILTER_DEPTH, FILTER_VALUES = 16, 1_000
"""How deep compound filters may be nested, and how many comparisons and values they may have in all: PostgreSQL takes
65,535 parameters of one statement."""

_FILTERS: TypeAdapter[Filters] = TypeAdapter(Filters)


@dataclass(frozen=True, slots=True)
class DocumentsRequest:
    """A checked search: by `vector` or by `text`."""

    view: View
    features: tuple[str, ...]
    vector: list[float] | None
    text: str | None
    top_k: int
    filters: Filters | None
    by_entity_key: bool
    version: int | None
    """Of the view, where the answer has to say it."""

    @property
    def cells(self) -> int:
        """How many values are read, a vector's numbers among them."""
        vector = self.view.vector
        of_vector = vector.length - 1 if vector is not None and vector.name in self.features else 0
        return self.top_k * (len(self.features) + of_vector)


@dataclass(frozen=True, slots=True)
class RetrieveOnlineDocuments:
    """Answers searches. Feast's `api_version` 2 gets the rows in the order of their entity keys, because Feast's SDK
    pairs them with sorted keys; every other request gets the nearest first."""

    registry: Registry
    index: VectorIndex | None
    texts: Texts | None
    access: Access
    limits: RequestLimits
    aside: Aside
    """Where searches run."""
    cells: Scales
    """Weighs them by the values that they read, beside requests for features."""

    async def __call__(self, body: bytes, key_id: str, seen: Seen) -> bytes:
        """Answers one request. Raises `InvalidRequest`, `AccessRefused`, `Overloaded`, and what the stores raise."""
        request = self._admitted(key_id, document(body, FIELDS), seen)
        if self.index is None:
            raise InvalidRequest(f"view {request.view.name!r}: feature_store.yaml names no vector store")
        vector = await self._vector(self.index, request)
        weight = self.cells.weight(request.cells)
        if weight:
            await self.cells.enter(weight)
        try:
            return await self.aside.run(_search, self.index, request, vector)
        finally:
            if weight:
                self.cells.leave(weight)

    def _admitted(self, key_id: str, found: Mapping[str, Any], seen: Seen) -> DocumentsRequest:
        """A search, from the fields of its body, if whoever has the key may do it and there is room for it: charged
        then. Raises `AccessRefused`, `InvalidRequest` and `Overloaded`."""
        wanted = asked(found, self.limits)
        snapshot = self.registry.current
        caller = self.access.reach(key_id, snapshot.config.project, wanted.service)
        seen.entities = 1
        if wanted.service is not None or not wanted.features:
            raise InvalidRequest('a search names features of one vector view, as in "features": ["view:feature"]')
        name, named = _of_one_view(snapshot, wanted.features, seen)
        view = vector_view(snapshot, name)
        known = {feature.name for feature in view.features}
        features = tuple(dict.fromkeys(feature for feature in named if feature in known))
        request = _request(found, snapshot.view(name), view, features, self.limits)
        withhold_search(caller, view, snapshot.personal.get(name, frozenset()), features, request.filters)
        self._look(request)
        self.access.charge(key_id, 1)
        seen.charged = True
        return request

    def _look(self, request: DocumentsRequest) -> None:
        """Raises `Overloaded` before the key is charged: what there is no room for costs it nothing."""
        self.aside.look()
        if request.text is not None and self.texts is not None:
            self.texts.look()
        if weight := self.cells.weight(request.cells):
            self.cells.look(weight)

    async def _vector(self, index: VectorIndex, request: DocumentsRequest) -> Any:
        """What is searched by."""
        if request.text is None:
            return request.vector
        if self.texts is None:
            raise InvalidRequest("this server embeds no texts: search by vector, as `query`")
        return await self.texts.vector(index, request.view, request.text)


def _search(index: VectorIndex, request: DocumentsRequest, vector: Any) -> bytes:
    found = nearest(index, request.view, vector, request.top_k, request.filters, request.features)
    return documents_answer(request, found, time.time())


def documents_answer(request: DocumentsRequest, found: pa.Table, now: float) -> bytes:
    """The answer in Feast's shape: the features asked for, `distance`, the join keys in the order of their names.
    What is older than the view's `ttl` at `now` (seconds since 1970) is withheld, as wherever features are read."""
    keys = sorted(key.name for key in request.view.join_keys)
    if request.by_entity_key and keys:
        found = found.sort_by([(name, "ascending") for name in keys])
    kinds: Mapping[str, Feature] = {f.name: f for f in (*request.view.features, *request.view.join_keys)}
    moments = found["event_timestamp"].cast(pa.int64()).to_pylist()
    times = [NEVER if micros is None else rfc3339(micros) for micros in moments]
    old = outdated(request.view, found, now)
    results = [_results(_values(found[name], kinds[name]), times, old) for name in request.features]
    results.append(_results(_values(found[DISTANCE], _DISTANCE), times))
    results += [_results(_values(found[name], kinds[name]), [NEVER] * len(times)) for name in keys]
    metadata: dict[str, Any] = {"feature_names": [*request.features, DISTANCE, *keys]}
    if request.version is not None:
        metadata["feature_view_metadata"] = [version_of(request.view.name, request.version)]
    return orjson.dumps({"results": results, "metadata": metadata})


def _results(values: list[Any], times: list[str], old: Sequence[bool] = ()) -> dict[str, Any]:
    """One column of an answer."""
    statuses = of_values(values)
    if any(old):
        values = [None if is_old else value for value, is_old in zip(values, old, strict=True)]
        statuses = [Status.OUTSIDE_MAX_AGE.name if is_old else s for s, is_old in zip(statuses, old, strict=True)]
    return {"values": values, "statuses": statuses, "event_timestamps": times}


def _values(column: pa.ChunkedArray, feature: Feature) -> list[Any]:
    return decoder(feature.value_type)(encode(column, feature.value_type).to_pylist())


def _of_one_view(snapshot: Snapshot, references: Sequence[str], seen: Seen) -> tuple[str, list[str]]:
    """The view that all references are to, and what they name of it. Raises `InvalidRequest`."""
    snapshot.check([reference for reference in references if not _answered_anyway(snapshot, reference)])
    parsed = [_parse_feature_ref(reference) for reference in references]
    names = {name for name, _, _ in parsed}
    seen.views = sorted(names)
    if len(names) > 1:
        raise InvalidRequest(f"a search is over one view; these features are of {', '.join(sorted(names))}")
    if any(version is not None for _, version, _ in parsed):
        raise InvalidRequest("a search is over a view as it is now: name its features without a version")
    (name,) = names
    return name, [feature for _, _, feature in parsed]


def _answered_anyway(snapshot: Snapshot, reference: str) -> bool:
    """Whether a reference is to what is no feature and in each answer: Feast's older clients name what they need."""
    name, _, feature = reference.partition(":")
    declared = snapshot.views.get(name)
    if declared is None or feature in {field.name for field in declared.features}:
        return False
    return feature in {DISTANCE, *(column.name for column in getattr(declared, "entity_columns", ()))}


def _request(
    found: Mapping[str, Any], declared: Any, view: View, features: tuple[str, ...], limits: RequestLimits
) -> DocumentsRequest:
    vector, text, top_k = found.get("query"), found.get("query_string"), found.get("top_k")
    top_k, api_version = TOP_K if top_k is None else top_k, found.get("api_version")
    if (vector is None) == (text is None):
        raise InvalidRequest("a search is by a vector, as `query`, or by a text, as `query_string`: give one of them")
    if vector is not None and (type(vector) is not list or not set(map(type, vector)) <= {int, float}):
        raise InvalidRequest("query must be a list of numbers")
    if text is not None and (type(text) is not str or not text.strip()):
        raise InvalidRequest("query_string must be a text")
    if type(top_k) is not int or top_k < 1:
        raise InvalidRequest("top_k must be a whole number above 0")
    if api_version is not None and type(api_version) is not int:
        raise InvalidRequest("api_version must be a whole number")
    if found.get("distance_metric") is not None and type(found["distance_metric"]) is not str:
        raise InvalidRequest("distance_metric must be a text")
    if top_k > limits.top_k:
        raise TooLarge(f"top_k is {top_k}; at most {limits.top_k} are searched")
    filters = None
    if found.get("filters") is not None:
        _within_bounds(found["filters"])
        try:
            filters = _FILTERS.validate_python(found["filters"])
        except ValidationError as error:
            raise InvalidRequest(f"filters: {error.errors()[0]['msg']}") from None
    versions = flag(found, "include_feature_view_version_metadata")
    version = (getattr(declared, "current_version_number", 0) or 0) if versions else None
    request = DocumentsRequest(view, features, vector, text, top_k, filters, api_version == 2, version)
    if request.cells > limits.cells:
        raise TooLarge(
            f"a search for {top_k} entities reads {request.cells} values (a vector counts as many as its length); at "
            f"most {limits.cells} are read for one: search for fewer (top_k), or leave the vector out"
        )
    return request


def _within_bounds(filters: Any) -> None:
    """Raises `TooLarge` for filters that are nested deeper, or have more in them, than a search takes."""
    level, comparisons, values = [filters], 0, 0
    for _ in range(2 * FILTER_DEPTH + 4):  # a compound is an object and a list; the comparison has a list of lists
        comparisons += sum(type(part) is dict for part in level)
        values += sum(type(part) not in (dict, list) for part in level)
        level = [inner for part in level for inner in _inside(part)]
    if level:
        raise TooLarge(f"filters are nested too deep; at most {FILTER_DEPTH} of them in one another are searched by")
    if max(comparisons, values) > FILTER_VALUES:
        raise TooLarge(f"filters have {max(comparisons, values)} comparisons or values; at most {FILTER_VALUES}")


def _inside(part: Any) -> list[Any]:
    """What a filter has in it, and a list of them or of values."""
    if type(part) is dict:
        return [part[name] for name in ("filters", "value") if name in part]
    return part if type(part) is list else []
