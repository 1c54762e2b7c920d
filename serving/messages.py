"""Feast's `ServingService` messages: requests as the fields of Feast's JSON form, answers assembled as bytes.

What the online store holds of a value is the message `Value` itself, so that an answer is put together without
reading any of them (https://protobuf.dev/programming-guides/encoding/).
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesRequest,
    GetOnlineFeaturesResponse,
    GetOnlineFeaturesResponseMetadata,
)
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from serving.answer import versions_of
from serving.features import Found
from serving.plan import InvalidRequest
from serving.request import by_join_key
from serving.status import Status
from stores.binary import varint

_RESULTS, _VALUES, _STATUSES, _TIMES = b"\x12", b"\x0a", b"\x12", b"\x1a"
"""Tags of fields with a length: `results` of the response; of a `FeatureVector` its `values`, `statuses` (packed) and
`event_timestamps`."""


def parsed(body: bytes) -> GetOnlineFeaturesRequest:
    """A request from its bytes. Raises `InvalidRequest`."""
    try:
        message: GetOnlineFeaturesRequest = GetOnlineFeaturesRequest.FromString(body)
    except DecodeError:  # its words are those of the library
        raise InvalidRequest("the message is no GetOnlineFeaturesRequest of Feast") from None
    return message


def request_fields(message: GetOnlineFeaturesRequest) -> dict[str, Any]:
    """A request in the form of a body of `POST /get-online-features`; its context joins the entities, as there.

    Raises `InvalidRequest` for a name that both have: its values would be looked up by one and answered as the other.
    """
    if both := message.entities.keys() & message.request_context.keys():
        raise InvalidRequest(f"{', '.join(sorted(both))} is in entities and in request_context: give it in one of them")
    columns = _columns(message)
    return {
        "features": list(message.features.val),
        "feature_service": message.feature_service or None,
        "full_feature_names": message.full_feature_names,
        "include_feature_view_version_metadata": message.include_feature_view_version_metadata,
        # By name: a map of messages has no order.
        "entities": {name: [_native(value) for value in columns[name].val] for name in sorted(columns)},
    }


def response(message: GetOnlineFeaturesRequest, found: Found, versions: bool) -> bytes:
    """A serialised `GetOnlineFeaturesResponse`: the join keys as the request gave them, then the features asked for."""
    count = found.rows.count
    never, present = _field(_TIMES, b"") * count, [int(Status.PRESENT)] * count
    given = by_join_key(found.plan, _columns(message))
    columns = {
        name: _vector([value.SerializeToString() for value in given[name].val], present, never)
        for name in sorted(found.keys)
    }
    names, results = list(columns), list(columns.values())
    features = {**_stored(found), **{column.name: _derived(column.stored) for column in found.derived}}
    for name in found.plan.requested:
        if name in features:  # an on-demand view may leave a feature out
            names.append(name)
            results.append(features[name])
    metadata = GetOnlineFeaturesResponseMetadata()
    metadata.feature_names.val.extend(names)
    for version in versions_of(found.plan) if versions else ():
        metadata.feature_view_metadata.add(**version)
    head: bytes = GetOnlineFeaturesResponse(metadata=metadata).SerializeToString()
    return head + b"".join([_field(_RESULTS, result) for result in results])


def _columns(message: GetOnlineFeaturesRequest) -> dict[str, Any]:
    return {**message.entities, **message.request_context}


def _stored(found: Found) -> Mapping[str, bytes]:
    plan, rows = found.plan, found.rows
    times = [b"".join([_field(_TIMES, _timestamp(micros)) for micros in view.micros]) for view in rows.views]
    present = [int(Status.PRESENT)] * rows.count
    return {
        feature.name: _vector(column, statuses or present, times[feature.view])
        for feature, column, statuses in zip(plan.features, rows.columns, plan.statuses(rows), strict=True)
        if feature.asked
    }


def _derived(values: Sequence[bytes]) -> bytes:
    statuses = [int(Status.PRESENT if value else Status.NULL_VALUE) for value in values]
    return _vector(values, statuses, _field(_TIMES, b"") * len(values))


def _vector(values: Sequence[bytes | None], statuses: Sequence[int], times: bytes) -> bytes:
    """A `FeatureVector`; `times` are its `event_timestamps` as fields."""
    return b"".join([_field(_VALUES, value or b"") for value in values]) + _field(_STATUSES, bytes(statuses)) + times


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


@lru_cache(maxsize=100_000)
def _timestamp(micros: int | None) -> bytes:
    if micros is None:
        return b""
    seconds, rest = divmod(micros, 1_000_000)
    stamp: bytes = Timestamp(seconds=seconds, nanos=rest * 1_000).SerializeToString()
    return stamp


def _native(value: Any) -> Any:
    """A `Value` as JSON would have it: bytes as base64, but numbers that JSON does not know as numbers."""
    kind = value.WhichOneof("val")
    return None if kind is None or kind == "null_val" else _plain(getattr(value, kind))


def _plain(held: Any) -> Any:
    """What a `Value` holds, or a part of that. What JSON has no form of stays a message: no column is made of it.

    Feast's own conversion makes texts of NaN and nulls of such messages, and can log a part of them.
    """
    if isinstance(held, bytes):
        return b64encode(held).decode()
    if isinstance(held, Value):
        return _native(held)
    if not hasattr(held, "val"):
        return held
    if hasattr(held.val, "items"):
        return {name: _native(one) for name, one in held.val.items()}
    return [_plain(one) for one in held.val]
