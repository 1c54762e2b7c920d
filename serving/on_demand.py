"""On-demand feature views: Feast's own transformation over what was read and what the request brings along."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.utils import _augment_response_with_on_demand_transforms
from feast.value_type import ValueType

from serving.compile import Compiled, OnDemand
from serving.places import places
from serving.plan import InvalidRequest, Plan, Rows
from stores.json_values import decoder
from stores.values import NO_TIMESTAMP

log = logging.getLogger("millrace")


@dataclass(frozen=True, slots=True)
class Derived:
    """A feature of an on-demand view: its name in the answer, its `ValueType`, and its values as Feast's messages."""

    name: str
    value_type: int
    messages: Sequence[Value]

    @property
    def values(self) -> list[Any]:
        """The values as JSON can carry them."""
        return decoder(self.value_type)(self.stored)

    @property
    def stored(self) -> list[bytes]:
        """The values as they would be stored, a null as no bytes."""
        return [message.SerializeToString() for message in self.messages]


def derive(
    compiled: Compiled, rows: Rows, keys: Mapping[str, Sequence[Any]], entities: Mapping[str, Sequence[Any]]
) -> list[Derived]:
    """The features of the request's on-demand views.

    `keys` are the join keys in their types, `entities` the request's columns, of which the views take theirs.
    Raises `InvalidRequest` if a view's function fails on them.
    """
    plan = compiled.plan
    given = GetOnlineFeaturesResponse()
    types = {name: ValueType(plan.known_keys[name]) for name in keys}
    for name, values in keys.items():
        _add(given, name, _messages(name, values, types[name]))
    for name in plan.request_data:
        _add(given, name, _messages(name, entities[name], ValueType.UNKNOWN))
    derived = []
    for on_demand in compiled.on_demand:
        derived += _derived(plan, on_demand, rows, given, types)
    return derived


def _derived(
    plan: Plan, on_demand: OnDemand, rows: Rows, given: Any, key_types: Mapping[str, ValueType]
) -> list[Derived]:
    """`given` has the join keys, and what the request brings along."""
    response = GetOnlineFeaturesResponse()
    response.CopyFrom(given)
    types = dict(key_types)
    for number, name in on_demand.inputs:
        _add(response, name, [Value.FromString(value or b"") for value in rows.columns[number]])
        types[name] = ValueType(plan.features[number].value_type)
    known = len(response.results)
    try:
        _augment_response_with_on_demand_transforms(
            response, list(on_demand.references), list(on_demand.views), False, types
        )
    except Exception as error:  # a user's function raises what it likes
        failed = ", ".join(view.name for view in on_demand.views)
        # Where it failed, and not the error's words: they may hold values.
        told = {"event": "on_demand_failed", "error": type(error).__name__, "at": places(error)}
        log.warning("on-demand view %s failed", failed, extra=told)
        raise InvalidRequest(f"on-demand view {failed} failed on these entities: {type(error).__name__}") from error
    declared = {field.name: field.dtype.to_value_type().value for view in on_demand.views for field in view.features}
    computed = dict(zip(response.metadata.feature_names.val[known:], response.results[known:], strict=True))
    for name, found in computed.items():
        if len(found.values) != rows.count:  # whose they are cannot be told
            views = ", ".join(view.name for view in on_demand.views)
            raise InvalidRequest(
                f"on-demand view {views} gave {len(found.values)} values of {name!r} for {rows.count} entities: its "
                "function has to give one for each, in their order, also where what it reads is null"
            )
    return [Derived(on_demand.prefix + name, declared[name], _nulls(found.values)) for name, found in computed.items()]


def _nulls(values: Sequence[Value]) -> list[Value]:
    """The values, with those that stand for a null timestamp, as pandas' NaT becomes, as none."""
    return [Value() if value.unix_timestamp_val == NO_TIMESTAMP else value for value in values]


def _add(response: Any, name: str, values: Sequence[Any]) -> None:
    response.metadata.feature_names.val.append(name)
    response.results.append(
        GetOnlineFeaturesResponse.FeatureVector(values=values, statuses=[FieldStatus.PRESENT] * len(values))
    )


def _messages(name: str, values: Sequence[Any], value_type: ValueType) -> list[Any]:
    try:
        return list(python_values_to_proto_values(list(values), value_type))
    except Exception as error:  # Feast guesses a type from the values, and fails in many ways
        raise InvalidRequest(
            f"entities.{name} has values of which no column is made: {type(error).__name__}"
        ) from error
