"""The body of a request for online features: Feast's own form, checked."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson

from serving.compile import Compiled
from serving.plan import InvalidRequest, Plan
from serving.snapshot import Asked
from stores.entity_keys import BYTES, INT32, INT64, STRING, UNIX_TIMESTAMP
from stores.values import name_of

FEATURE_FIELDS = frozenset(
    {"entities", "features", "feature_service", "full_feature_names", "include_feature_view_version_metadata"}
)

Column = TypeVar("Column")

_EPOCH, _SECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How much one request may ask for; `cells` are its entities times its features."""

    entities: int = 10_000
    features: int = 1_000
    top_k: int = 1_000
    cells: int = 1_000_000


class TooLarge(InvalidRequest):
    """A request that asks for more than the limits allow."""


@dataclass(frozen=True, slots=True)
class FeaturesRequest:
    """A request for online features. `entities` are as they came, `count` is how many there are."""

    asked: Asked
    entities: Mapping[str, list[Any]]
    count: int
    versions: bool


def document(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The JSON object of a body, with known fields only. Raises `InvalidRequest`."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if type(found) is not dict:
        raise InvalidRequest("the body must be a JSON object")
    if not found.keys() <= known:
        unknown = ", ".join(sorted(found.keys() - known))
        raise InvalidRequest(f"unknown field {unknown}; there are: {', '.join(sorted(known))}")
    return found


def asked(found: Mapping[str, Any], limits: RequestLimits) -> Asked:
    """The features that a request names. Raises `InvalidRequest`."""
    service = found.get("feature_service")
    features = found.get("features") or ()
    full = flag(found, "full_feature_names")
    if service is not None and type(service) is not str:
        raise InvalidRequest("feature_service must be a string")
    if features and (type(features) is not list or set(map(type, features)) != {str}):
        raise InvalidRequest('features must be a list of strings, as in ["view:feature"]')
    if len(features) > limits.features:
        raise TooLarge(f"{len(features)} features in one request; at most {limits.features} are answered")
    return Asked(tuple(features), service or None, full)


def flag(found: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false, and false where it is left out. Raises `InvalidRequest`."""
    value = found.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidRequest(f"{name} must be true or false")
    return bool(value)


def features_request(body: bytes, limits: RequestLimits) -> FeaturesRequest:
    """A body of `POST /get-online-features`. Raises `InvalidRequest`."""
    return checked(document(body, FEATURE_FIELDS), limits)


def checked(found: Mapping[str, Any], limits: RequestLimits) -> FeaturesRequest:
    """The fields of such a body. Raises `InvalidRequest`."""
    entities = found.get("entities")
    if type(entities) is not dict:
        raise InvalidRequest('entities must be an object of lists, as in {"driver_id": [1001, 1002]}')
    for name, values in entities.items():
        if type(values) is not list:
            raise InvalidRequest(f"entities.{name} must be a list, one value an entity")
    count = counted(entities)
    if count > limits.entities:
        raise TooLarge(f"{count} entities in one request; at most {limits.entities} are answered")
    versions = flag(found, "include_feature_view_version_metadata")
    return FeaturesRequest(asked(found, limits), entities, count, versions)


def counted(entities: Mapping[str, Sequence[Any]]) -> int:
    """How many entities there are, by lists that have a value for each. Raises `InvalidRequest`, also for none."""
    sizes = {len(values) for values in entities.values()}
    if len(sizes) > 1:
        lengths = ", ".join(f"{name}: {len(values)}" for name, values in entities.items())
        raise InvalidRequest(f"the lists of entities differ in length ({lengths})")
    if not any(sizes):
        raise InvalidRequest("entities names no entity: give each join key a list of at least one value")
    return sizes.pop()


def within(limits: RequestLimits, compiled: Compiled, count: int) -> None:
    """Raises `TooLarge` for what shows once the request's features are known, a feature service's among them."""
    features = len(compiled.references)
    if features > limits.features:
        raise TooLarge(f"{features} features in one request; at most {limits.features} are answered")
    if count * compiled.width > limits.cells:
        raise TooLarge(
            f"{count} entities with {compiled.width} values each (with those that on-demand views read, a vector with "
            f"as many as its length); at most {limits.cells} values are read for one request"
        )


def by_join_key(plan: Plan, columns: Mapping[str, Column]) -> Mapping[str, Column]:
    """The columns of a request, those that are called as an entity by its join key, as Feast takes them (and advises
    against it). Raises `InvalidRequest` for a join key that is given twice so."""
    if plan.entity_names.keys().isdisjoint(columns):
        return columns
    found: dict[str, Column] = {}
    for name, column in columns.items():
        key = plan.entity_names.get(name, name)
        if key in found:
            raise InvalidRequest(f"entities has {key!r} twice, once by the name of its entity: give the join key alone")
        found[key] = column
    return found


def join_keys(plan: Plan, entities: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The request's join key columns in the types of their keys, timestamps in whole seconds.

    Raises `InvalidRequest` for a column that is missing, or that has a value of another type.
    """
    for name in plan.keys:
        if name not in entities:
            needed = ", ".join(plan.keys)
            raise InvalidRequest(f"entities has no {name!r}; these features need: {needed}")
    for name in plan.request_data:
        if name not in entities:
            raise InvalidRequest(f"entities has no {name!r}, which an on-demand feature view asks for")
    return {
        name: _typed(name, values, plan.known_keys[name])
        for name, values in entities.items()
        if name in plan.known_keys
    }


def from_text(name: str, text: str, value_type: int | None) -> Any:
    """What a person wrote, as a request has it: a join key of that type, or None for a column of request data, which is
    JSON, or text where it is none. Raises `InvalidRequest`."""
    if value_type in (INT32, INT64) or (value_type == UNIX_TIMESTAMP and text.removeprefix("-").isdecimal()):
        try:
            return int(text)
        except ValueError:
            raise InvalidRequest(f"{name} must be a whole number") from None
    if value_type is None:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def _typed(name: str, values: list[Any], value_type: int) -> list[Any]:
    expected, convert = _KEYS.get(value_type, (None, None))
    if expected is None or (set(map(type, values)) == {expected} and convert is None):
        return values
    if convert is not None:
        try:
            return [convert(value) for value in values]
        except (TypeError, ValueError, Base64Error):
            pass
    wrong = next((value for value in values if type(value) is not expected), None)
    kind = "null" if wrong is None else type(wrong).__name__
    raise InvalidRequest(f"entities.{name} must be {name_of(value_type)}, and holds {kind}")


def _seconds(value: Any) -> int:
    """The second that a moment is in, before 1970 as well: there the writer has put it."""
    if type(value) is int:
        return value
    moment = datetime.fromisoformat(value)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _SECOND


def _decoded(value: Any) -> bytes:
    return b64decode(value, validate=True)


_KEYS: Mapping[int, tuple[type | None, Callable[[Any], Any] | None]] = {
    STRING: (str, None),
    INT32: (int, None),
    INT64: (int, None),
    UNIX_TIMESTAMP: (int, _seconds),
    BYTES: (str, _decoded),
}
"""By `ValueType` of a join key: the type its values have in JSON, and what makes them those of the key."""
